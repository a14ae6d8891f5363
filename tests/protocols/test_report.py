"""The report of made-up results: what stands in its tables, its numbers and, pixel by pixel, on its sheet."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fhrt.errors import BadInputError, MissingExtraError
from fhrt.metrics import psnr
from fhrt.protocols.report import CAPTION, GAP, HEAD, PUBLISHED, ProtocolResult, Scores, SystemResult, published, write_report

N, K, SIDE = 40, 2, 128


def scores(mean: float, identity: bool = False) -> Scores:
    rng = np.random.default_rng(0)
    values = mean + rng.normal(0, 1, N)
    return Scores(values, values / 40, values / 30, values / 50 if identity else None)


@pytest.fixture
def result() -> ProtocolResult:
    rng = np.random.default_rng(1)
    pictures = [rng.integers(0, 256, (K, SIDE, SIDE, 3)).astype(np.uint8) for _ in range(4)]
    bicubic = SystemResult("bicubic", scores(23.0), pictures[0])
    urdgn = SystemResult("UR-DGN", scores(24.5, identity=True), pictures[1], ms_per_face=12.345, gflops=29.0, parameters=1_230_000)
    own = SystemResult("a|b", scores(26.0), pictures[2])
    return ProtocolResult("aligned", rng.integers(0, 256, (K, 16, 16, 3)).astype(np.uint8), pictures[3], bicubic, [urdgn, own])


def test_tables_hold_the_scores_beside_the_papers_figures(result: ProtocolResult, tmp_path: Path) -> None:
    files = write_report(tmp_path / "new" / "report", [result, replace(result, protocol="camera")], {"seed": 2018})
    assert [file.name for file in files] == [
        "scores.json",
        "report.md",
        "sheet-aligned.png",
        "distribution-aligned.png",
        "sheet-camera.png",
        "distribution-camera.png",
    ]
    text = files[1].read_text(encoding="utf-8")
    assert "- seed: 2018" in text and "40 faces." in text
    rows = [
        line.strip("| ").split(" | ") for line in text.split("## aligned")[1].split("## camera")[0].splitlines() if line.startswith("|")
    ]
    head, _, bicubic, urdgn, own = rows
    mean = result.systems[0].scores.psnr.mean()
    assert head[1:6] == ["PSNR dB", "gain dB", "SSIM", "FSIM", "identity"]
    assert urdgn[0] == "UR-DGN" and re.fullmatch(rf"{mean:.2f} \[24\.\d\d, 2[45]\.\d\d\]", urdgn[1])
    assert urdgn[2] == "+1.50 [+1.50, +1.50]"  # the same gain on each face: no doubt about it
    assert urdgn[3:6] == [f"{mean / 40:.3f}", f"{mean / 30:.3f}", f"{mean / 50:.3f}"]
    assert urdgn[6:] == ["12.35", "29.00", "1.23", "UR-DGN, CelebA: 23.22 → 24.82 (+1.60)"]
    assert bicubic[2] == "–" and own[0] == "a\\|b" and own[5:] == ["–"] * 5
    camera = text.split("## camera")[1].split("## Published")[0]
    assert "UR-DGN |" in camera and "CelebA" not in camera  # no paper was scored on the camera's damage
    assert "| CelebA | 16×16 | aligned | mnce | 24.34 | +1.73 | 0.6883 | 0.8375 |" in text


def test_numbers_can_be_read_back(result: ProtocolResult, tmp_path: Path) -> None:
    report = json.loads(write_report(tmp_path, [result], {"data": "test"})[0].read_bytes())
    conditions, aligned = report["conditions"], report["protocols"]["aligned"]
    assert {"cpu", "cores", "system", "versions", "time"} < set(conditions) and conditions["data"] == "test"
    assert conditions["versions"]["numpy"] == np.__version__
    assert aligned["faces"] == N and aligned["bicubic"]["gain"] == {}
    urdgn, own = aligned["systems"]
    psnr_interval, measured = urdgn["mean"]["psnr"], result.systems[0].scores.psnr
    assert psnr_interval["mean"] == pytest.approx(measured.mean()) and psnr_interval["low"] < measured.mean() < psnr_interval["high"]
    assert urdgn["gain"]["psnr"]["mean"] == pytest.approx(1.5) and set(urdgn["gain"]) == {"psnr", "ssim", "fsim"}
    np.testing.assert_allclose(urdgn["per_face"]["psnr"], measured, atol=1e-5)
    assert set(urdgn["per_face"]) == {"psnr", "ssim", "fsim", "identity"} and set(own["per_face"]) == {"psnr", "ssim", "fsim"}
    assert (urdgn["ms_per_face"], urdgn["gflops"], urdgn["parameters"]) == (12.345, 29.0, 1_230_000)
    assert urdgn["paper"]["bicubic"] == {"psnr": 23.22, "ssim": 0.67} and urdgn["paper"]["system"]["psnr"] == 24.82
    assert own["paper"] is None


def test_the_sheet_shows_each_pixel(result: ProtocolResult, tmp_path: Path) -> None:
    write_report(tmp_path, [result])
    sheet = cv2.imread(str(tmp_path / "sheet-aligned.png"))[..., ::-1]
    shown = [result.lr.repeat(8, 1).repeat(8, 2), *(system.pictures for system in result.results), result.hr]
    assert sheet.shape == (HEAD + K * (SIDE + CAPTION), GAP + len(shown) * (SIDE + GAP), 3)

    def inked(top: int, height: int, column: int) -> bool:
        left = GAP + column * (SIDE + GAP)
        return bool((sheet[top : top + height, left : left + SIDE] < 128).any())

    for column, pictures in enumerate(shown):
        left = GAP + column * (SIDE + GAP)
        assert inked(0, HEAD, column)
        for row in range(K):
            top = HEAD + row * (SIDE + CAPTION)
            np.testing.assert_array_equal(sheet[top : top + SIDE, left : left + SIDE], pictures[row])
            assert inked(top + SIDE, CAPTION, column) == (column not in (0, len(shown) - 1))  # the PSNR of what was made


def test_the_better_system_s_curve_lies_to_the_right(result: ProtocolResult, tmp_path: Path) -> None:
    write_report(tmp_path, [result])
    curves = cv2.imread(str(tmp_path / "distribution-aligned.png")).astype(int)[200:600]  # below the legend
    colourful = np.ptp(curves, axis=2) > 60
    best, other = colourful & (curves[..., 0] > curves[..., 2]), colourful & (curves[..., 2] > curves[..., 0])  # blue, orange
    assert np.median(np.nonzero(best)[1]) > np.median(np.nonzero(other)[1]) + 50


def test_published_figures_are_of_the_system_s_own_paper_first() -> None:
    found = published("UR-DGN", "aligned", 16)
    assert found is not None and found[0].paper == "UR-DGN" and found[1] == (24.82, 0.70)
    found = published("C-SRIP", "loose", 24)
    assert found is not None and found[1][0] == 27.164 and found[0].bicubic[0] == 24.256
    assert published("csrip", "aligned", 16) is None  # other LR faces
    assert published("urdgn", "unaligned", 16) is None and published("lite", "aligned", 16) is None
    for table in PUBLISHED:
        assert all(len(figures) <= 3 and 15 < figures[0] < 30 for figures in table.systems.values())


def with_scores(result: ProtocolResult, values: NDArray) -> ProtocolResult:
    return replace(result, bicubic=replace(result.bicubic, scores=Scores(values, values, values)))


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda r: replace(r, protocol="../up"), "protocol"),
        (lambda r: replace(r, lr=r.lr[:1]), "hr must be"),
        (lambda r: replace(r, lr=r.lr[:, :15]), "hr must be"),
        (lambda r: replace(r, hr=r.hr / 255), "hr must be uint8"),
        (lambda r: replace(r, systems=[replace(r.systems[0], pictures=r.hr[:, :64])]), "pictures of UR-DGN"),
        (lambda r: with_scores(r, np.ones(N - 1)), "UR-DGN was not scored"),
        (lambda r: with_scores(r, np.full(N, np.inf)), "psnr holds"),
        (lambda r: with_scores(r, np.ones((N, 1))), "psnr must be"),
        (lambda r: Scores(np.ones(3), np.ones(3), np.ones(4)), "fsim must be"),
    ],
)
def test_results_that_do_not_fit_are_refused(result: ProtocolResult, broken, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        broken(result)


def test_reports_that_cannot_be_written(result: ProtocolResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for results in ([], [result, result]):
        with pytest.raises(BadInputError, match="one protocol each"):
            write_report(tmp_path, results)
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match="cannot write the report"):
        write_report(tmp_path / "file", [result])
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="pip install"):
        write_report(tmp_path / "report", [result])
    assert not (tmp_path / "report").exists()


def test_matplotlib_is_imported_only_to_draw(tmp_path: Path) -> None:
    code = "import sys, fhrt.protocols.report; assert not {'matplotlib', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)


def test_captions_are_the_pictures_psnr(result: ProtocolResult, tmp_path: Path) -> None:
    """Bicubic's caption differs from the system's, and is the same where the pictures are."""
    same = replace(result, bicubic=replace(result.bicubic, pictures=result.systems[0].pictures))
    strips = []
    for number, one in enumerate((result, same)):
        write_report(tmp_path / str(number), [one])
        sheet = cv2.imread(str(tmp_path / str(number) / "sheet-aligned.png"))
        strips.append([sheet[HEAD + SIDE : HEAD + SIDE + CAPTION, GAP + c * (SIDE + GAP) :][:, :SIDE] for c in (1, 2)])
    assert psnr(result.bicubic.pictures, result.hr)[0] != psnr(result.systems[0].pictures, result.hr)[0]
    assert not np.array_equal(*strips[0])
    np.testing.assert_array_equal(*strips[1])
