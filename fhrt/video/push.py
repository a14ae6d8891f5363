"""Pictures out to an RTSP server (ANNOUNCE, RECORD), for as long as it takes: connects again when the server goes."""

from __future__ import annotations

import socket
import threading
import time
from urllib.parse import urlsplit

from fhrt.errors import BadInputError
from fhrt.faces.inputs import Picture
from fhrt.video.health import Health, State
from fhrt.video.reader import SETTLED, STOP, pause
from fhrt.video.redact import redact
from fhrt.video.writer import Encoder, need_encoder

GREETING = 5.0  # seconds that a server may take to answer at all
SEND = 1.0  # seconds that it may leave a full connection full. FFmpeg waits so long inside calls during which no Python thread runs


class RtspPush:
    """One stream to an RTSP server, in a thread of its own: a server that is slow, silent or gone holds up nobody.

    address: ``rtsp://[user:password@]host[:port]/path``. `health` says how it does. Raises BadInputError and BackendError.
    """

    def __init__(self, address: str) -> None:
        check_address(address)
        need_encoder()
        self.health = Health(f"to {redact(address)}")
        self._address = address
        self._changed = threading.Condition()
        self._newest: tuple[Picture, float] | None = None
        self._stopping = threading.Event()
        self._waiting = False  # between two tries: no picture is needed
        self._connected: float | None = None  # monotonic time
        self._thread = threading.Thread(target=self._run, name="fhrt-push", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether a picture would be sent, or a connection tried with it."""
        return not self._waiting

    def write(self, picture_bgr: Picture, time: float) -> None:
        """Hands over a picture, shown at `time` seconds, instead of one that has not been sent yet. Returns at once."""
        with self._changed:
            if self._newest is not None:
                self.health.drop("superseded")
            self._newest = picture_bgr, time
            self._changed.notify()

    def close(self, wait: float = STOP) -> None:
        """Ends the stream. Returns within `wait` seconds, whatever the server does."""
        self._stopping.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(wait)
        self.health.change(State.ENDED, "closed")

    def _take(self) -> tuple[Picture, float] | None:
        """The newest picture; None when it is time to stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None or self._stopping.is_set())
            taken, self._newest = self._newest, None
        return None if self._stopping.is_set() else taken

    def _run(self) -> None:
        import av

        failures = 0
        while (first := self._take()) is not None:
            self._connected = None
            state = State.OFFLINE
            try:
                self._push(first)
                return
            except (av.error.HTTPUnauthorizedError, av.error.HTTPForbiddenError):
                state, reason = State.UNAUTHORISED, "user or password refused"
            except (av.FFmpegError, OSError, BadInputError) as error:  # the text of FFmpeg's would hold the address
                reason = str(getattr(error, "strerror", None) or error)
                if isinstance(error, av.error.InvalidDataError):
                    reason = "the server takes no streams, or stopped answering"
            if self._connected is not None and time.monotonic() - self._connected > SETTLED:
                failures = 0
            delay = pause(state, failures)
            failures += 1
            self.health.change(state, f"{reason}; next try in {delay:.1f} s")
            self._waiting = True
            if self._stopping.wait(delay):
                return
            self._waiting = False
            self.health.reconnect()

    def _push(self, first: tuple[Picture, float]) -> None:
        """Connects and sends until it is time to stop."""
        import av

        _greet(self._address)
        options = {"rtsp_transport": "tcp", "timeout": str(round(SEND * 1e6)), "flush_packets": "1"}
        with av.open(self._address, "w", format="rtsp", container_options=options) as container:
            encoder = Encoder(container, first[0], live=True)
            container.start_encoding()
            self._connected = time.monotonic()
            self.health.change(State.LIVE)
            taken: tuple[Picture, float] | None = first
            while taken is not None:
                packets = encoder.encode(*taken)
                began = time.monotonic()
                container.mux(packets)
                if time.monotonic() - began >= SEND:  # FFmpeg says nothing of a packet that it could not send
                    raise TimeoutError("the server takes nothing")
                self.health.frame(time.monotonic())
                taken = self._take()


def check_address(address: str) -> None:
    """Raises BadInputError, without the password, for what is no address of an RTSP server."""
    try:
        parts = urlsplit(address)
        good = parts.scheme == "rtsp" and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise BadInputError(f"{redact(address)} is no address of an RTSP server; write rtsp://user:password@host:port/path")


def _greet(address: str) -> None:
    """Waits until the server answers. FFmpeg would wait for one that is silent inside a call that stops all threads."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname or "", parts.port or 554), timeout=GREETING) as connection:
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        connection.sendall(f"OPTIONS {bare} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
        if not connection.recv(4096).startswith(b"RTSP/"):
            raise ConnectionError("what answers is no RTSP server")
