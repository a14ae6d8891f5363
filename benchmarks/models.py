"""A bundle's time per face: fhrt's engines beside a plain ONNX Runtime session of its fp32 graph, and the whole way around them."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import onnxruntime

from benchmarks import timing
from fhrt.faces.detect import Detection
from fhrt.hallucinator import Hallucinator, assemble, crop_faces
from fhrt.results import Face
from fhrt.runtime.bundle import GRAPH, SYSTEMS, installed
from fhrt.runtime.device import beside

LIMIT = 1.10  # an engine may take this much of the plain session's time
FULL_HD = (1080, 1920)
FRAME_FACES = 16
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
) -> tuple[list[dict[str, Any]], dict[str, Any], list[dict[str, Any]]]:
    """A row per batch size and engine (each backend in each precision); of the first, the times of the demo picture and `frame_rows`.

    A row has milliseconds per face and ``ratio``, engine / plain session. All engines of a batch size and the session take turns.
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
    for batch in batches:
        lr = rng.integers(0, 256, (batch, height, width, 3), np.uint8)
        tensor = np.ascontiguousarray(lr.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - np.float32(1)
        candidates = {"session": lambda tensor=tensor: session.run(None, {"lr": tensor})}
        for number, (hallucinator, engine) in enumerate(zip(hallucinators, engines, strict=True)):
            candidates[f"engine {number}"] = lambda tensor=tensor, engine=engine: engine.run(tensor)
            candidates[f"hallucinate {number}"] = lambda lr=lr, hallucinator=hallucinator: hallucinator.hallucinate(lr)
        times = timing.interleave(candidates, runs=runs, warmup=warmup, warm=0.05)
        for number, engine in enumerate(engines):
            mine = {"engine": times[f"engine {number}"], "session": times["session"], "hallucinate": times[f"hallucinate {number}"]}
            per_face = {f"{name}_ms_per_face": timing.summary(values / batch) for name, values in mine.items()}
            ratio = timing.ratio(mine["engine"], mine["session"])
            what = {"batch": batch, "backend": engine.backend, "precision": engine.precision}
            rows.append({**what, **per_face, "ratio": ratio, "within_limit": ratio <= LIMIT})
    first = hallucinators[0]
    frame_runs = runs if first.engine.library is None else max(runs, DEVICE_RUNS)
    return rows, _demo_picture(first, runs, warmup), frame_rows(first, frame_runs, warmup)


def frame_rows(hallucinator: Hallucinator, runs: int, warmup: int) -> list[dict[str, Any]]:
    """From a 1080p frame of uint8 with 16 boxes to 16 SR faces on the host: p50, p95 and p99 in milliseconds, the ways taking turns.

    A row per way: the frame on the host; with an engine on a device also a frame that is there, and crops that are cut out on the host
    and go up in its place.
    """
    (height, width), engine = FULL_HD, hallucinator.engine
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    corners = rng.uniform(0, [width - 40, height - 48], (FRAME_FACES, 2))
    boxes = np.hstack([corners, corners + np.array([24, 30])])
    detections = [Detection(tuple(box)) for box in boxes.tolist()]

    def cropped_here() -> list[Face]:
        batch, transforms = crop_faces(frame, detections, engine.card, "bgr")
        batch = beside(batch, there)
        return assemble(detections, batch, transforms, engine.run(batch), "bgr")

    ways = {"host": lambda: hallucinator.run(frame, boxes).faces}
    there = frame if engine.library is None else engine.library.up(frame)
    if engine.library is not None:
        ways |= {"device": lambda: hallucinator.run(there, boxes).faces, "host, cropped there": cropped_here}
    times = timing.interleave({name: lambda way=way: [face.sr for face in way()] for name, way in ways.items()}, runs=runs, warmup=warmup)
    what = {"backend": engine.backend, "precision": engine.precision, "faces": FRAME_FACES, "size": [width, height], "runs": runs}
    percentiles = (50, 95, 99)
    return [
        {
            **what,
            "frame": name,
            "ms": {f"p{part}": float(value) for part, value in zip(percentiles, np.percentile(each, percentiles), strict=True)},
        }
        for name, each in times.items()
    ]


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
