"""Cameras in, results out, for weeks: which threads there are, what they work on next, and how they end."""

from __future__ import annotations

import atexit
import logging
import signal
import threading
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

from fhrt.errors import BadInputError, SourceError
from fhrt.hallucinator import Hallucinator
from fhrt.machine import usable_cores
from fhrt.ops import stay_alone
from fhrt.results import Result
from fhrt.stream.batcher import Batcher
from fhrt.stream.lane import Lane, Looker
from fhrt.stream.outlet import Outlet, SinkSnapshot, SinkThread
from fhrt.stream.turns import Turns
from fhrt.video import Cameras, Reader, Snapshot, find_sources, redact
from fhrt.video.reader import stop_all

if TYPE_CHECKING:
    from fhrt.stream.sinks import Sink

WORKERS = 2  # threads that track and crop: most of that holds Python's lock, so more would only wait for it
REFRESH = 0.25  # seconds between looks at a list of cameras
STOP = 1.7  # seconds that `close` waits at most, cameras and sinks together

_log = logging.getLogger("fhrt.stream")


class Stream:
    """Results of sources, which share one detector and one network; see `Hallucinator.stream` for the parameters.

    ``for result in stream: …`` begins, and ends when all sources have ended; leaving the loop closes it. ``with`` closes it in any case.
    In the main thread SIGTERM, unless the program handles it, ends the program as Ctrl-C does: by an exception, so that all sinks are
    closed.

    A frame's thread goes like this: its source's reader decodes it; a worker tracks, crops and fuses its faces (`Lane`), while the
    detector's thread looks at every `detect_every`-th frame (`Looker`); the network's thread takes faces of all sources (`Batcher`); a
    worker puts the result together and hands it to each user (`Outlet`), whose queue obeys the source's policy. Nothing here waits for
    room in a queue: under ``all`` a source's next frame is only begun when there is some.
    """

    def __init__(
        self,
        hallucinator: Hallucinator,
        sources: Iterable[str | int | Path] | str | int | Path,
        *,
        policy: str | None = None,
        sinks: Sequence[Sink] = (),
        detect_every: int = 5,
        fuse: int = 4,
        max_wait: float = 0.005,
    ) -> None:
        if not isinstance(detect_every, int) or detect_every < 1:
            raise BadInputError(f"detect_every must be a whole number from 1 on, not {detect_every!r}")
        if not isinstance(fuse, int) or fuse < 1:
            raise BadInputError(f"fuse must be a whole number from 1 on, not {fuse!r}")
        if not 0 <= max_wait <= 1:
            raise BadInputError(f"max_wait must be from 0 to 1 second, not {max_wait}")
        self._cameras: Cameras | None = None
        self._fixed: dict[str, Reader] = {}
        if path := camera_list(sources):
            if policy is not None:
                raise BadInputError(f"{path} says each camera's policy itself; leave policy out")
            self._cameras = Cameras(path)
        else:
            self._fixed = {one.name: Reader(one, policy=policy) for one in find_sources(sources)}
        self._hallucinator = hallucinator
        self._options = {"detect_every": detect_every, "fuse": fuse}
        self._turns = Turns()
        self._looker = Looker(hallucinator.detector, self._fail)
        self._batcher = Batcher(hallucinator.engine.run, self._fail, max_wait=max_wait, coming=lambda: self._turns.busy > 1)
        self._results = Outlet()
        self._sinks: list[SinkThread] = []
        for sink in sinks:
            self._sinks.append(SinkThread(sink, [one.name for one in self._sinks]))
        self._lanes: list[Lane] = []
        self._listing = threading.Lock()  # of those
        self._refreshed = -REFRESH
        workers = [threading.Thread(target=self._work, name="fhrt-worker", daemon=True) for _ in range(_workers())]
        self._threads = [self._looker.thread, self._batcher.thread, *workers]
        self._started = self._closed = False
        self._ended = False  # by itself, every source being at its end
        self._error: Exception | None = None
        self._given_up: dict[str, str] = {}  # source → the last error that cost it a frame
        self._handler: Any = None

    def start(self) -> Stream:
        """Begins to read; once."""
        if self._started:
            raise BadInputError("this stream was started already; make another one")
        self._started = True
        atexit.register(self._at_exit)
        if threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
            self._handler = signal.signal(signal.SIGTERM, _terminate)
        self._refresh()
        if self._cameras is None:
            for reader in self._fixed.values():
                reader.start()
        else:
            self._cameras.start()
        for thread in (*self._threads, *(sink.thread for sink in self._sinks)):
            thread.start()
        return self

    def close(self) -> None:
        """Ends everything within two seconds, whatever cameras and sinks do; what waits in queues is not written. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        until = time.monotonic() + STOP
        self._turns.wake()
        self._looker.close()
        self._batcher.close()
        self._results.close(discard=True)
        for sink in self._sinks:
            sink.close(discard=True)
        if self._cameras is None:
            stop_all(self._fixed.values())
        elif self._started:
            self._cameras.stop()
        if not self._started:
            return
        for thread in (*self._threads, *(sink.thread for sink in self._sinks)):
            if thread is not threading.current_thread():
                thread.join(max(until - time.monotonic(), 0.05))
        for sink in self._sinks:
            if sink.thread.is_alive():
                _log.error("%s does not end, and is left behind", sink.name)
        if self._handler is not None and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, self._handler)
        if not any(thread.is_alive() for thread in self._threads):
            atexit.unregister(self._at_exit)

    def __enter__(self) -> Stream:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[Result]:
        """The results of all sources, each source's in order.

        At the end of all sources waits for the sinks, then raises SourceError for files that could not be read, frames that were given up,
        and sinks that failed to the end. Raises at once what the detector or the network raised.
        """
        started_here = not self._started
        if started_here:
            self.start()
        try:
            while (finished := self._results.take()) is not None:
                result = finished.used()
                assert result.latency is not None
                finished.health.record("age", result.latency)
                yield result
            self._finish()
        finally:
            if started_here:
                self.close()

    def cameras(self) -> list[Snapshot]:
        """How each source does."""
        return [reader.health.snapshot() for reader in self._readers().values()]

    @property
    def useless(self) -> bool:
        """Whether all that its sinks wrote to have lost their readers for good (``fhrt stream … -o - | head``)."""
        return bool(self._sinks) and all(sink.useless for sink in self._sinks)

    def sinks(self) -> list[SinkSnapshot]:
        """How each sink does."""
        return [sink.snapshot() for sink in self._sinks]

    @property
    def problem(self) -> str:
        """What is wrong with the newest version of the list of cameras; empty where nothing is."""
        return "" if self._cameras is None else self._cameras.problem

    @property
    def batches(self) -> tuple[int, int]:
        """Batches that the network ran, and faces in them."""
        return self._batcher.batches, self._batcher.faces

    def _at_exit(self) -> None:
        self.close()
        for thread in self._threads:  # Python may not end while one of them is inside a library: that would be abort()
            thread.join()

    def _finish(self) -> None:
        if self._error is not None:
            raise self._error
        if not self._ended:
            return
        for sink in self._sinks:
            sink.thread.join()
        lost = [str(reader.error) for reader in self._readers().values() if reader.error is not None]
        lost += [f"{name}: frames were given up, {line}" for name, line in self._given_up.items()]
        lost += [f"{sink.name}: {sink.problem}" for sink in self._sinks if sink.problem]
        if lost:
            raise SourceError(lost[0] if len(lost) == 1 else f"{lost[0]} (and {len(lost) - 1} more)")

    def _readers(self) -> dict[str, Reader]:
        return self._fixed if self._cameras is None else self._cameras.readers

    def _fail(self, error: Exception) -> None:
        """The stream cannot go on."""
        _log.error("the stream ends: %s", redact(error))
        self._error = self._error or error
        self._results.close(discard=True)
        self._turns.wake()

    def _give_up(self, reader: Reader, error: Exception) -> None:
        """A frame is lost to an error, which is logged where it is new."""
        reader.health.drop("failed")
        name, line = reader.source.name, f"{type(error).__name__}: {' '.join(redact(error).split())}"
        if self._given_up.get(name) != line:
            _log.error("%s: a frame is given up: %s", name, redact("".join(traceback.format_exception(error))))
        self._given_up[name] = line

    def _work(self) -> None:
        stay_alone()
        while not (self._closed or self._ended or self._error):
            self._refresh()
            if (lane := self._turns.take(REFRESH)) is None:
                continue
            try:
                lane.advance()
            except Exception as error:  # whatever it is: it was that source's frame, and the others go on
                self._give_up(lane.reader, error)
            finally:
                if lane.ended:
                    self._retire(lane)
                self._turns.leave(lane)

    def _refresh(self) -> None:
        """Now and then keeps the lanes to the sources that there are."""
        if time.monotonic() - self._refreshed < REFRESH:
            return
        with self._listing:
            self._refreshed = time.monotonic()
            known = {lane.reader for lane in self._lanes}
            for reader in self._readers().values():
                if reader not in known and not reader.ended:
                    outlets = (self._results, *self._sinks)
                    lane = Lane(reader, self._hallucinator, self._looker, self._batcher, outlets, self._turns.call, **self._options)
                    self._lanes.append(lane)
                    self._turns.call(lane)  # what came before it was there told nobody
            self._end_after_all()

    def _retire(self, lane: Lane) -> None:
        with self._listing:
            lane.close()
            self._lanes.remove(lane)
            self._end_after_all()

    def _end_after_all(self) -> None:
        readers = self._readers().values()
        if self._lanes or not readers or not all(reader.ended for reader in readers):  # cameras may yet be added to an empty list
            return
        self._ended = True
        for outlet in (self._results, *self._sinks):
            outlet.close()
        self._turns.wake()


def camera_list(sources: Iterable[str | int | Path] | str | int | Path) -> Path | None:
    """The path of a YAML list of cameras, if that is what was named."""
    named = isinstance(sources, (str, Path)) and "://" not in str(sources) and Path(sources).suffix.lower() in (".yaml", ".yml")
    return Path(str(sources)) if named else None


def _workers() -> int:
    return min(usable_cores(), WORKERS)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)
