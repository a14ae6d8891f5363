"""What every backend is to the rest of the house, and how one is chosen."""

from __future__ import annotations

import platform
from dataclasses import dataclass, replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BackendError, BadInputError
from fhrt.runtime.bundle import open_bundle
from fhrt.runtime.card import Card

BACKENDS = {"onnxruntime": "ort:OrtEngine", "openvino": "openvino:OpenVinoEngine"}
"""Name → "module:class" of `fhrt.runtime`, imported only when asked for: each is heavy, or not installed."""
PRECISIONS = ("fp32", "int8")
FASTER_IN_INT8 = ("openvino",)
"""ONNX Runtime takes longer for a bundle's INT8 form than for its fp32 one."""
INT8_LOSS = 0.1
"""dB of PSNR, under every protocol: what speed may cost unasked."""


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

    @property
    def backend(self) -> str: ...

    @property
    def precision(self) -> str: ...

    def run(self, lr: NDArray[np.float32]) -> Output:
        """LR faces [N, 3, h, w] float32 RGB in [-1, 1], N from 0 on, to SR faces. Raises BadInputError for anything else."""
        ...


def load(name: str | Path, *, backend: str = "auto", precision: str = "auto", threads: int | None = None) -> Engine:
    """Open a shipped model by name, or a bundle folder, after checking its sha256.

    backend: a name of `BACKENDS`; "auto" is openvino where it is installed on an x86-64 processor, onnxruntime elsewhere. precision: "fp32"
    or "int8"; "auto" is int8 where the bundle has that form, lost at most `INT8_LOSS` by it, and it is faster on this backend. threads: CPU
    threads of the network; default all cores. Raises UnknownModelError, WeightsError, BackendError (also where the bundle has no INT8
    form), and MissingExtraError for a backend that is not installed.
    """
    if backend not in ("auto", *BACKENDS):
        raise BackendError(f"unknown backend {backend!r}; there are: auto, {', '.join(BACKENDS)}")
    if precision not in ("auto", *PRECISIONS):
        raise BackendError(f"unknown precision {precision!r}; there are: auto, {', '.join(PRECISIONS)}")
    if threads is not None and threads < 1:
        raise BackendError(f"threads must be at least 1, not {threads}")
    bundle = open_bundle(name)
    int8 = bundle.card.int8
    if backend == "auto":
        backend = _fastest_backend()
    if precision == "auto":
        precision = "int8" if int8 is not None and int8.worst <= INT8_LOSS and backend in FASTER_IN_INT8 else "fp32"
    if precision == "int8" and int8 is None:
        raise BackendError(f"{bundle.card.name} has no INT8 form; make it: fhrt quantise {name} --data DIR -o OUT")
    module, _, attribute = BACKENDS[backend].partition(":")
    engine: Engine = getattr(import_module(f"fhrt.runtime.{module}"), attribute)(replace(bundle, precision=precision), threads)
    return engine


def _fastest_backend() -> str:
    """By rule, from docs/performance.md, not by measuring at each start."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")  # nobody has measured another processor
    return "openvino" if x86 and find_spec("openvino") else "onnxruntime"


def check_lr(lr: NDArray[np.float32], size: tuple[int, int]) -> None:
    """Raise BadInputError unless ``lr`` is a finite float32 batch of faces of this size."""
    if not isinstance(lr, np.ndarray) or lr.dtype != np.float32:
        raise BadInputError(f"LR faces must be a float32 array, not {getattr(lr, 'dtype', type(lr).__name__)}")
    if lr.ndim != 4 or lr.shape[1:] != (3, *size):
        raise BadInputError(f"LR faces must be [N, 3, {size[0]}, {size[1]}], not {list(lr.shape)}")
    if not np.isfinite(lr).all():
        raise BadInputError("LR faces hold NaN or infinity")
