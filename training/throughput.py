"""How many faces a second a recipe trains with here, what holds it up, and how much of what the processor can do that is."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from fhrt.protocols.archive import LOOSE
from training.data import Batch, Batches
from training.faces import FaceSet, People
from training.landmarks import Landmarks
from training.loop import Trainer
from training.recipe import Recipe

WARMUP, WARMUP_CAPTURED = 2, 6  # steps: the last of the latter is the first by a CUDA graph


def made_up(count: int = 64) -> FaceSet:
    """Noise with landmarks and two people, whom any identity network knows: a step takes as long with it as with faces."""
    rng = np.random.default_rng(0)
    points = rng.uniform(40, LOOSE - 40, (count, 68, 2)).astype(np.float32)
    pictures = rng.integers(0, 256, (count, LOOSE, LOOSE, 3), np.uint8)
    return FaceSet(pictures, Landmarks(points, np.ones((count, 68), bool)), People(np.arange(count) % 2, 2))


def measure(recipe: Recipe, data: Path | FaceSet, out: Path, seconds: float, **options: Any) -> dict[str, Any]:
    """Faces per second of the whole, of the steps with one batch alone and of the batches alone, each for so many seconds; operations.

    options: of `Trainer`. A multiply-add counts as two operations; convolutions and matrix products are counted, fhrt's own kernels are
    not. The peak is what a matrix product reached in the recipe's type. Of steps that make
    pictures, without the recipe's feature term.
    """
    recipe = recipe.model_copy(update={"localise_steps": 0, "losses": recipe.losses.model_copy(update={"feature": 0.0})})
    trainer = Trainer(recipe, data, out, **options)
    recipe = trainer.recipe  # which may have less than was asked for: no bf16
    batches = Batches(trainer.source, recipe.mix, recipe.batch, recipe.seed, threads=trainer.threads)
    with closing(batches):
        ahead = iter(batches)
        first = next(ahead)
        operations = _operations(trainer, first)
        for batch in islice(ahead, WARMUP if trainer.captured is None else WARMUP_CAPTURED):
            trainer.train_step(batch)
        whole = _rate(trainer, seconds, (lambda: trainer.train_step(next(ahead))))
        step = _rate(trainer, seconds, (lambda: trainer.train_step(first)))
        made = _rate(trainer, seconds, (lambda: next(ahead)))
    peak = measure_peak(trainer.device, torch.bfloat16 if recipe.bf16 else torch.float32)
    graph = trainer.captured is not None and bool(trainer.captured.graphs)
    return {
        "batch": recipe.batch, "precision": "bf16" if recipe.bf16 else "fp32", "captured": graph,
        "faces_on_device": type(trainer.source).__name__ == "OnDevice",
        "faces_per_s": whole * recipe.batch, "step_faces_per_s": step * recipe.batch, "data_faces_per_s": made * recipe.batch,
        "bound_by": "data" if made < step else "step", "gflop_per_face": 1e-9 * operations / recipe.batch,
        "tflops": 1e-12 * operations * whole, "peak_tflops": 1e-12 * peak, "share_of_peak": operations * whole / peak,
    }  # fmt: skip


def measure_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Operations per second of a matrix product, the best of some; on a CUDA device in float32 as convolutions do it, in TF32."""
    side = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if device.type == "cuda" else before)
    try:
        times = []
        for _ in range(6):
            _finish(device)
            began = time.perf_counter()
            a @ b
            _finish(device)
            times.append(time.perf_counter() - began)
    finally:
        torch.set_float32_matmul_precision(before)
    return float(2 * side**3 / min(times))


def _operations(trainer: Trainer, batch: Batch) -> int:
    """Of a step, forward and backward; makes one, not captured."""
    counter, captured = FlopCounterMode(display=False), trainer.captured
    trainer.captured = None
    try:
        with counter:
            trainer.train_step(batch)
    finally:
        trainer.captured = captured
    return counter.get_total_flops()


def _rate(trainer: Trainer, seconds: float, call: Callable[[], object]) -> float:
    """Calls per second, what the device has to do for them included; at least three. The losses are looked at as often as in a run."""
    _finish(trainer.device)
    began, calls = time.perf_counter(), 0
    while calls < 3 or time.perf_counter() - began < seconds:
        call()
        calls += 1
        if calls % trainer.check_every == 0:
            trainer.check()
            _finish(trainer.device)  # or the host would run ahead of the device by more than the seconds
    trainer.check()
    _finish(trainer.device)
    return calls / (time.perf_counter() - began)


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
