"""Backend ``onnxruntime``: a bundle's graph on ONNX Runtime's CPU provider."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fhrt.errors import WeightsError
from fhrt.runtime.bundle import Bundle
from fhrt.runtime.card import Card
from fhrt.runtime.engine import Output, check_lr

MAX_BATCH = 32
"""Larger batches are cut up, so that memory stays bounded."""


class OrtEngine:
    """Runs a bundle with a dynamic batch: every number of faces is one call, up to ``MAX_BATCH``."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0: one per core
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(bundle.graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own errors share no public base class
            raise WeightsError(f"{bundle.graph} cannot be opened: {str(error).splitlines()[0]}") from error
        self._card = bundle.card

    @property
    def card(self) -> Card:
        return self._card

    def run(self, lr: NDArray[np.float32]) -> Output:
        """See `fhrt.runtime.engine.Engine.run`."""
        check_lr(lr, self._card.input_size)
        names = list(self._card.outputs)
        if len(lr) == 0:
            return Output(**{each.name: np.empty((0, *each.shape[1:]), np.float32) for each in self._session.get_outputs()})
        parts = [self._session.run(names, {"lr": lr[at : at + MAX_BATCH]}) for at in range(0, len(lr), MAX_BATCH)]
        joined = dict(zip(names, (np.concatenate(part) for part in zip(*parts, strict=True)), strict=True))
        return Output(**joined)
