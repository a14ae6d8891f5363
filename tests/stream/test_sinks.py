"""Sinks as the pipeline uses them: results of several sources in turns, and everything read back from where they went."""

import json
import os
import subprocess
import sys
import textwrap
import threading
from importlib import resources
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from clips import with_tone, write_video
from servers import GstServer, need_gst, wait_for

from fhrt import Hallucinator
from fhrt.errors import BadInputError, OutputError
from fhrt.faces.inputs import swap_channels
from fhrt.results import Face, Result
from fhrt.stream import BestShots, Callback, JsonLines, RtspOut, VideoFile, open_sink
from fhrt.stream.command import open_sinks
from fhrt.stream.view import PAD, SIDE, TILE, View
from fhrt.video import Reader, State


def flat(value: Any, side: int) -> Any:
    return np.full((side, side, 3), value, np.uint8)


def face(track: int | None, width: float = 20, quality: float | None = 0.5, grey: Any = 100, score: float = 0.9) -> Face:
    transform = np.array([[0.2, 0, 8], [0, 0.2, 8]], np.float32)
    return Face((8, 8, 8 + width, 8 + width), score, flat(grey, 16), flat(grey, 128), transform, track, None, quality)


def result(
    number: int, *faces: Face, source: str = "door", tracks: Any = None, size: tuple[int, int] = (320, 240), grey: int = 60
) -> Result:
    frame = np.full((size[1], size[0], 3), grey, np.uint8)
    ids = [one.track_id for one in faces if one.track_id is not None] if tracks is None else tracks
    return Result(frame, list(faces), {"total": 1.5}, source=source, number=number, time=number / 25, track_ids=ids, latency=0.02)


def read(path: Path) -> list[Any]:
    with av.open(path) as container:
        return [frame.to_ndarray(format="bgr24") for frame in container.decode(video=0)]


def place(picture: Any, number: int) -> Any:
    """The SR face in a place of a view's strip."""
    left = PAD + number * (TILE + PAD) + SIDE // 2
    return picture[-PAD - SIDE : -PAD, left : left + SIDE]


# --- what a viewer sees ---


def test_a_face_keeps_its_place_until_its_track_ends() -> None:
    view = View()
    assert place(view.draw(result(0, face(1, 20, grey=100))), 0).mean() == 100
    both = view.draw(result(1, face(2, 40, grey=200), face(1, 20, grey=110)))
    assert place(both, 0).mean() == 110 and place(both, 1).mean() == 200  # although the new one is larger
    unseen = view.draw(result(2, face(2, 40, grey=200), tracks=[1, 2]))
    assert place(unseen, 0).mean() == 110  # as last seen
    ended = view.draw(result(3, face(2, 40, grey=200), face(3, 10, grey=50)))
    assert place(ended, 0).mean() == 50 and place(ended, 1).mean() == 200


def test_a_view_keeps_its_size_and_shows_the_largest() -> None:
    view = View()
    crowd = [face(None, width, grey=int(width)) for width in range(10, 40)]
    shapes = {view.draw(result(0, *faces)).shape for faces in ([], crowd, crowd[:1], [face(5)])}
    assert shapes == {(960 + SIDE + 2 * PAD, 1280, 3)}  # 320×240 four times enlarged
    tracked = [face(track, width, grey=int(width)) for track, width in enumerate(range(10, 40))]
    for faces in (crowd, tracked):
        picture = view.draw(result(1, *faces))
        assert [place(picture, number).mean() for number in range((1280 - PAD) // (TILE + PAD))] == [39, 38, 37, 36, 35, 34]


def test_channels_are_told_apart() -> None:
    bgr = result(0, face(1, grey=(10, 100, 200)))
    bgr.frame[:] = (200, 20, 90)
    rgb = Result(swap_channels(bgr.frame), [face(1, grey=(200, 100, 10))], {}, "rgb", track_ids=[1])
    assert np.array_equal(View().draw(bgr), View().draw(rgb))
    assert place(View().draw(bgr), 0)[0, 0].tolist() == [10, 100, 200]


def test_faces_at_the_edge_and_in_tiny_or_narrow_frames_are_drawn() -> None:
    for size in ((16, 16), (33, 700), (1921, 31)):
        outside = face(1)
        outside.box = (-5, -5, size[0] + 5, size[1] + 5)
        assert View().draw(result(0, outside, size=size)).ndim == 3
    assert View().draw(result(0, size=(1, 500))).shape[:2] == (500 * 8 + 160, 8)  # not 1280 times as high


def test_192_pixels_of_sr_fit_in() -> None:
    large = face(1)
    large.sr, large.lr = flat(150, 192), flat(150, 24)
    assert place(View().draw(result(0, large)), 0).mean() == 150


# --- video files ---


def test_what_a_real_run_found_is_in_the_video(tmp_path: Path) -> None:
    with resources.as_file(resources.files("fhrt") / "assets" / "crowd.png") as crowd:
        found = Hallucinator("lite").run(crowd)
    for number, one in enumerate(found.faces):
        one.track_id = number + 1
    found.track_ids = [number + 1 for number in range(len(found.faces))]
    assert found.faces
    for paste, expected in ((None, View().draw(found)), (2, found.paste(2))):
        sink = VideoFile(tmp_path / "a.mp4", paste=paste)
        for number in range(3):
            found.time = number / 25
            sink.write(found)
        sink.close()
        height, width = expected.shape[:2]
        seen = read(tmp_path / "a.mp4")[2][:height, :width]
        assert cv2.PSNR(seen, expected) > 30


def test_a_file_per_source(tmp_path: Path) -> None:
    sink = open_sink(str(tmp_path / "x-{source}.mp4"), sources=["door", "hall"])
    names = ["door", "/videos/clip 1.mp4", "/other/clip 1.mp4", "rtsp://10.0.0.7:554/a/b", "Türe/../.."]
    for number in range(4):
        for index, source in enumerate(names):
            sink.write(result(number, source=source, grey=40 * index + 20))
    sink.close()
    sink.close()
    files = ["x-door", "x-clip_1", "x-clip_1-2", "x-10.0.0.7_554_a_b", "x-source"]
    assert {path.name for path in tmp_path.iterdir()} == {f"{name}.mp4" for name in files}
    for index, name in enumerate(files):
        pictures = read(tmp_path / f"{name}.mp4")
        assert len(pictures) == 4 and pictures[3][100, 100].mean() == pytest.approx(40 * index + 20, abs=4)


def test_a_second_source_into_one_file_is_refused_and_harms_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"can hold one source only; write .*a-\{source\}\.mp4 for one each"):
        open_sink(str(tmp_path / "a.mp4"), sources=["door", "hall"])
    sink = VideoFile(tmp_path / "a.mp4")
    sink.write(result(0))
    with pytest.raises(BadInputError, match="can hold one source only"):
        sink.write(result(0, source="hall"))
    sink.write(result(1))
    sink.close()
    assert len(read(tmp_path / "a.mp4")) == 2
    with pytest.raises(BadInputError, match="is closed"):
        sink.write(result(2))


def test_one_file_that_fails_does_not_keep_the_others_open(tmp_path: Path) -> None:
    sink = VideoFile(tmp_path / "{source}.mp4")
    for source in ("door", "hall"):
        sink.write(result(0, source=source))
    (tmp_path / "door.mp4").mkdir()
    (tmp_path / "door.mp4" / "in the way").touch()
    with pytest.raises(OutputError, match=r"cannot write .*door\.mp4: .*; what was written until then is in .*door\.partial\.mp4"):
        sink.close()
    assert len(read(tmp_path / "hall.mp4")) == len(read(tmp_path / "door.partial.mp4")) == 1


def test_a_file_source_brings_its_times_and_its_audio(tmp_path: Path) -> None:
    clip = with_tone(write_video(tmp_path / "silent.mp4", 30), tmp_path / "clip.mp4")
    sink = open_sink(str(tmp_path / "a.mp4"))
    with Reader(str(clip)) as reader:
        for frame in reader:
            sink.write(Result(frame.image, [], {}, source=frame.source, number=frame.number, time=frame.time))
    sink.close()

    def packets(path: Path, kind: str) -> list[Any]:
        with av.open(path) as container:
            return [
                (float(one.pts * one.time_base), bytes(one) if kind == "audio" else b"") for one in container.demux(**{kind: 0}) if one.size
            ]

    assert packets(tmp_path / "a.mp4", "audio") == packets(clip, "audio")
    assert packets(tmp_path / "a.mp4", "video") == packets(clip, "video")
    with pytest.raises(BadInputError, match="is the video that is read"):
        VideoFile(clip).write(result(0, source=str(clip)))


def test_an_enlargement_beyond_what_h264_holds_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Result, "paste", lambda *_: pytest.fail("it would take gigabytes"))
    with pytest.raises(BadInputError, match=r"a picture of 32000×24000 pixels is too large for H\.264, which takes 16384 a side"):
        VideoFile(tmp_path / "a.mp4", paste=100).write(result(0))
    assert list(tmp_path.iterdir()) == []


# --- pictures of faces ---


def test_the_best_picture_of_each_track_is_kept(tmp_path: Path) -> None:
    sink = BestShots(tmp_path / "best")
    (tmp_path / "best" / "door-000002.png").write_bytes(b"of an earlier run")
    sink.write(result(0, face(1, quality=0.2, grey=50), face(2, quality=0.9, grey=(10, 90, 200))))
    sink.write(result(1, face(1, quality=0.8, grey=60), source="hall"))
    sink.write(result(2, face(1, quality=0.7, grey=70), face(2, quality=0.3, grey=20)))
    sink.write(result(3, face(1, quality=0.5, grey=80), tracks=[1, 2]))
    assert sorted(path.name for path in sink.folder.glob("*-lr.png")) == []
    sink.write(result(4, tracks=[1]))  # the second ended
    assert sorted(path.name for path in sink.folder.glob("*-lr.png")) == ["door-000002-2-lr.png"]
    sink.close()
    sink.close()
    lines = [json.loads(line) for line in (sink.folder / "index.jsonl").read_text().splitlines()]
    assert [(line["file"], line["source"], line["track_id"], line["time"], line["quality"], line["score"]) for line in lines] == [
        ("door-000002-2.png", "door", 2, 0, 0.9, 0.9),
        ("door-000001.png", "door", 1, 0.08, 0.7, 0.9),
        ("hall-000001.png", "hall", 1, 0.04, 0.8, 0.9),
    ]
    assert lines[0]["box"] == [8, 8, 28, 28]
    for name, grey in (("door-000002-2", (10, 90, 200)), ("door-000001", 70), ("hall-000001", 60)):
        assert np.array_equal(cv2.imread(str(sink.folder / f"{name}.png")), flat(grey, 128))
        assert np.array_equal(cv2.imread(str(sink.folder / f"{name}-lr.png")), flat(grey, 16))
    assert (sink.folder / "door-000002.png").read_bytes() == b"of an earlier run"


def test_an_lr_picture_of_an_earlier_run_stays_too(tmp_path: Path) -> None:
    (tmp_path / "door-000001-lr.png").write_bytes(b"of an earlier run")
    sink = BestShots(tmp_path)
    sink.write(result(0, face(1)))
    sink.close()
    assert (tmp_path / "door-000001-lr.png").read_bytes() == b"of an earlier run"
    assert names_in(tmp_path) == ["door-000001-2-lr.png", "door-000001-2.png", "door-000001-lr.png", "index.jsonl"]


def test_without_a_quality_the_score_decides_and_without_a_track_nothing_is_kept(tmp_path: Path) -> None:
    sink = BestShots(tmp_path)
    for number, score in enumerate((0.5, 0.9, 0.7)):
        rgb = result(number, face(3, quality=None, score=score, grey=(number, 0, 100)), face(None))
        rgb.color = "rgb"
        sink.write(rgb)
    sink.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["door-000003-lr.png", "door-000003.png", "index.jsonl"]
    assert cv2.imread(str(tmp_path / "door-000003.png"))[0, 0].tolist() == [100, 0, 1]


def test_a_shot_holds_no_batch_in_memory(tmp_path: Path) -> None:
    sink = BestShots(tmp_path)
    batch = np.zeros((32, 128, 128, 3), np.uint8)
    one = face(1)
    one.sr = batch[0]
    sink.write(result(0, one))
    assert sink._best["door"][1].face.sr.base is None
    sink.close()


def test_a_folder_of_shots_that_goes(tmp_path: Path) -> None:
    sink = BestShots(tmp_path / "best")
    sink.write(result(0, face(1)))
    (tmp_path / "best" / "index.jsonl").unlink()
    (tmp_path / "best").rmdir()
    with pytest.raises(OutputError, match=r"cannot write .*door-000001-lr\.png: No such file"):
        sink.close()
    sink.close()


# --- JSON lines ---


def test_each_line_is_there_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("of an earlier run")
    sink = open_sink(str(path))
    for number in range(3):
        sink.write(result(number, face(7, score=np.float32(0.5)), face(None, quality=None), source=f"Tür {number % 2}"))
        assert len(path.read_text().splitlines()) == number + 1
    sink.close()
    sink.close()
    first = json.loads(path.read_text().splitlines()[2])
    assert list(first) == ["source", "number", "time", "latency", "faces", "timings"]
    assert first | {"faces": []} == {"source": "Tür 0", "number": 2, "time": 0.08, "latency": 0.02, "faces": [], "timings": {"total": 1.5}}
    transform = [[pytest.approx(0.2), 0, 8], [0, pytest.approx(0.2), 8]]
    assert first["faces"] == [
        {"track_id": 7, "box": [8, 8, 28, 28], "score": 0.5, "quality": 0.5, "transform": transform},
        {"track_id": None, "box": [8, 8, 28, 28], "score": 0.9, "quality": None, "transform": transform},
    ]
    with pytest.raises(BadInputError, match="is closed"):
        sink.write(result(3))


def test_a_name_that_is_not_utf8_comes_back(tmp_path: Path) -> None:
    source = os.fsdecode(b"s\xff \xc3\xbc.mp4")
    for named in ("a.jsonl", "best/"):
        sink = open_sink(f"{tmp_path}/{named}")
        sink.write(result(0, face(1), source=source))
        sink.close()
    for lines in (tmp_path / "a.jsonl", tmp_path / "best" / "index.jsonl"):
        assert json.loads(lines.read_text(encoding="utf-8"))["source"] == source


def test_an_earlier_file_stays_until_the_first_line_or_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("of an earlier run")
    sink = JsonLines(path)
    assert path.read_text() == "of an earlier run"
    sink.close()
    sink.close()
    assert path.read_text() == ""
    with pytest.raises(BadInputError, match="is closed"):
        sink.write(result(0))


def test_a_folder_of_lines_that_goes(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    sink = JsonLines(tmp_path / "folder" / "a.jsonl")
    (tmp_path / "folder").rmdir()
    for use in (lambda: sink.write(result(0)), sink.close):
        with pytest.raises(OutputError, match=r"cannot write .*a\.jsonl: No such file"):
            use()


def test_a_named_pipe(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    os.mkfifo(path)
    read: list[str] = []
    reader = threading.Thread(target=lambda: read.append(path.read_text()), daemon=True)
    reader.start()
    sink = JsonLines(path)
    sink.write(result(5))
    sink.close()
    reader.join(10)
    assert [json.loads(text)["number"] for text in read] == [5]


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    sink = open_sink("-")
    sink.write(result(5))
    sink.close()
    assert json.loads(capfd.readouterr().out)["number"] == 5
    print("still open")
    assert capfd.readouterr().out == "still open\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_said() -> None:
    with pytest.raises(OutputError, match="cannot write /dev/full: No space left on device"):
        JsonLines("/dev/full").write(result(0))


def test_a_disk_that_fills_up_leaves_whole_lines(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk: it takes a part of the last line, too."""
    code = """
        import resource, sys
        import numpy as np
        from fhrt.results import Result
        from fhrt.stream import JsonLines
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        sink = JsonLines(sys.argv[1])
        for number in range(100):
            sink.write(Result(np.zeros((2, 2, 3), np.uint8), [], {}, number=number))
    """
    path = tmp_path / "a.jsonl"
    done = subprocess.run([sys.executable, "-P", "-c", textwrap.dedent(code), str(path)], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1] == f"fhrt.errors.OutputError: cannot write {path}: File too large"
    text = path.read_text()
    assert text.endswith("}\n") and 800 < len(text) < 1000
    assert [json.loads(line)["number"] for line in text.splitlines()] == list(range(len(text.splitlines())))


# --- the rest ---


def test_a_function_gets_every_result() -> None:
    got: list[Result] = []
    sink, one = Callback(got.append), result(0)
    sink.write(one)
    sink.close()
    assert got == [one] and sink.name == "append"


def test_sinks_by_name(tmp_path: Path) -> None:
    (tmp_path / "folder.mp4").mkdir()
    for named, kind in (
        ("a.mp4", VideoFile),
        ("a.MKV", VideoFile),
        ("a.jsonl", JsonLines),
        ("new/", BestShots),
        ("new", BestShots),  # by now
        ("folder.mp4", BestShots),
    ):
        sink = open_sink(f"{tmp_path}/{named}")
        sink.close()
        assert type(sink) is kind and sink.name.startswith(str(tmp_path))
    out = open_sink("rtsp://u:hunter2@127.0.0.1:9/{source}", sources=["a", "b"])
    out.close()
    assert type(out) is RtspOut and out.name == "rtsp://u:***@127.0.0.1:9/{source}"


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ("a.avi", "is no place for results: name a video"),
        ("", "is no place for results"),
        ("missing/a.mp4", "the folder .*missing does not exist"),
        ("missing/a.jsonl", "the folder .*missing does not exist"),
        ("missing/new/", "cannot make the folder .*new: No such file or directory"),
        ("file/", "cannot make the folder .*file: File exists"),
        ("{source}.jsonl", "JSON lines hold all sources in one file; leave {source} out"),
        ("{source}/", "a folder holds the best pictures of all sources; leave {source} out"),
    ],
)
def test_what_cannot_be_written_is_refused_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    with pytest.raises(BadInputError, match=message):
        open_sink(named)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("named", "sources", "message"),
    [
        ("http://u:hunter2@host/x", (), "is no address of an RTSP server"),
        ("rtsp://u:hunter2@host/x", ("a", "b"), r"write rtsp://u:\*\*\*@host/x/\{source\} for one each"),
    ],
)
def test_passwords_are_in_no_refusal(named: str, sources: tuple[str, ...], message: str) -> None:
    with pytest.raises(BadInputError, match=message) as caught:
        open_sink(named, sources=sources)
    assert "hunter2" not in str(caught.value)


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_no_output_is_a_file_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "cam-a.mp4", "faces.jsonl", "1.png"):  # what is named as a file counts as a video, whatever its ending
        Path(name).write_text("a recording")
    Path("link.jsonl").symlink_to("a.mp4")
    Path("cameras.yaml").write_text("cameras: {hall: a.mp4}")
    before = names_in(tmp_path)
    for sources, output in (
        (["a.mp4", "cam-a.mp4"], "cam-{source}.mp4"),
        ("*.mp4", "./cam-{source}.mp4"),
        ("a.mp4", str(tmp_path / "a.mp4")),
        ("a.mp4", "link.jsonl"),
        ("faces.jsonl", "faces.jsonl"),
        ("cameras.yaml", "a.mp4"),
    ):
        with pytest.raises(BadInputError, match="is a file that is read; name another one to write"):
            open_sinks(["new/", output], sources, None)
    assert names_in(tmp_path) == before and Path("a.mp4").read_text() == Path("cam-a.mp4").read_text() == "a recording"


def test_a_file_per_source_spares_the_files_of_the_others(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "x-door.mp4", 3)
    recorded = clip.read_bytes()
    sink = VideoFile(tmp_path / "x-{source}.mp4")
    sink.write(result(0, source=str(clip)))
    with pytest.raises(BadInputError, match=r"x-door\.mp4 is a file that is read"):
        sink.write(result(0))
    sink.close()
    assert clip.read_bytes() == recorded and names_in(tmp_path) == ["x-door.mp4", "x-x-door.mp4"]


@pytest.mark.parametrize(
    "outputs",
    [
        ("d.jsonl", "./d.jsonl"),
        ("t.mp4", "folder/../t.mp4"),
        ("t.mp4", "link.mp4"),
        ("x-a.mp4", "x-{source}.mp4"),
        ("new/", "new"),
        ("folder", "folder/index.jsonl"),
        ("-", "-"),
    ],
)
def test_no_two_outputs_are_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outputs: tuple[str, str]) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.mp4").touch()
    Path("folder").mkdir()
    Path("link.mp4").symlink_to("t.mp4")
    before = names_in(tmp_path)
    for named in (outputs, outputs[::-1]):
        with pytest.raises(BadInputError, match="named twice as an output: "):
            open_sinks(named, "a.mp4", None)
    assert names_in(tmp_path) == before and not any(Path("folder").iterdir())


def test_outputs_that_only_look_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.mp4", "b.mp4"):
        Path(name).touch()
    for sink in open_sinks(["x-{source}.mp4", "y-{source}.mp4", "x.jsonl", "x/", "-", "rtsp://host/{source}"], ["a.mp4", "b.mp4"], None):
        sink.close()


@pytest.mark.parametrize("paste", [0, -1, 1.5])
def test_an_enlargement_must_be_a_whole_number(tmp_path: Path, paste: Any) -> None:
    with pytest.raises(BadInputError, match="paste must be a whole number from 1 on"):
        VideoFile(tmp_path / "a.mp4", paste=paste)


def test_a_stream_out_to_nobody_is_told_in_the_end() -> None:
    out = RtspOut("rtsp://u:hunter2@127.0.0.1:9/{source}")
    for number in range(3):
        for source in ("door", "hall"):
            out.write(result(number, source=source))
    assert {push.health.name for push in out.pushes.values()} == {f"to rtsp://u:***@127.0.0.1:9/{name}" for name in ("door", "hall")}
    wait_for(lambda: all(push.problem == "Connection refused" for push in out.pushes.values()), 10)
    with pytest.raises(OutputError) as caught:
        out.close()
    assert str(caught.value) == "rtsp://u:***@127.0.0.1:9/door takes nothing: Connection refused (and 1 more)"
    out.close()
    with pytest.raises(BadInputError, match="is closed"):
        out.write(result(4))


@pytest.mark.rtsp
@pytest.mark.alone
def test_a_stream_out_that_is_live_in_the_end_is_no_problem(tmp_path: Path) -> None:
    need_gst()
    with GstServer({"out": tmp_path / "out.h264"}) as server:
        out = RtspOut(server.address("out"))
        out.write(result(0))
        wait_for(lambda: out.pushes["door"].health.state is State.LIVE, 20)
        out.close()
