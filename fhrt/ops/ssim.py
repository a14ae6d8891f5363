"""Structural similarity with a Gaussian window."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import call_native, check_kind, check_out, check_rank, check_real, check_whole, dtype_of, is_cupy, is_torch

K1, K2 = 0.01, 0.03
LARGEST_WINDOW = 255
_FLOAT64 = np.dtype(np.float64)


def gaussian_weights(window: int, sigma: float) -> list[float]:
    """The 1-D window, sum 1; the 2-D one is its outer product. In plain Python, which torch.compile can follow."""
    weights = [math.exp(-0.5 * ((k - window // 2) / sigma) ** 2) for k in range(window)]
    total = sum(weights)
    return [weight / total for weight in weights]


@lru_cache(maxsize=16)
def gaussian_window(window: int, sigma: float) -> NDArray[np.float64]:
    """The same as an array ``[window]``."""
    weights = np.array(gaussian_weights(window, sigma))
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

    a, b: ``[N, C, H, W]``; NumPy (other dtypes than float16, float32, float64 are converted to float64), torch (floating, differentiable
    by both) or CuPy (float32, float16), of any strides. padding: "valid" uses whole windows only (what scikit-image averages with its
    Gaussian window); "same" pads with zeros. reduction: "mean" one number, "none" ``[N]``, "map" ``[N, C, h, w]``; float64 for NumPy,
    a's dtype for torch, float32 for CuPy. Computed in float64 on the CPU, in float32 on a device, where the window is at most 11.
    Raises BadInputError for unequal or too small pictures and for parameters out of range.
    """
    same, c1, c2 = _settings(a, b, data_range, window, sigma, padding)
    if not isinstance(reduction, str) or reduction not in ("mean", "none", "map"):
        raise BadInputError(f'ssim: reduction must be "mean", "none" or "map", not {reduction!r}')
    want_map = reduction == "map"
    if is_torch(a):
        from fhrt.ops.torch import ssim as torch_op

        values = torch_op(a, b, gaussian_weights(window, sigma), same, c1, c2, want_map)
    elif is_cupy(a):
        from fhrt.ops import cupy, device

        values = device.ssim(cupy.ARRAYS, a, b, gaussian_window(window, sigma), same, c1, c2, want_map)
    else:
        shrink = 0 if same else window - 1
        shape = (*a.shape[:2], a.shape[2] - shrink, a.shape[3] - shrink)
        values = _native(a, b, _C.empty(shape if want_map else shape[:2], _FLOAT64), gaussian_window(window, sigma), same, c1, c2)
    if want_map:
        return values
    if reduction == "none":
        return values.mean(1)
    return values.mean() if is_torch(a) or is_cupy(a) else float(values.mean())


def ssim_out(
    a: Any,
    b: Any,
    out: Any,
    *,
    data_range: float = 255.0,
    window: int = 11,
    sigma: float = 1.5,
    padding: Literal["valid", "same"] = "valid",
    stream: int | None = None,
) -> Any:
    """`ssim` into ``out``, which is returned: the map ``[N, C, h, w]``, or the mean of each plane ``[N, C]``; not differentiable.

    ``out`` is contiguous, float64 for NumPy and CPU tensors, float32 on a device; ``stream`` as in `stn_sample_out`. The means take a
    little scratch memory from the library's own pool.
    """
    same, c1, c2 = _settings(a, b, data_range, window, sigma, padding)
    weights = gaussian_window(window, sigma)
    shrink = 0 if same else window - 1
    want_map = getattr(out, "ndim", None) == 4
    shape = (*a.shape[:2], a.shape[2] - shrink, a.shape[3] - shrink) if want_map else tuple(a.shape[:2])
    on_device = is_cupy(a) or (is_torch(a) and a.is_cuda)
    check_out("ssim", out, a, shape, "float32" if on_device else "float64")
    if is_torch(a):
        from fhrt.ops.torch import ssim_out as torch_op

        return torch_op(a, b, out, weights, same, c1, c2, stream)
    if is_cupy(a):
        from fhrt.ops import cupy, device

        return device.ssim(cupy.ARRAYS, a, b, weights, same, c1, c2, want_map, out, stream)
    return _native(a, b, out, weights, same, c1, c2)


def _settings(a: Any, b: Any, data_range: float, window: int, sigma: float, padding: str) -> tuple[bool, float, float]:
    check_rank("ssim", "a", a, "N, C, H, W")
    check_rank("ssim", "b", b, "N, C, H, W")
    check_kind("ssim", "b", b, "a", a)
    if tuple(a.shape) != tuple(b.shape):
        raise BadInputError(f"ssim: a is {list(a.shape)} and b is {list(b.shape)}")
    if not isinstance(padding, str) or padding not in ("valid", "same"):
        raise BadInputError(f'ssim: padding must be "valid" or "same", not {padding!r}')
    check_whole("ssim", "window", window, 1, LARGEST_WINDOW)
    check_real("ssim", "sigma", sigma, 1e-3, 1e6)
    check_real("ssim", "data_range", data_range, 1e-6, 1e9)
    if window % 2 == 0:
        raise BadInputError(f"ssim: window must be odd, not {window}")
    if padding == "valid" and min(a.shape[2:]) < window:
        raise BadInputError(f"ssim: pictures of {a.shape[2]}×{a.shape[3]} are smaller than the {window}×{window} window")
    return padding == "same", (K1 * data_range) ** 2, (K2 * data_range) ** 2


def _native(
    a: Any, b: Any, out: NDArray[np.float64], weights: NDArray[np.float64], same: bool, c1: float, c2: float
) -> NDArray[np.float64]:
    """Into ``out``, the map [N, C, h, w] or the means [N, C]."""
    a, b = np.asarray(a), np.asarray(b)
    if a.dtype != b.dtype or dtype_of(a) not in ("float16", "float32", "float64"):
        a, b = a.astype(np.float64), b.astype(np.float64)
    n, c, h, w = a.shape
    planes = (np.ascontiguousarray(x).reshape(n * c, h, w) for x in (a, b))
    if not out.flags.c_contiguous:
        raise BadInputError("ssim: out must be contiguous")
    values = out.reshape(n * c, *out.shape[2:])
    map_, mean = (values, np.empty(n * c)) if out.ndim == 4 else (None, values)
    call_native("ssim", _C.ssim, *planes, weights, map_, mean, same, c1, c2)
    return out
