"""Sub-pixel shuffle, with the bias and the activation that stand beside it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import as_numpy, call_native, check_kind, check_out, check_rank, check_real, check_whole, is_cupy, is_torch


def pixel_shuffle(x: Any, factor: int, *, bias: Any = None, negative_slope: float | None = None) -> Any:
    """Move channels into space (Shi et al., 2016, eq. 4; torch's channel order).

    x: ``[N, C·factor², H, W]`` float32 or float16 (torch: bfloat16 too), NumPy, torch or CuPy, of any strides. bias: ``[C·factor²]`` of
    the same kind, added before (a convolution's own). negative_slope: of a LeakyReLU after it, from 0 (a ReLU) to 1; None for none.
    Returns ``[N, C, H·factor, W·factor]`` of x's kind and dtype; differentiable for torch. Raises BadInputError for other shapes, dtypes
    or values.
    """
    _check(x, factor, bias, negative_slope)
    if is_torch(x):
        from fhrt.ops import torch as torch_ops

        if bias is None and negative_slope is None:
            return torch_ops.pixel_shuffle(x, factor)
        return torch_ops.pixel_shuffle_fused(x, factor, bias, _slope(negative_slope))
    if is_cupy(x):
        from fhrt.ops import cupy, device

        return device.pixel_shuffle(cupy.ARRAYS, x, factor, bias, _slope(negative_slope))
    x = as_numpy("pixel_shuffle", "x", x, "float32", "float16")
    return _native(x, _C.empty(_shape(x, factor), x.dtype), factor, bias, negative_slope)


def pixel_shuffle_out(
    x: Any, out: Any, factor: int, *, bias: Any = None, negative_slope: float | None = None, stream: int | None = None
) -> Any:
    """`pixel_shuffle` into ``out`` ``[N, C, H·factor, W·factor]``, contiguous, which is returned; ``stream`` as in `stn_sample_out`."""
    _check(x, factor, bias, negative_slope)
    check_out("pixel_shuffle", out, x, _shape(x, factor))
    if is_torch(x):
        from fhrt.ops.torch import pixel_shuffle_out as torch_op

        return torch_op(x, out, factor, bias, _slope(negative_slope), stream)
    if is_cupy(x):
        from fhrt.ops import cupy, device

        return device.pixel_shuffle(cupy.ARRAYS, x, factor, bias, _slope(negative_slope), out, stream)
    return _native(as_numpy("pixel_shuffle", "x", x, "float32", "float16"), out, factor, bias, negative_slope)


def _native(x: NDArray[Any], out: NDArray[Any], factor: int, bias: Any, negative_slope: float | None) -> NDArray[Any]:
    offsets = None if bias is None else np.ascontiguousarray(as_numpy("pixel_shuffle", "bias", bias, "float32", "float16"), np.float32)
    call_native("pixel_shuffle", _C.pixel_shuffle, x, out, factor, offsets, _slope(negative_slope))
    return out


def check_factor(op: str, x: Any, factor: int) -> None:
    """Raise BadInputError unless the channels of x make whole cells."""
    check_whole(op, "factor", factor, 1, 1 << 15)
    if x.shape[1] % (factor * factor):
        raise BadInputError(f"{op}: {x.shape[1]} channels do not divide by {factor}²")


def _check(x: Any, factor: int, bias: Any, negative_slope: float | None) -> None:
    check_rank("pixel_shuffle", "x", x, "N, C, H, W")
    check_factor("pixel_shuffle", x, factor)
    if bias is not None and tuple(getattr(bias, "shape", ())) != (x.shape[1],):
        raise BadInputError(f"pixel_shuffle: bias must be [{x.shape[1]}], one per channel of x, not {list(getattr(bias, 'shape', []))}")
    if bias is not None:
        check_kind("pixel_shuffle", "bias", bias, "x", x)
    if negative_slope is not None:
        check_real("pixel_shuffle", "negative_slope", negative_slope, 0, 1)


def _slope(negative_slope: float | None) -> float:
    return 1.0 if negative_slope is None else negative_slope


def _shape(x: Any, factor: int) -> tuple[int, ...]:
    return (x.shape[0], x.shape[1] // factor**2, x.shape[2] * factor, x.shape[3] * factor)
