"""Streams out to a real RTSP server: what arrives, and what a server that is silent, frozen or gone does to anybody else."""

import logging
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import numpy as np
import pytest
from clips import number_in, picture
from servers import GstServer, need_gst, raw_server, wait_for

from fhrt.errors import BadInputError
from fhrt.video import State
from fhrt.video.push import RtspPush


@contextmanager
def pushing(address: str, draw=lambda number: picture(number % 1024, 320, 240)) -> Iterator[RtspPush]:
    """A push that gets 25 pictures a second, as long as the block runs."""
    push, stopping = RtspPush(address), threading.Event()

    def feed() -> None:
        number = 0
        while not stopping.wait(0.04):
            if push.ready:
                push.write(draw(number), number / 25)
            number += 1

    thread = threading.Thread(target=feed)
    thread.start()
    try:
        yield push
    finally:
        stopping.set()
        thread.join()
        push.close()


def arrived(path: Path) -> list[int]:
    """The numbers of the pictures that a server has recorded."""
    numbers = []
    with suppress(av.FFmpegError), av.open(path) as container:  # the last one may be there in part
        for frame in container.decode(video=0):
            numbers.append(number_in(frame.to_ndarray(format="bgr24")))
    return numbers


@pytest.mark.rtsp
@pytest.mark.alone
def test_pictures_arrive_in_order_and_again_after_the_server_was_gone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    need_gst()
    record = tmp_path / "out.h264"
    with caplog.at_level(logging.INFO, "fhrt.video"), GstServer({"out": record}, login="u:hunter2") as server:
        with pushing(server.address("out", "u:hunter2")) as push:
            wait_for(lambda: push.health.snapshot().frames > 40, 20)
            wait_for(lambda: record.exists() and len(arrived(record)) > 20, 20)
            before = arrived(record)
            assert not push.problem
            assert before == sorted(set(before)) and before[-1] - before[0] < 2 * len(before)  # none twice, few superseded
            server.kill()
            wait_for(lambda: push.health.state is State.OFFLINE, 10)
            assert push.problem
            server.start()
            wait_for(lambda: push.health.state is State.LIVE and not push.problem, 20)
            wait_for(lambda: len(now := arrived(record)) > 20 and now[0] > before[-1], 20)  # the record begins anew
            again = arrived(record)
            assert again == sorted(set(again)) and again[0] > before[-1]
        assert push.health.state is State.ENDED
        with pushing(server.address("out", "u:wrong")) as push:
            wait_for(lambda: push.health.state is State.UNAUTHORISED, 10)
        assert "user or password refused" in caplog.text
        assert "hunter2" not in caplog.text and "wrong" not in caplog.text


@pytest.mark.rtsp
@pytest.mark.alone
def test_a_frozen_server_is_noticed_and_holds_up_nobody(tmp_path: Path) -> None:
    need_gst()
    rng = np.random.default_rng(0)
    noise = [rng.integers(0, 256, (480, 640, 3), dtype=np.uint8) for _ in range(8)]  # fills the connection's buffers soon
    with GstServer({"out": tmp_path / "out.h264"}) as server, pushing(server.address("out"), lambda number: noise[number % 8]) as push:
        wait_for(lambda: push.health.snapshot().frames > 10, 20)
        server.freeze()
        try:
            # Left to itself, FFmpeg would wait a second for each of a picture's hundred packets.
            wait_for(lambda: push.health.state is State.OFFLINE, 30)
            assert "the server takes nothing" in push.health.snapshot().reason
        finally:
            server.thaw()
        wait_for(lambda: push.health.state is State.LIVE, 30)
        before = push.health.snapshot().frames
        wait_for(lambda: push.health.snapshot().frames > before + 10, 20)
        server.freeze()
        try:
            assert quickly(push.close) < 2.5
            wait_for(lambda: not push._thread.is_alive(), 20)
        finally:
            server.thaw()


@pytest.mark.rtsp
@pytest.mark.alone
def test_two_streams_to_one_server_end_apart(tmp_path: Path) -> None:
    need_gst()
    with (
        GstServer({"a": tmp_path / "a.h264", "b": tmp_path / "b.h264"}) as server,
        pushing(server.address("a")) as one,
        pushing(server.address("b")) as other,
    ):
        wait_for(lambda: min(push.health.snapshot().frames for push in (one, other)) > 10, 20)
        one._hang_up()
        wait_for(lambda: one.health.snapshot().reconnects > 0, 20)
        wait_for(lambda: one.health.state is State.LIVE, 20)
        assert other.health.snapshot().reconnects == 0 and other.health.state is State.LIVE


def quickly(do) -> float:
    start = time.monotonic()
    do()
    return time.monotonic() - start


def test_a_silent_server_holds_up_nobody() -> None:
    with raw_server(answer=False) as port:
        push = RtspPush(f"rtsp://127.0.0.1:{port}/x")
        assert max(quickly(lambda: push.write(picture(0, 320, 240), 0)) for _ in range(100)) < 1  # its thread waits meanwhile
        assert push.health.snapshot().drops["superseded"] >= 98
        assert quickly(push.close) < 2.5


@pytest.mark.parametrize(("listening", "reason"), [(True, "takes no streams"), (False, "Connection refused")])
def test_a_server_that_refuses_is_tried_again(listening: bool, reason: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        closed = unused.getsockname()[1]
    with raw_server() as port, pushing(f"rtsp://127.0.0.1:{port if listening else closed}/x") as push:
        wait_for(lambda: push.health.snapshot().reconnects > 0, 20)
        wait_for(lambda: push.health.state is State.OFFLINE, 20)
        assert reason in push.health.snapshot().reason and "next try in" in push.health.snapshot().reason


def test_whatever_the_greeting_says_is_offline_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def greet(address: str) -> None:
        address.encode("ascii")

    monkeypatch.setattr("fhrt.video.push._greet", greet)
    with pushing("rtsp://u:hunter2@127.0.0.1:9/Tür") as push:
        wait_for(lambda: push.health.snapshot().reconnects > 0, 20)
        assert "can't encode" in push.problem and "hunter2" not in push.problem + push.health.snapshot().reason


WRONG = ["rtsp://", "rtsp:///path", "http://host/x", "rtsp://u:hunter2@host:port/x", "rtsp://u:hunter2@a..b/x", "host/x", ""]


@pytest.mark.parametrize("address", WRONG)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(BadInputError, match="is no address") as caught:
        RtspPush(address)
    assert "hunter2" not in str(caught.value)
