"""``fhrt bench``: what is measured is what happened, and what cannot be measured is refused."""

import json
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fhrt import bench
from fhrt.cli import app
from fhrt.errors import BackendError, BadInputError


def test_lite_is_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "measure_processor", lambda: bench.Processor(gflops=100.0, gb_per_s=10.0))
    (speed,) = bench.measure(["lite"], ["onnxruntime"], batches=(1, 4), seconds=0.05)
    assert (speed.model, speed.backend, speed.precision) == ("lite", "onnxruntime", "fp32")
    assert 0 < speed.latency["p50"] <= speed.latency["p95"] <= speed.latency["p99"]
    assert set(speed.per_face) == {1, 4} and speed.cold_start > speed.latency["p50"]
    assert speed.floor == pytest.approx(13.2, abs=0.1)  # 1.32 GFLOP at 100 GFLOP/s
    assert speed.share == pytest.approx(13.2 / min(speed.per_face.values()), rel=0.01)


def test_times_are_those_of_the_calls() -> None:
    class Engine:
        class card:
            input_size = (16, 16)

        def run(self, lr: object) -> None:
            time.sleep(0.01)

    times = bench._times(Engine(), 1, 0.05)  # type: ignore[arg-type]
    assert len(times) >= bench.LEAST_CALLS and 10 <= sorted(times)[len(times) // 2] < 20


def test_the_processor_is_measured() -> None:
    found = bench.measure_processor()
    assert 1 < found.gflops < 1e5 and 0.5 < found.gb_per_s < 1e4


def test_refusals() -> None:
    with pytest.raises(BadInputError, match="at least 1"):
        next(bench.measure(["lite"], batches=()))
    with pytest.raises(BackendError, match="abacus"):
        next(bench.measure(["lite"], ["abacus"]))


def test_the_command_writes_json_and_a_chart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "SECONDS", 0.05)
    files = {"--json": tmp_path / "speed.json", "--chart": tmp_path / "speed.png"}
    options = [part for option, file in files.items() for part in (option, str(file))]
    done = CliRunner().invoke(app, ["bench", "lite", "--backend", "onnxruntime", "--batch", "1", "--batch", "2", *options])
    assert done.exit_code == 0, done.output
    assert "lite" in done.stdout and "30 ms on a Titan Xp" in " ".join(done.stdout.split())
    report = json.loads(files["--json"].read_text())
    assert set(report["rows"][0]["per_face"]) == {"1", "2"} and report["machine"]["cores"] >= 1
    assert files["--chart"].read_bytes().startswith(b"\x89PNG")
