"""Bilinear sampling along an affine theta: a spatial transformer's sampler without a grid in memory."""

from __future__ import annotations

from typing import Any, Literal

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import as_float32, check_affine, check_finite, check_rank, is_torch


def stn_sample(
    x: Any,
    theta: Any,
    size: tuple[int, int] | None = None,
    *,
    align_corners: bool = False,
    padding: Literal["zeros", "border"] = "zeros",
    upsample: int = 1,
) -> Any:
    """Sample feature maps at affinely transformed positions (Jaderberg et al., 2015, eq. 1 and 5).

    x: ``[N, C, H, W]`` float32, NumPy or torch. theta: ``[N, 2, 3]`` float32, maps normalised output positions to normalised
    input positions, as ``torch.nn.functional.affine_grid``. size: (h, w) of the output; default the input's, times ``upsample``.
    padding: positions outside count as zero, or take the border's value. upsample: sample the map that nearest-neighbour upsampling
    by this factor would give, without storing it. Returns ``[N, C, h, w]`` float32 of the same kind as ``x``; differentiable for torch.
    Raises BadInputError for other shapes, dtypes or values.
    """
    check_rank("stn_sample", "x", x, "N, C, H, W")
    check_affine("stn_sample", "theta", theta, None if is_torch(x) else x.shape[0])
    if padding not in ("zeros", "border"):
        raise BadInputError(f'stn_sample: padding must be "zeros" or "border", not {padding!r}')
    if upsample < 1:
        raise BadInputError(f"stn_sample: upsample must be at least 1, not {upsample}")
    h, w = size if size is not None else (x.shape[2] * upsample, x.shape[3] * upsample)
    if h < 1 or w < 1:
        raise BadInputError(f"stn_sample: size must be positive, not {h}×{w}")
    if is_torch(x):
        from fhrt.ops.torch import stn_sample as torch_op

        return torch_op(x, theta, h, w, align_corners, padding, upsample)
    x, theta = as_float32("stn_sample", "x", x), as_float32("stn_sample", "theta", theta)
    check_finite("stn_sample", "theta", theta)
    return _C.stn_sample(x, theta, h, w, align_corners, padding == "border", upsample)
