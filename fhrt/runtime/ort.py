"""Backend ``onnxruntime``: a bundle's graph on ONNX Runtime's CPU provider."""

from __future__ import annotations

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fhrt.errors import WeightsError
from fhrt.runtime.batch import run_in_parts
from fhrt.runtime.bundle import Bundle
from fhrt.runtime.card import Card
from fhrt.runtime.engine import Output


class OrtEngine:
    """Runs a bundle with a dynamic batch: every number of faces is one call, up to `fhrt.runtime.batch.MAX_BATCH`."""

    backend = "onnxruntime"

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.card: Card = bundle.card
        self.precision = bundle.precision
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads or 0  # 0: one per core
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(bundle.graph, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own errors share no public base class
            raise WeightsError(f"{bundle.graph} cannot be opened: {str(error).splitlines()[0]}") from error

    def run(self, lr: NDArray[np.float32]) -> Output:
        """See `fhrt.runtime.engine.Engine.run`."""
        return run_in_parts(lambda part: self._session.run(list(self.card.outputs), {"lr": part}), lr, self.card)
