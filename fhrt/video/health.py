"""How a camera does: its state, what was counted, and how long things took, for logs, a status table and Prometheus."""

from __future__ import annotations

import logging
import threading
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from fhrt.video.redact import redact

WINDOW = 60.0  # seconds that percentiles look back
SAMPLES = 2048  # that a window holds at most: 80 s at 25 fps, in 32 kB
RATE = 5.0  # seconds over which frames per second are counted

_log = logging.getLogger("fhrt.video")


class State(str, Enum):
    """connecting: opened, no frame yet. live: frames come. stalled: connected, but none comes. offline: lost, and tried again.
    unauthorised: refused, and seldom tried again. ended: the source is at its end, cannot be read at all, or was stopped."""

    CONNECTING = "connecting"
    LIVE = "live"
    STALLED = "stalled"
    OFFLINE = "offline"
    UNAUTHORISED = "unauthorised"
    ENDED = "ended"

    __str__ = str.__str__


@dataclass(frozen=True)
class Percentiles:
    """Of the last minute's samples, in seconds."""

    p50: float
    p95: float
    p99: float
    samples: int


@dataclass(frozen=True)
class Snapshot:
    """One camera at one moment. since: Unix time of the last change of state. reason: one line, redacted; empty while all is well.

    fps: frames that came in per second. silent: seconds since the last one. drops: frames and packets thrown away, by cause.
    stages: name → how long it took, per frame; ``wait`` is from a frame's arrival until it is taken, ``latency`` that by the camera's
    clock.
    """

    name: str
    state: State
    since: float
    reason: str
    frames: int
    fps: float
    silent: float | None
    drops: dict[str, int]
    reconnects: int
    stalls: int
    clock_jumps: int
    stages: dict[str, Percentiles]


class Window:
    """The last samples of a quantity, in memory that never grows. Not thread-safe."""

    def __init__(self) -> None:
        self._when, self._what = (array("d", bytes(8 * SAMPLES)) for _ in range(2))  # NumPy's take ten times as long to write into
        self._count = 0

    def add(self, now: float, value: float) -> None:
        at = self._count % SAMPLES
        self._when[at], self._what[at] = now, value
        self._count += 1

    def since(self, start: float) -> NDArray[np.float64]:
        """The values of the samples from `start` on, in no order."""
        when, what = (np.frombuffer(each)[: self._count] for each in (self._when, self._what))
        return what[when >= start]

    def percentiles(self) -> Percentiles:
        """Of the last minute's samples."""
        values = self.since(time.monotonic() - WINDOW)
        p50, p95, p99 = np.percentile(values, (50, 95, 99)).tolist() if len(values) else (float("nan"),) * 3
        return Percentiles(p50, p95, p99, len(values))


class Health:
    """What the threads of one camera report; all methods may be called from any thread."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._lock = threading.Lock()
        self._state, self._reason, self._since = State.CONNECTING, "", time.time()
        self._frames = self._reconnects = self._stalls = self._clock_jumps = 0
        self._last: float | None = None
        self._drops: Counter[str] = Counter()
        self._arrivals = Window()
        self._stages: defaultdict[str, Window] = defaultdict(Window)

    @property
    def state(self) -> State:
        return self._state

    def change(self, state: State, reason: object = "", only_from: State | None = None) -> None:
        """Sets state and reason; time of change and log know a state that differs only. `ended` is final."""
        if state is self._state is State.LIVE:  # with every frame
            return
        line = " ".join(redact(reason).split())
        with self._lock:
            before = self._state
            if before is State.ENDED or (only_from is not None and before is not only_from):
                return
            self._state, self._reason = state, line
            if before is state:
                return
            self._since = time.time()
            self._stalls += state is State.STALLED
        level = logging.INFO if state in (State.LIVE, State.CONNECTING, State.ENDED) else logging.WARNING
        _log.log(level, "%s is %s%s", self.name, state, f": {line}" if line else "", extra={"camera": self.name, "state": str(state)})

    def frame(self, arrival: float) -> None:
        """A frame came in, at `arrival` (monotonic)."""
        with self._lock:
            self._frames += 1
            self._last = arrival
            self._arrivals.add(arrival, arrival)

    def drop(self, cause: str) -> None:
        """A frame or packet was thrown away."""
        with self._lock:
            self._drops[cause] += 1

    def reconnect(self) -> None:
        """The source is opened once more."""
        with self._lock:
            self._reconnects += 1

    def clock_jump(self, jumps: int) -> None:
        """The camera's clock jumped."""
        with self._lock:
            self._clock_jumps += jumps

    def record(self, stage: str, seconds: float) -> None:
        """A frame spent so many seconds in a stage."""
        self.record_all({stage: seconds})

    def record_all(self, seconds: Mapping[str, float]) -> None:
        """A frame spent so many seconds in each of these stages."""
        now = time.monotonic()
        with self._lock:
            for stage, took in seconds.items():
                self._stages[stage].add(now, took)

    def snapshot(self) -> Snapshot:
        """All of it, now."""
        now = time.monotonic()
        with self._lock:
            recent = self._arrivals.since(now - RATE)
            return Snapshot(
                name=self.name,
                state=self._state,
                since=self._since,
                reason=self._reason,
                frames=self._frames,
                fps=(len(recent) - 1) / (now - float(recent.min())) if len(recent) > 1 else 0.0,
                silent=None if self._last is None else now - self._last,
                drops=dict(self._drops),
                reconnects=self._reconnects,
                stalls=self._stalls,
                clock_jumps=self._clock_jumps,
                stages={name: window.percentiles() for name, window in self._stages.items()},
            )


Samples = list[tuple[dict[str, str], float]]
T = TypeVar("T")
Family = tuple[str, str, str, Callable[[T], Samples]]
"""Name, Prometheus' kind of it, what it is, and its samples: labels and value."""


def prometheus(snapshots: Iterable[Snapshot]) -> str:
    """Prometheus' text exposition format (version 0.0.4) of these cameras."""
    return exposition("camera", _FAMILIES, [({"camera": one.name}, one) for one in snapshots])


def exposition(what: str, families: Iterable[Family[T]], items: Iterable[tuple[dict[str, str], T]]) -> str:
    """Metrics ``fhrt_WHAT_…`` of labelled items in Prometheus' text format."""
    items = list(items)
    lines: list[str] = []
    for name, kind, meaning, samples in families:
        lines += [f"# HELP fhrt_{what}_{name} {meaning}", f"# TYPE fhrt_{what}_{name} {kind}"]
        for always, item in items:
            for labels, value in samples(item):
                inside = ",".join(f'{key}="{_escaped(text)}"' for key, text in (always | labels).items())
                lines.append(f"fhrt_{what}_{name}{{{inside}}} {value!r}" if inside else f"fhrt_{what}_{name} {value!r}")
    return "".join(f"{line}\n" for line in lines)


def quantiles(took: Percentiles, labels: dict[str, str]) -> Samples:
    """Samples of percentiles; none where nothing was measured."""
    found = (("0.5", took.p50), ("0.95", took.p95), ("0.99", took.p99))
    return [(labels | {"quantile": quantile}, value) for quantile, value in found] if took.samples else []


def _states(camera: Snapshot) -> Samples:
    return [({"state": str(state)}, int(state is camera.state)) for state in State]


def _stages(camera: Snapshot) -> Samples:
    return [sample for stage, took in camera.stages.items() for sample in quantiles(took, {"stage": stage})]


_FAMILIES: tuple[Family[Snapshot], ...] = (
    ("state", "gauge", "1 for the state that the camera is in", _states),
    ("frames_per_second", "gauge", "Frames that came in per second, over the last 5 seconds", lambda c: [({}, c.fps)]),
    ("silent_seconds", "gauge", "Time since the last frame came in", lambda c: [] if c.silent is None else [({}, c.silent)]),
    ("frames_total", "counter", "Frames that came in", lambda c: [({}, c.frames)]),
    ("drops_total", "counter", "Frames and packets thrown away", lambda c: [({"cause": cause}, n) for cause, n in c.drops.items()]),
    ("reconnects_total", "counter", "Times that the camera was opened again", lambda c: [({}, c.reconnects)]),
    ("stalls_total", "counter", "Times that no frame came in while connected", lambda c: [({}, c.stalls)]),
    ("clock_jumps_total", "counter", "Times that the camera's clock jumped", lambda c: [({}, c.clock_jumps)]),
    ("stage_seconds", "gauge", "Time that a frame spends in a stage, over the last minute", _stages),
)


def _escaped(text: str) -> str:
    return text.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
