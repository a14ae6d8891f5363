"""A bundle's time per face: fhrt's engine beside a plain ONNX Runtime session of the same graph, and the whole way around it."""

from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime

from benchmarks import timing
from fhrt.hallucinator import Hallucinator

LIMIT = 1.10  # the engine may take this much of the plain session's time


def measure(
    model: str, batches: Sequence[int], *, threads: int, runs: int, warmup: int, backend: str = "onnxruntime", device: str = "auto"
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """A row per batch size, and the times of the demo picture.

    A row has milliseconds per face and two ratios: ``ratio``, engine / plain session of the graph as it is; ``fixed_ratio``, the same
    graph loaded for this very batch / plain session: what static batch buckets would gain over the dynamic batch.
    """
    hallucinator = Hallucinator(model, backend=backend, device=device, threads=threads)
    engine = hallucinator.engine
    session = _plain_session(model, threads)
    cv2.setNumThreads(threads)
    rng = np.random.default_rng(0)
    height, width = engine.card.input_size
    rows: list[dict[str, Any]] = []
    for batch in batches:
        fixed = _plain_session(model, threads, batch)
        lr = rng.integers(0, 256, (batch, height, width, 3), np.uint8)
        tensor = np.ascontiguousarray(lr.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - np.float32(1)
        candidates = {
            "engine": lambda tensor=tensor: engine.run(tensor),
            "session": lambda tensor=tensor: session.run(None, {"lr": tensor}),
            "fixed": lambda tensor=tensor, fixed=fixed: fixed.run(None, {"lr": tensor}),
            "hallucinate": lambda lr=lr: hallucinator.hallucinate(lr),
        }
        times = timing.interleave(candidates, runs=runs, warmup=warmup, warm=0.05)
        ratio = timing.ratio(times["engine"], times["session"])
        per_face = {f"{name}_ms_per_face": timing.summary(values / batch) for name, values in times.items()}
        fixed_ratio = timing.ratio(times["fixed"], times["session"])
        rows.append({"batch": batch, **per_face, "ratio": ratio, "fixed_ratio": fixed_ratio, "within_limit": ratio <= LIMIT})
    return rows, _demo_picture(hallucinator, runs, warmup)


def _plain_session(model: str, threads: int, batch: int | None = None) -> onnxruntime.InferenceSession:
    """The bundle's graph in ONNX Runtime alone; with ``batch``, its first axis is fixed before optimisation."""
    options = onnxruntime.SessionOptions()
    if batch is not None:
        options.add_free_dimension_override_by_name("batch", batch)
    options.intra_op_num_threads = threads
    with resources.as_file(resources.files("fhrt") / "weights" / model) as shipped:
        folder = shipped if shipped.is_dir() else Path(model)
        return onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])


def _demo_picture(hallucinator: Hallucinator, runs: int, warmup: int) -> dict[str, Any]:
    """Detection, crop, model and the rest on the picture that ships: milliseconds per picture and per stage."""
    with resources.as_file(resources.files("fhrt") / "assets" / "crowd.png") as path:
        frame = cv2.imread(str(path))
    results = [hallucinator.run(frame) for _ in range(warmup + runs)][warmup:]
    stages = {stage: timing.summary(np.array([r.timings[stage] for r in results])) for stage in results[0].timings}
    return {"faces": len(results[0].faces), "size": list(frame.shape[1::-1]), "stages_ms": stages}
