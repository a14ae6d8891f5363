import cv2
import numpy as np
import pytest

from fhrt.faces.paste import feather_mask, paste_faces

FRAME = np.full((60, 80, 3), 50, np.uint8)


def smooth_picture(height, width):
    rough = np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8)
    return cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC)


def test_nothing_to_paste_is_the_enlarged_frame():
    frame = smooth_picture(30, 40)
    assert (paste_faces(frame, [], 1) == frame).all()
    assert (paste_faces(frame, [], 3) == cv2.resize(frame, (120, 90), interpolation=cv2.INTER_CUBIC)).all()


@pytest.mark.parametrize("scale", [1, 2, 4])
@pytest.mark.parametrize("degrees", [0, 37, 180])
def test_a_face_sampled_from_a_picture_returns_to_its_place(scale, degrees):
    truth = smooth_picture(240, 320)  # the frame at four times its size
    frame = cv2.resize(truth, (80, 60), interpolation=cv2.INTER_AREA)
    c, s = 0.25 * np.cos(np.radians(degrees)), 0.25 * np.sin(np.radians(degrees))
    linear = np.array([[c, -s], [s, c]])
    transform = np.column_stack([linear, [40, 30] - linear @ [63.5, 63.5]]).astype(np.float32)
    to_truth = transform.astype(float) * 4
    to_truth[:, 2] += 1.5
    sr = cv2.warpAffine(truth, to_truth, (128, 128), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP)
    grey = np.full_like(frame, 50)
    pasted = paste_faces(grey, [(sr, transform)], scale)
    expected = cv2.resize(truth, (80 * scale, 60 * scale), interpolation=cv2.INTER_AREA)
    middle = np.s_[24 * scale : 36 * scale, 34 * scale : 46 * scale]
    assert np.abs(pasted[middle].astype(int) - expected[middle]).max() <= 6
    assert (pasted[: 4 * scale, : 4 * scale] == 50).all()


@pytest.mark.parametrize("x", [-6, 70])
def test_a_face_across_the_border_is_clipped(x):
    transform = np.array([[0.25, 0, x], [0, 0.25, -5]], np.float32)
    pasted = paste_faces(FRAME, [(np.full((64, 64, 3), 200, np.uint8), transform)], 2)
    assert pasted.max() == 200
    assert (pasted[60:] == 50).all()


def test_a_face_outside_changes_nothing():
    transform = np.array([[0.25, 0, 500], [0, 0.25, 500]], np.float32)
    assert (paste_faces(FRAME, [(np.zeros((64, 64, 3), np.uint8), transform)], 2) == 50).all()


def test_edges_are_feathered():
    mask = feather_mask(64, 48)
    assert mask.shape == (64, 48)
    assert mask[32, 24] == 1
    assert mask[0].max() < 0.05
    assert (np.diff(mask[32, :24]) >= 0).all()
