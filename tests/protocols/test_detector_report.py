"""Scoring detectors on a made-up archive: figures known beforehand, in the tables, the numbers and the pictures."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from archives import write_frames
from numpy.typing import NDArray
from typer.testing import CliRunner

from fhrt.cli import app
from fhrt.errors import BadInputError
from fhrt.faces.detect import Detection
from fhrt.protocols import detector_report
from fhrt.protocols import detectors as scoring
from fhrt.protocols.detector_report import FALSE, FOUND, IGNORED, MISSED, by_size, overview, summarise, write_detector_report
from fhrt.protocols.detectors import DetectorScore, create_detectors, score_detectors

# x, y, w, h: of 10, 20 and 40 pixels, and one of 5 that does not count.
FACES = [[10, 10, 10, 10], [40, 10, 16, 25], [10, 50, 40, 40], [90, 90, 5, 5]]
WRONG = (70.0, 70.0, 90.0, 90.0)
PHOTOGRAPHS = 20


class Known:
    """Finds what it is told to in each photograph, by its first pixel; nothing in pictures of another size."""

    def __init__(self, detections: Callable[[int], list[Detection]]) -> None:
        self.detections, self.sizes = detections, []

    def detect(self, frame_bgr: NDArray[np.uint8]) -> list[Detection]:
        self.sizes.append(frame_bgr.shape[1::-1])
        return self.detections(int(frame_bgr[0, 0, 0])) if frame_bgr.shape[:2] == (100, 120) else []


def face(index: int, score: float) -> Detection:
    x, y, width, height = FACES[index]
    return Detection((x + 1, y, x + width, y + height), score)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    pictures = [np.full((100, 120, 3), number, np.uint8) for number in range(PHOTOGRAPHS)]
    write_frames(folder, "test", [(picture, FACES) for picture in pictures])
    return folder


@pytest.fixture
def scores(data: Path, monkeypatch: pytest.MonkeyPatch) -> list[DetectorScore]:
    monkeypatch.setattr(scoring, "FRAMES", ((64, 48),))
    monkeypatch.setattr(detector_report, "SHEET_WIDTH", 240)
    # Both find the large face everywhere. One finds the small ones in every second photograph too, and is wrong everywhere, less surely.
    good = Known(lambda number: [face(2, 0.9), *([face(0, 0.8), face(1, 0.8), face(3, 0.8)] if number % 2 else []), Detection(WRONG, 0.3)])
    poor = Known(lambda number: [face(2, 0.5)])
    seen: list[tuple[int, int]] = []
    scores = score_detectors({"good one": good, "poor": poor}, data, progress=lambda *at: seen.append(at))
    assert good.sizes == poor.sizes and good.sizes.count((64, 48)) == scoring.TIMED
    assert seen[0] == (1, PHOTOGRAPHS + scoring.TIMED) and seen[-1] == (PHOTOGRAPHS + scoring.TIMED,) * 2
    return scores


def test_figures_by_size(scores: list[DetectorScore]) -> None:
    good, poor = (summarise(score) for score in scores)
    sizes = {one["size"]: one for one in good["sizes"]}
    assert {name: one["faces"] for name, one in sizes.items()} == {
        "all": 60, "8–12": 20, "12–16": 0, "16–24": 20, "24–32": 0, "32–64": 20, "from 64": 0,
    }  # fmt: skip
    assert sizes["32–64"]["ap"] == {"value": 1, "low": 1, "high": 1}
    assert sizes["8–12"]["ap"]["value"] == 0.5 and 0.2 < sizes["8–12"]["ap"]["low"] < 0.5 < sizes["8–12"]["ap"]["high"] < 0.8
    assert sizes["12–16"]["ap"]["value"] is None and sizes["12–16"]["recall"]["1"]["value"] is None
    assert sizes["all"]["ap"]["value"] == pytest.approx(40 / 60)  # two thirds are found before the first error
    assert sizes["all"]["recall"]["0.5"]["value"] == pytest.approx(40 / 60) and good["score_at"] == {"0.1": 0.8, "0.5": 0.8, "1": 0.3}
    assert good["false_positives"] == {"value": 1, "low": 1, "high": 1} and poor["false_positives"]["value"] == 0
    assert poor["sizes"][0]["recall_of_everything"] == pytest.approx(1 / 3)
    assert list(good["ms"]) == ["photograph", "64×48"] and all(0 < time < 1000 for time in good["ms"].values())


def test_the_report(scores: list[DetectorScore], tmp_path: Path) -> None:
    numbers = [summarise(score) for score in scores]
    files = write_detector_report(tmp_path / "new", scores, numbers, {"data": "test"})
    assert [file.name for file in files] == ["detectors.json", "detectors.md", "curves.png", "sheet-good_one.png", "sheet-poor.png"]
    written = json.loads(files[0].read_bytes())
    assert {"cpu", "cores", "versions", "time"} < set(written["conditions"]) and written["conditions"]["data"] == "test"
    assert written["detectors"] == json.loads(json.dumps(numbers))
    text = files[1].read_text(encoding="utf-8")
    assert "- photographs: 20" in text and "| from 64 | 0 | – | – | – | – | – |" in text
    row = next(line for line in text.splitlines() if line.startswith("| good one |")).strip("| ").split(" | ")
    assert row[1].startswith("66.7 [") and row[2] == "66.7" and row[5:8] == ["0.300", "66.7", "1.00 [1.00, 1.00]"]
    assert len(overview(numbers)) == 3 and len(by_size(numbers[0])) == 8
    assert all(cv2.imread(str(file)) is not None for file in files[2:])


def test_the_sheet_colours_what_was_found_missed_and_false(scores: list[DetectorScore], tmp_path: Path) -> None:
    *_, good, poor = write_detector_report(tmp_path, scores, [summarise(score) for score in scores])

    def has(sheet: NDArray[np.uint8]) -> list[bool]:
        return [bool((np.abs(sheet.astype(int) - colour).max(axis=2) <= 2).sum() > 20) for colour in (FOUND, MISSED, FALSE, IGNORED)]

    assert has(cv2.imread(str(good))) == [True, True, True, True]
    assert has(cv2.imread(str(poor))) == [True, True, False, True]


def test_a_bad_archive_is_refused_before_any_detector_starts(data: Path, tmp_path: Path) -> None:
    write_frames(tmp_path, "test", [(np.zeros((30, 40, 3), np.uint8), []), (np.zeros((30, 40, 3), np.uint8), [])])
    entries = json.loads((tmp_path / "boxes.json").read_text())
    entries["test"][1]["width"] = 41
    (tmp_path / "boxes.json").write_text(json.dumps(entries))
    detector = Known(lambda number: [])
    with pytest.raises(BadInputError, match="41×30"):
        score_detectors({"known": detector}, tmp_path)
    assert detector.sizes == []
    with pytest.raises(BadInputError, match="no detector"):
        score_detectors({}, data)


def test_detectors_are_called_by_their_files_names(tmp_path: Path) -> None:
    assert list(create_detectors(["haar", "auto"])) == ["haar", "auto"]
    with pytest.raises(BadInputError, match='two detectors are called "haar"'):
        create_detectors(["haar", "haar"])
    (tmp_path / "net.onnx").write_bytes(b"not a network")
    with pytest.raises(BadInputError, match="YuNet"):
        create_detectors([str(tmp_path / "net.onnx")])


def test_the_command_scores_haar_on_a_photograph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scoring, "FRAMES", ((64, 48),))
    astronaut = pytest.importorskip("skimage.data").astronaut()[..., ::-1]
    photograph = cv2.resize(astronaut, None, fx=0.2, fy=0.2, interpolation=cv2.INTER_AREA)
    write_frames(tmp_path, "test", [(photograph, [[36, 11, 18, 23]]), (np.full((60, 80, 3), 90, np.uint8), [[10, 10, 50, 50]])])
    arguments = ["eval", "detector", "--detector", "haar", "--data", str(tmp_path), "-o", str(tmp_path / "report")]
    done = CliRunner(env={"COLUMNS": "220"}).invoke(app, arguments)
    assert done.exit_code == 0, done.output
    assert re.search(r"haar .* 50\.0 ", done.stdout) and "sheet-haar.png" in done.stdout
    sizes = {one["size"]: one for one in json.loads((tmp_path / "report" / "detectors.json").read_text())["detectors"][0]["sizes"]}
    assert sizes["16–24"]["ap"]["value"] == 1 and sizes["32–64"]["ap"]["value"] == 0
    refused = CliRunner().invoke(app, [*arguments[:2], "--data", str(tmp_path / "missing")])
    assert refused.exit_code == 2 and "boxes.json" in refused.output
