"""Sub-pixel shuffle."""

from __future__ import annotations

from typing import Any

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import as_float32, check_rank, is_torch


def pixel_shuffle(x: Any, factor: int) -> Any:
    """Move channels into space (Shi et al., 2016, eq. 4; torch's channel order).

    x: ``[N, C·factor², H, W]`` float32, NumPy or torch. Returns ``[N, C, H·factor, W·factor]`` float32 of the same kind;
    differentiable for torch. Raises BadInputError for other shapes or dtypes.
    """
    check_rank("pixel_shuffle", "x", x, "N, C, H, W")
    if factor < 1 or x.shape[1] % (factor * factor):
        raise BadInputError(f"pixel_shuffle: {x.shape[1]} channels do not divide by {factor}²")
    if is_torch(x):
        from fhrt.ops.torch import pixel_shuffle as torch_op

        return torch_op(x, factor)
    return _C.pixel_shuffle(as_float32("pixel_shuffle", "x", x), factor)
