import numpy as np
import pytest

from benchmarks.scenes import Scene, backdrop, film, tight_boxes
from benchmarks.tracking import fusion, identities
from fhrt.faces.align import crop_transform
from fhrt.faces.detect import Detection
from fhrt.faces.track import Track


def test_true_boxes_are_those_of_the_drawn_faces(faces):
    rng = np.random.default_rng(0)
    scene = film(faces[:3], backdrop((200, 150), rng), 2, (20, 30), rng)
    for box, transform in zip(scene.boxes[1], scene.to_frame[1], strict=True):
        np.testing.assert_allclose(crop_transform(tuple(box), (128, 128)), transform, atol=1e-4)
    assert tight_boxes(scene.to_frame).shape == (2, 3, 4)


def made_up(ids):
    """A scene of two faces at rest in four frames, and tracks with these ids [4, 2] on them (0: none)."""
    boxes = np.tile(np.array([[10.0, 10, 20, 22], [50, 10, 60, 22]]), (4, 1, 1))
    scene = Scene([], np.empty(0), boxes, np.ones((4, 2), bool))
    return scene, [[Track(i, Detection(tuple(b)), True) for i, b in zip(row, boxes[0], strict=True) if i] for row in ids]


@pytest.mark.parametrize(
    ("ids", "idf1", "switches", "gaps", "coverage"),
    [
        ([(1, 2)] * 4, 1, 0, 0, 1),
        ([(1, 2), (1, 2), (2, 1), (2, 1)], 0.5, 2, 0, 1),
        ([(1, 2), (1, 0), (1, 0), (1, 2)], 12 / 14, 0, 1, 0.75),
        ([(1, 2), (1, 2), (1, 3), (1, 3)], 0.75, 1, 0, 1),
    ],
)
def test_identity_scores(ids, idf1, switches, gaps, coverage):
    scores = identities(*made_up(ids))
    assert scores["idf1"] == pytest.approx(idf1)
    assert (scores["switches"], scores["gaps"], scores["coverage"], scores["error"]) == (switches, gaps, coverage, 0)


def test_fusion_steadies_faces(archive, faces, monkeypatch):
    monkeypatch.setattr("benchmarks.tracking.read_faces", lambda *_: np.concatenate([faces] * 34)[:406])
    monkeypatch.setattr("benchmarks.tracking.SIZE", (320, 240))
    monkeypatch.setattr("benchmarks.tracking.CAMERAS", {"noise": {"noise": 1.0}})
    rows = {(row["boxes"], row["k"], row["steady"]): row for row in fusion(archive, [1, 4], 1)}
    assert rows["tracked", 4, 1]["flicker"] < 0.8 * rows["tracked", 1, 1]["flicker"]
    assert rows["true", 4, 1]["psnr_in_place"] > rows["true", 1, 1]["psnr_in_place"]
    assert rows["tracked", 4, 4]["flicker_in_place"] < 0.8 * rows["tracked", 4, 1]["flicker_in_place"]
    assert rows["tracked", 4, 4]["psnr_in_place"] > rows["tracked", 4, 1]["psnr_in_place"]
