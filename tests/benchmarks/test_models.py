"""What the model benchmarks report: peers beside engines, TensorRT's check rehearsed, bad wishes refused."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from benchmarks import engines, models
from benchmarks.__main__ import app
from fhrt.runtime import ort
from fhrt.runtime.bundle import open_bundle


def test_peers_take_turns_with_the_engine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models.timing, "PAUSE", 0.0)
    report = tmp_path / "model.json"
    arguments = ["model", "lite", "--backend", "onnxruntime", "--batch", "2", "--runs", "2", "--warmup", "0", "--threads", "1"]
    peers = ["--peer", "eager", "--peer", "onnxruntime-cuda"]
    done = CliRunner().invoke(app, [*arguments, "--device", "cpu", *peers, "--json", str(report)])
    assert done.exit_code in (0, 1), done.output  # 1: a busy machine's engine was slower than its session
    (row,) = json.loads(report.read_text())["rows"]
    assert row["batch"] == 2 and row["backend"] == "onnxruntime"
    assert 0 < row["peers"]["eager"]["median"] <= row["peers"]["eager"]["p99"]
    assert "no device 'cpu'" in row["peers"]["onnxruntime-cuda"]
    assert row["ratio_to_peers"]["eager"] > 0 and row["ratio"] > 0
    wrong = CliRunner().invoke(app, [*arguments, "--peer", "caffe"])
    assert wrong.exit_code == 2 and "there is no peer caffe" in wrong.output


@pytest.mark.slow
def test_torch_compile_is_a_peer(tmp_path: Path) -> None:
    """max-autotune compiles for a minute, with the compiler that is here; in random weights, which take as long."""
    report = tmp_path / "model.json"
    arguments = ["model", "lite", "--backend", "torch", "--precision", "fp32", "--batch", "1", "--runs", "2", "--warmup", "1"]
    peers = ["--peer", "eager", "--peer", "compile"]
    done = CliRunner().invoke(app, [*arguments, "--threads", "1", "--device", "cpu", *peers, "--json", str(report)])
    assert done.exit_code in (0, 1), done.output
    (row,) = json.loads(report.read_text())["rows"]
    assert row["backend"] == "torch" and all(row["peers"][peer]["median"] > 0 for peer in ("eager", "compile")), row["peers"]
    assert row["ratio_to_peers"].keys() == {"eager", "compile"} and all(value > 0 for value in row["ratio_to_peers"].values())


def test_engines_rehearsed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut and whole give what ONNX Runtime gives; the whole graph has nothing left to cut."""
    monkeypatch.setattr(engines.timing, "PAUSE", 0.0)
    rows = engines.measure("lite", "fp16", (1, 2), 1, rehearse=True)
    assert [row["precision"] for row in rows] == ["fp32, cut", "fp32, whole"]
    for row in rows:
        assert [each["batch"] for each in row["batches"]] == [1, 2]
        assert all(each["parity_db"] > row["aim_db"] and each["ms_per_face"]["median"] > 0 for each in row["batches"])
    from fhrt.runtime.plan import Segment, cut

    with engines.without_functions(open_bundle("lite")) as bundle:
        plan = cut(bundle)
        assert len(plan.steps) == 1 and isinstance(plan.steps[0], Segment)


def test_a_plan_that_fails_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise engines.BackendError("no memory")

    monkeypatch.setattr(ort, "open_cpu", fail)
    assert [row["error"] for row in engines.measure("lite", "fp16", (1,), 1, rehearse=True)] == ["no memory"] * 2
