"""Faces set into photographs and got back: the geometry against the aligned protocol, and what detectors lose against known figures."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from archives import write_frames
from numpy.typing import NDArray
from typer.testing import CliRunner

from fhrt.cli import app
from fhrt.errors import BadInputError
from fhrt.faces.align import crop_transform
from fhrt.faces.detect import Detection
from fhrt.hallucinator import Hallucinator
from fhrt.metrics import psnr
from fhrt.protocols.archive import tight
from fhrt.protocols.pairs import bicubic_hr, make_pairs
from fhrt.protocols.pipeline import (
    BICUBIC,
    BOXES,
    EYES,
    SEED,
    Scene,
    back_on_truth,
    compose,
    draw_face,
    score_pipeline,
    tight_boxes,
    true_eyes,
)
from fhrt.protocols.pipeline_report import summarise, tabulate, write_pipeline_report
from fhrt.runtime import Output

OWN = [[20, 30, 40, 50], [150, 100, 12, 15]]  # x, y, w, h
CARD = SimpleNamespace(name="bicubic", input_size=(16, 16), output_size=(128, 128), outputs=("sr",))


class Bicubic:
    """An engine that enlarges bicubically: what it makes is known, so the figures test the way there and back."""

    card, backend, precision, array_library = CARD, "none", "fp32", None

    def run(self, lr: NDArray[np.float32]) -> Output:
        return Output(bicubic_hr(np.rint((lr + 1) * 127.5).astype(np.uint8)) / 127.5 - 1)


@pytest.fixture
def bicubic(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Hallucinator]:
    monkeypatch.setattr("fhrt.runtime.load", lambda *args, **kwargs: Bicubic())
    return lambda **options: Hallucinator("bicubic", max_face=float("inf"), **options)


@pytest.fixture(scope="module")
def photographs() -> list[NDArray[np.uint8]]:
    rng = np.random.default_rng(0)
    return [cv2.resize(rng.integers(0, 256, (12, 16, 3)).astype(np.uint8), (240, 180), interpolation=cv2.INTER_CUBIC) for _ in range(3)]


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory, photographs: list[NDArray[np.uint8]]) -> Path:
    folder = tmp_path_factory.mktemp("photographs")
    write_frames(folder, "test", [(picture, OWN) for picture in photographs])
    return folder


def similarity(side: float, middle: tuple[float, float], degrees: float = 0) -> NDArray[np.float64]:
    """128×128 face to frame: its square `side` pixels wide about `middle`, (0, 0) being the corner of the first pixel."""
    angle = np.deg2rad(degrees)
    linear = side / 128 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([linear, np.array(middle) - 0.5 - linear @ [63.5, 63.5]])


def test_a_face_on_the_pixel_grid_is_the_aligned_protocols(faces: NDArray[np.uint8]) -> None:
    frame = np.full((64, 64, 3), 90, np.uint8)
    draw_face(frame, faces[0], similarity(16, (32, 32)))
    lr = make_pairs(faces[:1], "aligned", np.random.default_rng(0)).lr[0].transpose(1, 2, 0)[..., ::-1]
    # At the border of the square the protocol has no pixels beyond it, the frame has.
    np.testing.assert_allclose(frame[26:38, 26:38].astype(int), lr[2:-2, 2:-2], atol=1)
    np.testing.assert_allclose(frame[24:40, 24:40].astype(int), lr, atol=6)
    assert (frame[:19] == 90).all() and (frame[:, 45:] == 90).all()


@pytest.mark.parametrize("side", [12, 16, 30.5, 100])
def test_a_turned_face_lies_where_its_similarity_says(side: float) -> None:
    size, middle = round(3 * side), (1.5 * side + 0.3, 1.5 * side - 0.4)
    frame, face = np.zeros((size, size, 3), np.uint8), np.full((192, 192, 3), 20, np.uint8)
    cv2.circle(face, (32 + 100, 32 + 40), 20, (220, 0, 0), -1)
    transform = similarity(side, middle, 10)
    draw_face(frame, face, transform)
    red = frame[..., 2].astype(float) - frame[..., 0]
    y, x = np.mgrid[:size, :size]
    np.testing.assert_allclose([(x * red).sum() / red.sum(), (y * red).sum() / red.sum()], transform @ [100, 40, 1], atol=0.01 * side)


def test_boxes_and_eyes_give_the_squares_that_were_set(archive: Path, frames: Path, bicubic: Callable[..., Hallucinator]) -> None:
    to_frame = similarity(20, (50, 60))
    np.testing.assert_allclose(crop_transform(tuple(tight_boxes(to_frame)), (128, 128)), to_frame, atol=1e-4)
    turned = similarity(20, (50, 60), 8)
    upright = crop_transform(tuple(tight_boxes(turned)), (128, 128))
    np.testing.assert_allclose(upright @ [63.5, 63.5, 1], turned @ [63.5, 63.5, 1], atol=1e-4)
    eyes = true_eyes(turned[None])[0]
    np.testing.assert_allclose(crop_transform(tuple(tight_boxes(turned)), (128, 128), eyes=eyes), turned, atol=1e-4)
    # Boxes do not know the angle.
    score = score_pipeline(bicubic(), {"nothing": Known({})}, archive, frames, sizes=(16,))
    assert score.psnr[BOXES].mean() < score.psnr[EYES].mean() - 0.5


def test_a_face_is_brought_back_by_its_transform(faces: NDArray[np.uint8]) -> None:
    truth, to_frame = np.ascontiguousarray(tight(faces)[0]), similarity(20, (50, 60), 5)
    crop = similarity(24, (51, 59), -4)  # what a detector made of it: larger, beside it, turned the other way
    from_crop = np.linalg.inv(np.vstack([to_frame, [0, 0, 1]])) @ np.vstack([crop, [0, 0, 1]])
    sr = cv2.warpAffine(faces[0], np.vstack([from_crop[0] + [0, 0, 32], from_crop[1] + [0, 0, 32]]), (128, 128), flags=cv2.INTER_CUBIC | 16)
    assert psnr(back_on_truth(sr, crop.astype(np.float32), to_frame), truth)[0] > 38
    crop[0, 2] += 1  # a pixel of the frame, of about six
    assert psnr(back_on_truth(sr, crop.astype(np.float32), to_frame), truth)[0] < 30


def test_faces_are_set_beside_the_photographs_own_and_one_another(faces: NDArray[np.uint8], photographs: list[NDArray[np.uint8]]) -> None:
    own = np.array(OWN, float)
    own[:, 2:] += own[:, :2]
    size = np.repeat([12, 32], len(faces))

    def scenes() -> list[Scene]:
        return list(compose(faces, size, [(picture, own) for picture in photographs], np.random.default_rng(1)))

    made = scenes()
    assert [job for scene in made for job in scene.jobs] == list(range(24))
    for number, scene in enumerate(made):
        before = photographs[number % 3]
        for x1, y1, x2, y2 in own.astype(int):
            np.testing.assert_array_equal(scene.frame[y1:y2, x1:x2], before[y1:y2, x1:x2])
        boxes = tight_boxes(scene.to_frame)
        assert (boxes[:, :2] > 0).all() and (boxes[:, 2:] < [240, 180]).all()
        for one, job in zip(scene.to_frame, scene.jobs, strict=True):
            assert np.hypot(*one[:, 0]) * 128 == pytest.approx(size[job]) and abs(np.degrees(np.arctan2(one[1, 0], one[0, 0]))) <= 10
            x, y = np.rint(one @ [63.5, 63.5, 1]).astype(int)
            assert (scene.frame[y - 3 : y + 3, x - 3 : x + 3] != before[y - 3 : y + 3, x - 3 : x + 3]).any()
        apart = np.linalg.norm(boxes[:, None, :2] - boxes[None, :, :2], axis=-1) + 1e9 * np.eye(len(boxes))
        assert (apart > 1.2 * size[scene.jobs].min()).all()
    for one, again in zip(made, scenes(), strict=True):
        np.testing.assert_array_equal(one.frame, again.frame)


class Known:
    """Finds what it is told to in each frame."""

    def __init__(self, detections: dict[bytes, list[Detection]]) -> None:
        self.detections = detections

    def detect(self, frame_bgr: NDArray[np.uint8]) -> list[Detection]:
        return self.detections.get(np.ascontiguousarray(frame_bgr).tobytes(), [])


@pytest.fixture
def knows(faces: NDArray[np.uint8], photographs: list[NDArray[np.uint8]]) -> Callable[..., Known]:
    """A detector of the pipeline's own scenes with faces of 16 and 24 pixels: the true boxes, changed."""
    own = np.array(OWN, float)
    own[:, 2:] += own[:, :2]
    pairs = [(picture, own) for picture in photographs]
    scenes = list(compose(faces, np.repeat([16, 24], len(faces)), pairs, np.random.default_rng(SEED)))

    def detector(change: Callable[[int, NDArray[np.float64]], list[Detection]]) -> Known:
        return Known(
            {
                scene.frame.tobytes(): [
                    one for job, box in zip(scene.jobs, tight_boxes(scene.to_frame), strict=True) for one in change(job, box)
                ]
                for scene in scenes
            }
        )

    return detector


def test_what_detectors_lose(
    archive: Path, frames: Path, bicubic: Callable[..., Hallucinator], knows: Callable[..., Known], tmp_path: Path
) -> None:
    wrong = Detection((100.0, 5.0, 120.0, 30.0), 0.9)
    detectors = {
        "perfect": knows(lambda job, box: [Detection(tuple(box))]),
        "half": knows(lambda job, box: [Detection(tuple(box), 0.5), wrong] if job % 2 else [wrong]),
        "beside": knows(lambda job, box: [Detection(tuple(box + 0.2 * (box[2] - box[0])), 0.5)]),
        "blind": knows(lambda job, box: []),
    }
    seen: list[tuple[int, int]] = []
    hallucinator = bicubic()
    own = hallucinator.detector
    score = score_pipeline(hallucinator, detectors, archive, frames, (16, 24), progress=lambda *at: seen.append(at))
    assert seen[-1] == (24, 24) and hallucinator.detector is own and score.detectors == list(detectors)
    np.testing.assert_array_equal(score.psnr["perfect"], score.psnr[BOXES])
    np.testing.assert_array_equal(np.isnan(score.psnr["half"]), np.arange(24) % 2 == 0)
    numbers = summarise(score)
    rows = {(one["detector"], one["size"]): one for one in numbers}
    assert rows["perfect", 16]["lost"][BOXES] == {"mean": 0, "low": 0, "high": 0} and rows["perfect", "all"]["not_found"] == 0
    assert (rows["half", 16]["faces"], rows["half", 16]["not_found"]) == (12, 6)
    # Compared with perfect boxes on the very faces that were found.
    assert rows["half", 24]["psnr"][BOXES]["mean"] == pytest.approx(score.psnr[BOXES][13::2].mean())
    assert rows["half", 24]["lost"][BOXES]["mean"] == 0
    assert rows["half", 24]["every"][BOXES]["mean"] == pytest.approx(score.psnr[BOXES][12:].mean())
    assert rows["beside", 16]["not_found"] == 0 and rows["beside", 16]["lost"][BOXES]["low"] > 0.3
    assert rows["blind", "all"]["not_found"] == 24 and rows["blind", "all"]["psnr"] == {}

    files = write_pipeline_report(tmp_path, score, numbers, {"model": "bicubic"})
    assert [file.name for file in files] == ["pipeline.json", "pipeline.md", "sheet.png"]
    written = json.loads(files[0].read_bytes())
    assert written["rows"] == json.loads(json.dumps(numbers)) and written["conditions"]["seed"] == SEED and "cpu" in written["conditions"]
    assert "| blind | all | 24 | 24 (100.0%) | – | – | – | – | – | – |" in files[1].read_text(encoding="utf-8")
    assert tabulate(numbers)[1][:4] == ["perfect", "16", "12", "0 (0.0%)"]
    sheet = cv2.imread(str(files[2]))
    np.testing.assert_array_equal(sheet[40 : 40 + 128, -8 - 128 : -8], score.shown["HR"][0, ..., ::-1])


def test_the_channel_order_and_the_seed_change_nothing(archive: Path, frames: Path, bicubic: Callable[..., Hallucinator]) -> None:
    bgr, rgb = (score_pipeline(bicubic(color=color), {"none": Known({})}, archive, frames, (16,), limit=4) for color in ("bgr", "rgb"))
    for name in (EYES, BOXES, BICUBIC):
        assert len(bgr.psnr[name]) == 4
        np.testing.assert_array_equal(bgr.psnr[name], rgb.psnr[name])


def test_bad_input(archive: Path, frames: Path, tmp_path: Path, bicubic: Callable[..., Hallucinator]) -> None:
    hallucinator = bicubic()
    for options, message in (
        ({"sizes": ()}, "sizes must be"),
        ({"sizes": (16, 16)}, "sizes must be"),
        ({"sizes": (2,)}, "sizes must be"),
        ({"sizes": (128,)}, "no photograph has room for a face of 128 pixels"),
        ({"detectors": {}}, "there must be a detector"),
        ({"detectors": {EYES: Known({})}}, "none called perfect eyes"),
        ({"frames": tmp_path}, "boxes.json"),
        ({"data": tmp_path}, "no face shards"),
    ):
        arguments = {"detectors": {"none": Known({})}, "data": archive, "frames": frames, "sizes": (16,)} | options
        with pytest.raises(BadInputError, match=re.escape(message)):
            score_pipeline(hallucinator, **arguments)


def test_the_command_runs_the_shipped_model_behind_haar(archive: Path, frames: Path, tmp_path: Path) -> None:
    arguments = ["eval", "pipeline", "--data", str(archive), "--frames", str(frames), "--size", "16", "--limit", "3"]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, [*arguments, "-o", str(tmp_path / "report")])
    assert done.exit_code == 0, done.output
    assert re.search(r"auto .* 16 .* 3 ", done.stdout) and "sheet.png" in done.stdout
    written = json.loads((tmp_path / "report" / "pipeline.json").read_bytes())
    assert written["conditions"]["model"] == "lite" and 10 < written["rows"][0]["every"][EYES]["mean"] < 50
    refused = CliRunner().invoke(app, [*arguments, "--size", "1"])
    assert refused.exit_code == 2 and "sizes must be" in refused.output
