"""A batch of any size through a network that takes a bounded one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from fhrt.runtime.card import Card
from fhrt.runtime.engine import Output, check_lr

MAX_BATCH = 32
"""Larger batches are cut up, so that memory stays bounded."""


def run_in_parts(call: Callable[[NDArray[np.float32]], list[NDArray[np.float32]]], lr: NDArray[np.float32], card: Card) -> Output:
    """`fhrt.runtime.engine.Engine.run` by ``call``, which gives the card's outputs of 1 to `MAX_BATCH` faces, in the card's order."""
    check_lr(lr, card.input_size)
    if len(lr) == 0:
        parts = [[output[:0] for output in call(np.zeros((1, *lr.shape[1:]), np.float32))]]
    else:
        parts = [call(lr[at : at + MAX_BATCH]) for at in range(0, len(lr), MAX_BATCH)]
    return Output(**{name: np.concatenate(part) for name, part in zip(card.outputs, zip(*parts, strict=True), strict=True)})
