"""How fast models are on this machine, and how near to what its processor could do: ``fhrt bench``."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from io import BytesIO
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BackendError, BadInputError, MissingExtraError
from fhrt.runtime import Card, Engine, load
from fhrt.runtime.engine import BUCKETS

PAPER_MS = {"a Titan Xp, one face": 30.0, "a Titan Xp, in a batch": 15.0}
"""Milliseconds per face that C-SRIP's paper reports for itself."""

LOG = logging.getLogger("fhrt")
SECONDS = 1.0  # that each batch size is timed for, at least
LEAST_CALLS = 20  # of one face, so that there is a 95th percentile
SIDE = 8192  # of the matrices that a device multiplies,
COPIED = 1 << 29  # and bytes that it copies: more than its caches hold
WEIGHT_BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Processor:
    """What a processor or device reached as a whole: matrix products in GFLOP/s, a multiply-add counted as two, and copying in GB/s."""

    gflops: float
    gb_per_s: float


@dataclass(frozen=True)
class Speed:
    """One model on one backend. Times in milliseconds.

    latency: "p50", "p95" and "p99" of one face. per_face: batch size → median per face. floor: what a face's operations, or its share of
    reading the weights, take at best in the largest batch; on a CPU in float32, so that an INT8 form may lie below, on a device in the
    engine's precision (None where the device's rates cannot be measured). cold_start: opening, building where needed, and the first face.
    memory: MB that the process grew by (None where the system does not say). build: seconds that building the engines took, when
    they were built (None where nothing is built).
    """

    model: str
    backend: str
    precision: str
    latency: dict[str, float]
    per_face: dict[int, float]
    floor: float | None
    cold_start: float
    memory: float | None
    build: float | None = None

    @property
    def share(self) -> float | None:
        """Of the floor in the quickest batch's time per face: 1 would be perfect."""
        return None if self.floor is None else self.floor / min(self.per_face.values())


def measure(
    models: Sequence[str | Path],
    backends: Sequence[str] = ("auto",),
    precisions: Sequence[str] = ("auto",),
    *,
    device: str = "auto",
    threads: int | None = None,
    batches: Sequence[int] = BUCKETS,
    seconds: float | None = None,
) -> Iterator[Speed]:
    """Every model on every backend in every precision, one after another, as they are measured; options as `fhrt.runtime.load`.

    seconds: that each batch size is timed for at least; default `SECONDS`. Raises BadInputError for a batch size under 1, and what `load`
    raises.
    """
    if not batches or min(batches) < 1:
        raise BadInputError(f"batch sizes must be at least 1, not {', '.join(map(str, batches)) or 'none'}")
    rates = cache(_rates)
    for model, backend, precision in product(models, backends, precisions):
        before, start = _resident(), time.perf_counter()
        engine = load(model, backend=backend, device=device, precision=precision, threads=threads)
        engine.run(_faces(engine, 1))
        cold_start = 1000 * (time.perf_counter() - start)
        times = {batch: _times(engine, batch, SECONDS if seconds is None else seconds) for batch in sorted({1, *batches})}
        after = _resident()
        card, processor = engine.card, rates(*_place(engine, device))
        yield Speed(
            model=card.name,
            backend=engine.backend,
            precision=engine.precision,
            latency={f"p{part}": float(np.percentile(times[1], part)) for part in (50, 95, 99)},
            per_face={batch: float(np.median(each)) / batch for batch, each in times.items() if batch in batches},
            floor=None if processor is None else _floor(card, processor, max(batches), _place(engine, device)[1]),
            cold_start=cold_start,
            memory=None if before is None or after is None else (after - before) / 1e6,
            build=getattr(engine, "build_seconds", None),
        )


def measure_processor() -> Processor:
    """The CPU's, all cores, in float32; takes a second."""
    a = np.ones((1536, 1536), np.float32)
    product_ = np.empty_like(a)
    source, target = np.ones(1 << 25, np.float32), np.empty(1 << 25, np.float32)
    gflops = 2e-9 * a.shape[0] ** 3 / _best(lambda: np.matmul(a, a, product_))
    return Processor(gflops, 2e-9 * source.nbytes / _best(lambda: np.copyto(target, source)))


def measure_device(index: int, precision: str) -> Processor:
    """A CUDA device's in a precision ("fp32", "fp16", "int8"), by torch or else CuPy; takes seconds. Raises BackendError."""
    multiply, copy = _work_of_torch(index, precision) or _work_of_cupy(index, precision)
    return Processor(2e-9 * SIDE**3 / _best(multiply), 2e-9 * COPIED / _best(copy))


Work = Callable[[], object]


def _work_of_torch(index: int, precision: str) -> tuple[Work, Work] | None:
    """A product of two matrices of `SIDE`, and a copy of `COPIED` bytes; each is done when it returns. None without torch for CUDA."""
    if not find_spec("torch"):
        return None
    import torch

    if not torch.cuda.is_available():
        return None
    device = torch.device("cuda", index)
    factor = torch.randn(SIDE, SIDE, device=device)  # of zeros or ones a device makes more in a second
    factor = (32 * factor).to(torch.int8) if precision == "int8" else factor.to(torch.float16 if precision == "fp16" else torch.float32)
    multiply = torch._int_mm if precision == "int8" else torch.mm
    source, target = (torch.zeros(COPIED, dtype=torch.uint8, device=device) for _ in range(2))
    finish: Work = partial(torch.cuda.synchronize, device)
    return (lambda: (multiply(factor, factor.t()), finish())), (lambda: (target.copy_(source), finish()))


def _work_of_cupy(index: int, precision: str) -> tuple[Work, Work]:
    """The same."""
    if precision == "int8":
        raise BackendError("the rate of a CUDA device in int8 is measured with torch, which is not here for CUDA")
    try:
        import cupy

        with cupy.cuda.Device(index) as device:
            factor = cupy.random.standard_normal((SIDE, SIDE), np.float32).astype(np.float16 if precision == "fp16" else np.float32)
            source, target = (cupy.zeros(COPIED, np.uint8) for _ in range(2))
            cupy.matmul(factor, factor)  # cuBLAS may be missing
    except (ImportError, RuntimeError) as error:  # CuPy's own errors are RuntimeErrors
        reason = str(error).strip().partition("\n")[0]
        raise BackendError(f"the rates of cuda:{index} are measured with torch or CuPy, and neither can here ({reason})") from error
    return (lambda: (cupy.matmul(factor, factor.T), device.synchronize())), (lambda: (cupy.copyto(target, source), device.synchronize()))


def draw_chart(speeds: Sequence[Speed], ending: str) -> bytes:
    """Milliseconds per face over the batch size, a line per engine, and the paper's: the bytes of a picture file of that name's ending.

    Raises MissingExtraError without matplotlib, BadInputError for an ending that it does not write.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError('a chart needs matplotlib: pip install "fhrt[train]"') from error
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for speed in speeds:
        axes.plot(
            list(speed.per_face), list(speed.per_face.values()), marker="o", label=f"{speed.model}, {speed.backend} {speed.precision}"
        )
    for what, milliseconds in PAPER_MS.items():
        axes.axhline(milliseconds, color="0.6", linewidth=1, linestyle=":")
        axes.annotate(f"C-SRIP's paper: {what}", (1, milliseconds), (0, 2), textcoords="offset points", color="0.4", fontsize=8)
    sizes = sorted({batch for speed in speeds for batch in speed.per_face})
    axes.set(xscale="log", yscale="log", xlabel="faces in a batch", ylabel="ms per face", xticks=sizes, xticklabels=sizes)
    axes.minorticks_off()
    if speeds:
        axes.legend(frameon=False)
    file = BytesIO()
    try:
        figure.savefig(file, format=ending.removeprefix("."), dpi=128)
    except ValueError as error:
        raise BadInputError(f'a chart cannot be a "{ending}" file; use .png, .svg or .pdf') from error
    return file.getvalue()


def _place(engine: Engine, device: str) -> tuple[str, str]:
    """Where an engine that was asked for on ``device`` computes, "cpu" or "cuda:N", and in what its floor is reckoned."""
    if engine.array_library is not None:
        return engine.array_library.place, engine.precision
    if engine.backend.startswith("onnxruntime-"):  # its other providers, which take the host's arrays
        return f"cuda:{device.partition(':')[2] or 0}", engine.precision
    return "cpu", "fp32"


def _rates(place: str, precision: str) -> Processor | None:
    """What was measured there; None, with a warning, where that cannot be."""
    if place == "cpu":
        return measure_processor()
    try:
        return measure_device(int(place.partition(":")[2]), precision)
    except BackendError as error:
        LOG.warning("no floor: %s", error)
        return None


def _floor(card: Card, processor: Processor, batch: int, precision: str) -> float:
    """Milliseconds per face in a batch: the operations, or reading the weights once, whichever takes longer."""
    reading = 1e-9 * WEIGHT_BYTES[precision] * card.parameters / processor.gb_per_s
    return 1000 * max(card.gflops / processor.gflops, reading / batch)


def _faces(engine: Engine, batch: int) -> NDArray[np.float32]:
    return np.random.default_rng(0).uniform(-1, 1, (batch, 3, *engine.card.input_size)).astype(np.float32)


def _times(engine: Engine, batch: int, seconds: float) -> NDArray[np.float64]:
    """Milliseconds of each call, the first left out."""
    lr = _faces(engine, batch)
    engine.run(lr)
    times: list[float] = []
    least = LEAST_CALLS if batch == 1 else 3
    while sum(times) < seconds or len(times) < least:
        start = time.perf_counter()
        engine.run(lr)
        times.append(time.perf_counter() - start)
    return 1000 * np.array(times)


def _best(call: Callable[[], object]) -> float:
    """Seconds of the quickest of some calls."""
    times = []
    for _ in range(8):
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return min(times)


def _resident() -> int | None:
    """Bytes of memory that the process holds, where Linux says so."""
    statm = Path("/proc/self/statm")
    if not statm.exists():
        return None
    import resource

    return int(statm.read_text().split()[1]) * resource.getpagesize()
