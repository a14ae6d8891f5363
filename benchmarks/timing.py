"""Paired timing: the candidates take turns, so that a busy moment of the machine meets all of them alike."""

import time
from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

Times = NDArray[np.float64]
PAUSE = 0.005  # seconds: an ONNX Runtime session's threads spin on for a while after a call, on the cores of the next candidate


def interleave(candidates: Mapping[str, Callable[[], object]], *, runs: int, warmup: int, warm: float = 0.0) -> dict[str, Times]:
    """Milliseconds of every call, float64 `[runs]` per candidate; each round calls every candidate once, in turned order.

    warm: seconds of untimed calls right before each timed one. After a pause a core takes a quarter of a millisecond to come back to
    speed, which is more than a small op takes; under load, which is where a user's latency matters, it never leaves it.
    """
    names = list(candidates)
    times = {name: np.empty(runs) for name in names}
    for round_ in range(-warmup, runs):
        turn = round_ % len(names)
        for name in names[turn:] + names[:turn]:
            time.sleep(PAUSE)
            begin = time.perf_counter()
            while time.perf_counter() - begin < warm:
                candidates[name]()
            start = time.perf_counter_ns()
            candidates[name]()
            elapsed = time.perf_counter_ns() - start
            if round_ >= 0:
                times[name][round_] = elapsed / 1e6
    return times


def summary(times: Times) -> dict[str, float]:
    """Median, 95th and 99th percentile, in the unit of `times`."""
    return {"median": float(np.median(times)), "p95": float(np.percentile(times, 95)), "p99": float(np.percentile(times, 99))}


def ratio(times: Times, reference: Times) -> float:
    """Median of the rounds' own ratios times / reference: under 1 means faster than the reference."""
    return float(np.median(times / reference))
