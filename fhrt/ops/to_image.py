"""A network's output made into pictures."""

from __future__ import annotations

from typing import Any

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import as_float32, check_rank, is_torch
from fhrt.ops.pixel_shuffle import check_factor


def to_image(x: Any, factor: int = 1, *, low: float = -1.0, high: float = 1.0) -> Any:
    """Shuffle, clamp, scale, round (ties to even), uint8 and HWC in one pass.

    x: ``[N, C·factor², H, W]`` float32, NumPy or torch, C from 1 to 4. ``low`` becomes 0 and ``high`` 255; what lies beyond is clamped,
    NaN becomes 0. Returns ``[N, H·factor, W·factor, C]`` uint8 of the same kind. Raises BadInputError.
    """
    check_rank("to_image", "x", x, "N, C, H, W")
    check_factor("to_image", x, factor)
    if not 1 <= x.shape[1] // factor**2 <= 4:
        raise BadInputError(f"to_image: a picture has 1 to 4 channels, not {x.shape[1] // factor**2}")
    if not low < high:
        raise BadInputError(f"to_image: low must be under high, not {low} and {high}")
    if is_torch(x):
        from fhrt.ops.torch import to_image as torch_op

        return torch_op(x, factor, low, high)
    return _C.to_image(as_float32("to_image", "x", x), factor, low, high)
