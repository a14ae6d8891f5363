"""What the readers are tested against: a real RTSP server, a proxy that does harm, and a small server of our own for what gst cannot do."""

from __future__ import annotations

import os
import random
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

GST_PYTHON = "/usr/bin/python3"
GST_SERVER = Path(__file__).with_name("gst_server.py")


def need_gst() -> None:
    """Skips where GStreamer's RTSP server is missing, or fails where FHRT_REQUIRE_RTSP says that it must be there."""
    probe = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    try:
        found = subprocess.run([GST_PYTHON, "-c", probe], capture_output=True).returncode == 0
    except OSError:
        found = False
    if not found:
        reason = "needs GStreamer's RTSP server: apt-get install gir1.2-gst-rtsp-server-1.0 and the packages in .ci/run"
        if os.environ.get("FHRT_REQUIRE_RTSP") == "1":
            pytest.fail(reason)
        pytest.skip(reason)


class GstServer:
    """The real server, in a process of its own that can be killed and frozen."""

    def __init__(self, mounts: dict[str, Path], fps: int = 25, login: str = "") -> None:
        self._arguments = [str(fps), login, *(f"{name}={path}" for name, path in mounts.items())]
        self.port = 0
        self.start()

    def start(self) -> None:
        """Starts it, again on the same port."""
        command = [GST_PYTHON, str(GST_SERVER), str(self.port), *self._arguments]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def freeze(self) -> None:
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.process.send_signal(signal.SIGCONT)

    def address(self, mount: str, login: str = "", port: int | None = None) -> str:
        return f"rtsp://{login + '@' if login else ''}127.0.0.1:{port or self.port}/{mount}"

    def __enter__(self) -> GstServer:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()


class Proxy:
    """Between a reader and a server: flips bits of what the server sends, holds it back, cuts it off.

    flips: share of the server's bytes of which a bit is flipped. cut_after: bytes after which the connection is cut.
    """

    def __init__(self, port: int, cut_after: int | None = None) -> None:
        self.flips, self.cut_after, self.flipped = 0.0, cut_after, 0
        self._random = random.Random(0)
        self._server = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> GstServer:
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with suppress(OSError), client, socket.create_connection(("127.0.0.1", self._server)) as server:
            passed = 0
            while True:
                for ready in select.select([client, server], [], [])[0]:
                    data = bytearray(ready.recv(1 << 16))
                    if not data:
                        return
                    if ready is client:
                        server.sendall(data)
                        continue
                    for _ in range(round(len(data) * self.flips + self._random.random() - 0.5)):
                        data[self._random.randrange(len(data))] ^= 1 << self._random.randrange(8)
                        self.flipped += 1
                    passed += len(data)
                    if self.cut_after is not None and passed > self.cut_after:
                        client.sendall(data[: len(data) // 2])  # half a packet
                        return
                    client.sendall(data)


class TlsFront(Proxy):
    """TLS before a server, with a certificate that nobody vouches for, as cameras have them: what ``rtsps://`` connects to."""

    def __init__(self, port: int, folder: Path) -> None:
        if (openssl := shutil.which("openssl")) is None:
            pytest.skip("needs openssl to make a certificate: apt-get install openssl")
        pem = folder / "server.pem"
        command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=camera"]
        subprocess.run([*command, "-keyout", str(pem), "-out", str(folder / "public.pem")], check=True, capture_output=True)
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(folder / "public.pem", pem)
        self.connections = 0
        super().__init__(port)

    def _pass(self, client: socket.socket) -> None:
        with suppress(OSError):  # no TLS, for one
            inside = self._context.wrap_socket(client, server_side=True)
            self.connections += 1
            server = socket.create_connection(("127.0.0.1", self._server))
            threading.Thread(target=self._copy, args=(server, inside), daemon=True).start()
            self._copy(inside, server)

    @staticmethod
    def _copy(source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError), source, sink:
            while data := source.recv(1 << 16):
                sink.sendall(data)


class Sender:
    """What a script of `raw_server` sends with: RTP over the connection, one packet per NAL unit."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._number = 0

    def unit(self, unit: bytes, seconds: float) -> None:
        """An access unit, with its time."""
        nals = [nal.rstrip(b"\0") for nal in unit.replace(b"\0\0\0\1", b"\0\0\1").split(b"\0\0\1") if nal]
        for nal in nals:
            self.connection.sendall(self.packet(nal, seconds, last=nal is nals[-1]))

    def packet(self, payload: bytes, seconds: float, last: bool = True) -> bytes:
        """An RTP packet, framed."""
        self._number += 1
        header = bytes((0x80, 96 | last << 7)) + (self._number & 0xFFFF).to_bytes(2, "big")
        header += (round(seconds * 90000) & 0xFFFFFFFF).to_bytes(4, "big") + b"fhrt"
        return b"$\0" + len(header + payload).to_bytes(2, "big") + header + payload


@contextmanager
def raw_server(script: Callable[[Sender], None] | None = None, status: str = "200 OK", answer: bool = True) -> Iterator[int]:
    """A small RTSP server; yields its port. After PLAY it runs the script, then closes the connection.

    status: what DESCRIBE is answered with. answer=False: it accepts connections and says nothing.
    """
    listener = socket.create_server(("127.0.0.1", 0), backlog=64)
    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=Caf\xe9\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    sdp += "a=fmtp:96 packetization-mode=1\r\na=control:v\r\n"
    open_ones: list[socket.socket] = []

    def serve(connection: socket.socket) -> None:
        with suppress(OSError), connection, connection.makefile("rb") as lines:
            while answer:
                request = lines.readline().decode()
                if not request:
                    return
                headers = {}
                while (line := lines.readline().decode().strip()) != "":
                    name, _, value = line.partition(": ")
                    headers[name.lower()] = value
                method = request.split()[0]
                code, extra, body = "200 OK", "", ""
                if method == "OPTIONS":
                    extra = "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
                elif method == "DESCRIBE":
                    code = status
                    body = sdp if status.startswith("200") else ""
                    extra = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
                elif method == "SETUP":
                    extra = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
                elif method == "PLAY":
                    extra = "Session: 1\r\n"
                connection.sendall(
                    f"RTSP/1.0 {code}\r\nCSeq: {headers['cseq']}\r\n{extra}\r\n{body}".encode("latin-1")
                )  # as cameras do, whatever RFC 8866 says
                if method == "PLAY" and script is not None:
                    return script(Sender(connection))
            lines.read()  # until the other side hangs up

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                open_ones.append(connection)
                threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield listener.getsockname()[1]
    finally:
        listener.close()
        for connection in open_ones:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


def wait_for(condition: Callable[[], bool], seconds: float) -> float:
    """Waits until a condition holds, and returns how long that took; fails after so many seconds."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < seconds, f"did not come true within {seconds} s"
        time.sleep(0.005)
    return time.monotonic() - start
