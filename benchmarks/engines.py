"""TensorRT's engines of one bundle, with fhrt's kernels between them ("cut") and of the graph as a whole: how near to ONNX Runtime they
are, how fast, how long building takes and opening what was built. Needs a Python with TensorRT and CuPy, not torch.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from benchmarks import timing
from fhrt.errors import BackendError, FhrtError
from fhrt.runtime.bundle import Bundle, open_bundle
from fhrt.runtime.engine import Engine, Options
from fhrt.runtime.ort import OrtEngine
from fhrt.runtime.plan import require_onnx

PLANS = ("cut", "whole")
LEAST_DB = {"fp32": 70.0, "fp16": 50.0}


@contextmanager
def without_functions(bundle: Bundle) -> Iterator[Bundle]:
    """The same bundle with its ``fhrt`` nodes spelled in standard operators, so that nothing is cut, in a folder for the while."""
    from onnx.inliner import inline_local_functions

    onnx = require_onnx()
    with TemporaryDirectory() as name:
        folder = Path(name)
        for path in bundle.folder.iterdir():
            if path.name != bundle.graph.name:
                shutil.copy(path, folder)  # no link: ONNX Runtime takes weights from the graph's own folder alone
        onnx.save(inline_local_functions(onnx.load(bundle.graph, load_external_data=False)), folder / bundle.graph.name)
        yield replace(bundle, folder=folder)


def measure(model: str, precision: str, batches: Sequence[int], runs: int, rehearse: bool) -> list[dict[str, Any]]:
    """A row per plan; one that fails says why. rehearse: ONNX Runtime on the CPU in place of TensorRT, in fp32."""
    bundle = open_bundle(model)
    precision = "fp32" if rehearse else precision
    rows = []
    for plan in PLANS:
        row: dict[str, Any] = {"model": bundle.card.name, "precision": f"{precision}, {plan}", "aim_db": LEAST_DB[precision]}
        try:
            with without_functions(bundle) if plan == "whole" else _as_it_is(bundle) as given:
                row |= _one(given, plan, precision, batches, runs, rehearse)
        except FhrtError as error:
            row["error"] = str(error)
        rows.append(row)
    return rows


@contextmanager
def _as_it_is(bundle: Bundle) -> Iterator[Bundle]:
    yield bundle


def _one(bundle: Bundle, plan: str, precision: str, batches: Sequence[int], runs: int, rehearse: bool) -> dict[str, Any]:
    began = time.perf_counter()
    _open(bundle, plan, precision, batches, rehearse)
    built = time.perf_counter()
    with _no_building(rehearse):
        engine = _open(bundle, plan, precision, batches, rehearse)
    opened = time.perf_counter()
    reference, rng = OrtEngine(bundle), np.random.default_rng(1)
    found = []
    for batch in batches:
        lr = rng.uniform(-1, 1, (batch, 3, *bundle.card.input_size)).astype(np.float32)
        difference = engine.run(lr).sr.astype(np.float64) - reference.run(lr).sr
        decibels = 10 * np.log10(4 / max(float(np.square(difference).mean(axis=(1, 2, 3)).max()), 1e-20))  # of the worst face
        times = timing.interleave({"engine": lambda lr=lr: engine.run(lr)}, runs=runs, warmup=3, warm=0.02)["engine"]
        found.append({"batch": batch, "parity_db": float(decibels), "ms_per_face": timing.summary(times / batch)})
    return {"batches": found, "build_s": built - began, "open_s": opened - built}


def _open(bundle: Bundle, plan: str, precision: str, batches: Sequence[int], rehearse: bool) -> Engine:
    if rehearse:
        from fhrt.runtime.ort import open_cpu

        return open_cpu(bundle, Options(device="cpu", plan="cut" if plan == "cut" else "whole"))
    from fhrt.runtime.trt import TensorRTEngine

    return TensorRTEngine(bundle, Options(device="cuda", precision=precision), batches)


@contextmanager
def _no_building(rehearse: bool) -> Iterator[None]:
    """While what was built must be found again. Raises BackendError where something is built after all."""
    if rehearse:
        yield
        return
    from fhrt.runtime import trt_build

    def refuse(*_: object) -> None:
        raise BackendError("an engine that was just built was not found again")

    build, trt_build.build = trt_build.build, refuse  # type: ignore[assignment]
    try:
        yield
    finally:
        trt_build.build = build
