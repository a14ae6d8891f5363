"""Identity similarity: do two faces look like one person to the recognition network?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError, WeightsError

SIDE = 128


class Recognition:
    """The recognition network (``python -m training recognition``), on ONNX Runtime's CPU provider.

    It was trained on few people and is good for comparing systems, not for recognising anybody. graph: its ``model.onnx``. Raises
    WeightsError when that is not there or is none.
    """

    def __init__(self, graph: Path) -> None:
        import onnxruntime  # heavy: only when somebody asks for the metric

        if not graph.is_file():
            raise WeightsError(f"there is no recognition network at {graph}; train it: python -m training recognition --data DIR")
        try:
            self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's own errors share no public base class
            raise WeightsError(f"{graph} cannot be opened: {str(error).splitlines()[0]}") from error

    def embed(self, faces: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Tight RGB faces uint8 [N, 128, 128, 3] → embeddings [N, 512] of length 1. Raises BadInputError."""
        if faces.dtype != np.uint8 or faces.ndim != 4 or faces.shape[1:] != (SIDE, SIDE, 3):
            raise BadInputError(f"faces must be uint8 [N, {SIDE}, {SIDE}, 3], not {faces.dtype} {list(faces.shape)}")
        planes = np.ascontiguousarray(faces.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - np.float32(1)
        embedding: NDArray[np.float32] = self._session.run(["embedding"], {"face": planes})[0]
        return embedding

    def similarity(self, faces: NDArray[np.uint8], others: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Cosine of the angle between the embeddings, pair by pair, float64 [N]: 1 for the same picture. Raises BadInputError."""
        if len(faces) != len(others):
            raise BadInputError(f"there must be as many faces as others, not {len(faces)} and {len(others)}")
        return np.einsum("nd,nd->n", self.embed(faces), self.embed(others), dtype=np.float64)
