"""SR faces averaged over time: less noise, the face where it is now."""

import cv2
import numpy as np
import pytest

from fhrt.errors import BadInputError
from fhrt.faces.align import face_transform
from fhrt.faces.steady import Steadying

TO_LR = face_transform(np.eye(2, 3, dtype=np.float32), None, (16, 16), (128, 128))
STILL = np.eye(2, 3, dtype=np.float32)
ANEW = np.full((2, 3), np.nan)


def add(steadying: Steadying, track_id: int, sr: np.ndarray, to_lr: np.ndarray, back: np.ndarray) -> np.ndarray:
    """A track's next SR face `[H, W, 3]`, steadied."""
    planes = sr.transpose(2, 0, 1)[None].astype(np.float32)
    return steadying.update([track_id], planes, to_lr[None], back[None])[0].transpose(1, 2, 0)


def picture(shift: float = 0.0, turn: float = 0.0) -> np.ndarray:
    rough = np.random.default_rng(2).integers(60, 200, (10, 10, 3), np.uint8)
    face = cv2.resize(rough, (128, 128), interpolation=cv2.INTER_CUBIC)
    matrix = cv2.getRotationMatrix2D((63.5, 63.5), turn, 1)
    matrix[0, 2] += shift
    return cv2.warpAffine(face, matrix, (128, 128), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)


def noisy(face: np.ndarray, seed: int, deviation: float = 12.0) -> np.ndarray:
    return np.clip(np.rint(face + np.random.default_rng(seed).normal(0, deviation, face.shape)), 0, 255).astype(np.uint8)


def error(face: np.ndarray, truth: np.ndarray) -> float:
    return float(np.sqrt(((face.astype(float) - truth)[24:-24, 24:-24] ** 2).mean()))


def test_noise_falls_with_the_frames() -> None:
    steadying, truth = Steadying(4), picture()
    errors = [error(add(steadying, 1, noisy(truth, seed), TO_LR, STILL), truth) for seed in range(20)]
    assert errors[0] == pytest.approx(12, rel=0.05)
    # Of a mean of 2, 3 and 4; moving it smooths what it moves a little besides.
    for count in (2, 3, 4):
        assert 0.75 * 12 / count**0.5 < errors[count - 1] < 1.05 * 12 / count**0.5
    # A running mean with weight 1/4 for the newest: variance 1 / (2 * 4 - 1).
    assert 0.75 * 12 / 7**0.5 < np.mean(errors[10:]) < 1.05 * 12 / 7**0.5


def test_a_still_face_stays_sharp() -> None:
    steadying, truth = Steadying(4), picture()
    for _ in range(50):
        face = add(steadying, 1, truth, TO_LR, STILL)
    assert error(face, truth) < 1


def test_a_face_that_moves_within_its_crop_is_not_smeared() -> None:
    steadying, moved = Steadying(4), np.float32([[1, 0, -0.25], [0, 1, 0]])  # 0.25 LR pixels are 2 SR pixels
    for number in range(8):
        face = add(steadying, 1, picture(2 * number), TO_LR, moved)
        assert error(face, picture(2 * number)) < 1.5
    assert error(picture(14), picture(8)) > 6, "as it would be smeared without the move"


def test_what_the_network_turned_upright_is_turned_alike() -> None:
    """A spatial transformer's angle differs from frame to frame; what it puts out is upright in all."""
    steadying, truth = Steadying(4), picture()
    for number, angle in enumerate((0.0, 0.1, -0.1, 0.2)):
        cos, sin = np.cos(angle), np.sin(angle)
        theta = np.float32([[cos, -sin, 0], [sin, cos, 0]])
        to_lr = face_transform(STILL, theta, (16, 16), (128, 128))
        # What lies in the LR face stays where it is, so that the SR face turns with theta.
        face = add(steadying, 1, picture(turn=np.degrees(angle)), to_lr, STILL)
        assert error(face, picture(turn=np.degrees(angle))) < 3, number
    assert error(truth, picture(turn=np.degrees(0.2))) > 10


def test_it_begins_anew_and_forgets() -> None:
    steadying, dark, bright = Steadying(4), np.full((128, 128, 3), 40, np.uint8), np.full((128, 128, 3), 240, np.uint8)
    assert (add(steadying, 1, dark, TO_LR, STILL) == 40).all()
    assert (add(steadying, 1, bright, TO_LR, STILL) == 140).all()
    assert (add(steadying, 2, bright, TO_LR, STILL) == 240).all(), "another track"
    assert (add(steadying, 1, dark, TO_LR, ANEW) == 40).all(), "not the same face any more"
    steadying.keep([2])
    assert (add(steadying, 1, bright, TO_LR, STILL) == 240).all()
    assert (add(steadying, 2, dark, TO_LR, STILL) == 140).all()
    assert (add(Steadying(1), 1, dark, TO_LR, STILL) == dark).all()
    assert (add(steadying, 2, bright[:64], TO_LR, STILL) == 240).all(), "another model's size"


def test_several_tracks_at_once_are_as_each_alone() -> None:
    together, alone = Steadying(4), Steadying(4)
    for number in range(5):
        ids = [4, 9] if number % 2 else [9, 4]
        faces = [noisy(picture(turn=5 * track_id), number) for track_id in ids]
        back = [STILL if number != 3 else ANEW, np.float32([[1, 0, 0.1 * number], [0, 1, 0]])]
        planes = np.stack([face.transpose(2, 0, 1) for face in faces]).astype(np.float32)
        shown = together.update(ids, planes, np.stack([TO_LR] * 2), np.stack(back))
        for n, track_id in enumerate(ids):
            np.testing.assert_array_equal(shown[n].transpose(1, 2, 0), add(alone, track_id, faces[n], TO_LR, back[n]))


def test_what_does_not_belong_together_is_refused() -> None:
    with pytest.raises(BadInputError, match="each SR face"):
        Steadying(4).update([1, 2], np.zeros((1, 3, 8, 8), np.float32), TO_LR[None], STILL[None])
