"""A network's output made into pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import as_numpy, call_native, check_out, check_rank, check_real, check_whole, is_cupy, is_torch
from fhrt.ops.pixel_shuffle import check_factor

LARGEST_FACTOR = 64
_UINT8 = np.dtype(np.uint8)


def to_image(x: Any, factor: int = 1, *, low: float = -1.0, high: float = 1.0) -> Any:
    """Shuffle, clamp, scale, round (ties to even), uint8 and HWC in one pass.

    x: ``[N, C·factor², H, W]`` float32 or float16 (torch: bfloat16 too), NumPy, torch or CuPy, of any strides; C from 1 to 4, factor up
    to 64. ``low`` becomes 0 and ``high`` 255; what lies beyond is clamped, NaN becomes 0. Returns ``[N, H·factor, W·factor, C]`` uint8 of
    the same kind. Raises BadInputError.
    """
    _check(x, factor, low, high)
    if is_torch(x):
        from fhrt.ops.torch import to_image as torch_op

        return torch_op(x, factor, low, high)
    if is_cupy(x):
        from fhrt.ops import cupy, device

        return device.to_image(cupy.ARRAYS, x, factor, low, high)
    return _native(x, _C.empty(_shape(x, factor), _UINT8), factor, low, high)


def to_image_out(x: Any, out: Any, factor: int = 1, *, low: float = -1.0, high: float = 1.0, stream: int | None = None) -> Any:
    """`to_image` into ``out`` ``[N, H·factor, W·factor, C]`` uint8, contiguous, which is returned; ``stream`` as in `stn_sample_out`."""
    _check(x, factor, low, high)
    check_out("to_image", out, x, _shape(x, factor), "uint8")
    if is_torch(x):
        from fhrt.ops.torch import to_image_out as torch_op

        return torch_op(x, out, factor, low, high, stream)
    if is_cupy(x):
        from fhrt.ops import cupy, device

        return device.to_image(cupy.ARRAYS, x, factor, low, high, out, stream)
    return _native(x, out, factor, low, high)


def _native(x: Any, out: NDArray[np.uint8], factor: int, low: float, high: float) -> NDArray[np.uint8]:
    call_native("to_image", _C.to_image, as_numpy("to_image", "x", x, "float32", "float16"), out, factor, low, high)
    return out


def _check(x: Any, factor: int, low: float, high: float) -> None:
    check_rank("to_image", "x", x, "N, C, H, W")
    check_whole("to_image", "factor", factor, 1, LARGEST_FACTOR)
    check_factor("to_image", x, factor)
    if not 1 <= x.shape[1] // factor**2 <= 4:
        raise BadInputError(f"to_image: a picture has 1 to 4 channels, not {x.shape[1] // factor**2}")
    check_real("to_image", "low", low, -1e30, 1e30)
    check_real("to_image", "high", high, -1e30, 1e30)
    if not low < high:
        raise BadInputError(f"to_image: low must be under high, not {low} and {high}")


def _shape(x: Any, factor: int) -> tuple[int, ...]:
    return (x.shape[0], x.shape[2] * factor, x.shape[3] * factor, x.shape[1] // factor**2)
