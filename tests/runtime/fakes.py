"""Engines that say what they are told to, beside a model's own answers."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from time import sleep
from typing import Any

import numpy as np

from fhrt.runtime.bundle import Bundle, open_bundle
from fhrt.runtime.choice import Candidate
from fhrt.runtime.engine import Options, Output
from fhrt.runtime.ort import open_cpu, open_frames


@cache
def _engine(folder: Path, precision: str) -> Any:
    bundle = replace(open_bundle(folder), precision=precision)
    return (open_frames if "heat" in bundle.card.outputs else open_cpu)(bundle, Options(threads=1))


@cache
def _answer(folder: Path, precision: str, data: bytes, shape: tuple[int, ...], dtype: str) -> Any:
    return _engine(folder, precision).run(np.frombuffer(data, dtype).reshape(shape))


class Fake:
    """An engine with ONNX Runtime's answers, changed by ``lie``, after ``seconds``; those to what was asked before cost nothing."""

    backend = "fake"

    def __init__(self, bundle: Bundle, lie: Callable[[Any], Any] | None = None, seconds: float = 0.0, precision: str = "") -> None:
        self.card, self.precision = bundle.card, precision or bundle.precision
        self.bundle, self.lie, self.seconds, self.calls = bundle, lie or (lambda answer: answer), seconds, 0

    def run(self, given: Any) -> Any:
        self.calls += 1
        sleep(self.seconds)
        return self.lie(_answer(self.bundle.folder, self.bundle.precision, given.tobytes(), given.shape, given.dtype.name))

    def candidate(self, name: str = "fake fp32", version: str = "1") -> Candidate:
        return Candidate(name, version, lambda: self)


def of_sr(lie: Callable[[Any], Any]) -> Callable[[Output], Output]:
    return lambda output: replace(output, sr=lie(output.sr))
