"""Reads one source in a thread of its own, for as long as it takes: opens it again when it fails and says how it is."""

from __future__ import annotations

import logging
import random
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from importlib.metadata import version

from fhrt.errors import BadInputError, FhrtError, MissingExtraError, SourceError
from fhrt.video.clock import Clock
from fhrt.video.connection import Connection, Picture, read_pictures
from fhrt.video.frame import Frame
from fhrt.video.hardware import Decode, hardware
from fhrt.video.health import Health, State
from fhrt.video.policy import FrameQueue, Policy
from fhrt.video.redact import redact
from fhrt.video.sources import Source, find_sources

BACKOFF = (0.5, 30.0)  # seconds before the first and at most before any further try; doubled each time
UNAUTHORISED_BACKOFF = (60.0, 900.0)  # many cameras lock an account after a few wrong passwords
SEGMENT = 15.0  # seconds of silence that are none where frames come in segments (HLS); twice that is a timeout
SETTLED = 5.0  # seconds of frames after which the backoff begins anew
STALL = 1.0  # seconds without a frame that make a stall, or four times the usual interval where that is longer
PYAV = 18  # an older one hangs under some of the faults that tests/video makes
STOP = 1.5  # seconds that `stop` waits at most for a camera that hangs

_log = logging.getLogger("fhrt.video")


def pause(state: State, failures: int) -> float:
    """Seconds to the next try after so many in a row that failed: doubled each time, and not at once with all other cameras."""
    first, most = UNAUTHORISED_BACKOFF if state is State.UNAUTHORISED else BACKOFF
    return min(first * 2.0 ** min(failures, 30), most) * random.uniform(0.5, 1)


class Reader:
    """Frames of one source.

    source: a Source, or what `find_sources` makes one of. policy: by default ``latest`` for live sources, ``all`` for files; a file
    read under another policy than ``all`` is played at its own speed. decode: auto, cpu or nvdec. timeout: seconds that a camera may take
    to answer. Raises BadInputError, BackendError where `decode` cannot be had, and MissingExtraError for a PyAV before 18.

    `with Reader("rtsp://…") as reader: for frame in reader: …` – or `start`, `take`, `stop`. A camera that is lost never raises; it is
    opened again, with `health` telling its state. `error` says what was wrong with a file.
    """

    def __init__(
        self,
        source: Source | str | int,
        *,
        policy: str | None = None,
        decode: Decode = "auto",
        timeout: float = 5.0,
    ) -> None:
        if not isinstance(source, Source):
            found = find_sources(source)
            if len(found) > 1:
                raise BadInputError(f"{redact(source)} holds {len(found)} videos; a reader reads one")
            source = found[0]
        if not timeout > 0:
            raise BadInputError(f"timeout must be above 0, not {timeout}")
        if int(version("av").partition(".")[0]) < PYAV:
            raise MissingExtraError(f"cameras and videos need PyAV {PYAV}, which needs Python 3.11 or newer")
        hardware(decode)  # raises here, not in the thread
        self.source = source
        self.policy = Policy.parse(policy or ("latest" if source.live else "all"))
        self.health = Health(source.name)
        self.error: SourceError | None = None
        self._decode = decode
        self._timeout = max(timeout, 2 * SEGMENT) if source.segmented else timeout
        self._stall = SEGMENT if source.segmented else STALL
        self._queue: FrameQueue[Frame] = FrameQueue(self.policy, self.health.drop)
        self._clock = Clock(source.live)
        self._stopping = threading.Event()
        self._threads = [
            threading.Thread(target=target, name=f"fhrt-{target.__name__.strip('_')}-{source.name}", daemon=True)
            for target in ((self._run, self._watch) if source.live else (self._run,))
        ]
        self._recording = not source.live
        self._number = 0
        self._begin: float | None = None  # monotonic time at which a recording's time 0 is played
        self._sign = time.monotonic()  # when an attempt began or a frame last came
        self._connection: Connection | None = None  # what is open
        self._interval = 0.0  # usual seconds between frames
        self._waiting = False  # for the consumer or a file's own speed: that silence is not the camera's

    def start(self) -> Reader:
        """Begins to read; once."""
        self._sign = time.monotonic()
        for thread in self._threads:
            thread.start()
        return self

    def stop(self, wait: float = STOP) -> None:
        """Ends reading. Returns within `wait` seconds even when the camera hangs: the thread then ends by itself at its timeout."""
        self._stopping.set()
        self._queue.close()
        until = time.monotonic() + wait
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(max(until - time.monotonic(), 0))
        self.health.change(State.ENDED, "stopped")

    def __enter__(self) -> Reader:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def watch(self, tell: Callable[[], None]) -> None:
        """From now on calls `tell` when there is a frame to take, or no further one will come: see FrameQueue."""
        self._queue.tell = tell

    @property
    def ended(self) -> bool:
        """Whether no further frame will come."""
        return self._queue.ended

    @property
    def waiting(self) -> int:
        """How many frames can be taken at once."""
        return len(self._queue)

    def take(self, timeout: float | None = None) -> Frame | None:
        """The next frame under the policy; None after `timeout` seconds without one, or at the end.

        Raises BadInputError where the reader was not started, and would be waited for in vain.
        """
        if self._threads[0].ident is None and not self._stopping.is_set():
            raise BadInputError(f"the reader of {self.source.name} was not started; use it in a with statement")
        frame = self._queue.take(timeout)
        if frame is not None:
            self.health.record("wait", frame.age())
            latency = frame.latency()
            if latency is not None:
                self.health.record("latency", latency)
        return frame

    def __iter__(self) -> Iterator[Frame]:
        """All further frames. Raises SourceError at the end of a file that could not be read."""
        while (frame := self.take()) is not None:
            yield frame
        if self.error is not None:
            raise self.error

    def _run(self) -> None:
        failures = 0
        while True:
            self._sign = began = time.monotonic()
            try:
                self._read()
                state, reason = State.OFFLINE, "the connection was closed"
            except Exception as error:  # whatever it is: a camera is tried again
                state, reason = self._explain(error)
                if self._recording:
                    self.error = SourceError(f"{self.source.name}: {reason}")
            if self._recording or self._stopping.is_set():
                break
            if self._sign - began > SETTLED:
                failures = 0
            delay = pause(state, failures)
            failures += 1
            self.health.change(state, f"{reason}; next try in {delay:.1f} s")
            if self._stopping.wait(delay):
                break
            self.health.reconnect()
        if not self._stopping.is_set():
            self.health.change(State.ENDED, self.error or "")
        self._stopping.set()
        self._queue.close()

    def _read(self) -> None:
        """Reads from the source's start to its end."""
        if self.source.kind == "pictures":
            self._deliver_all(read_pictures(self.source, self.health))
        else:
            self._connection = connection = Connection(self.source, self._decode, self._timeout, self.health)
            try:
                self._recording = connection.recording
                self._clock.restart()
                self._deliver_all(connection.pictures())
            finally:
                self._connection = None
                connection.close()
        if self._recording and self._number == 0 and not self._stopping.is_set():
            raise SourceError("it holds no picture that can be decoded")

    def _deliver_all(self, pictures: Iterator[Picture]) -> None:
        for picture in pictures:
            self._deliver(picture)
            if self._stopping.is_set():
                return

    def _deliver(self, picture: Picture) -> None:
        self._waiting = True
        jumps = self._clock.jumps
        when = self._clock(picture.seconds, picture.arrival)
        self.health.clock_jump(self._clock.jumps - jumps)
        arrival = picture.arrival
        if self._recording or self.source.segmented:
            if self.policy.name != "all":  # at its own speed, as a camera
                if self._begin is None:
                    self._begin = time.monotonic() - when
                self._stopping.wait(self._begin + when - time.monotonic())
            arrival = time.monotonic()
        elif self.health.state is State.LIVE:
            gap = arrival - self._sign
            self._interval += (gap - self._interval) / 8 if self._interval else gap
        self.health.frame(arrival)
        self.health.change(State.LIVE)
        self._queue.put(Frame(self.source.name, self._number, when, arrival, picture.capture, picture.picture, picture.aspect))
        self._sign = time.monotonic()
        self._waiting = False
        self._number += 1

    def _watch(self) -> None:
        """Notices silence. The reading thread cannot: it may be inside a call that hangs."""
        rest = 0.0
        while not self._stopping.wait(rest):
            silence, rest = time.monotonic() - self._sign, 0.25
            if self.health.state is State.LIVE and not self._waiting:
                limit = max(self._stall, 4 * self._interval)
                if silence > limit:
                    self.health.change(State.STALLED, f"no frame for {limit:.1f} s", only_from=State.LIVE)
                else:
                    rest = max(limit - silence, 0.01)
            elif self.health.state is State.CONNECTING and silence > 2 * self._timeout:
                connection = self._connection
                if connection is not None and time.monotonic() - connection.heard < 2 * self._timeout:
                    continue  # packets come, and a key frame is waited for; `PATIENCE` ends that
                self.health.change(State.OFFLINE, f"no answer for {silence:.0f} s", only_from=State.CONNECTING)

    def _explain(self, error: Exception) -> tuple[State, str]:
        """What an error means for the source: its state, and one line without a password."""
        import av.error

        if isinstance(error, (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError)):
            return State.UNAUTHORISED, "user or password refused" if "@" in self.source.address else "a user and password are asked for"
        if isinstance(error, av.error.HTTPNotFoundError):
            reason = "there is no such stream (404)"
        elif isinstance(error, av.error.ConnectionRefusedError):
            reason = "nothing listens there (connection refused)"
        elif isinstance(error, (av.error.TimeoutError, av.error.ExitError)):
            reason = f"no answer for {self._timeout:g} s"
        elif isinstance(error, av.error.InvalidDataError):
            reason = "what is sent is no video, or damaged" if self.source.live else "it is no video, or damaged"
        elif isinstance(error, av.error.FFmpegError):
            reason = redact(error.strerror)  # str() of it would hold the address
        elif isinstance(error, FhrtError):
            reason = redact(error)
        else:
            _log.error("%s: unexpected error: %s", self.source.name, redact(traceback.format_exc()))
            reason = redact(f"{type(error).__name__}: {error}")
        return State.OFFLINE, reason


def stop_all(readers: Iterable[Reader]) -> None:
    """All at once, so that cameras that hang are waited for once."""
    readers = list(readers)
    for reader in readers:
        reader.stop(wait=0)
    until = time.monotonic() + STOP
    for reader in readers:
        reader.stop(wait=max(until - time.monotonic(), 0))
