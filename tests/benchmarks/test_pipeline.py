"""The benchmark of streams: that what it reports is what was there."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "video"))

from clips import still, write_video

from benchmarks import pipeline
from fhrt.hallucinator import Hallucinator


@pytest.fixture
def hallucinator() -> Hallucinator:
    return Hallucinator("lite", detector=pipeline.StubDetector(2, 0.001), threads=1)


@pytest.mark.alone
def test_cameras_are_counted(hallucinator: Hallucinator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WARMUP", 0.3)
    hallucinator.engine = pipeline.StubEngine(hallucinator.engine.card, 0.002)
    (row,) = pipeline.cameras(hallucinator, [2], 1.0, server=False, detect_every=5, fuse=2)
    assert row["cameras"] == 2 and row["from"] == "files"
    assert 5 < row["fps_least"] <= row["fps_mean"] < 30, "of 25, on a machine that does other things"
    assert row["faces_per_second"] > 10
    age, stages = row["age_ms"], row["stages_p99_ms"]
    assert 2 < age["p50"] <= age["p95"] <= age["p99"] <= age["max"] and stages["model"] >= 2
    assert {"decode", "track", "crop", "model", "age"} <= set(stages)
    assert row["cores"]["worker"] > 0 and 0 < row["worker_ms_per_frame"] < 200 and row["memory_mib"] > 10


def test_a_film_is_run_whole_and_its_parts_alone(hallucinator: Hallucinator, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", 20, draw=still)
    row = pipeline.overhead(hallucinator, clip, detect_every=5, fuse=1, runs=1)
    assert row["clip"] == "clip.mp4" and row["results"] == row["frames"] == 20 and row["faces"] == 40
    assert min(row["decode"], row["detect"], row["network"]) > 0
    assert row["left"] > -0.01  # seconds: a difference of times, and next to nothing on so short a clip
    assert row["share"] == pytest.approx(row["left"] / (row["decode"] + row["detect"] + row["network"]))
    assert isinstance(hallucinator.detector, pipeline.StubDetector), "given back"
    assert row["real_time"]["wall"] > 0.7 and 0 < row["real_time"]["results"] <= 20
