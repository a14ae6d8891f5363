"""``fhrt bench``: what is measured is what happened, and what cannot be measured is refused."""

import json
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from typer.testing import CliRunner

from fhrt import bench
from fhrt.cli import app
from fhrt.errors import BackendError, BadInputError
from fhrt.runtime.bundle import SHIPPED, read_card


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


class OnDevice:
    """What `load` gives for a device, as far as the bench looks at it."""

    card = read_card(SHIPPED / "lite")
    backend, precision, build_seconds = "tensorrt", "fp16", 95.0
    array_library = SimpleNamespace(place="cuda:1")

    def run(self, lr: object) -> None:
        time.sleep(0.001)


def test_a_device_has_a_floor_in_its_engines_precision(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, str]] = []

    def measured(index: int, precision: str) -> bench.Processor:
        asked.append((index, precision))
        return bench.Processor(gflops=1e3, gb_per_s=1e-2)

    monkeypatch.setattr(bench, "measure_device", measured)
    monkeypatch.setattr(bench, "load", lambda *args, **options: OnDevice())
    speeds = list(bench.measure(["lite", "lite"], device="cuda:1", batches=(1, 4), seconds=0.01))
    assert asked == [(1, "fp16")]  # measured once
    weights_read = 1000 * 2e-9 * OnDevice.card.parameters / 1e-2 / 4
    for speed in speeds:
        assert speed.floor == pytest.approx(weights_read) and weights_read > 1000 * OnDevice.card.gflops / 1e3
        assert speed.share == pytest.approx(weights_read / min(speed.per_face.values())) and speed.build == 95
    bound_by_operations = bench._floor(OnDevice.card, bench.Processor(1e3, 1e6), 4, "int8")
    assert bound_by_operations == pytest.approx(OnDevice.card.gflops)


def test_the_rates_of_a_device_are_those_of_its_work(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {"multiply": 2e-3, "copy": 4e-4}
    monkeypatch.setattr(bench, "_work_of_torch", lambda index, precision: ("multiply", "copy"))
    monkeypatch.setattr(bench, "_best", seconds.__getitem__)
    found = bench.measure_device(0, "fp16")
    assert found.gflops == pytest.approx(2 * 8192**3 / 2e-3 / 1e9) and found.gb_per_s == pytest.approx(2 * 2**29 / 4e-4 / 1e9)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_without_a_device_there_is_an_error_and_no_floor(
    precision: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(BackendError, match=r"measured with torch"):
        bench.measure_device(0, precision)
    monkeypatch.setattr(bench, "load", lambda *args, **options: OnDevice())
    monkeypatch.setattr(OnDevice, "precision", precision)
    (speed,) = bench.measure(["lite"], device="cuda", batches=(1,), seconds=0.01)
    assert speed.floor is None and speed.share is None and "no floor: " in caplog.text


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_a_device_is_measured(precision: str) -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    found = bench.measure_device(0, precision)
    assert 1e3 < found.gflops < 1e7 and 50 < found.gb_per_s < 2e4


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
