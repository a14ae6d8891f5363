"""What every backend is to the rest of the house, and how one is chosen."""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from fhrt import ops
from fhrt.errors import BackendError, BadInputError, MissingExtraError, WeightsError
from fhrt.ops.arrays import dtype_of
from fhrt.runtime.bundle import Bundle, open_bundle
from fhrt.runtime.card import Card
from fhrt.runtime.device import Library, check_place, library_of
from fhrt.runtime.plan import DOMAIN

if TYPE_CHECKING:
    from fhrt.runtime.choice import Candidate

BACKENDS = {
    "onnxruntime": "ort:open_cpu",
    "openvino": "openvino:open_engine",
    "onnxruntime-cuda": "ort:open_cuda",
    "onnxruntime-tensorrt": "ort:open_tensorrt",
    "tensorrt": "trt:open_engine",
    "torch": "torch_cuda:open_engine",
}
"""Name → "module:function" of this package, called with a bundle and `Options`; imported only when a model is opened with it."""

FRAME_BACKENDS = {
    "onnxruntime": "ort:open_frames",
    "openvino": "openvino:open_frames",
    "onnxruntime-cuda": "ort:open_frames_cuda",
}
"""The same for networks that take whole frames."""

CPU = ("openvino", "onnxruntime")
"""Those of which several ways are measured, in the order in which they are preferred."""

PRECISIONS = ("auto", "fp32", "fp16", "int8")
INT8_LOSS = {"sr": 0.1, "heat": 0.02}
"""What speed may cost unasked, by the network's first output: dB of PSNR under every protocol; for a detector, average precision."""

PLANS = ("auto", "whole", "cut")
LOG = logging.getLogger("fhrt")
MAX_BATCH = 32
"""Faces that a backend takes at once; larger batches are cut up, so that memory stays bounded."""

BUCKETS = (1, 2, 4, 8, 16, MAX_BATCH)
"""Batch sizes of the GPU backends: a batch is padded up to the next."""

PlanMode = Literal["auto", "whole", "cut"]


@dataclass(frozen=True)
class Output:
    """``sr`` [N, 3, H, W] float32 in [-1, 1]; where the network has them ``theta`` [N, 2, 3], ``heatmaps`` [N, K, h, w], and the pictures
    at twice and four times the LR face's size. NumPy's, or of the library of the faces that went in.
    """

    sr: Any
    theta: Any = None
    heatmaps: Any = None
    sr_2x: Any = None
    sr_4x: Any = None


class Opened(Protocol):
    """What can be said of a bundle that was made executable."""

    @property
    def card(self) -> Card: ...

    @property
    def backend(self) -> str: ...

    @property
    def precision(self) -> str: ...


class Engine(Opened, Protocol):
    """A bundle made executable."""

    @property
    def array_library(self) -> Library | None:
        """What sends arrays to the device where it computes; None: it computes where NumPy's arrays are, or takes no others."""

    def run(self, lr: Any) -> Output:
        """LR faces [N, 3, h, w] float32 RGB in [-1, 1], N from 0 on, to SR faces. Raises BadInputError for anything else.

        NumPy's; with an ``array_library`` also CuPy's and torch's on its device. Then the work is put on their current stream, behind
        what is there, nothing waits for it, and NaN is not looked for.
        """
        ...


class FrameEngine(Opened, Protocol):
    """A bundle made executable whose network takes a whole frame."""

    def run(self, frame: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """The card's outputs, [1, C, h, w] each, of a BGR frame [H, W, 3] uint8 of any size.

        Black is added below and to the right up to whole pieces of the card's ``input_size``, and the maps show it too.
        """
        ...


@dataclass(frozen=True)
class Options:
    """What the caller of `load` asked for; "auto" where the backend may choose."""

    device: str = "auto"
    precision: str = "auto"
    threads: int | None = None
    plan: PlanMode = "auto"
    may_build: bool = True
    """Whether engines that are missing may be built, which takes minutes."""

    def require(self, backend: str, *, devices: Sequence[str], precisions: Sequence[str], plans: Sequence[str] = ("whole",)) -> None:
        """Raise BackendError where one of them was asked for by name and is not among these."""
        for what, wanted, possible in (
            ("device", self.device.partition(":")[0], devices),
            ("precision", self.precision, precisions),
            ("plan", self.plan, plans),
        ):
            if wanted not in ("auto", *possible):
                raise BackendError(f"backend {backend} has no {what} {wanted!r}; it has: {', '.join(possible)}")

    @property
    def device_index(self) -> int:
        """Number of the CUDA device."""
        return int(self.device.partition(":")[2] or 0)


def load(
    name: str | Path,
    *,
    backend: str = "auto",
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    plan: PlanMode = "auto",
) -> Engine:
    """Open an installed model by its name in any spelling, or a bundle folder, after checking its sha256.

    backend: "auto" or one of `BACKENDS`. device: "auto", "cpu", "cuda" or "cuda:N". precision: "auto", "fp32", "fp16" or "int8". What is
    asked for by name is what runs, or an error. "auto" takes TensorRT where ``fhrt build`` has made its engines, else what is quickest on
    this CPU: OpenVINO where it is installed on an x86-64 processor, or ONNX Runtime; int8 where the bundle has that form, lost at most
    `INT8_LOSS` by it, and is 1.5 times as fast with it. threads: CPU threads of the network; default all cores. plan: how ONNX Runtime's
    CPU backend executes the graph, "whole" by itself, or "cut" with fhrt's kernels where the graph has nodes for them (needs onnx).

    Nothing runs whose answer to the bundle's probe is not the fp32 form's: "auto" takes another and says so in a warning; for what was
    asked for by name it is a BackendError. All this is found out once and remembered (fhrt/runtime/choice.py). Raises UnknownModelError,
    WeightsError, BackendError, MissingExtraError.
    """
    engine: Engine = _open(open_bundle(name), "sr", BACKENDS, backend, _checked(device, precision, threads, plan, backend))
    return engine


def load_frames(
    name: str | Path, *, backend: str = "auto", device: str = "auto", precision: str = "auto", threads: int | None = None
) -> FrameEngine:
    """Open the bundle of a network that takes whole frames, as `load` opens one that takes faces; backends: `FRAME_BACKENDS`."""
    engine: FrameEngine = _open(open_bundle(name), "heat", FRAME_BACKENDS, backend, _checked(device, precision, threads, "auto", backend))
    return engine


def _open(bundle: Bundle, output: str, backends: dict[str, str], backend: str, options: Options) -> Any:
    """The first of the backends asked for that opens the bundle, which must have this output."""
    if backend not in ("auto", *backends):
        raise BackendError(f"unknown backend {backend!r}; there are: auto, {', '.join(backends)}")
    if output not in bundle.card.outputs:
        does = "finds faces, it is a detector" if output == "sr" else "hallucinates faces, it finds none"
        raise WeightsError(f"{bundle.folder}: {bundle.card.title} {does}")
    from fhrt.runtime.choice import choose  # whose room-mates import this file

    ranks = _ranks(bundle, options, backends) if backend == "auto" else [(backend,)]
    groups = [_group(rank, bundle, options, backends) for rank in ranks]
    refused: list[str] = []
    for group in groups:
        try:
            engine = choose(bundle, group, options.threads)
        except (BackendError, MissingExtraError) as error:
            if len(groups) == 1:
                raise
            refused.append(f"{group[0].name}: {error}")
        else:
            for reason in refused:
                LOG.warning("%s runs %s, passing over %s", engine.backend, bundle.card.name, reason)
            return engine
    wanted = f"device={options.device!r}, precision={options.precision!r}, plan={options.plan!r}"
    raise BackendError(f"nothing here runs {wanted} ({'; '.join(refused)})")


def build(
    name: str | Path,
    *,
    device: str = "cuda",
    precision: str = "auto",
    batches: Sequence[int] = BUCKETS,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[int, ...]:
    """Build a model's TensorRT engines for these batch sizes (of `BUCKETS`) or find them built; returns the sizes that fit the device.

    progress: called with what is done, the steps done and their number. Raises UnknownModelError, WeightsError, BackendError,
    MissingExtraError.
    """
    if not batches or not set(batches) <= set(BUCKETS):
        raise BackendError(f"engines are built for batches of {', '.join(map(str, BUCKETS))}, not {', '.join(map(str, batches)) or 'none'}")
    options = _checked(device, precision)
    bundle = _form(open_bundle(name), options)
    from fhrt.runtime.trt import TensorRTEngine

    return TensorRTEngine(bundle, options, batches, progress).batches


def _checked(device: str, precision: str, threads: int | None = None, plan: PlanMode = "auto", backend: str = "") -> Options:
    """The options. Raises BackendError for a word or number that means nothing."""
    if not isinstance(device, str) or not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise BackendError(f"unknown device {device!r}; there are: auto, cpu, cuda, cuda:N")
    for what, wanted, possible in (("precision", precision, PRECISIONS), ("plan", plan, PLANS)):
        if wanted not in possible:
            raise BackendError(f"unknown {what} {wanted!r}; there are: {', '.join(possible)}")
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise BackendError(f"threads must be a whole number from 1 on, not {threads!r}")
    return Options(device, precision, threads, plan, may_build=(backend, device) != ("auto", "auto"))


def _form(bundle: Bundle, options: Options) -> Bundle:
    """The bundle's form that was asked for. Raises BackendError where it is not there."""
    if options.precision == "int8" and bundle.card.int8 is None:
        raise BackendError(f"{bundle.card.name} has no INT8 form; make it: fhrt quantise {bundle.folder} --data DIR -o OUT")
    return replace(bundle, precision="int8") if options.precision == "int8" else bundle


def _ranks(bundle: Bundle, options: Options, backends: Mapping[str, str]) -> list[tuple[str, ...]]:
    """Backends that "auto" tries, one rank after another; of the CPU's, which share a rank, the quickest is taken.

    Building engines takes minutes, so it is never begun unasked where the CPU would do.
    """
    device = options.device.partition(":")[0]
    if device == "cuda" or (device == "auto" and options.precision == "fp16"):
        return [(each,) for each in ("tensorrt", "torch", "onnxruntime-cuda") if each in backends]
    if options.plan != "auto":
        return [("onnxruntime",)]
    x86 = platform.machine().lower() in ("x86_64", "amd64")  # nobody has measured another processor
    cpu = CPU if x86 and find_spec("openvino") else ("onnxruntime",)
    from fhrt.runtime.engine_cache import has_engines

    return [("tensorrt",), cpu] if "tensorrt" in backends and device == "auto" and has_engines(bundle) else [cpu]


def _group(rank: Sequence[str], bundle: Bundle, options: Options, backends: Mapping[str, str]) -> list[Candidate]:
    """The ways to execute a bundle by these backends, those that are usually quicker first."""
    from fhrt.runtime.choice import Candidate
    from fhrt.runtime.verdicts import version_of

    found = []
    for backend in rank:
        module, _, function = backends[backend].partition(":")
        for asked in _ways(backend, bundle, options):
            words = (backend, asked.precision, asked.plan if asked.plan == "cut" else "auto", "auto" if backend in CPU else asked.device)
            name = " ".join(word for word in words if word != "auto")
            found.append(Candidate(name, version_of(backend), partial(_make, module, function, _form(bundle, asked), asked)))
    return found


def _ways(backend: str, bundle: Bundle, options: Options) -> list[Options]:
    """The forms and plans of a backend that are to choose from."""
    if backend not in CPU:
        return [options]
    forms, int8 = [options.precision], bundle.card.int8
    if options.precision == "auto":
        forms = ["fp32"]
        if int8 is not None and int8.worst <= INT8_LOSS[bundle.card.outputs[0]]:
            forms.insert(0 if backend == "openvino" else 1, "int8")  # ONNX Runtime takes longer in INT8 where it was measured
    ways = [replace(options, precision=form) for form in forms]
    if backend == "onnxruntime" and options.plan == "auto" and forms[0] == "fp32" and _may_be_cut(bundle, options.threads):
        ways.insert(1, replace(ways[0], plan="cut"))
    return ways


def _may_be_cut(bundle: Bundle, threads: int | None) -> bool:
    """Whether cutting is possible and would keep to ``threads``: the kernels' are set for the whole process."""
    if "sr" not in bundle.card.outputs or not find_spec("onnx") or (threads is not None and ops.get_num_threads() > threads):
        return False
    return DOMAIN.encode() in bundle.graph.read_bytes()


def _make(module: str, function: str, bundle: Bundle, options: Options) -> Any:
    return getattr(import_module(f"fhrt.runtime.{module}"), function)(bundle, options)


def check_lr(lr: Any, size: tuple[int, int], library: Library | None = None) -> None:
    """Raise BadInputError unless ``lr`` is a finite float32 batch of faces of this size, on the host or the device of ``library``."""
    there = library_of(lr) is not None
    if not (there or isinstance(lr, np.ndarray)) or dtype_of(lr) != "float32":
        raise BadInputError(f"LR faces must be a float32 array, not {getattr(lr, 'dtype', type(lr).__name__)}")
    if lr.ndim != 4 or tuple(lr.shape[1:]) != (3, *size):
        raise BadInputError(f"LR faces must be [N, 3, {size[0]}, {size[1]}], not {list(lr.shape)}")
    check_place(lr, library, "LR faces")
    if not there and not np.isfinite(lr).all():
        raise BadInputError("LR faces hold NaN or infinity")
