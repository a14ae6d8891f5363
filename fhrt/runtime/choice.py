"""Which of two ways to execute a bundle is the quicker one here: measured once, then remembered."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter
from typing import TypeVar

from fhrt import _C, machine
from fhrt.errors import BadInputError
from fhrt.files import cache_folder, write_bytes
from fhrt.runtime.bundle import Bundle

BUDGET = 0.3  # seconds that measuring takes, or twice that where two calls need it: opening a model stays quick
GAIN = 0.97  # the other way must take less than this part of the usual one's time: closer than that is chance

Way = TypeVar("Way")


def quicker(what: str, bundle: Bundle, makers: Mapping[str, Callable[[], Way]], call: Callable[[Way], object]) -> Way:
    """The way that ``call`` runs through sooner. makers: name → what makes it, two of them, the usual one first.

    Remembered for ``what`` (the backend and its settings), this bundle, this machine and these versions, in `cache_folder`; a cache that
    cannot be read or written only means measuring again. A usual way that takes more than `BUDGET` is taken as it is.
    """
    about = machine.describe(("fhrt", "numpy", "onnx", "onnxruntime"))
    about.pop("time")
    native = hashlib.sha256(Path(_C.__file__).read_bytes()).hexdigest()
    key = json.dumps([what, bundle.sha256, native, about], sort_keys=True)
    path = cache_folder() / "plans" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"
    remembered = _remembered(path)
    if remembered in makers:
        return makers[remembered]()
    best, times, ways = _measure(makers, call)
    milliseconds = {name: [round(seconds * 1000, 3) for seconds in each] for name, each in times.items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(path, json.dumps({"way": best, "milliseconds": milliseconds, "for": json.loads(key)}, indent=2).encode())
    except (OSError, BadInputError):
        pass
    return ways[best]


def _remembered(path: Path) -> str:
    """The name in a file that `quicker` wrote; anything else is as good as no file."""
    try:
        return str(json.loads(path.read_bytes())["way"])
    except (OSError, ValueError, TypeError, LookupError):
        return ""


def _measure(makers: Mapping[str, Callable[[], Way]], call: Callable[[Way], object]) -> tuple[str, dict[str, list[float]], dict[str, Way]]:
    """The name of the quicker way, the seconds of every call, and the ways. They take turns until `BUDGET` would be overrun."""
    usual, other = makers
    ways = {usual: makers[usual]()}
    times: dict[str, list[float]] = {usual: [], other: []}
    spent = 0.0
    while not spent or spent + spent / len(times[other]) <= BUDGET:
        for name in (usual, other):
            if name not in ways:
                ways[name] = makers[name]()
            start = perf_counter()
            call(ways[name])
            times[name].append(perf_counter() - start)
            spent += times[name][-1]
            if spent > BUDGET and not times[other]:
                return usual, times, ways
    return (other if min(times[other]) < GAIN * min(times[usual]) else usual), times, ways
