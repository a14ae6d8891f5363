"""Files and pictures through the reader: every frame, their times, and what is said about the rest."""

import shutil
import struct
import threading
import time
from fractions import Fraction
from pathlib import Path

import cv2
import numpy as np
import pytest
from clips import number_in, picture, write_video
from servers import wait_for

from fhrt.errors import BackendError, BadInputError, MissingExtraError, SourceError
from fhrt.video import Reader, State
from fhrt.video.connection import SizeGate
from fhrt.video.hardware import _reason_without, hardware
from fhrt.video.reader import pause


def test_a_file_gives_every_frame_in_order_with_its_own_time(clip: Path) -> None:
    with Reader(clip) as reader:
        frames = list(reader)
    assert [number_in(frame.image) for frame in frames] == list(range(40))
    assert [frame.number for frame in frames] == list(range(40))
    assert [frame.time for frame in frames] == pytest.approx([number / 25 for number in range(40)])
    image = frames[3].image
    assert image is frames[3].image and image.shape == (240, 320, 3) and image.dtype == np.uint8
    assert np.abs(image.astype(int) - picture(3, 320, 240))[32:].mean() < 12  # colours and their order survive the codec
    health = reader.health.snapshot()
    assert (health.state, health.reason, health.frames, health.drops) == (State.ENDED, "", 40, {})


def test_an_older_pyav_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhrt.video.reader.version", lambda package: "17.1.0")
    with pytest.raises(MissingExtraError, match="PyAV 18"):
        Reader("rtsp://127.0.0.1/x")


def test_a_slow_consumer_of_a_file_loses_nothing(clip: Path) -> None:
    with Reader(clip) as reader:
        numbers = []
        for frame in reader:
            numbers.append(number_in(frame.image))
            time.sleep(0.005)
    assert numbers == list(range(40))
    assert reader.health.snapshot().stalls == 0


def test_under_latest_a_file_plays_at_its_own_speed(clip: Path) -> None:
    with Reader(clip, policy="latest") as reader:
        seen = [(number_in(frame.image), time.monotonic()) for frame in reader]
    (first, start), (last, end) = seen[0], seen[-1]
    assert last == 39 and end - start == pytest.approx((last - first) / 25, abs=0.3)
    assert len(seen) + reader.health.snapshot().drops.get("superseded", 0) == 40


# The matrix (a, b, c, d) of a film, as ffmpeg shows it: a pixel (x, y) at (a x + c y, b x + d y).
SHOWN = {
    (1, 0, 0, 1): lambda image: image,
    (-1, 0, 0, 1): np.fliplr,
    (1, 0, 0, -1): np.flipud,
    (-1, 0, 0, -1): lambda image: np.rot90(image, 2),
    (0, 1, -1, 0): lambda image: np.rot90(image, -1),
    (0, -1, 1, 0): np.rot90,
    (0, 1, 1, 0): lambda image: image.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda image: np.rot90(image, 2).transpose(1, 0, 2),
}


@pytest.mark.parametrize("matrix", SHOWN, ids=str)
def test_a_turned_or_mirrored_video_comes_upright(tmp_path: Path, matrix: tuple[int, int, int, int]) -> None:
    path = write_video(tmp_path / "phone.mp4", 2)
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44  # of the nine numbers, in a box of version 0
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    with Reader(path) as reader:
        image = next(iter(reader)).image
    assert image.flags.c_contiguous
    wanted = SHOWN[matrix](picture(0, 320, 240))
    assert image.shape == wanted.shape and np.abs(image.astype(int) - wanted).mean() < 12


@pytest.mark.parametrize("ending", [".mp4", ".mkv", ".ts"])
@pytest.mark.parametrize(
    ("aspect", "size"), [((64, 45), (455, 240)), ((6, 11), (320, 440)), ((200, 199), (320, 240)), ((255, 1), (320, 240))]
)
def test_pixels_become_square(tmp_path: Path, ending: str, aspect: tuple[int, int], size: tuple[int, int]) -> None:
    with Reader(write_video(tmp_path / f"disc{ending}", 2, aspect=Fraction(*aspect))) as reader:
        image = next(iter(reader)).image
    assert image.shape == (*size[::-1], 3)
    assert np.abs(image.astype(int) - cv2.resize(picture(0, 320, 240), size, interpolation=cv2.INTER_CUBIC)).mean() < 12


def test_square_pixels_are_told_after_turning(tmp_path: Path) -> None:
    path = write_video(tmp_path / "phone.mp4", 2, aspect=Fraction(2))
    data = bytearray(path.read_bytes())
    at = data.find(b"tkhd") + 44
    data[at : at + 36] = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    with Reader(path) as reader:
        assert next(iter(reader)).image.shape == (640, 240, 3)


def test_the_shape_of_pixels_may_change_in_a_film(tmp_path: Path) -> None:
    parts = [write_video(tmp_path / f"{n}.ts", 10, aspect=Fraction(n)) for n in (1, 2)]
    (tmp_path / "both.ts").write_bytes(b"".join(part.read_bytes() for part in parts))
    with Reader(tmp_path / "both.ts") as reader:
        assert [frame.image.shape[:2] for frame in reader] == [(240, 320)] * 10 + [(240, 640)] * 10


def test_frames_of_too_many_pixels_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small, large, both = (tmp_path / f"{name}.ts" for name in ("small", "large", "both"))
    both.write_bytes(write_video(small, 10).read_bytes() + write_video(large, 10, size=(640, 480)).read_bytes())
    monkeypatch.setenv("FHRT_MAX_PIXELS", str(320 * 240))
    with pytest.raises(SourceError, match=r"640x480 pixels, more than 76800; FHRT_MAX_PIXELS"), Reader(large) as reader:
        list(reader)
    with Reader(both) as reader:
        assert {frame.image.shape for frame in reader} == {(240, 320, 3)}
    assert reader.health.snapshot().drops["undecodable"] >= 9


@pytest.mark.parametrize("name", ["12:30:00.mp4", "concat:a.mp4", "file:a.mp4", "#1 a?b%20.mp4", "-i.mp4"])
def test_a_files_name_is_no_address(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copy(clip, name)
    with Reader(name) as reader:
        assert len(list(reader)) == 40


def test_pictures_of_a_folder(tmp_path: Path) -> None:
    for number in range(3):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture(number, 320, 240))
    (tmp_path / "1.png").write_bytes(b"damaged")
    with Reader(tmp_path) as reader:
        frames = list(reader)
    assert [number_in(frame.image) for frame in frames] == [0, 2]
    assert [frame.time for frame in frames] == pytest.approx([0, 0.08])
    assert reader.health.snapshot().drops == {"undecodable": 1}


def test_a_file_cut_short_gives_what_is_whole(clip: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.ts"
    whole = write_video(tmp_path / "whole.ts", 40)
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with Reader(cut) as reader:
        numbers = [number_in(frame.image) for frame in reader]
    assert numbers == list(range(len(numbers))) and 10 < len(numbers) < 30


@pytest.mark.parametrize("content", [b"", b"this is no video" * 100, bytes(1000)], ids=["empty", "text", "zeros"])
def test_a_file_that_is_no_video(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with Reader(path) as reader, pytest.raises(SourceError, match="no video"):
        list(reader)
    health = reader.health.snapshot()
    assert health.state is State.ENDED and "no video" in health.reason and health.reconnects == 0


def test_a_song_with_a_cover_is_no_video(tmp_path: Path) -> None:
    import av

    path = tmp_path / "song.wav"
    with av.open(path, "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
    with Reader(path) as reader, pytest.raises(SourceError, match="holds no video"):
        list(reader)


def test_stopping_in_the_middle_leaves_no_thread(clip: Path) -> None:
    before = threading.active_count()
    with Reader(clip) as reader:
        assert reader.take(5) is not None
    assert threading.active_count() == before
    assert reader.health.snapshot().reason == "stopped"


def test_a_webcam_that_is_not_there_is_offline_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhrt.video.reader.BACKOFF", (0.02, 0.02))
    with Reader("/dev/video99") as reader:
        wait_for(lambda: reader.health.snapshot().reconnects >= 2, 5)
        assert reader.health.state is State.OFFLINE
        assert "No such file" in reader.health.snapshot().reason


def test_a_reader_that_was_not_started_is_no_trap(clip: Path) -> None:
    with pytest.raises(BadInputError, match="was not started"):
        Reader(clip).take()


@pytest.mark.parametrize("options", [{"policy": "newest"}, {"timeout": 0}, {"decode": "magic"}])
def test_settings_that_cannot_be(clip: Path, options: dict) -> None:
    with pytest.raises(BadInputError):
        Reader(clip, **options)


def test_a_folder_of_videos_is_not_one_source(clip: Path) -> None:
    write_video(clip.with_name("other.mp4"), 2)
    with pytest.raises(BadInputError, match=r"holds \d+ videos"):
        Reader(clip.parent)


def test_nvdec_by_name_is_had_or_refused(clip: Path, caplog: pytest.LogCaptureFixture) -> None:
    reason = _reason_without()
    if reason is None:
        with Reader(clip, decode="nvdec") as reader:
            assert [number_in(frame.image) for frame in reader] == list(range(40))
    else:
        with pytest.raises(BackendError, match="NVDEC cannot be had"):
            Reader(clip, decode="nvdec")
        assert hardware("auto") is None


@pytest.mark.parametrize(("state", "first", "most"), [(State.OFFLINE, 0.5, 30), (State.UNAUTHORISED, 60, 900)])
def test_pauses_double_up_to_a_limit_and_differ(state: State, first: float, most: float) -> None:
    for failures in (0, 1, 3, 10, 10**6):
        whole = min(first * 2 ** min(failures, 30), most)
        drawn = [pause(state, failures) for _ in range(200)]
        assert whole / 2 <= min(drawn) < 0.6 * whole and 0.9 * whole < max(drawn) <= whole


def test_a_size_is_believed_when_announced_or_at_the_second_key_frame() -> None:
    gate = SizeGate((320, 240))
    sizes = [((320, 240), True), ((160, 32), True), ((160, 32), False), ((320, 240), True), ((320, 240), False)]
    assert [gate(*one) for one in sizes] == [True, False, False, True, True]
    change = [((640, 480), True), ((640, 480), False), ((640, 480), True), ((640, 480), False), ((320, 240), False)]
    assert [gate(*one) for one in change] == [False, False, True, True, False]
    assert SizeGate((0, 0))((160, 120), False)


def test_an_unexpected_error_neither_ends_the_thread_nor_tells_the_password(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(source: object, *_: object) -> None:
        raise KeyError("rtsp://u:hunter2@h/")

    monkeypatch.setattr("fhrt.video.reader.BACKOFF", (0.02, 0.02))
    monkeypatch.setattr("fhrt.video.reader.Connection", broken)
    with Reader("rtsp://u:hunter2@h/") as reader:
        wait_for(lambda: reader.health.snapshot().reconnects >= 2, 5)
        assert "KeyError" in reader.health.snapshot().reason
    assert "unexpected" in caplog.text and "hunter2" not in caplog.text
