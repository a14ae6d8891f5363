"""Pictures out to an RTSP server (ANNOUNCE, RECORD), for as long as it takes: connects again when the server goes."""

from __future__ import annotations

import os
import socket
import stat
import threading
from contextlib import suppress
from time import monotonic
from urllib.parse import urlsplit

from fhrt.errors import BadInputError
from fhrt.faces.inputs import Picture
from fhrt.video.health import Health, State
from fhrt.video.reader import SETTLED, STOP, pause
from fhrt.video.redact import redact, redact_address
from fhrt.video.sources import split_address
from fhrt.video.writer import Encoder, need_encoder

PORT = 554  # of an address that names none
GREETING = 5.0  # seconds that a server may take to answer at all
SEND = 1.0  # seconds that it may leave a full connection full. FFmpeg waits so long inside calls during which no Python thread runs
STUCK = 2.0  # seconds after which a picture that is still being sent ends the connection

_connecting = threading.Lock()  # one at a time: a new connection is then known by being new


class RtspPush:
    """One stream to an RTSP server, in a thread of its own: a server that is slow, silent or gone holds up nobody.

    address: ``rtsp://[user:password@]host[:port]/path``. `health` says how it does. Raises BadInputError and BackendError.
    """

    def __init__(self, address: str) -> None:
        check_address(address)
        need_encoder()
        self.health = Health(f"to {redact(address)}")
        self.problem = "no picture was sent yet"
        """What keeps pictures from the server, without passwords; empty while it takes them."""
        self._address = address
        self._changed = threading.Condition()
        self._newest: tuple[Picture, float] | None = None
        self._stopping = threading.Event()
        self._waiting = False  # between two tries: no picture is needed
        self._connected: float | None = None  # monotonic time
        self._sending: float | None = None  # monotonic time since when FFmpeg sends a picture
        self._connection: socket.socket | None = None  # FFmpeg's, while it is known
        self._thread = threading.Thread(target=self._run, name="fhrt-push", daemon=True)
        self._thread.start()

    @property
    def ready(self) -> bool:
        """Whether a picture would be sent, or a connection tried with it."""
        return not self._waiting

    def write(self, picture_bgr: Picture, time: float) -> None:
        """Hands over a picture, shown at `time` seconds, instead of one that has not been sent yet. Returns at once."""
        sending = self._sending
        if sending is not None and monotonic() - sending > STUCK:
            self._hang_up()
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
        self._hang_up()  # of no effect where the thread has ended
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
            except (av.FFmpegError, OSError, ValueError) as error:  # the text of FFmpeg's would hold the address
                reason = str(getattr(error, "strerror", None) or error)
                if isinstance(error, av.error.InvalidDataError):
                    reason = "the server takes no streams, or stopped answering"
            if self._connected is not None and monotonic() - self._connected > SETTLED:
                failures = 0
            delay = pause(state, failures)
            failures += 1
            self.problem = redact(reason)
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
        try:
            with av.open(self._address, "w", format="rtsp", container_options=options) as container:
                try:
                    encoder = Encoder(container, first[0], live=True)
                    with _connecting:
                        known = set(_sockets())
                        container.start_encoding()
                        self._connection = _connection(_sockets(), known, urlsplit(self._address).port or PORT)
                    self._connected = monotonic()
                    self.problem = ""
                    self.health.change(State.LIVE)
                    taken: tuple[Picture, float] | None = first
                    while taken is not None:
                        packets = encoder.encode(*taken)
                        self._sending = began = monotonic()
                        container.mux(packets)
                        self._sending = None
                        if monotonic() - began >= SEND:  # FFmpeg says nothing of a packet that it could not send
                            raise TimeoutError("the server takes nothing")
                        self.health.frame(monotonic())
                        taken = self._take()
                except BaseException:
                    self._hang_up()  # or FFmpeg's farewell would wait for the server, too
                    raise
        finally:
            self._sending = None
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _hang_up(self) -> None:
        """Ends the connection under FFmpeg's feet: it waits `SEND` for each of a picture's hundred packets, and cannot be interrupted."""
        connection = self._connection
        if connection is not None:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def check_address(address: str) -> None:
    """Raises BadInputError, without the password, for what is no address of an RTSP server."""
    parts = split_address(address)
    try:
        host = (parts.hostname or "").encode("idna")  # as the look-up of its address will, which raises for a..b
    except ValueError:
        host = b""
    if parts.scheme != "rtsp" or not host or parts.port == 0:
        raise BadInputError(f"{redact_address(address)} is no address of an RTSP server; write rtsp://user:password@host:port/path")


def _greet(address: str) -> None:
    """Waits until the server answers. FFmpeg would wait for one that is silent inside a call that stops all threads."""
    parts = urlsplit(address)
    with socket.create_connection((parts.hostname or "", parts.port or PORT), timeout=GREETING) as connection:
        bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
        connection.sendall(f"OPTIONS {bare} RTSP/1.0\r\nCSeq: 1\r\n\r\n".encode())
        if not connection.recv(4096).startswith(b"RTSP/"):
            raise ConnectionError("what answers is no RTSP server")


def _sockets() -> dict[int, int]:
    """This process's sockets: number of the inode → descriptor. None where the system does not list them (Linux does)."""
    found = {}
    with suppress(OSError):
        for descriptor in map(int, os.listdir("/proc/self/fd")):
            with suppress(OSError):  # it may be closed by now
                about = os.stat(descriptor)
                if stat.S_ISSOCK(about.st_mode):
                    found[about.st_ino] = descriptor
    return found


def _connection(sockets: dict[int, int], known: set[int], port: int) -> socket.socket | None:
    """The one connection to a server's port that was not known before; None where there are several: one may be a camera's."""
    new = []
    for inode in sockets.keys() - known:
        with suppress(OSError):
            each = socket.socket(fileno=os.dup(sockets[inode]))
            if each.family in (socket.AF_INET, socket.AF_INET6) and each.getpeername()[1] == port:
                new.append(each)
            else:
                each.close()
    if len(new) == 1:
        return new[0]
    for each in new:
        each.close()
    return None
