"""What networks make beside the SR face: C-SRIP's pictures at smaller scales and MTUN's heatmaps, from random weights."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

import fhrt
from fhrt.cli import app
from fhrt.errors import BadInputError
from fhrt.export import export
from fhrt.models import create
from fhrt.models.mtun import COMPONENTS
from fhrt.protocols import compare, evaluate
from fhrt.protocols.evaluate import baseline, truth
from fhrt.protocols.pairs import make_pairs
from fhrt.results import COMPONENT_COLORS, Result, draw_heatmaps
from fhrt.runtime import load
from training import checkpoint

BOXES = [(20.0, 10.0, 40.0, 35.0), (50.0, 20.0, 72.0, 46.0)]
PLAIN = {"backend": "onnxruntime", "plan": "whole", "threads": 1}
FRAME = cv2.resize(np.random.default_rng(3).integers(0, 256, (6, 9, 3), np.uint8), (90, 60), interpolation=cv2.INTER_CUBIC)


def bundle(name: str, folder: Path, **hparams: int) -> Path:
    torch.manual_seed(0)
    checkpoint.save(folder / "best.safetensors", create(name, **hparams).state_dict(), {"model": name, "hparams": hparams})
    return export(name, folder / "best.safetensors", folder / name)


@pytest.fixture(scope="module")
def csrip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle("csrip", tmp_path_factory.mktemp("csrip"), width=8)


@pytest.fixture(scope="module")
def mtun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bundle("mtun", tmp_path_factory.mktemp("mtun"), width=4, stacks=1, autoencoder=0, skip=0)


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A folder with one picture, in which every detector finds `BOXES`."""
    (tmp_path / "in").mkdir()
    cv2.imwrite(str(tmp_path / "in/a.png"), FRAME)
    return tmp_path / "in"


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch):
    class Two:
        def detect(self, frame_bgr: NDArray[np.uint8]) -> list[fhrt.faces.detect.Detection]:
            return [fhrt.faces.detect.Detection(box, 0.9) for box in BOXES]

    monkeypatch.setattr("fhrt.hallucinator.create_detector", lambda *args: Two())
    runner = CliRunner(env={"COLUMNS": "200"})
    return lambda *arguments: runner.invoke(app, [*map(str, arguments), "--backend", "onnxruntime", "--threads", "1"])


def contains(picture: NDArray[np.uint8], part: NDArray[np.uint8]) -> bool:
    """But for rounding, by which engines differ."""
    return bool(cv2.matchTemplate(picture, part, cv2.TM_SQDIFF).min() < part.size)


def faces_of(model: str | Path, color: str = "bgr") -> Result:
    frame = FRAME if color == "bgr" else np.ascontiguousarray(FRAME[..., ::-1])
    return fhrt.Hallucinator(model, detector="haar", color=color, **PLAIN).run(frame, BOXES)


def test_the_smaller_pictures_reach_the_user(csrip: Path) -> None:
    result, rgb = faces_of(csrip), faces_of(csrip, "rgb")
    hallucinator = fhrt.Hallucinator(csrip, detector="haar", **PLAIN)
    for face, other in zip(result.faces, rgb.faces, strict=True):
        for name, side in (("sr_2x", 48), ("sr_4x", 96)):
            made = getattr(face, name)
            assert made.shape == (side, side, 3) and made.dtype == np.uint8 and made.std() > 0
            np.testing.assert_array_equal(made, getattr(other, name)[..., ::-1])
        assert face.sr.shape == (192, 192, 3) == hallucinator.hallucinate(face.lr[None])[0].shape
    lr = np.random.default_rng(0).integers(0, 256, (1, 3, 24, 24)).astype(np.float32) / 127.5 - 1
    assert all(
        each.shape[-1] == side for each, side in zip(vars(load(csrip, **PLAIN).run(lr)).values(), (192, 0, 0, 48, 96), strict=True) if side
    )
    assert all(face.sr_2x is None and face.sr_4x is None for face in faces_of("lite").faces)


def test_a_result_at_a_smaller_scale_is_pasted_in_the_same_place(csrip: Path) -> None:
    result = faces_of(csrip)
    for scale, step, name in ((2, 4, "sr_2x"), (4, 2, "sr_4x")):
        smaller = result.at_scale(scale)
        for face, original in zip(smaller.faces, result.faces, strict=True):
            assert face.sr is getattr(original, name) and face.box == original.box and face.lr is original.lr
            for x, y in ((0, 0), (5, 11)):  # C-SRIP learns them from every step-th HR pixel, from step / 2 on
                where = original.transform @ [step * x + step / 2, step * y + step / 2, 1]
                np.testing.assert_allclose(face.transform @ [x, y, 1], where, atol=1e-4)
        assert contains(smaller.plot(), smaller.faces[0].sr)
        assert smaller.paste(scale).shape == (scale * 60, scale * 90, 3) and (smaller.paste(scale) != result.paste(scale)).any()
    assert result.at_scale(8).faces == result.faces
    assert faces_of("lite").at_scale(8).faces[0].sr.shape == (128, 128, 3)


@pytest.mark.parametrize("scale", [2, 3, 0, "4", None])
def test_a_scale_that_a_network_has_not_is_said(scale: object) -> None:
    with pytest.raises(BadInputError, match=r"no picture of the face at .* times what the network saw; there are: 8"):
        faces_of("lite").at_scale(scale)  # type: ignore[arg-type]


def test_run_writes_the_picture_that_was_asked_for(command, csrip: Path, picture: Path, tmp_path: Path) -> None:
    small = faces_of(csrip).faces[0].sr_2x
    done = command("run", picture, "-o", tmp_path / "out", "-m", csrip, "--scale", 2)
    assert done.exit_code == 0, done.output
    assert cv2.imread(str(tmp_path / "out/a.png")).shape == (120, 180, 3), "enlarged as the faces are"
    assert contains(cv2.imread(str(tmp_path / "out/a_faces.png")), small) and contains(cv2.imread(str(tmp_path / "out/sheet.png")), small)
    assert command("run", picture, "-o", tmp_path / "8", "-m", csrip, "--scale", 8, "--enlarge", 3).exit_code == 0
    assert cv2.imread(str(tmp_path / "8/a.png")).shape == (180, 270, 3)


def test_a_scale_or_heatmaps_that_a_model_has_not_are_one_line(command, picture: Path, tmp_path: Path) -> None:
    for option, words in (
        (("--scale", 2), "lite makes faces 8 times as large as what it sees, not 2; --enlarge is of the picture"),
        (("--heatmaps",), "lite makes no heatmaps of facial components; mtun does"),
    ):
        done = command("run", picture, "-o", tmp_path / "out", *option)
        assert done.exit_code == 2 and done.stderr.strip() == words and not done.stdout
    assert not (tmp_path / "out").exists()


def test_eval_scores_each_picture(archive: Path, csrip: Path, tmp_path: Path) -> None:
    rows = evaluate(load(csrip, **PLAIN), archive, limit=4)
    assert [(row.protocol, row.scale, row.n) for row in rows] == [("loose", 8, 4), ("loose", 4, 4), ("loose", 2, 4)]
    assert len({row.psnr for row in rows}) == 3
    assert all(row.bicubic_psnr > 38 for row in rows), "of smooth faces, in phase with what it is compared with"
    arguments = ["eval", str(csrip), "--data", str(archive), "--limit", "4", "--backend", "onnxruntime"]
    shown = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "--json", str(tmp_path / "rows.json")])
    assert shown.exit_code == 0 and all(f"{row.psnr:.2f}" in shown.stdout for row in rows)
    assert re.search(r"loose +│.*loose 4× +│.*loose 2× +│", shown.stdout, re.DOTALL)
    assert [row["scale"] for row in json.loads((tmp_path / "rows.json").read_text())["rows"]] == [8, 4, 2]
    results = compare([load(csrip, **PLAIN)], archive, limit=4)
    assert [result.protocol for result in results] == ["loose", "loose-4x", "loose-2x"]
    for result, row in zip(results, rows, strict=True):
        assert result.systems[0].scores.psnr.mean() == pytest.approx(row.psnr) and result.hr.shape[1] == 24 * row.scale
    reported = CliRunner().invoke(app, [*arguments, "--report", str(tmp_path / "report")])
    assert reported.exit_code == 0 and (tmp_path / "report/sheet-loose-2x.png").is_file()


def test_a_smaller_picture_is_compared_with_the_hr_face_made_smaller(faces: NDArray[np.uint8]) -> None:
    pairs = make_pairs(faces[:3], "loose", np.random.default_rng(0))
    for scale, side in ((2, 48), (4, 96), (8, 192)):
        known, blurred = truth(pairs, scale), baseline(pairs, scale)
        assert known.shape == (3, side, side, 3) and blurred.shape == (3, 3, side, side)
        np.testing.assert_allclose(known.mean((1, 2)), faces[:3].mean((1, 2)), atol=1.5)
        sharp = cv2.resize(faces[0], (side, side), interpolation=cv2.INTER_AREA).astype(float)
        assert np.abs(sharp - known[0]).mean() < np.abs(sharp - blurred[0].transpose(1, 2, 0)).mean()


def test_heatmaps_are_drawn_in_a_colour_each() -> None:
    heat = np.zeros((4, 64, 64), np.float32)
    for index in range(4):
        heat[index, 8 + 16 * index, 20] = 7.0  # more than a peak is a peak
    heat[:, :, 60] = -5.0
    grey = np.full((128, 128, 3), 100, np.uint8)
    drawn = draw_heatmaps(grey, heat)
    assert (grey == 100).all() and (drawn[:, 64:] == 100).all()
    for index, color in enumerate(COMPONENT_COLORS):
        np.testing.assert_allclose(drawn[2 * (8 + 16 * index), 40], 100 + 0.75 * (np.array(color) - 100), atol=1)
    assert len(COMPONENTS) == len(COMPONENT_COLORS) == len(set(COMPONENT_COLORS))


def test_a_plot_with_heatmaps_has_them_and_a_legend(mtun: Path) -> None:
    for color in ("bgr", "rgb"):
        result = faces_of(mtun, color)
        plain, drawn = (each if color == "bgr" else each[..., ::-1] for each in (result.plot(), result.plot(heatmaps=True)))
        face = result.faces[0]
        sr = face.sr if color == "bgr" else face.sr[..., ::-1]
        assert face.heatmaps.shape == (4, 64, 64)
        assert contains(drawn, sr) and contains(drawn, draw_heatmaps(sr, face.heatmaps))
        for name_color in COMPONENT_COLORS:
            mark = np.full((10, 10, 3), name_color, np.uint8)
            assert contains(drawn, mark) and not contains(plain, mark)


def test_run_draws_heatmaps(command, mtun: Path, picture: Path, tmp_path: Path) -> None:
    done = command("run", picture, "-o", tmp_path / "out", "-m", mtun, "--heatmaps")
    assert done.exit_code == 0, done.output
    drawn = draw_heatmaps(*(getattr(faces_of(mtun).faces[0], name) for name in ("sr", "heatmaps")))
    assert contains(cv2.imread(str(tmp_path / "out/a_faces.png")), drawn)


def test_faces_without_heatmaps_are_said(tmp_path: Path) -> None:
    result = faces_of("lite")
    for call in (lambda: result.plot(heatmaps=True), lambda: result.save(tmp_path / "a.png", heatmaps=True)):
        with pytest.raises(BadInputError, match="makes no heatmaps of facial components: MTUN does"):
            call()
    assert not list(tmp_path.iterdir())
    assert Result(FRAME, [], {}).plot(heatmaps=True).shape[2] == 3, "no face, no fault"
