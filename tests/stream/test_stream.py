"""Frames of many sources in, results out: none lost that should not be, and whoever stalls or fails stalls alone."""

import gc
import json
import logging
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections import Counter, defaultdict
from importlib import resources
from pathlib import Path

import cv2
import numpy as np
import psutil
import pytest
from clips import number_in, still, write_video
from known import Kept, KnownDetector, KnownEngine
from servers import GstServer, need_gst, wait_for

from fhrt.errors import BadInputError, SourceError
from fhrt.faces.detect import Detection
from fhrt.faces.track import Tracker
from fhrt.hallucinator import Hallucinator
from fhrt.runtime import Output
from fhrt.stream import RtspOut, Stream
from fhrt.stream.lane import REPLAYED, Look
from fhrt.video import Frame, State


def by_source(results) -> dict[str, list]:
    found = defaultdict(list)
    for result in results:
        found[result.source].append(result)
    return found


def test_four_files_lose_no_frame_and_keep_their_order(make, clips) -> None:
    sink = Kept()
    found = by_source(make(detector=KnownDetector(3)).stream(clips, sinks=[sink]))
    assert list(found) and set(found) == set(map(str, clips))
    for results in found.values():
        assert [one.number for one in results] == [number_in(one.frame) for one in results] == list(range(40))
        assert [one.time for one in results] == pytest.approx([number / 25 for number in range(40)])
        assert all(len(one.faces) == 3 and one.track_ids == [1, 2, 3] for one in results)
        assert [face.track_id for face in results[-1].faces] == [1, 2, 3]
        assert all(0 < face.quality <= 1 and one.latency > 0 for one in results for face in one.faces)
    assert {name: sink.numbers(name) for name in found} == {name: list(range(40)) for name in found}
    assert sink.closed == 1


def test_the_faces_are_those_of_the_frame(tmp_path: Path) -> None:
    """The real network, on a picture whose faces are known: in a stream each face comes out as `run` makes it."""
    with resources.as_file(resources.files("fhrt") / "assets" / "crowd.png") as path:
        picture = cv2.imread(str(path))[:480, :640]
    for number in range(4):
        cv2.imwrite(str(tmp_path / f"{number}.png"), picture)
    hallucinator = Hallucinator("lite", detector="haar", threads=1)
    expected = hallucinator.run(picture)
    assert len(expected.faces) >= 3
    results = list(hallucinator.stream(str(tmp_path), detect_every=1, fuse=1))
    assert len(results) == 4
    for result in results:
        assert (result.frame == picture).all() and result.skipped == expected.skipped
        assert set(result.timings) == {"detect", "track", "crop", "batch", "model", "assemble", "total"}
        boxes = {face.box: face for face in expected.faces if face.score >= 0.5}
        for face in result.faces:
            near = min(boxes, key=lambda box: np.abs(np.subtract(box, face.box)).max())
            assert np.abs(np.subtract(near, face.box)).max() < 0.2
            twin = boxes.pop(near)
            assert np.abs(face.transform - twin.transform).max() < 0.4  # crops of twice the rows, halved, are not quite the same picture
            assert np.abs(face.lr.astype(int) - twin.lr).mean() < 3 and np.abs(face.sr.astype(int) - twin.sr).mean() < 4
        assert not boxes, "every face that starts a track is there"


def test_rgb_is_rgb_everywhere(make, clips) -> None:
    bgr, rgb = (next(iter(make(color=color).stream(clips[0]))) for color in ("bgr", "rgb"))
    for one, other in ((bgr.frame, rgb.frame), (bgr.faces[0].lr, rgb.faces[0].lr), (bgr.faces[0].sr, rgb.faces[0].sr)):
        assert (one == other[..., ::-1]).all() and not (one == other).all()


def test_smaller_pictures_come_with_their_face(make, clips) -> None:
    class Several(KnownEngine):
        def run(self, lr):
            return Output(super().run(lr).sr, sr_2x=lr.repeat(2, 2).repeat(2, 3), sr_4x=lr.repeat(4, 2).repeat(4, 3))

    result = next(iter(make(Several(), KnownDetector(2)).stream(clips[0])))
    assert len(result.faces) == 2
    for face in result.faces:
        assert (face.sr_2x[::2, ::2] == face.lr).all() and (face.sr_4x[::4, ::4] == face.lr).all()


def test_under_all_the_same_video_gives_the_same_results(make, clips) -> None:
    first, second = (list(make().stream(clips[0], detect_every=3)) for _ in range(2))
    assert [one.faces[0].box for one in first] == [one.faces[0].box for one in second]
    assert all((one.faces[0].sr == two.faces[0].sr).all() for one, two in zip(first, second, strict=True))


def test_the_detector_looks_at_every_nth_frame_only(make, clips) -> None:
    detector = KnownDetector()
    results = list(make(detector=detector).stream(clips[0], detect_every=5))
    assert detector.calls == 8 and all(len(one.faces) == 1 for one in results)


def test_wide_faces_are_left_alone_and_counted(make, clips) -> None:
    results = list(make(max_face=19).stream(clips[0]))
    assert all(not one.faces and one.skipped == 1 and one.track_ids == [1] for one in results)


def test_a_source_with_many_faces_does_not_hold_up_one_with_one(make, clips) -> None:
    class Crowd(KnownDetector):
        def detect(self, frame_bgr):
            self.count = 40 if frame_bgr.shape[0] > 240 else 1
            return super().detect(frame_bgr)

    crowd = write_video(clips[0].parent / "crowd.mp4", 40, size=(320, 480), draw=still)
    engine = KnownEngine(0.02)
    order = [one.source for one in make(engine, Crowd()).stream([crowd, clips[0]])]
    assert Counter(order) == {str(crowd): 40, str(clips[0]): 40}
    last = len(order) - 1 - order[::-1].index(str(clips[0]))
    assert Counter(order[:last])[str(crowd)] < 36, "a frame of the crowd takes two batches, one of the other only its part of one"


@pytest.mark.alone
def test_a_slow_detector_delays_no_frame_of_a_camera(make, clips) -> None:
    detector = KnownDetector(seconds=0.5)
    with make(detector=detector).stream(clips[:2], policy="latest") as stream:
        results = list(stream)
    for found in by_source(results).values():
        assert len(found) >= 15, "of 40 frames in 1.6 s; had each detection been waited for, 3 or 4"
        assert found[-1].faces, "and what it says arrives"
    assert np.median([one.latency for one in results]) < 0.4
    assert detector.calls <= 5


def test_what_the_detector_says_of_an_old_frame_is_played_through_those_since() -> None:
    rng = np.random.default_rng(0)
    face = cv2.resize(rng.integers(0, 256, (6, 5, 3), np.uint8), (20, 25), interpolation=cv2.INTER_CUBIC)
    frames = []
    for number in range(REPLAYED + 1):
        image = cv2.resize(np.random.default_rng(1).integers(90, 110, (12, 16, 3), np.uint8), (320, 240))
        image[60:85, 40 + 4 * number : 60 + 4 * number] = face
        frames.append(Frame("x", number, number / 25, 0.0, None, image))
    seen = [Detection((40.0, 60.0, 60.0, 85.0), 0.9)]
    look = Look(frames[0], Tracker())
    for frame in frames[1:]:
        look.keep(frame)
    look.detections = seen
    late, prompt = look.replay(), Tracker()
    for frame in frames:
        prompt.update(frame.time, seen if frame is frames[0] else None, frame.image)
    assert late.track_ids == prompt.track_ids == [1]
    now = len(frames) / 25
    (one,), (other,) = (tracker.update(now, [Detection((76.0, 60.0, 96.0, 85.0), 0.9)]) for tracker in (late, prompt))
    assert (one.track_id, one.detection.box) == (other.track_id, other.detection.box)


def test_frames_that_wait_for_the_detector_take_bounded_memory() -> None:
    look = Look(Frame("x", 0, 0.0, 0.0, None, np.zeros((1, 1, 3), np.uint8)), Tracker())
    for number in range(1, 1000):
        look.keep(Frame("x", number, number / 25, 0.0, None, np.zeros((1, 1, 3), np.uint8)))
    kept = [frame.number for frame in look.since]
    assert 1 < len(kept) <= REPLAYED and kept == sorted(kept) and kept[-1] >= 999 - 1


@pytest.mark.alone
def test_a_stalled_sink_loses_its_own_results_only(make, clips) -> None:
    stalled, quick = Kept(0.3), Kept()
    with make().stream(clips[:2], policy="latest", sinks=[stalled, quick]) as stream:
        results = list(stream)
        slow, fast = stream.sinks()
    assert min(len(results), len(quick.results)) > 3 * len(stalled.results), "80 of 80, if all goes well, beside 7"
    assert stalled.numbers(str(clips[0])) == sorted(stalled.numbers(str(clips[0])))
    assert {cause for _, cause in slow.drops} == {"superseded"} and sum(slow.drops.values()) > len(quick.results) / 2
    assert slow.results == len(stalled.results) and slow.writing.p50 >= 0.3 > fast.writing.p50
    assert max(one.latency for one in stalled.results) < 5


def test_under_all_the_source_waits_for_a_slow_sink(make, clips) -> None:
    slow = Kept(0.02)
    with make().stream([clips[0]], sinks=[slow]) as stream:
        results = list(stream)
        assert [one.number for one in results] == slow.numbers() == list(range(40))
        assert not stream.sinks()[0].drops


def test_a_failing_sink_costs_its_own_results_only(make, clips, caplog) -> None:
    failing, other = Kept(fails=lambda result: result.number % 2 == 0), Kept()
    with make().stream(clips[0], sinks=[failing, other]) as stream:
        assert len(list(stream)) == 40
        (broken, sound) = stream.sinks()
    assert failing.numbers() == list(range(1, 40, 2)) and other.numbers() == list(range(40))
    assert (broken.drops, broken.results, sound.drops) == ({(str(clips[0]), "failed"): 20}, 20, {})
    assert failing.closed == other.closed == 1
    assert any("No space left" in record.message for record in caplog.records)


def test_a_sink_that_fails_to_the_end_is_no_secret(make, clips) -> None:
    broken, other = Kept(fails=lambda result: True), Kept()
    results = []
    with pytest.raises(SourceError, match=r"Kept: .*No space left"):
        results.extend(make().stream(clips[0], sinks=[broken, other]))
    assert len(other.results) == 40 and broken.closed == other.closed == 1


def test_a_server_that_never_takes_anything_is_no_secret(make, clips) -> None:
    results = []
    with pytest.raises(SourceError, match=r"rtsp://127\.0\.0\.1:9/x takes nothing"):
        results.extend(make().stream(clips[0], sinks=[RtspOut("rtsp://127.0.0.1:9/x")]))
    assert len(results) == 40


@pytest.mark.alone
def test_a_slow_consumer_gets_the_newest_and_stalls_nobody(make, clips) -> None:
    sink = Kept()
    seen = []
    with make().stream(clips[0], policy="latest", sinks=[sink]) as stream:
        for result in stream:
            seen.append(result)
            time.sleep(0.3)
        unread = stream.cameras()[0].drops["unread"]
    assert min(len(sink.results), unread) > 2 * len(seen), "40 and 34, if all goes well, beside 6"
    assert np.median([one.latency for one in seen]) < 0.5


def test_a_file_that_cannot_be_read_does_not_stop_the_others(make, clips, tmp_path: Path) -> None:
    (tmp_path / "no.mp4").write_bytes(b"this is no video" * 100)
    results = []
    with pytest.raises(SourceError, match=r"no\.mp4: it is no video"):
        for result in make().stream([clips[0], tmp_path / "no.mp4"]):
            results.append(result)
    assert [one.number for one in results] == list(range(40))


@pytest.mark.parametrize("which", ["engine", "detector"])
def test_what_the_network_or_the_detector_raises_ends_the_stream(make, clips, which: str) -> None:
    class Broken:
        card = KnownEngine().card

        def run(self, lr):
            raise RuntimeError("CUDA error")

        def detect(self, frame_bgr):
            raise RuntimeError("CUDA error")

    sink = Kept()
    with pytest.raises(RuntimeError, match="CUDA error"):
        list(make(**{which: Broken()}).stream(clips, sinks=[sink]))
    assert sink.closed == 1 and not threads()


def test_an_error_of_one_source_costs_its_frames_only(make, clips, caplog) -> None:
    class Wild(KnownDetector):
        def detect(self, frame_bgr):
            if frame_bgr.shape[0] > 240:
                return [Detection((60.0, 60.0, 20.0, 20.0), 0.9)]  # inverted
            return super().detect(frame_bgr)

    wild = write_video(clips[0].parent / "wild.mp4", 20, size=(320, 480), draw=still)
    results = []
    with pytest.raises(SourceError, match=r"wild\.mp4: frames were given up, BadInputError: a detection must"):
        for result in make(detector=Wild()).stream([wild, clips[0]]):
            results.append(result)
    found = by_source(results)
    assert [one.number for one in found[str(clips[0])]] == list(range(40))
    assert [one.number for one in found[str(wild)]] == [number for number in range(20) if number % 5]
    assert sum("given up" in record.message for record in caplog.records) == 1, "the same error is logged once"


def threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("fhrt")]


def test_leaving_the_loop_ends_everything(make, minute) -> None:
    for leave in ("break", "raise", "with"):
        sink = Kept()
        stream = make(engine=KnownEngine(0.05)).stream(minute, policy="latest", sinks=[sink])
        start = time.monotonic()
        if leave == "with":
            with stream:
                next(iter(stream))
        else:
            try:
                for _ in stream:
                    if leave == "break":
                        break
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
        gc.collect()
        assert sink.closed == 1 and time.monotonic() - start < 10
        wait_for(lambda: not threads(), 5)
        with pytest.raises(BadInputError, match="started already"):
            stream.start()


@pytest.mark.alone
def test_a_sink_that_hangs_does_not_hold_up_the_end(make, minute, caplog) -> None:
    hang, sink = threading.Event(), Kept()

    class Hangs(Kept):
        def write(self, result):
            hang.wait(30)

    with make().stream(minute, policy="latest", sinks=[Hangs(), sink]) as stream:
        for number, _ in enumerate(stream):
            if number == 5:
                break
        start = time.monotonic()
        stream.close()
        took = time.monotonic() - start
    hang.set()
    assert took < 3 and sink.closed == 1
    assert any("Hangs does not end" in record.message for record in caplog.records)


@pytest.mark.alone
def test_a_detector_that_is_busy_does_not_hold_up_the_end(make, minute) -> None:
    detector, sink = KnownDetector(seconds=4), Kept()
    for result in make(detector=detector).stream(minute, policy="latest", sinks=[sink]):
        start = time.monotonic()
        if result.time > 0.3:  # the detector has begun by then
            break
    gc.collect()
    assert time.monotonic() - start < 3.5 and sink.closed == 1 and threads() == ["fhrt-detect"]
    wait_for(lambda: not threads(), 10)
    assert detector.calls == 1


SCRIPT = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, signal.default_int_handler)  # what a shell starts in the background ignores it
sys.path[:0] = {path!r}
import fhrt.runtime
from known import KnownDetector, KnownEngine
from fhrt.hallucinator import Hallucinator

class Sink:
    def write(self, result):
        with open({folder!r} + "/written", "a") as file:
            file.write("x")
    def close(self):
        Path({folder!r}, "closed").write_text(str(time.monotonic()))

fhrt.runtime.load = lambda *args, **kwargs: KnownEngine()
for result in Hallucinator("known", detector=KnownDetector()).stream({clip!r}, policy="latest", sinks=[Sink()]):
    if result.number > 5:
        print("running", flush=True)
"""


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, -signal.SIGINT), (signal.SIGTERM, 128 + signal.SIGTERM)])
def test_signals_end_a_program_with_its_sinks_closed(tmp_path: Path, minute: Path, sent: signal.Signals, status: int) -> None:
    code = textwrap.dedent(SCRIPT).format(path=[str(Path(__file__).parent)], folder=str(tmp_path), clip=str(minute))
    process = subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "running\n"
        process.send_signal(sent)
        start = time.monotonic()
        _, errors = process.communicate(timeout=30)
        ended = time.monotonic()
    finally:
        process.kill()
    assert process.returncode == status, errors
    assert (tmp_path / "written").stat().st_size > 3
    assert float((tmp_path / "closed").read_text()) - start < 2
    assert ended - start < 4, "the program itself, with Python's own end"
    assert "terminate called" not in errors and errors.count("Traceback") == (sent is signal.SIGINT)


def test_a_stream_ends_when_nobody_reads_standard_output(minute: Path) -> None:
    command = [sys.executable, "-P", "-m", "fhrt", "stream", str(minute), "--policy", "latest", "-o", "-"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline().startswith("{")
        process.stdout.close()
        start = time.monotonic()
        assert process.stderr is not None
        told = process.stderr.read()
        assert process.wait(30) == 0 and time.monotonic() - start < 20  # the clip goes on for a minute
    finally:
        process.kill()
    assert re.fullmatch(r"\d+ frames with \d+ faces in [0-9.]+ s, \d+ dropped\n", told)


def test_other_outputs_go_on_when_nobody_reads_standard_output(clips, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "fhrt", "stream", str(clips[0]), "--log-json", "-o", "-", "-o", str(tmp_path / "a.jsonl")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.close()
        told = [json.loads(line) for line in process.stderr.read().splitlines()]
        assert process.wait(30) == 0
    finally:
        process.kill()
    assert {line["level"] for line in told} == {"info"} and re.fullmatch("40 frames with .* 0 dropped", told[-1]["message"])
    assert sum("nobody reads it any more" in line["message"] for line in told) == 1
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 40


def test_bad_options_are_refused_before_anything_starts(make, clips, tmp_path: Path) -> None:
    listed = tmp_path / "cameras.yaml"
    listed.write_text(f"cameras: {{a: {clips[0]}}}\n")
    wrong = [
        (clips[0], {"detect_every": 0}),
        (clips[0], {"fuse": 0}),
        (clips[0], {"max_wait": -1}),
        (clips[0], {"policy": "newest"}),
        (listed, {"policy": "all"}),
        ([], {}),
        (tmp_path / "none.mp4", {}),
    ]
    for source, options in wrong:
        with pytest.raises(BadInputError):
            make().stream(source, **options)
    assert not threads()


def test_a_list_of_cameras_is_kept_up_with(make, clips, minute, tmp_path: Path) -> None:
    listed = tmp_path / "cameras.yaml"
    listed.write_text(f"cameras:\n  hall: {{source: {minute}, policy: latest}}\n")
    seen: Counter[str] = Counter()
    with make().stream(listed) as stream:
        start = time.monotonic()
        for result in stream:
            seen[result.source] += 1
            if seen["hall"] == 5 and not seen["door"]:
                listed.write_text(f"cameras:\n  hall: {{source: {minute}, policy: latest}}\n  door: {clips[0]}\n")
            if seen["door"] == 40:
                break
            assert time.monotonic() - start < 30, seen
        assert {camera.name for camera in stream.cameras()} == {"hall", "door"}
    assert seen["door"] == 40 and seen["hall"] > 5


def test_a_list_of_files_ends_with_them(make, clips, tmp_path: Path) -> None:
    listed = tmp_path / "cameras.yaml"
    listed.write_text(f"cameras: {{a: {clips[0]}, b: {{source: {clips[1]}, policy: budget=5}}}}\n")
    found = by_source(make().stream(str(listed)))
    assert {name: [one.number for one in results] for name, results in found.items()} == {"a": list(range(40)), "b": list(range(40))}


def test_memory_stays_flat(make, minute) -> None:
    sizes = []
    process = psutil.Process()
    with make(detector=KnownDetector(4)).stream(minute, sinks=[_Forgets()]) as stream:
        for result in stream:
            if result.number % 100 == 99:
                sizes.append(process.memory_info().rss / 2**20)
            if result.number == 799:
                break
    assert len(sizes) == 8
    assert max(sizes[5:]) - max(sizes[2:5]) < 8, sizes


class _Forgets:
    def write(self, result):
        pass

    def close(self):
        pass


@pytest.mark.rtsp
@pytest.mark.alone
def test_a_dying_camera_stops_nobody_and_comes_back(make, units: Path, caplog) -> None:
    need_gst()
    with GstServer({"a": units}) as good, GstServer({"b": units}, login="viewer:hunter2") as dying:
        sources = [good.address("a"), dying.address("b", "viewer:hunter2")]
        results: defaultdict[str, list[float]] = defaultdict(list)
        with make().stream(sources) as stream, caplog.at_level(logging.INFO):

            def consume() -> None:
                for result in stream:
                    results[result.source].append(time.monotonic())

            reader = threading.Thread(target=consume)
            reader.start()
            names = [camera.name for camera in stream.cameras()]
            wait_for(lambda: all(len(results[name]) > 10 for name in names), 20)
            dying.kill()
            wait_for(lambda: stream.cameras()[1].state is State.OFFLINE, 10)
            killed, before = time.monotonic(), len(results[names[0]])
            time.sleep(1)
            assert len(results[names[0]]) - before > 10 and stream.cameras()[0].state is State.LIVE
            dying.start()
            wait_for(lambda: bool(results[names[1]]) and results[names[1]][-1] > killed + 1, 20)
            assert stream.cameras()[1].reconnects >= 1
            good.freeze()  # a camera that hangs
            start = time.monotonic()
            stream.close()
            assert time.monotonic() - start < 3
            good.thaw()
            reader.join(5)
            assert not reader.is_alive()
        said = " ".join([caplog.text, repr(stream.cameras()), *names])
        assert "hunter2" not in said and "offline" in said


def test_stream_is_what_hallucinator_makes(make, clips) -> None:
    assert isinstance(make().stream(clips[0]), Stream)
