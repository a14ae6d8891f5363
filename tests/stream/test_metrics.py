"""What a stream tells about itself: to Prometheus, on the screen, in the log."""

import io
import json
import logging
import re
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from clips import still, write_video
from known import Kept, KnownDetector
from rich.console import Console
from typer.testing import CliRunner

from fhrt.cli import app
from fhrt.errors import BadInputError
from fhrt.stream.command import follow, logging_to, status_table
from fhrt.stream.metrics import MetricsServer, exposed

LINE = re.compile(r'fhrt_[a-z]+_[a-z_]+(\{([a-z]+="(\\.|[^"\\])*",?)+\})? -?[0-9.e+-]+')


def test_metrics_tell_of_cameras_sinks_and_the_network(make, clips) -> None:
    with make(detector=KnownDetector(2)).stream(clips[:2], sinks=[Kept(fails=lambda result: result.number == 3), Kept()]) as stream:
        for _ in stream:
            pass
        lines = exposed(stream).splitlines()
    values = dict(line.rsplit(" ", 1) for line in lines if not line.startswith("#"))
    assert len(values) == sum(not line.startswith("#") for line in lines), "no sample is there twice"
    assert all(LINE.fullmatch(line) for line in lines if not line.startswith("#")), lines
    families = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(families) == len(set(families))
    for clip in map(str, clips[:2]):
        assert values[f'fhrt_camera_frames_total{{camera="{clip}"}}'] == "40"
        assert values[f'fhrt_sink_drops_total{{sink="Kept",camera="{clip}",cause="failed"}}'] == "1"
        for stage in ("decode", "wait", "convert", "detect", "track", "crop", "batch", "model", "assemble", "age"):
            for quantile in ("0.5", "0.95", "0.99"):
                assert float(values[f'fhrt_camera_stage_seconds{{camera="{clip}",stage="{stage}",quantile="{quantile}"}}']) >= 0
    assert (values['fhrt_sink_results_total{sink="Kept"}'], values["fhrt_network_faces_total"]) == ("78", "160")
    assert values['fhrt_sink_results_total{sink="Kept (2)"}'] == "80"
    assert (
        'fhrt_sink_write_seconds{sink="Kept",quantile="0.99"}' in values and 'fhrt_sink_age_seconds{sink="Kept",quantile="0.5"}' in values
    )


def test_metrics_are_served_while_the_stream_runs(make, clips) -> None:
    stream = make().stream(clips[0])
    with MetricsServer(stream, "0") as server:
        assert server.address.startswith("127.0.0.1:")
        list(stream)
        with urllib.request.urlopen(f"http://{server.address}/metrics", timeout=10) as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            served = answer.read().decode()
        assert f'fhrt_camera_frames_total{{camera="{clips[0]}"}} 40' in served.splitlines()
        with pytest.raises(urllib.error.HTTPError, match="404"):
            urllib.request.urlopen(f"http://{server.address}/secret", timeout=10)
        taken = server.address
        with pytest.raises(BadInputError, match="cannot serve metrics"):
            MetricsServer(stream, taken)
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"http://{taken}/metrics", timeout=10)


@pytest.mark.parametrize("address", ["http", "localhost", "99999", "1.2.3.4:", "no.such.host.invalid:0"])
def test_an_address_that_is_none_is_refused_in_one_line(make, clips, address: str) -> None:
    with pytest.raises(BadInputError, match=r"^[^\n]*metrics[^\n]*$"):
        MetricsServer(make().stream(clips[0]), address)


def test_no_password_is_told_to_anyone(make, capsys) -> None:
    class Hidden(Kept):
        name = "rtsp://viewer:hunter2@10.0.0.9/out"

    screen = io.StringIO()
    err = Console(file=screen, width=200)
    address = "rtsp://viewer:hunter2@127.0.0.1:9/live"  # nothing listens there
    sink = Hidden(fails=lambda result: True)
    with logging_to(err, as_json=True), make().stream(address, sinks=[sink]) as stream:
        logging.getLogger("fhrt.stream").warning("tried %s", address)
        while not stream.cameras()[0].reason:
            pass
        stream._sinks[0]._note(OSError(f"cannot reach {Hidden.name}"))
        err.print(status_table(stream))
        told = exposed(stream)
    told += screen.getvalue() + capsys.readouterr().err + repr(stream.cameras()) + repr(stream.sinks())
    assert "hunter2" not in told and "viewer" in told and "refused" in told


def test_follow_tells_what_came_of_it(make, clips) -> None:
    screen, said = io.StringIO(), []
    follow(make().stream(clips[0]), said.append, status=Console(file=screen, width=200, force_terminal=True), metrics="0")
    assert re.fullmatch(r"metrics at http://127\.0\.0\.1:\d+/metrics", said[0])
    assert re.fullmatch(r"40 frames with 40 faces in [0-9.]+ s, 0 dropped", said[1]) and len(said) == 2
    assert "camera" in screen.getvalue()


def test_the_command_runs_a_video_to_its_end(tmp_path) -> None:
    clip = write_video(tmp_path / "clip.mp4", 6, draw=still)
    done = CliRunner().invoke(app, ["stream", str(clip), "--fuse", "2", "--detect-every", "3", "--detector", "haar", "--log-json"])
    assert done.exit_code == 0, done.output
    assert done.stdout == "", "it is for outputs alone"
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert re.fullmatch(r"6 frames with \d+ faces in [0-9.]+ s, 0 dropped", lines[-1]["message"])
    done = CliRunner().invoke(app, ["stream", str(clip), "--detector", "haar"])
    assert done.exit_code == 0 and re.fullmatch(r"6 frames with \d+ faces in [0-9.]+ s, 0 dropped\n", done.stderr)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.mp4"], "does not exist"),
        (["{clip}", "--policy", "newest"], "policy must be"),
        (["{clip}", "--metrics", "metrics"], "PORT"),
        (["{clip}", "--paste", "2"], "--paste is about the pictures of a video; name one"),
        (["{clip}", "--paste", "2", "-o", "-"], "--paste is about the pictures of a video; name one"),
        (["{clip}", "-o", "rtsp://me:secret@a/b", "-o", "rtsp://me:secret@a/b"], "named twice as an output: rtsp://"),
    ],
)
def test_the_command_refuses_in_one_line(clips, arguments: list[str], said: str) -> None:
    done = CliRunner().invoke(app, ["stream", "--detector", "haar", *(one.format(clip=clips[0]) for one in arguments)])
    assert done.exit_code == 2 and said in done.stderr and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("arguments", [["--policy", "newest"], ["--metrics", "metrics"], ["-o", "faces.avi"]])
def test_a_mistyped_option_leaves_earlier_results_alone(clips, tmp_path, arguments: list[str]) -> None:
    (tmp_path / "a.jsonl").write_text("of an earlier run")
    done = CliRunner().invoke(app, ["stream", "--detector", "haar", str(clips[0]), "-o", str(tmp_path / "a.jsonl"), *arguments])
    assert done.exit_code == 2 and (tmp_path / "a.jsonl").read_text() == "of an earlier run"


@pytest.mark.parametrize(("raised", "code"), [("BadInputError('no such thing')", 2), ("ValueError('not ours')", 1)])
def test_every_line_of_a_json_log_is_json(raised: str, code: int, tmp_path: Path) -> None:
    program = f"""
import logging, os, sys, warnings
from pathlib import Path
from rich.console import Console
from fhrt.errors import BadInputError
from fhrt.stream.command import logging_to
with logging_to(Console(stderr=True), as_json=True) as say:
    logging.warning("of another library")
    warnings.warn("of Python")
    print("of a program", file=sys.stderr)
    os.system("echo of another process >&2")
    os.write(2, b"of C++, rtsp://u:hunter2@h/\\n\\n")
    say("of fhrt")
    raise {raised}
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    said = "\n".join(line["message"] for line in lines)
    assert done.returncode == code and "hunter2" not in done.stderr
    for part in ("another library", "of Python", "a program", "another process", "of C++", "of fhrt", raised.split("'")[1]):
        assert part in said
