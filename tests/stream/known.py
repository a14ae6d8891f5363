"""A network, a detector and a sink of which the outcome is known."""

import time
from types import SimpleNamespace

from fhrt.faces.detect import Detection
from fhrt.runtime import Output


class KnownEngine:
    """Enlarges eight times, `seconds` a call; keeps how many faces each call had."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.card = SimpleNamespace(name="known", input_size=(16, 16), output_size=(128, 128), outputs=("sr",))
        self.seconds = seconds
        self.batches: list[int] = []

    def run(self, lr):
        time.sleep(self.seconds)
        self.batches.append(len(lr))
        return Output(lr.repeat(8, 2).repeat(8, 3))


class KnownDetector:
    """Finds `count` faces in a row in every frame, `seconds` a call."""

    def __init__(self, count: int = 1, seconds: float = 0.0) -> None:
        self.count, self.seconds, self.calls = count, seconds, 0

    def detect(self, frame_bgr):
        time.sleep(self.seconds)
        self.calls += 1
        places = ((40.0 * (index % 7) + 8, 60.0 + 50 * (index // 7)) for index in range(self.count))
        return [Detection((x, y, x + 20, y + 25), 0.9) for x, y in places]


class Kept:
    """A sink that keeps what it gets, `seconds` a result, and fails where `fails` says so."""

    def __init__(self, seconds: float = 0.0, fails=lambda result: False) -> None:
        self.seconds, self.fails = seconds, fails
        self.results, self.closed = [], 0

    def write(self, result):
        time.sleep(self.seconds)
        if self.fails(result):
            raise OSError(28, "No space left on device")
        self.results.append(result)

    def close(self):
        self.closed += 1

    def numbers(self, source=None):
        return [one.number for one in self.results if source in (None, one.source)]
