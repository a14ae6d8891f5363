"""Recordings and live streams over HTTP: files, HLS, and the MJPEG of simple cameras."""

import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from clips import number_in, picture, write_video
from servers import wait_for

from fhrt.video import Reader, State

JPEGS = 10


class Handler(SimpleHTTPRequestHandler):
    """Files of the folder; at /mjpeg ten pictures and then the end of the connection; at /secret a 401."""

    def do_GET(self) -> None:
        if self.path == "/mjpeg":
            self.send_response(200)
            self.send_header("Content-Type", "multipart/x-mixed-replace; boundary=next")
            self.end_headers()
            for number in range(JPEGS):
                data = cv2.imencode(".jpg", picture(number, 320, 240))[1].tobytes()
                self.wfile.write(b"--next\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(data), data))
                time.sleep(0.04)
        elif self.path == "/live.m3u8":  # a segment more every 0.4 s, from three on
            present = min(3 + int((time.monotonic() - self.server.began) / 0.4), 10)
            lines = ["#EXTM3U", "#EXT-X-VERSION:3", "#EXT-X-TARGETDURATION:1", "#EXT-X-MEDIA-SEQUENCE:0"]
            lines += [f"#EXTINF:0.4,\nlive{number}.ts" for number in range(present)]
            body = "\n".join(lines).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
        elif self.path == "/secret":
            self.send_error(401)
        else:
            super().do_GET()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def address(clip: Path) -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(clip.parent))) as http:
        http.began = time.monotonic()
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_recording_ends(address: str, clip: Path) -> None:
    with Reader(f"{address}/{clip.name}", policy="all") as reader:
        frames = list(reader)
    assert [number_in(frame.image) for frame in frames] == list(range(40))
    assert [frame.time for frame in frames] == pytest.approx(np.arange(40) / 25)
    assert reader.health.snapshot().state is State.ENDED and reader.health.snapshot().reconnects == 0


def segment(clip: Path, playlist: Path) -> None:
    with av.open(clip) as source, av.open(playlist, "w", format="hls", options={"hls_time": "0.4", "hls_list_size": "0"}) as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = stream
                target.mux(packet)


def test_an_hls_recording(address: str, clip: Path) -> None:
    segment(clip, clip.with_name("vod.m3u8"))
    with Reader(f"{address}/vod.m3u8", policy="all") as reader:
        numbers = [number_in(frame.image) for frame in reader]
    assert numbers == list(range(40)) and len(list(clip.parent.glob("vod*.ts"))) == 4


@pytest.mark.alone
def test_live_hls_plays_at_its_own_speed_and_is_not_stalled_between_segments(address: str, clip: Path) -> None:
    long = write_video(clip.with_name("long.mp4"), 100)
    segment(long, clip.with_name("live.m3u8"))
    with Reader(f"{address}/live.m3u8") as reader:
        seen = [(number_in(frame.image), time.monotonic()) for frame in (reader.take(5) for _ in range(60)) if frame]
        health = reader.health.snapshot()
    assert len(seen) == 60 and [number for number, _ in seen] == sorted({number for number, _ in seen})
    (first, start), (last, end) = seen[0], seen[-1]
    assert end - start == pytest.approx((last - first) / 25, abs=0.5)
    assert health.stalls == 0 and health.reconnects == 0 and health.clock_jumps == 0


def test_a_live_stream_that_ends_is_opened_again(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhrt.video.reader.BACKOFF", (0.02, 0.02))
    with Reader(f"{address}/mjpeg", policy="budget=5") as reader:
        frames = [reader.take(5) for _ in range(2 * JPEGS)]
        wait_for(lambda: reader.health.snapshot().reconnects >= 2, 5)
    assert all(frames)
    assert {number_in(frame.image) for frame in frames} <= set(range(JPEGS))
    assert (np.diff([frame.time for frame in frames]) > 0).all()


def test_states_of_addresses_that_give_nothing(address: str) -> None:
    for path, state, reason in (("secret", State.UNAUTHORISED, "asked for"), ("nothing.mp4", State.OFFLINE, "404")):
        with Reader(f"{address}/{path}") as reader:
            wait_for(lambda health=reader.health, state=state: health.state is state, 5)
            assert reason in reader.health.snapshot().reason
