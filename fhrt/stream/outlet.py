"""From results to those who use them, at whatever pace they do: a stalled one loses its own results only."""

from __future__ import annotations

import logging
import queue
import threading
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterable
from copy import copy
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from fhrt.errors import FhrtError, NobodyReadsError
from fhrt.results import Result
from fhrt.video import Percentiles, Reader, redact
from fhrt.video.health import Health, Window
from fhrt.video.policy import FrameQueue

if TYPE_CHECKING:
    from fhrt.stream.sinks import Sink

_log = logging.getLogger("fhrt.stream")


@dataclass(frozen=True)
class Finished:
    """A result that waits for its use. arrival: `time.monotonic()` when its frame came in."""

    result: Result
    arrival: float
    health: Health

    def age(self) -> float:
        return time.monotonic() - self.arrival

    def used(self) -> Result:
        """The result, with its latency as of now."""
        result = copy(self.result)  # others use it too
        result.latency = self.age()
        return result


@dataclass(frozen=True)
class SinkSnapshot:
    """A sink at one moment. results: that it took. drops: (source, cause) → results that it did not get, or raised an error for.

    age: of a frame when its writing began. writing: how long that took. problem: one line, redacted; empty while all is well.
    """

    name: str
    results: int
    drops: dict[tuple[str, str], int]
    age: Percentiles
    writing: Percentiles
    problem: str


class Outlet:
    """Results for one user of them: a queue per source, each under its source's policy, and served in turn.

    What it takes too late its source counts as ``unread``.
    """

    def __init__(self) -> None:
        self._queues: dict[FrameQueue[Finished], Callable[[], None]] = {}
        self._told: queue.SimpleQueue[FrameQueue[Finished] | None] = queue.SimpleQueue()  # those with a result, or at their end
        self._closed = False

    def queue(self, reader: Reader, taken: Callable[[], None]) -> FrameQueue[Finished]:
        """A queue for the results of one more source; who fills it closes it. taken: called when the source may have waited for one."""
        results: FrameQueue[Finished] = FrameQueue(reader.policy, partial(self._drop, reader))
        results.tell = partial(self._told.put, results)
        self._queues[results] = taken
        return results

    def take(self) -> Finished | None:
        """The next result; None when no more will come."""
        while self._queues or not self._closed:
            results = self._told.get()
            taken = None if results is None else self._queues.get(results)
            if results is None or taken is None:
                continue
            finished = results.take(0)
            if results.ended:
                self._queues.pop(results, None)
            if finished is not None:
                if results.policy.name == "all":
                    taken()
                return finished
        self._told.put(None)  # for others who take
        return None

    def close(self, *, discard: bool = False) -> None:
        """No further source comes. discard: nor does what waits."""
        self._closed = True
        if discard:
            self._queues.clear()
        self._told.put(None)

    def _drop(self, reader: Reader, cause: str) -> None:
        reader.health.drop("unread")


class SinkThread(Outlet):
    """Writes to a sink, and closes it in the end. What it raises costs that result, and nothing else.

    It goes by the sink's ``name``, or its class's; others: names that are taken.
    """

    def __init__(self, sink: Sink, others: Iterable[str] = ()) -> None:
        super().__init__()
        name, number = redact(getattr(sink, "name", None) or type(sink).__name__), 2
        self.name = name
        while self.name in others:
            self.name, number = f"{name} ({number})", number + 1
        self.results = 0
        self.drops: Counter[tuple[str, str]] = Counter()
        self.problem = ""
        self.useless = False  # nobody will ever read what it writes
        self._sink = sink
        self._lock = threading.Lock()
        self._age, self._writing = Window(), Window()
        self.thread = threading.Thread(target=self._run, name=f"fhrt-sink-{self.name}", daemon=True)

    def snapshot(self) -> SinkSnapshot:
        with self._lock:
            ages, writing = self._age.percentiles(), self._writing.percentiles()
            return SinkSnapshot(self.name, self.results, dict(self.drops), ages, writing, self.problem)

    def _drop(self, reader: Reader, cause: str) -> None:
        self.drops[reader.source.name, cause] += 1

    def _run(self) -> None:
        while (finished := self.take()) is not None:
            self._write(finished)
        try:
            self._sink.close()
        except Exception as error:
            self._note(error)

    def _write(self, finished: Finished) -> None:
        result, start = finished.used(), time.monotonic()
        try:
            self._sink.write(result)
        except Exception as error:  # whatever it is: the others go on
            with self._lock:
                self.drops[result.source, "failed"] += 1
            if not isinstance(error, NobodyReadsError):
                self._note(error)
            elif not self.useless:  # no problem: who read it has had enough
                self.useless = True
                _log.info("%s: nobody reads it any more", self.name)
            return
        now = time.monotonic()
        with self._lock:
            self.results += 1
            self._age.add(now, start - finished.arrival)
            self._writing.add(now, now - start)
        if self.problem:
            self.problem = ""
            _log.info("%s takes results again", self.name)

    def _note(self, error: Exception) -> None:
        """Remembers what is wrong, and logs it where it is new."""
        expected = isinstance(error, (FhrtError, OSError))
        problem = " ".join(redact(error if expected else f"{type(error).__name__}: {error}").split())
        if problem != self.problem:
            _log.error("%s: %s", self.name, problem if expected else redact("".join(traceback.format_exception(error))))
        self.problem = problem
