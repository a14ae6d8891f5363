"""Sub-pixel shuffle, with the bias and the activation that stand beside it."""

from __future__ import annotations

from typing import Any

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import as_float32, check_rank, is_torch


def pixel_shuffle(x: Any, factor: int, *, bias: Any = None, negative_slope: float | None = None) -> Any:
    """Move channels into space (Shi et al., 2016, eq. 4; torch's channel order).

    x: ``[N, C·factor², H, W]`` float32, NumPy or torch. bias: ``[C·factor²]`` of the same kind, added before (a convolution's own).
    negative_slope: of a LeakyReLU after it, from 0 (a ReLU) to 1; None for none. Returns ``[N, C, H·factor, W·factor]`` float32 of the
    same kind; differentiable for torch. Raises BadInputError for other shapes, dtypes or values.
    """
    check_rank("pixel_shuffle", "x", x, "N, C, H, W")
    check_factor("pixel_shuffle", x, factor)
    if bias is not None and tuple(bias.shape) != (x.shape[1],):
        raise BadInputError(f"pixel_shuffle: bias must be [{x.shape[1]}], one per channel of x, not {list(bias.shape)}")
    if negative_slope is not None and not 0 <= negative_slope <= 1:
        raise BadInputError(f"pixel_shuffle: negative_slope must lie between 0 and 1, not {negative_slope}")
    if is_torch(x):
        from fhrt.ops import torch as torch_ops

        if bias is None and negative_slope is None:
            return torch_ops.pixel_shuffle(x, factor)
        return torch_ops.pixel_shuffle_fused(x, factor, bias, 1.0 if negative_slope is None else negative_slope)
    offsets = None if bias is None else as_float32("pixel_shuffle", "bias", bias)
    return _C.pixel_shuffle(as_float32("pixel_shuffle", "x", x), factor, offsets, 1.0 if negative_slope is None else negative_slope)


def check_factor(op: str, x: Any, factor: int) -> None:
    """Raise BadInputError unless the channels of x make whole cells."""
    if not isinstance(factor, int) or factor < 1 or x.shape[1] % (factor * factor):
        raise BadInputError(f"{op}: {x.shape[1]} channels do not divide by {factor}²")
