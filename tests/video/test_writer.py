"""Video files as a viewer and a browser find them: times, pictures, colours, audio, and what is left when writing is cut short."""

import errno
import logging
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import number_in, picture, with_tone, write_video
from numpy.typing import NDArray
from servers import wait_for

from fhrt.errors import BadInputError, OutputError
from fhrt.video import Reader
from fhrt.video.writer import CLOCK, VideoWriter

SECONDS = {"movflags": "delay_moov", "frag_duration": "1000000"}  # an mp4 in fragments of a second
TIMES = np.cumsum(np.random.default_rng(0).uniform(0.002, 0.09, 60)).tolist()  # no two steps alike


def read(path: Path, cut_short: bool = False) -> tuple[list[float], list[NDArray[np.uint8]]]:
    """Times and pictures; of a file that was cut short up to the damage."""
    frames = []
    with av.open(path) as container, suppress(*[av.error.InvalidDataError] * cut_short):
        for frame in container.decode(video=0):
            frames.append(frame)
    return [float(frame.pts * frame.time_base) for frame in frames], [frame.to_ndarray(format="bgr24") for frame in frames]


def audio(path: Path) -> list[tuple[float, bytes]]:
    with av.open(path) as container:
        return [(float(packet.pts * packet.time_base), bytes(packet)) for packet in container.demux(audio=0) if packet.size]


def boxes(path: Path) -> list[str]:
    """The names of an mp4's outermost boxes."""
    data, at, names = path.read_bytes(), 0, []
    while at < len(data):
        names.append(data[at + 4 : at + 8].decode())
        at += int.from_bytes(data[at : at + 4], "big")
    return names


def write(path: Path, times: list[float], size: tuple[int, int] = (320, 240), source: Path | None = None) -> Path:
    writer = VideoWriter(path, source)
    for number, time in enumerate(times):
        writer.write(picture(number, *size), time)
    writer.close()
    return path


@pytest.mark.parametrize(("name", "precision"), [("a.mp4", 0.5 / CLOCK), ("a.mkv", 0.0005 + 0.5 / CLOCK), ("with: colon.MP4", 0.5 / CLOCK)])
def test_every_frame_comes_back_at_its_time(tmp_path: Path, name: str, precision: float) -> None:
    times, pictures = read(write(tmp_path / name, TIMES))
    assert np.abs(np.subtract(times, TIMES)).max() <= precision + 1e-9
    assert [number_in(image) for image in pictures] == list(range(60))
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_browser_can_play_it(tmp_path: Path) -> None:
    path = write(tmp_path / "a.mp4", TIMES, (321, 241))
    names = boxes(path)
    assert names.index("moov") < names.index("mdat") and "moof" not in names
    with av.open(path) as container:
        video = container.streams.video[0]
        codec = video.codec_context
        assert (codec.name, codec.pix_fmt, codec.width, codec.height) == ("h264", "yuv420p", 322, 242)
        assert float(video.duration * video.time_base) == pytest.approx(2 * TIMES[-1] - TIMES[-2] - TIMES[0], abs=0.0001)
        keys = [float(frame.pts * frame.time_base) for frame in container.decode(video) if frame.key_frame]
    assert len(keys) >= 2 and max(after - before for before, after in pairwise(keys)) < 2.1
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    before = os.umask(0)
    os.umask(before)
    return before


@pytest.mark.parametrize("color", ["bgr", "rgb"])
def test_colours_stay_what_they_are(tmp_path: Path, color: Any) -> None:
    patches = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [90, 120, 200], [255, 255, 255], [0, 0, 0], [128, 128, 128]], np.uint8)
    image = np.tile(patches.repeat(48, 0), (96, 1, 1))
    writer = VideoWriter(tmp_path / "a.mp4")
    for number in range(5):
        writer.write(image if color == "bgr" else np.ascontiguousarray(image[..., ::-1]), number / 25, color)
    writer.close()
    seen = read(tmp_path / "a.mp4")[1][4]
    for number, patch in enumerate(patches):
        assert np.abs(seen[24:72, 48 * number + 12 : 48 * number + 36].astype(int) - patch).max() <= 8, patch


def test_a_new_size_is_fitted_into_the_first(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4")
    sizes = [(320, 240), (640, 240), (160, 240), (1, 1), (31, 77), (320, 240)]
    for number, (width, height) in enumerate(sizes):
        writer.write(np.full((height, width, 3), 200, np.uint8), number)
    writer.close()
    _, pictures = read(tmp_path / "a.mp4")
    assert [image.shape for image in pictures] == [(240, 320, 3)] * 6
    inside = [image.mean(2) > 100 for image in pictures]
    for mask, (width, height) in zip(inside, sizes, strict=True):
        zoom = min(320 / width, 240 / height)
        assert mask[120, 160] and mask.sum() == pytest.approx(width * height * zoom * zoom, rel=0.06)
        assert mask.any(0).argmax() == pytest.approx((320 - width * zoom) / 2, abs=3)  # in the middle
        assert mask.any(1).argmax() == pytest.approx((240 - height * zoom) / 2, abs=3)


@pytest.mark.parametrize("target", ["b.mp4", "b.mkv"])
def test_a_film_of_oblong_pixels_keeps_its_shape(tmp_path: Path, target: str) -> None:
    writer = VideoWriter(tmp_path / target)
    with Reader(write_video(tmp_path / "a.mp4", 3, size=(352, 144), aspect=Fraction(6, 11))) as reader:
        for frame in reader:
            writer.write(frame.image, frame.time)
    writer.close()
    with av.open(tmp_path / target) as container:
        assert container.streams.video[0].display_aspect_ratio == Fraction(4, 3)


def test_times_that_do_not_go_on_count_as_the_usual_step(tmp_path: Path) -> None:
    times, pictures = read(write(tmp_path / "a.mp4", [0, 0.1, 0.2, 0.2, 0.2, 0.0, 0.1, 0.2, 0.3]))
    assert np.diff(times) == pytest.approx([0.1] * 8, abs=0.001)
    assert [number_in(image) for image in pictures] == list(range(9))


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_camera_that_was_gone_for_a_night_goes_on_at_its_time(tmp_path: Path, suffix: str) -> None:
    asked = [0, 0.04, 0.08, 30000, 30000.04, 30000.08]
    times, pictures = read(write(tmp_path / f"a{suffix}", asked))
    seen = dict(zip([round(time, 2) for time in times], map(number_in, pictures), strict=True))
    assert [seen[time] for time in asked] == list(range(6))
    assert set(seen.values()) == set(range(6)) and len(seen) == 6 + 8  # the last one before, once an hour


def test_a_damaged_time_costs_its_frame_only(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4")
    for number, time in enumerate([float("nan"), 0, 0.04, 1e12, float("inf"), float("nan"), 0.08, -1e12]):
        if number in (0, 3, 4, 5):
            with pytest.raises(BadInputError, match="a frame's time"):
                writer.write(picture(number, 320, 240), time)
        else:
            writer.write(picture(number, 320, 240), time)
    writer.close()
    times, pictures = read(tmp_path / "a.mp4")
    assert times == pytest.approx([0, 0.04, 0.08, 0.12]) and [number_in(one) for one in pictures] == [1, 2, 6, 7]


def test_a_recording_from_any_hour_begins_at_0(tmp_path: Path) -> None:
    assert read(write(tmp_path / "a.mp4", [50000, 50000.04, 50000.1]))[0] == pytest.approx([0, 0.04, 0.1], abs=0.0001)
    assert read(write(tmp_path / "b.mp4", [1.5, 1.54, 1.6]))[0] == pytest.approx([1.5, 1.54, 1.6], abs=0.0001)


@pytest.mark.parametrize(
    ("source", "codec", "late", "target"),
    [("s.mp4", "aac", 0, "a.mp4"), ("s.ts", "aac", 0, "a.mp4"), ("s.ts", "aac", 50000, "a.mp4"), ("s.mkv", "pcm_s16le", 0, "a.mkv")],
)
def test_audio_is_copied_in_step(tmp_path: Path, clip: Path, source: str, codec: str, late: float, target: str) -> None:
    source_path = with_tone(clip, tmp_path / source, codec, late)
    writer = VideoWriter(tmp_path / target, source_path)
    with Reader(str(source_path)) as reader:
        read_times = []
        for frame in reader:
            read_times.append(frame.time)
            writer.write(frame.image, frame.time)
    writer.close()
    origin = read_times[0] if late else 0
    times, _ = read(tmp_path / target)
    assert times == pytest.approx(np.subtract(read_times, origin).tolist(), abs=0.001)
    before, after = audio(source_path), audio(tmp_path / target)
    assert len(before) == len(after) > 30
    assert [when for when, _ in after] == pytest.approx([when - origin for when, _ in before], abs=0.001)
    if source != "s.ts":  # there each packet has a header of its own, which an mp4 has once
        assert [data for _, data in after] == [data for _, data in before]


@pytest.mark.parametrize("order", [("audio", "video"), ("video", "audio")])
@pytest.mark.parametrize("count", [5, 20])
def test_audio_ends_where_the_pictures_are_stopped(tmp_path: Path, clip: Path, order: tuple[str, str], count: int) -> None:
    """In a file that has a second of the one, then a second of the other."""
    with av.open(with_tone(clip, tmp_path / "s.mp4")) as source, av.open(tmp_path / "t.mp4", "w", container_options=SECONDS) as target:
        streams = {kind: target.add_stream_from_template(source.streams.get(**{kind: 0})[0]) for kind in order}
        for packet in source.demux():
            if packet.size:
                packet.stream = streams[packet.stream.type]
                target.mux(packet)
    write(tmp_path / "a.mp4", [number / 25 for number in range(count)], source=tmp_path / "t.mp4")
    before, after = audio(tmp_path / "t.mp4"), audio(tmp_path / "a.mp4")
    assert after == [packet for packet in before if packet[0] < count / 25]


@pytest.mark.parametrize("target", ["a.mp4", "a.mkv"])
@pytest.mark.parametrize("codec", ["pcm_mulaw", "pcm_alaw"])
def test_audio_that_does_not_fit_is_encoded_anew_in_step(tmp_path: Path, clip: Path, codec: str, target: str) -> None:
    source = with_tone(clip, tmp_path / "s.mov", codec)
    path = write(tmp_path / target, [number / 25 for number in range(40)], source=source)
    with av.open(path) as container:
        assert container.streams.audio[0].codec_context.name == "aac"
        frames = list(container.decode(audio=0))
    assert frames[0].time == pytest.approx(0, abs=0.05)
    sound = np.concatenate([frame.to_ndarray().ravel() for frame in frames])
    assert len(sound) / 44100 == pytest.approx(1.6, abs=0.06)
    assert np.abs(np.fft.rfft(sound)).argmax() / len(sound) * 44100 == pytest.approx(440, abs=2)


def test_audio_that_cannot_be_encoded_either_is_left_out_aloud(
    tmp_path: Path, clip: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = with_tone(clip, tmp_path / "s.mov", "pcm_mulaw")
    monkeypatch.setattr("fhrt.video.writer._ToAac", lambda *_: int("no encoder"))
    with caplog.at_level(logging.WARNING, "fhrt.video"):
        path = write(tmp_path / "a.mp4", [0, 0.04], source=source)
    assert "its audio (pcm_mulaw) is left out, mp4 cannot hold it" in caplog.text
    with av.open(path) as container:
        assert [stream.type for stream in container.streams] == ["video"]


def test_audio_that_the_container_refuses_costs_no_pictures(
    tmp_path: Path, clip: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ready(audio: Any, index: int, packets: list[Any]) -> Iterator[Any]:
        for packet in packets:
            packet.stream = audio._streams[index]
            if packet.dts * packet.time_base > 0.4:
                packet.dts = packet.pts = 0
            yield packet

    monkeypatch.setattr("fhrt.video.writer._Audio._ready", ready)
    write(tmp_path / "a.mp4", [number / 25 for number in range(20)], source=with_tone(clip, tmp_path / "s.mp4"))
    assert "the audio ends at" in caplog.text and len(read(tmp_path / "a.mp4")[0]) == 20


@pytest.mark.parametrize("target", ["a.mp4", "a.mkv"])
def test_recordings_joined_by_cat_keep_their_audio_in_step(tmp_path: Path, clip: Path, target: str) -> None:
    part = with_tone(clip, tmp_path / "s.ts", "aac")
    (tmp_path / "joined.ts").write_bytes(part.read_bytes() * 3)
    writer = VideoWriter(tmp_path / target, tmp_path / "joined.ts")
    with Reader(tmp_path / "joined.ts") as reader:
        for frame in reader:
            writer.write(frame.image, frame.time)
    writer.close()
    times, _ = read(tmp_path / target)
    assert len(times) == 120 and np.diff(times) == pytest.approx(0.04, abs=0.002)
    heard = [when for when, _ in audio(tmp_path / target)]
    before, first = [when for when, _ in audio(part)], read(part)[0][0]
    assert len(heard) >= 3 * len(before) - 2  # where two parts' sounds overlap, a packet is left out
    for number in range(3):  # as far from the pictures as in the part
        assert np.abs(np.subtract(heard, times[40 * number] + before[10] - first)).min() < 0.003


def test_a_source_that_goes_costs_its_audio_only(tmp_path: Path) -> None:
    (tmp_path / "s.mp4").write_bytes(b"no video" * 100)
    assert len(read(write(tmp_path / "a.mp4", TIMES, source=tmp_path / "s.mp4"))[0]) == 60


ENDLESS = """
    import sys
    from itertools import count
    import numpy as np
    from fhrt.video.writer import VideoWriter
    writer = VideoWriter(sys.argv[1])
    for number in count():
        writer.write(np.random.default_rng(number).integers(0, 256, (120, 160, 3), dtype=np.uint8), number / 25)
"""


@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
def test_a_killed_process_leaves_what_it_wrote_beside_the_name(tmp_path: Path, suffix: str) -> None:
    path, partial = tmp_path / f"a{suffix}", tmp_path / f"a.partial{suffix}"
    path.write_bytes(b"an older one")
    process = subprocess.Popen([sys.executable, "-P", "-c", textwrap.dedent(ENDLESS), str(path)])
    wait_for(lambda: partial.exists() and partial.stat().st_size > 1_000_000, 60)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert path.read_bytes() == b"an older one"
    times, _ = read(partial, cut_short=True)
    assert len(times) >= 50 and times == pytest.approx([number / 25 for number in range(len(times))], abs=0.001)
    left = partial.read_bytes()
    assert len(read(write(path, TIMES))[0]) == 60  # the next run
    assert partial.read_bytes() == left


def test_a_full_disk_keeps_what_was_written(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: the same path, of which the machine says "File too large"."""
    path = tmp_path / "a.mp4"
    limited = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n" + textwrap.dedent(ENDLESS)
    done = subprocess.run([sys.executable, "-P", "-c", limited, str(path)], capture_output=True, text=True, timeout=120)
    partial = tmp_path / "a.partial.mp4"
    last = done.stderr.strip().splitlines()[-1]
    assert last == f"fhrt.errors.OutputError: cannot write {path}: File too large; what was written until then is in {partial}"
    assert [one.name for one in tmp_path.iterdir()] == [partial.name]
    assert len(read(partial, cut_short=True)[0]) >= 50


def test_without_room_for_a_second_copy_the_index_stays_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @contextmanager
    def full(path: Path) -> Iterator[Path]:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        yield path

    monkeypatch.setattr("fhrt.video.writer.whole_file", full)
    with caplog.at_level(logging.WARNING, "fhrt.video"):
        path = write(tmp_path / "a.mp4", TIMES)
    assert caplog.messages == [f"{path}: its index stays at its end: No space left on device"]
    names = boxes(path)
    assert names.index("moov") > names.index("mdat") and "moof" not in names
    assert read(path)[0] == pytest.approx(TIMES, abs=0.00001)
    assert [one.name for one in tmp_path.iterdir()] == ["a.mp4"]


def test_a_folder_that_goes(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    writer = VideoWriter(tmp_path / "folder" / "a.mp4")
    writer.write(picture(0, 320, 240), 0)
    (tmp_path / "folder").rename(tmp_path / "elsewhere")
    with pytest.raises(OutputError, match="No such file or directory"):
        writer.close()
    writer.close()
    assert [path.name for path in (tmp_path / "elsewhere").iterdir()] == ["a.partial.mp4"]


def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path, clip: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for path, message in (
        (tmp_path / "missing" / "a.mp4", "the folder .*missing does not exist"),
        (tmp_path / "a.avi", "must end with .mp4 or .mkv"),
        (tmp_path / "folder.mp4", "it is a folder"),
    ):
        with pytest.raises(BadInputError, match=message):
            VideoWriter(path)
    with pytest.raises(BadInputError, match="is the video that is read"):
        VideoWriter(clip, clip)
    assert list(tmp_path.iterdir()) == [tmp_path / "folder.mp4"]


def test_a_picture_too_large_for_h264_is_refused_before_there_is_a_file(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4")
    for height, width in ((16, 16385), (16385, 16)):
        with pytest.raises(BadInputError, match=f"a picture of {width}×{height} pixels is too large for H.264"):
            writer.write(np.zeros((height, width, 3), np.uint8), 0)
    assert list(tmp_path.iterdir()) == []
    writer.write(np.zeros((16, 16384, 3), np.uint8), 0)
    writer.close()
    assert read(tmp_path / "a.mp4")[1][0].shape == (16, 16384, 3)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir(0o555)
    with pytest.raises(BadInputError, match="no permission"):
        VideoWriter(tmp_path / "folder" / "a.mp4")


def test_no_frame_no_file_and_none_after_the_end(tmp_path: Path) -> None:
    writer = VideoWriter(tmp_path / "a.mp4")
    writer.close()
    writer.close()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(BadInputError, match="is closed"):
        writer.write(picture(0, 320, 240), 0)
