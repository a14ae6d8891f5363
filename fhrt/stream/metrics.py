"""How a stream does, for Prometheus: one text, and a small server for it."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from fhrt.errors import BadInputError
from fhrt.stream.outlet import SinkSnapshot
from fhrt.stream.pipeline import Stream
from fhrt.video import prometheus
from fhrt.video.health import Family, Samples, exposition, quantiles


def exposed(stream: Stream) -> str:
    """Cameras, sinks and network in Prometheus' text format (version 0.0.4)."""
    sinks = exposition("sink", _SINK, [({"sink": one.name}, one) for one in stream.sinks()])
    return prometheus(stream.cameras()) + sinks + exposition("network", _NETWORK, [({}, stream.batches)])


class MetricsServer:
    """Answers ``GET /metrics`` with `exposed`, while it is used as a context.

    address: PORT on 127.0.0.1, or HOST:PORT (``[::1]:PORT`` is not served); port 0 takes a free one. Raises BadInputError.
    """

    def __init__(self, stream: Stream, address: str) -> None:
        host, _, port = address.rpartition(":")
        if not (port.isdecimal() and int(port) < 1 << 16):
            raise BadInputError(f"metrics are served at PORT or HOST:PORT, not {address!r}")

        class Handler(BaseHTTPRequestHandler):
            timeout = 10  # seconds: a client that says nothing keeps no thread

            def do_GET(self) -> None:
                found = self.path.partition("?")[0] in ("/", "/metrics")
                text = (exposed(stream) if found else "metrics are at /metrics\n").encode(errors="replace")  # a file's name may be no UTF-8
                self.send_response(200 if found else 404)
                self.send_header("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                pass

        try:
            self._server = ThreadingHTTPServer((host or "127.0.0.1", int(port)), Handler)
        except OSError as error:
            raise BadInputError(f"cannot serve metrics at {address}: {error.strerror or error}") from None
        self._server.daemon_threads = True
        self.address = "{}:{}".format(*self._server.server_address[:2])

    def __enter__(self) -> MetricsServer:
        threading.Thread(target=self._server.serve_forever, name="fhrt-metrics", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


def _drops(sink: SinkSnapshot) -> Samples:
    return [({"camera": source, "cause": cause}, count) for (source, cause), count in sink.drops.items()]


_SINK: tuple[Family[SinkSnapshot], ...] = (
    ("results_total", "counter", "Results that the sink took", lambda s: [({}, s.results)]),
    ("drops_total", "counter", "Results that the sink did not get, or failed with", _drops),
    ("failing", "gauge", "1 while the sink fails", lambda s: [({}, int(bool(s.problem)))]),
    ("age_seconds", "gauge", "Age of a frame when its writing began, over the last minute", lambda s: quantiles(s.age, {})),
    ("write_seconds", "gauge", "Time that writing a result takes, over the last minute", lambda s: quantiles(s.writing, {})),
)
_NETWORK: tuple[Family[tuple[int, int]], ...] = (
    ("batches_total", "counter", "Batches that the network ran", lambda n: [({}, n[0])]),
    ("faces_total", "counter", "Faces in them", lambda n: [({}, n[1])]),
)
