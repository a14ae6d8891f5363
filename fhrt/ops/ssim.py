"""Structural similarity with a Gaussian window."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import check_rank, is_torch

K1, K2 = 0.01, 0.03


@lru_cache(maxsize=16)
def gaussian_window(window: int, sigma: float) -> NDArray[np.float64]:
    """The 1-D window ``[window]`` float64, sum 1; the 2-D one is its outer product."""
    offset = np.arange(window) - window // 2
    weights = np.exp(-0.5 * (offset / sigma) ** 2)
    weights /= weights.sum()
    weights.setflags(write=False)
    return weights


def ssim(
    a: Any,
    b: Any,
    *,
    data_range: float = 255.0,
    window: int = 11,
    sigma: float = 1.5,
    padding: Literal["valid", "same"] = "valid",
    reduction: Literal["mean", "none", "map"] = "mean",
) -> Any:
    """Structural similarity of two batches (Wang et al., 2004, eq. 13; K1 = 0.01, K2 = 0.03).

    a, b: ``[N, C, H, W]``, NumPy (float32, float64; other dtypes are converted to float64) or torch (floating, differentiable).
    padding: "valid" uses whole windows only (what scikit-image averages with its Gaussian window); "same" pads with zeros.
    reduction: "mean" one number, "none" ``[N]``, "map" ``[N, C, h, w]``; float64 for NumPy, a's dtype for torch.
    Raises BadInputError for unequal or too small pictures and for parameters out of range.
    """
    check_rank("ssim", "a", a, "N, C, H, W")
    if tuple(a.shape) != tuple(b.shape):
        raise BadInputError(f"ssim: a is {list(a.shape)} and b is {list(b.shape)}")
    if padding not in ("valid", "same"):
        raise BadInputError(f'ssim: padding must be "valid" or "same", not {padding!r}')
    if reduction not in ("mean", "none", "map"):
        raise BadInputError(f'ssim: reduction must be "mean", "none" or "map", not {reduction!r}')
    if window < 1 or window % 2 == 0 or not sigma > 0 or not data_range > 0:
        raise BadInputError("ssim: window must be odd, sigma and data_range positive")
    if padding == "valid" and min(a.shape[2:]) < window:
        raise BadInputError(f"ssim: pictures of {a.shape[2]}×{a.shape[3]} are smaller than the {window}×{window} window")
    c1, c2 = (K1 * data_range) ** 2, (K2 * data_range) ** 2
    weights = gaussian_window(window, sigma)
    if is_torch(a):
        from fhrt.ops.torch import ssim_map

        torch_map = ssim_map(a, b, weights, padding == "same", c1, c2)
        return torch_map if reduction == "map" else torch_map.mean() if reduction == "mean" else torch_map.mean(dim=(1, 2, 3))
    a, b = np.asarray(a), np.asarray(b)
    native = _C.ssim
    if not (a.dtype == b.dtype == np.float32):
        native, a, b = _C.ssim_double, a.astype(np.float64), b.astype(np.float64)
    n, c, h, w = a.shape
    values = native(a.reshape(-1, h, w), b.reshape(-1, h, w), weights, padding == "same", c1, c2, reduction == "map")
    if reduction == "map":
        return values.reshape(n, c, *values.shape[1:])
    return float(values.mean()) if reduction == "mean" else values.reshape(n, c).mean(axis=1)
