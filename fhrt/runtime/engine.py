"""What every backend is to the rest of the house, and how one is chosen."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BackendError, BadInputError
from fhrt.runtime.bundle import open_bundle
from fhrt.runtime.card import Card

BACKENDS = {"onnxruntime": "ort:OrtEngine", "openvino": "openvino:OpenVinoEngine"}
"""Name → "module:class" of `fhrt.runtime`, imported only when asked for: each is heavy, or not installed."""


@dataclass(frozen=True)
class Output:
    """``sr`` [N, 3, H, W] float32 in [-1, 1]; where the network has them ``theta`` [N, 2, 3], ``heatmaps`` [N, K, h, w], and the pictures
    at twice and four times the LR face's size.
    """

    sr: NDArray[np.float32]
    theta: NDArray[np.float32] | None = None
    heatmaps: NDArray[np.float32] | None = None
    sr_2x: NDArray[np.float32] | None = None
    sr_4x: NDArray[np.float32] | None = None


class Engine(Protocol):
    """A bundle made executable."""

    @property
    def card(self) -> Card: ...

    def run(self, lr: NDArray[np.float32]) -> Output:
        """LR faces [N, 3, h, w] float32 RGB in [-1, 1], N from 0 on, to SR faces. Raises BadInputError for anything else."""
        ...


def load(name: str | Path, *, backend: str = "auto", threads: int | None = None) -> Engine:
    """Open a shipped model by name, or a bundle folder, after checking its sha256.

    backend: "auto" or a name of `BACKENDS`. threads: CPU threads of the network; default all cores. Raises UnknownModelError, WeightsError,
    BackendError, and MissingExtraError for a backend that is not installed.
    """
    if backend not in ("auto", *BACKENDS):
        raise BackendError(f"unknown backend {backend!r}; there are: auto, {', '.join(BACKENDS)}")
    if threads is not None and threads < 1:
        raise BackendError(f"threads must be at least 1, not {threads}")
    module, _, attribute = BACKENDS["onnxruntime" if backend == "auto" else backend].partition(":")
    engine: Engine = getattr(import_module(f"fhrt.runtime.{module}"), attribute)(open_bundle(name), threads)
    return engine


def check_lr(lr: NDArray[np.float32], size: tuple[int, int]) -> None:
    """Raise BadInputError unless ``lr`` is a finite float32 batch of faces of this size."""
    if not isinstance(lr, np.ndarray) or lr.dtype != np.float32:
        raise BadInputError(f"LR faces must be a float32 array, not {getattr(lr, 'dtype', type(lr).__name__)}")
    if lr.ndim != 4 or lr.shape[1:] != (3, *size):
        raise BadInputError(f"LR faces must be [N, 3, {size[0]}, {size[1]}], not {list(lr.shape)}")
    if not np.isfinite(lr).all():
        raise BadInputError("LR faces hold NaN or infinity")
