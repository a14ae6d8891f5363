"""Scenes have their faces where they say, targets say what the network shall, and a run goes on where it stopped."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from archives import write_frames, write_shard
from numpy.typing import NDArray

from fhrt.errors import BadInputError, UnknownModelError, WeightsError
from fhrt.export import export_detector
from fhrt.faces.centres import SHIPPED, decode, probability
from fhrt.metrics.detection import Matches
from fhrt.models.detector import Detector, Maps
from fhrt.runtime import load_frames
from fhrt.runtime.bundle import read_card
from training import checkpoint, detector
from training.detector import CELLS, Targets, from_bundle, losses, targets, train_detector
from training.faces import FaceSet
from training.landmarks import Landmarks
from training.scenes import SIDE, Photograph, Scene, make_scene


@pytest.fixture
def face_set(faces: NDArray[np.uint8]) -> FaceSet:
    points = np.full((len(faces), 68, 2), 96, np.float32)
    points[:, 36:42], points[:, 42:48] = (73, 86), (119, 86)
    return FaceSet(faces, Landmarks(points, np.ones((len(faces), 68), bool)))


def photograph(seed: int, boxes: list[list[float]]) -> Photograph:
    coarse = np.random.default_rng(seed).integers(0, 256, (8, 11, 3), np.uint8)
    return Photograph(np.asarray(cv2.resize(coarse, (440, 320)), np.uint8), np.array(boxes, np.float64).reshape(-1, 4))


def test_the_same_seed_gives_the_same_scene(face_set: FaceSet) -> None:
    photographs = [photograph(0, [[100, 100, 130, 140]]), photograph(1, [])]
    first, again, other = (make_scene(photographs, face_set, np.random.default_rng(seed)) for seed in (5, 5, 6))
    assert all(np.array_equal(a, b, equal_nan=True) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first.picture, other.picture)
    assert first.picture.shape == (SIDE, SIDE, 3) and first.picture.dtype == np.uint8


def test_pasted_faces_lie_in_their_boxes_and_their_eyes_are_dark(face_set: FaceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """The made-up faces have dark discs for eyes; without damage they must be where the scene says."""
    monkeypatch.setattr("training.scenes._damaged", lambda picture, rng: picture)
    monkeypatch.setattr("training.scenes.DECOY_SHARE", 0.0)
    monkeypatch.setattr("training.scenes.SIZES", (40.0, 72.0))
    plain = [Photograph(np.full((400, 400, 3), 200, np.uint8), np.empty((0, 4)))]
    darker = []
    for seed in range(30):
        scene = make_scene(plain, face_set, np.random.default_rng(seed))
        for box, eyes in zip(scene.boxes, scene.eyes, strict=True):
            assert ((eyes > box[:2] - 1) & (eyes < box[2:] + 1)).all() and eyes[0, 0] < eyes[1, 0]
            rows = eyes[(eyes > 1).all(1) & (eyes < SIDE - 1).all(1)].astype(int)
            face = scene.picture[max(0, int(box[1])) : int(box[3]), max(0, int(box[0])) : int(box[2])]
            darker += [float(scene.picture[y, x].mean() < face.mean() - 20) for x, y in rows]
    assert len(darker) > 40 and np.mean(darker) > 0.97


def test_boxes_of_photographs_follow_their_faces(face_set: FaceSet, monkeypatch: pytest.MonkeyPatch) -> None:
    """A green square in a grey photograph is its only face: the scene's box must hold it, whatever was cut, scaled and mirrored."""
    monkeypatch.setattr("training.scenes._damaged", lambda picture, rng: picture)
    monkeypatch.setattr("training.scenes.PASTE_SHARE", 0.0)
    picture = np.full((300, 420, 3), 128, np.uint8)
    picture[120:160, 200:240] = (0, 255, 0)
    plain = [Photograph(picture, np.array([[200.0, 120, 240, 160]]))]
    seen = 0
    for seed in range(40):
        scene = make_scene(plain, face_set, np.random.default_rng(seed))
        for x1, y1, x2, y2 in scene.boxes:
            inside = scene.picture[max(0, round(y1) + 1) : round(y2) - 1, max(0, round(x1) + 1) : round(x2) - 1]
            assert (inside[..., 1] > 200).mean() > 0.9 and (inside[..., 0] < 60).mean() > 0.9
            seen += 1
    assert seen > 20


def batch_of(*scenes: Scene) -> Targets:
    return Targets(*(torch.stack(parts) for parts in zip(*(targets(scene) for scene in scenes), strict=True)))


def scene_with(boxes: list[list[float]], ignored: list[list[float]] | None = None, eyes: NDArray[np.float64] | None = None) -> Scene:
    given = np.array(boxes, np.float64).reshape(-1, 4)
    eyes = np.full((len(given), 2, 2), np.nan) if eyes is None else eyes
    return Scene(np.zeros((SIDE, SIDE, 3), np.uint8), given, eyes, np.array(ignored or [], np.float64).reshape(-1, 4))


def test_targets_decode_to_the_boxes_they_were_made_of() -> None:
    boxes = [[10.3, 20.7, 20.1, 33.0], [100, 100, 130.5, 141], [240, 3, 254, 19]]
    eyes = np.array([[[13, 25], [18, 25.5]], [[108, 115], [122, 116]], [[243, 8], [250, 9]]], np.float64)
    wanted = batch_of(scene_with(boxes, eyes=eyes))
    found, scores, places = decode(wanted.heat[0, 0].numpy(), wanted.geometry[0].numpy(), least=0.99)
    order = np.argsort(found[:, 0])
    np.testing.assert_allclose(found[order], boxes, atol=1e-3)
    np.testing.assert_allclose(places[order], eyes, atol=1e-3)
    assert scores.tolist() == [1, 1, 1] and wanted.seen.sum() == (wanted.weight > 0).sum()


def test_perfect_maps_have_almost_no_loss_and_wrong_ones_more() -> None:
    wanted = batch_of(scene_with([[50, 50, 70, 76]]), scene_with([]))
    heat = torch.logit(wanted.heat.clamp(1e-4, 1 - 1e-4))
    perfect = losses(Maps(heat, wanted.geometry), wanted)
    assert perfect["heat"] < 0.5 and perfect["box"] < 1e-4 and perfect["place"] < 1e-4 and perfect["eyes"] == 0
    shifted = losses(Maps(heat, wanted.geometry + 0.5), wanted)
    assert shifted["box"] > 0.3 and shifted["place"] > 0.3
    empty = losses(Maps(torch.full_like(heat, -6), wanted.geometry), wanted)
    assert empty["heat"] > perfect["heat"] + 2


def test_what_lies_in_ignored_boxes_costs_nothing() -> None:
    ignored, counted = batch_of(scene_with([], [[40, 40, 80, 80]])), batch_of(scene_with([]))
    heat = torch.full((1, 1, CELLS, CELLS), -9.0)
    heat[0, 0, 12:18, 12:18] = 5
    geometry = torch.zeros(1, 8, CELLS, CELLS)
    assert losses(Maps(heat, geometry), ignored)["heat"] < 0.01
    assert losses(Maps(heat, geometry), counted)["heat"] > 10


@pytest.fixture
def folders(tmp_path: Path, faces: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    data, frames = tmp_path / "faces", tmp_path / "frames"
    data.mkdir(), frames.mkdir()
    write_shard(data / "train-00.tar", faces)
    points = np.tile(np.random.default_rng(0).uniform(50, 140, (68, 2)), (12, 1, 1)).astype(np.float32)
    keys = [f"train-00_{number:05d}" for number in range(12)]
    np.savez(data / "landmarks.npz", key=keys, points=points, visible=np.ones((12, 68), bool))
    pictures = [photograph(seed, []).picture for seed in range(4)]
    write_frames(frames, "train", [(picture, [[40.0, 30.0, 24.0, 30.0]]) for picture in pictures])
    monkeypatch.setattr(detector, "HELD_BACK", 2)
    return data, frames


def test_scores_become_shares_of_what_is_right() -> None:
    """Small boxes are right a tenth as often as large ones of the same score; afterwards a probability says how often."""
    rng = np.random.default_rng(0)
    size = rng.choice([10.0, 30.0], 4000)
    score = rng.uniform(0.1, 0.9, 4000)
    right = rng.random(4000) < np.where(size < 20, 0.1, 1.0) * score
    order = np.argsort(-score)
    count = int(right.sum())
    face = np.full(4000, -1)
    face[right] = np.arange(count)
    matches = Matches(1, np.zeros(4000, int), score[order], size[order], face[order], np.zeros(count, int), size[right])
    found = detector.calibrate(matches)
    boxes = np.stack([np.zeros(4000), np.zeros(4000), size, size], 1)
    likely = probability(score, boxes, found)
    for each in (10.0, 30.0):
        assert likely[size == each].mean() == pytest.approx(right[size == each].mean(), abs=0.02)
    assert np.corrcoef(likely[size > 20], score[size > 20])[0, 1] > 0.95


def test_training_goes_on_where_it_stopped(folders: tuple[Path, Path], tmp_path: Path) -> None:
    settings = {"batch": 2, "workers": 0, "validate_every": 4}
    train_detector(*folders, tmp_path / "a" / "run", steps=4, **settings)
    train_detector(*folders, tmp_path / "b" / "run", steps=2, **settings)
    # The rate depends on the last step, so the interrupted run is told the same one.
    tensors, about = checkpoint.load(tmp_path / "b" / "run" / "last.safetensors")
    assert about["step"] == 2 and about["model"] == "detector"
    train_detector(*folders, tmp_path / "b" / "run", steps=4, resume=True, **settings)
    best, about = checkpoint.load(tmp_path / "b" / "run" / "last.safetensors")
    assert about["step"] == 4 and not torch.equal(best["model.stem.0.0.weight"], tensors["model.stem.0.0.weight"])
    with pytest.raises(BadInputError, match=r"b/run holds a run already: go on with it by --resume"):
        train_detector(*folders, tmp_path / "b" / "run", steps=4, **settings)
    assert checkpoint.load(tmp_path / "b" / "run" / "last.safetensors")[1] == about
    assert (tmp_path / "a" / "run" / "log.txt").read_text().count("8-12") == 1
    Detector().load_state_dict(checkpoint.unpack("average", best))


def test_a_bundle_becomes_the_network_that_it_was_made_of(face_set: FaceSet) -> None:
    scenes = [make_scene([photograph(number, [])], face_set, np.random.default_rng(number)).picture for number in range(24)]
    frames = torch.from_numpy(np.stack(scenes).transpose(0, 3, 1, 2)).float() / 255
    network = from_bundle(SHIPPED, frames[:16])
    assert network.training
    heat, geometry = load_frames(SHIPPED, backend="onnxruntime", precision="fp32").run(np.ascontiguousarray(scenes[20][..., ::-1]))
    with torch.no_grad():
        maps = network.eval()(frames[20:21])
        of_batch = network.train()(frames[:16])
        as_told = network.eval()(frames[:16])
    np.testing.assert_allclose(maps.heat.sigmoid().numpy(), heat, atol=2e-4)
    np.testing.assert_allclose(maps.geometry.numpy(), geometry, atol=5e-3)
    # What a batch says of itself is what the network was told of it: a first step starts where the bundle ended.
    torch.testing.assert_close(of_batch.heat, as_told.heat, atol=0.02, rtol=0.02)


def test_only_the_detectors_own_bundle_is_begun_with(folders: tuple[Path, Path], tmp_path: Path) -> None:
    for lite in (SHIPPED.parents[1] / "lite", Path("lite")):
        with pytest.raises(WeightsError, match="lite is a bundle of lite, not of fhrt's detector"):
            train_detector(*folders, tmp_path / "run", steps=1, batch=2, workers=0, start=lite)
    with pytest.raises(UnknownModelError, match="no-such"):
        train_detector(*folders, tmp_path / "run", steps=1, batch=2, workers=0, start=tmp_path / "no-such")


def test_a_run_can_begin_with_a_bundle_and_says_so(folders: tuple[Path, Path], tmp_path: Path) -> None:
    settings = {"batch": 2, "workers": 0, "validate_every": 1}
    train_detector(*folders, tmp_path / "run", steps=1, start=SHIPPED, **settings)
    train_detector(*folders, tmp_path / "run", steps=2, resume=True, **settings)
    _, about = checkpoint.load(tmp_path / "run" / "last.safetensors")
    assert about["step"] == 2
    folder = export_detector(tmp_path / "run" / "best.safetensors", tmp_path / "bundle")
    assert "steps; begun with a bundle's weights: 24,000 faces" in read_card(folder).training


def test_what_cannot_be_gone_on_with_is_refused(folders: tuple[Path, Path], tmp_path: Path) -> None:
    last = tmp_path / "run" / "last.safetensors"
    for about, error, words in (
        ({"model": "detector", "step": 5, "best": 0.0}, BadInputError, "is at step 5 already"),
        ({"model": "lite", "step": 2, "best": 0.0}, WeightsError, "another model's: of 'lite', not of 'detector'"),
    ):
        checkpoint.save(last, checkpoint.pack("model", Detector().state_dict()), about)
        for steps in (3, 5):
            with pytest.raises(error, match=words):
                train_detector(*folders, tmp_path / "run", steps=steps, batch=2, workers=0, resume=True)


def test_bad_settings(folders: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="--resume goes on with a run and --start begins one"):
        train_detector(*folders, tmp_path / "run", resume=True, start=SHIPPED)
    with pytest.raises(BadInputError, match=r"device must be .* not 'foo'"):
        train_detector(*folders, tmp_path / "run", device="foo")
    (tmp_path / "file").touch()
    with pytest.raises(BadInputError, match=r"cannot make the folder .*file: File exists"):
        train_detector(*folders, tmp_path / "file")


def test_too_few_photographs_are_refused_before_the_first_step(
    folders: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(detector, "HELD_BACK", 4)
    with pytest.raises(BadInputError, match="4 photographs"):
        train_detector(*folders, tmp_path / "run", steps=1)
