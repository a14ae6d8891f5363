"""A bundle's time per face: fhrt's engines beside a plain ONNX Runtime session of its fp32 graph, what else one would use, and the whole
way around them.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import onnxruntime
from numpy.typing import NDArray

from benchmarks import timing
from benchmarks.frames import frame_rows
from fhrt.errors import FhrtError
from fhrt.hallucinator import Hallucinator
from fhrt.runtime import load
from fhrt.runtime.bundle import GRAPH, installed, read_card
from fhrt.systems import SYSTEMS

PEERS = ("eager", "compile", "onnxruntime-cuda")
"""What else one would use: the torch module as it is, by torch.compile (max-autotune), and ONNX Runtime's CUDA provider."""
LIMIT = 1.10  # an engine may take this much of the plain session's time
AIMS = {("csrip", 1): 1.2, ("csrip", 32): 0.35, ("mtun", 1): 1.0, ("mtun", 32): 0.15}
"""On a GPU: (system, batch) → ms per face."""
COMPILED = 1.5  # on a GPU: one face is to take this many times less than with torch.compile
DEVICE_RUNS = 1000  # of a whole frame on a device, so that there is a 99th percentile; a millisecond or two each


@contextmanager
def bundle(name: str) -> Iterator[tuple[Path, str]]:
    """The folder of a model and the kind of its weights: "trained"; or, of a system without any, "random" in a folder for the while."""
    if name in installed() or name not in SYSTEMS:
        yield installed().get(name, Path(name)), "trained"
        return
    from benchmarks.random_bundle import write

    with TemporaryDirectory() as folder:
        yield write(name, Path(folder)), "random"


def measure(
    model: Path,
    batches: Sequence[int],
    *,
    backends: Sequence[str],
    precisions: Sequence[str],
    device: str,
    threads: int,
    runs: int,
    warmup: int,
    peers: Sequence[str] = (),
) -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
    """A row per batch size and engine (each backend in each precision); of the first, the times of the demo picture and `frame_rows`.

    A row has milliseconds per face and ``ratio``, engine / plain session. All engines of a batch size, session and peers take turns.
    peers: of `PEERS`, in the first engine's precision; where one cannot be had, the row says why in place of its times. On a device there
    is no session, and what a row is held to is the quickest peer.
    """
    chosen = product(backends, precisions)
    hallucinators = [
        Hallucinator(model, backend=backend, precision=precision, device=device, threads=threads) for backend, precision in chosen
    ]
    engines = [hallucinator.engine for hallucinator in hallucinators]
    session = _plain_session(model, threads)
    cv2.setNumThreads(threads)
    rng = np.random.default_rng(0)
    height, width = engines[0].card.input_size
    rows: list[dict[str, Any]] = []
    on_cpu = device == "cpu" or all(engine.backend in ("onnxruntime", "openvino") for engine in engines)
    opened = {name: _peer(name, model, "cpu" if on_cpu else device, engines[0].precision, threads) for name in peers}
    for batch in batches:
        lr = rng.integers(0, 256, (batch, height, width, 3), np.uint8)
        tensor = np.ascontiguousarray(lr.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - np.float32(1)
        candidates: dict[str, Callable[[], object]] = {}
        if on_cpu:
            candidates["session"] = lambda tensor=tensor: session.run(None, {"lr": tensor})
        refused: dict[str, str] = {}
        for name, peer in opened.items():
            try:
                if isinstance(peer, str):
                    raise RuntimeError(peer)
                peer(tensor)
                candidates[name] = lambda tensor=tensor, peer=peer: peer(tensor)
            except Exception as error:  # a peer's own failure is a finding, not ours
                refused[name] = str(error).strip().splitlines()[0][:120]
        for number, (hallucinator, engine) in enumerate(zip(hallucinators, engines, strict=True)):
            candidates[f"engine {number}"] = lambda tensor=tensor, engine=engine: engine.run(tensor)
            candidates[f"hallucinate {number}"] = lambda lr=lr, hallucinator=hallucinator: hallucinator.hallucinate(lr)
        times = timing.interleave(candidates, runs=runs, warmup=warmup, warm=0.05)
        for number, engine in enumerate(engines):
            mine = {"engine": times[f"engine {number}"], "hallucinate": times[f"hallucinate {number}"]}
            mine |= {"session": times["session"]} if on_cpu else {}
            per_face = {f"{name}_ms_per_face": timing.summary(values / batch) for name, values in mine.items()}
            ratio = timing.ratio(mine["engine"], mine["session"]) if on_cpu else None
            what = {"batch": batch, "backend": engine.backend, "precision": engine.precision}
            others = {name: refused.get(name) or timing.summary(times[name] / batch) for name in opened}
            ratios = {name: timing.ratio(mine["engine"], times[name]) for name in opened if name not in refused}
            within = max(ratios.values(), default=0.0) <= LIMIT if ratio is None else ratio <= LIMIT
            row = {**what, **per_face, "peers": others, "ratio": ratio, "ratio_to_peers": ratios, "within_limit": within}
            rows.append(row if on_cpu else row | aims(engine.card.name, row))
    first = hallucinators[0]
    frame_runs = runs if first.engine.array_library is None else max(runs, DEVICE_RUNS)
    return rows, _demo_picture(first, runs, warmup), frame_rows(first, frame_runs, warmup)


def aims(system: str, row: dict[str, Any]) -> dict[str, Any]:
    """What a GPU's row is to reach, and whether it did: ``aim`` in ms per face, ``aim_times`` as fast as torch.compile with one face."""
    aim, compiled = AIMS.get((system, row["batch"])), row["ratio_to_peers"].get("compile")
    aim_times = COMPILED if row["batch"] == 1 else None
    times = None if compiled is None else 1 / compiled
    slow = aim is not None and row["engine_ms_per_face"]["median"] > aim
    slower = aim_times is not None and times is not None and times < aim_times
    return {"aim": aim, "times_compile": times, "aim_times": aim_times, "reached": not slow and not slower}


def _peer(name: str, model: Path, device: str, precision: str, threads: int) -> Callable[[NDArray[np.float32]], object] | str:
    """What turns faces in the host's memory into faces there, as an engine does; or why it cannot be had.

    torch's module has random weights, which take as long: export folds a bundle's, and they do not fit it any more.
    """
    try:
        if name == "onnxruntime-cuda":
            return load(model, backend=name, device=device, precision="fp32", threads=threads).run
        import torch

        from fhrt.models import create

        dtype = torch.float16 if precision == "fp16" else torch.float32
        network = create(read_card(model).name).eval().to(device, dtype, memory_format=torch.channels_last)
        called = torch.compile(network, mode="max-autotune", dynamic=False) if name == "compile" else network
    except FhrtError as error:
        return str(error)

    @torch.inference_mode()
    def run(lr: NDArray[np.float32]) -> object:
        output = called(torch.from_numpy(lr).to(device, dtype))
        return output.sr.float().cpu().numpy()

    return run


def _plain_session(model: Path, threads: int) -> onnxruntime.InferenceSession:
    """The bundle's fp32 graph in ONNX Runtime alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model / GRAPH, options, providers=["CPUExecutionProvider"])


def _demo_picture(hallucinator: Hallucinator, runs: int, warmup: int) -> dict[str, Any]:
    """Detection, crop, model and the rest on the picture that ships: milliseconds per picture and per stage."""
    with resources.as_file(resources.files("fhrt") / "assets" / "crowd.png") as path:
        frame = cv2.imread(str(path))
    results = [hallucinator.run(frame) for _ in range(warmup + runs)][warmup:]
    stages = {stage: timing.summary(np.array([r.timings[stage] for r in results])) for stage in results[0].timings}
    return {"faces": len(results[0].faces), "size": list(frame.shape[1::-1]), "stages_ms": stages}
