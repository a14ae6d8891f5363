"""Bilinear sampling along an affine theta: a spatial transformer's sampler without a grid in memory."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import (
    as_numpy,
    call_native,
    check_affine,
    check_kind,
    check_out,
    check_rank,
    check_size,
    check_whole,
    is_cupy,
    is_torch,
)

LARGEST_SIDE = 1 << 20  # positions are float32: beyond, neighbouring pixels could no longer be told apart


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

    x: ``[N, C, H, W]`` float32 or float16 (torch: bfloat16 too), NumPy, torch or CuPy, of any strides. theta: ``[N, 2, 3]`` float32
    (torch: a half type, as autocast makes it, is taken as float32), maps normalised output positions to normalised input positions, as
    ``torch.nn.functional.affine_grid``. size: (h, w) of the output; default the input's, times ``upsample``. padding: positions outside
    count as zero, or take the border's value. upsample: sample the map that nearest-neighbour upsampling by this factor would give, without
    storing it. Returns ``[N, C, h, w]`` of x's kind and dtype; differentiable for torch, by x and theta. Raises BadInputError for other
    shapes, dtypes or values.
    """
    _check(x, theta, padding, upsample)
    if size is not None:
        check_size("stn_sample", size, LARGEST_SIDE)
    h, w = size if size is not None else (x.shape[2] * upsample, x.shape[3] * upsample)
    if is_torch(x):
        from fhrt.ops.torch import single
        from fhrt.ops.torch import stn_sample as torch_op

        return torch_op(x, single(theta), h, w, align_corners, padding, upsample)
    if is_cupy(x):
        from fhrt.ops import cupy, device

        return device.stn_sample(cupy.ARRAYS, x, theta, h, w, align_corners, padding, upsample)
    x = as_numpy("stn_sample", "x", x, "float32", "float16")
    return _native(x, theta, _C.empty((x.shape[0], x.shape[1], h, w), x.dtype), align_corners, padding, upsample)


def stn_sample_out(
    x: Any,
    theta: Any,
    out: Any,
    *,
    align_corners: bool = False,
    padding: Literal["zeros", "border"] = "zeros",
    upsample: int = 1,
    stream: int | None = None,
) -> Any:
    """`stn_sample` into ``out`` ``[N, C, h, w]``, which is returned; not differentiable.

    On a device ``out`` is contiguous, and the work is put on ``stream`` (a cudaStream_t; default the library's current one): nothing is
    allocated or waited for, so it can be captured into a CUDA graph.
    """
    _check(x, theta, padding, upsample)
    check_rank("stn_sample", "out", out, "N, C, h, w")
    check_out("stn_sample", out, x, (*x.shape[:2], *out.shape[2:]))
    if is_torch(x):
        from fhrt.ops.torch import single
        from fhrt.ops.torch import stn_sample_out as torch_op

        return torch_op(x, single(theta), out, align_corners, padding, upsample, stream)
    if is_cupy(x):
        from fhrt.ops import cupy, device

        h, w = out.shape[2:]
        return device.stn_sample(cupy.ARRAYS, x, theta, h, w, align_corners, padding, upsample, out, stream)
    x = as_numpy("stn_sample", "x", x, "float32", "float16")
    return _native(x, theta, out, align_corners, padding, upsample)


def _native(x: NDArray[Any], theta: Any, out: NDArray[Any], align_corners: bool, padding: str, upsample: int) -> NDArray[Any]:
    theta = np.ascontiguousarray(as_numpy("stn_sample", "theta", theta, "float32"))
    call_native("stn_sample", _C.stn_sample, x, theta, out, align_corners, padding == "border", upsample)
    return out


def _check(x: Any, theta: Any, padding: str, upsample: int) -> None:
    check_rank("stn_sample", "x", x, "N, C, H, W")
    check_affine("stn_sample", "theta", theta, x.shape[0])
    check_kind("stn_sample", "theta", theta, "x", x)
    if not isinstance(padding, str) or padding not in ("zeros", "border"):
        raise BadInputError(f'stn_sample: padding must be "zeros" or "border", not {padding!r}')
    check_whole("stn_sample", "upsample", upsample, 1, LARGEST_SIDE)
    if max(x.shape[2:]) * upsample > LARGEST_SIDE:
        raise BadInputError(f"stn_sample: maps of {x.shape[2]}×{x.shape[3]}, ×{upsample}, are larger than {LARGEST_SIDE}")
