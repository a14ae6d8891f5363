"""fhrt's own detector: maps to faces, tiles that overlap, and frames of every kind."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fhrt.errors import BadInputError, UnknownModelError, WeightsError
from fhrt.faces import centres
from fhrt.faces.centres import CentreDetector, decode
from fhrt.faces.detect import Detection, create_detector
from fhrt.runtime import load, load_frames

CROWD = Path(centres.__file__).parent.parent / "assets" / "crowd.png"


@pytest.fixture(scope="module")
def detector() -> CentreDetector:
    found = create_detector("auto")
    assert isinstance(found, CentreDetector)
    return found


@pytest.fixture(scope="module")
def crowd() -> NDArray[np.uint8]:
    return cv2.imread(str(CROWD))


def as_rows(detections: list[Detection]) -> NDArray[np.float64]:
    return np.array([(*one.box, one.score) for one in detections]).reshape(-1, 5)


def test_a_peak_becomes_a_box_and_its_eyes() -> None:
    heat, geometry = np.zeros((10, 12), np.float32), np.zeros((8, 10, 12), np.float32)
    heat[3, 5], heat[3, 6], heat[8, 1] = 0.9, 0.8, 0.2  # a neighbour is no peak of its own, and the last is too low
    geometry[:, 3, 5] = [0.25, -0.5, np.log(20 / 16), np.log(25 / 16), -0.2, -0.1, 0.2, -0.1]
    boxes, scores, eyes = decode(heat, geometry, least=0.3)
    x, y = (5.5 + 0.25) * 4, (3.5 - 0.5) * 4
    np.testing.assert_allclose(boxes, [[x - 10, y - 12.5, x + 10, y + 12.5]], rtol=1e-6)
    assert scores.tolist() == [pytest.approx(0.9)]
    root = 500**0.5
    np.testing.assert_allclose(eyes, [[[x - 0.2 * root, y - 0.1 * root], [x + 0.2 * root, y - 0.1 * root]]], rtol=1e-5)


def test_two_peaks_of_one_face_are_one_and_of_two_faces_two() -> None:
    heat, geometry = np.zeros((20, 20), np.float32), np.zeros((8, 20, 20), np.float32)
    geometry[2:4] = np.log(32 / 16)
    heat[5, 5], heat[5, 7], heat[5, 14] = 0.7, 0.9, 0.6
    boxes, scores, _ = decode(heat, geometry, least=0.3)
    assert scores.tolist() == pytest.approx([0.9, 0.6])
    assert boxes[0, 0] == pytest.approx(7.5 * 4 - 16)


def test_maps_without_a_peak_give_nothing() -> None:
    boxes, scores, eyes = decode(np.zeros((4, 4), np.float32), np.zeros((8, 4, 4), np.float32), least=0.3)
    assert boxes.shape == (0, 4) and scores.shape == (0,) and eyes.shape == (0, 2, 2)


def test_five_hundred_boxes_are_decoded() -> None:
    rng = np.random.default_rng(0)
    heat, geometry = np.zeros((270, 480), np.float32), rng.normal(0, 0.1, (8, 270, 480)).astype(np.float32)
    heat[rng.integers(0, 270, 500), rng.integers(0, 480, 500)] = rng.uniform(0.3, 1, 500)
    boxes, scores, eyes = decode(heat, geometry, least=0.3)
    assert 200 < len(boxes) <= 500 and (np.diff(scores) <= 0).all() and np.isfinite(eyes).all()


@pytest.mark.parametrize("count", [0, 1, 2, 5, 50, 300])
def test_the_same_boxes_are_kept_as_by_opencv(count: int) -> None:
    rng = np.random.default_rng(count)
    for _ in range(20):
        low, size = rng.uniform(0, 60 if count < 60 else 200, (count, 2)), rng.uniform(4, 40, (count, 2))
        scores = rng.random(count)
        wanted = cv2.dnn.NMSBoxes(np.hstack([low, size]).tolist(), scores.tolist(), 0.0, centres.OVERLAP) if count else ()
        assert centres._apart(np.hstack([low, low + size]), scores).tolist() == np.ravel(wanted).tolist()


def test_it_finds_the_demos_faces_with_their_eyes(detector: CentreDetector, crowd: NDArray[np.uint8]) -> None:
    found = detector.detect(crowd)
    assert len(found) >= 8
    for face in found:
        assert face.eyes is not None
        x1, y1, x2, y2 = face.box
        assert ((face.eyes > [x1, y1]) & (face.eyes < [x2, y1 + 0.7 * (y2 - y1)])).all()
        assert face.eyes[0, 0] < face.eyes[1, 0]
        assert 0.3 <= face.score <= 1


def test_tiles_find_what_the_whole_frame_shows(detector: CentreDetector, crowd: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> None:
    whole = as_rows(detector.detect(crowd))
    monkeypatch.setattr(centres, "TILE", (256, 272))
    tiled = as_rows(detector.detect(crowd))
    sure = whole[whole[:, 4] > 0.5]
    assert len(sure) >= 5
    for row in sure:
        nearest = tiled[np.abs(tiled[:, :4] - row[:4]).max(1).argmin()]
        np.testing.assert_allclose(nearest[:4], row[:4], atol=2.0)  # a tile shows less around a face at its edge
    assert abs(len(tiled) - len(whole)) <= 0.15 * len(whole)


@pytest.mark.parametrize("length", [1, 16, 1152, 1153, 2160, 5000, 16384])
def test_every_pixel_belongs_to_one_tile(length: int) -> None:
    spans = list(centres._spans(length, 1152))
    assert spans[0][1] == -np.inf and spans[-1][2] == np.inf and spans[-1][0].stop == length
    for (before, _, end), (after, start, _) in pairwise(spans):
        assert end == start and after.start <= end - 32 and before.stop >= end + 32


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (16, 16), (37, 1001), (120, 16384)], ids=str)
@pytest.mark.parametrize("kind", ["black", "white", "grey", "noise"])
def test_no_face_where_there_is_none(detector: CentreDetector, shape: tuple[int, int], kind: str) -> None:
    value = {"black": 0, "white": 255, "grey": 128}
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    frame = noise if kind == "noise" else np.full((*shape, 3), value[kind], np.uint8)
    assert detector.detect(frame) == []


def test_a_face_larger_than_the_network_knows_is_found_in_the_second_look(detector: CentreDetector) -> None:
    data = pytest.importorskip("skimage.data")
    frame = cv2.resize(np.ascontiguousarray(data.astronaut()[..., ::-1]), None, fx=3.0, fy=3.0, interpolation=cv2.INTER_CUBIC)
    large = [face for face in detector.detect(frame) if face.width > 150]
    assert len(large) == 1
    x1, y1, x2, y2 = large[0].box
    assert x1 < 660 < x2 and y1 < 360 < y2  # her nose


def test_views_of_frames_are_taken(detector: CentreDetector, crowd: NDArray[np.uint8]) -> None:
    mirrored = crowd[:, ::-1]
    assert as_rows(detector.detect(mirrored)).tolist() == as_rows(detector.detect(np.ascontiguousarray(mirrored))).tolist()


def test_what_is_no_detector_is_refused(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="finds none"):
        create_detector(centres.SHIPPED.parent.parent / "lite")
    with pytest.raises(WeightsError, match="it is a detector"):
        load(centres.SHIPPED)
    with pytest.raises(WeightsError, match="card"):
        create_detector(tmp_path)
    with pytest.raises(UnknownModelError):
        load_frames(tmp_path / "nothing")
    with pytest.raises(BadInputError, match="unknown detector"):
        create_detector(tmp_path / "nothing")


def test_both_backends_find_the_same(crowd: NDArray[np.uint8]) -> None:
    pytest.importorskip("openvino")
    ours, theirs = (as_rows(CentreDetector(backend=each, precision="fp32").detect(crowd)) for each in ("onnxruntime", "openvino"))
    np.testing.assert_allclose(ours, theirs, atol=1e-2)


@pytest.mark.parametrize("given", [None, "0.5"])
def test_a_card_without_its_calibration_is_refused_in_words(given: str | None, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(centres.SHIPPED, tmp_path / "bundle"))
    card = json.loads((bundle / "card.json").read_text())
    card["hparams"] = {name: value for name, value in card["hparams"].items() if name != "calibration_2"}
    card["hparams"] |= {} if given is None else {"calibration_2": given}
    (bundle / "card.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match=r"bundle: card.json has no number calibration_2 .* fhrt export detector"):
        create_detector(bundle)
