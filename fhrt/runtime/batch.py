"""What a network takes, out of what there is: a batch of any size in bounded parts, a frame of any size in whole pieces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt.runtime.card import Card
from fhrt.runtime.device import Library, beside, join
from fhrt.runtime.engine import MAX_BATCH, Output, check_lr


def run_in_parts(
    call: Callable[[Any], Sequence[Any]], lr: Any, card: Card, largest: int = MAX_BATCH, library: Library | None = None
) -> Output:
    """`fhrt.runtime.engine.Engine.run` by ``call``, which gives the card's outputs of 1 to ``largest`` faces, in the card's order; of faces
    on the device of ``library`` too.
    """
    check_lr(lr, card.input_size, library)
    if len(lr) == 0:
        parts = [[output[:0] for output in call(beside(np.zeros((1, *lr.shape[1:]), np.float32), lr))]]
    else:
        parts = [list(call(lr[at : at + largest])) for at in range(0, len(lr), largest)]
    outputs = (join(part) for part in zip(*parts, strict=True))
    return Output(**dict(zip(card.outputs, outputs, strict=True)))


def whole_pieces(frame: NDArray[np.uint8], card: Card) -> NDArray[np.uint8]:
    """The frame [H, W, 3] with black below and to the right, up to multiples of the card's ``input_size``; contiguous."""
    rows, columns = (-length % step for length, step in zip(frame.shape[:2], card.input_size, strict=True))
    return np.pad(frame, ((0, rows), (0, columns), (0, 0))) if rows or columns else np.ascontiguousarray(frame)
