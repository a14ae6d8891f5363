import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from fhrt import ops
from fhrt.protocols.archive import tight
from fhrt.protocols.camera import camera
from fhrt.protocols.pairs import IN_PHASE, PROTOCOLS, bicubic_hr, gaussian_lr, make_pairs, reduction_matrix
from fhrt.protocols.pose import PoseRange, invert_theta, random_theta, turn


def planes(faces: NDArray[np.uint8]) -> NDArray[np.float32]:
    return np.ascontiguousarray(tight(faces).transpose(0, 3, 1, 2), dtype=np.float32)


def test_theta_turns_the_turned_face_upright(faces: NDArray[np.uint8]) -> None:
    theta = random_theta(len(faces), PoseRange(), np.random.default_rng(0))
    turned = turn(faces, theta)
    upright = ops.stn_sample(turned, theta)
    centre = np.s_[:, :, 40:88, 40:88]  # the corners leave the picture at 45°
    assert np.abs(upright[centre] - planes(faces)[centre]).mean() < 1.5
    assert np.abs(turned[centre] - planes(faces)[centre]).mean() > 5


def test_invert_theta() -> None:
    theta = random_theta(5, PoseRange(), np.random.default_rng(0))
    inverse = invert_theta(theta)
    points = np.array([[0.3, -0.7, 1.0]])
    there = points @ theta.transpose(0, 2, 1)
    back = np.concatenate([there, np.ones_like(there[..., :1])], -1) @ inverse.transpose(0, 2, 1)
    np.testing.assert_allclose(back[:, 0], np.repeat(points[:, :2], 5, 0), atol=1e-5)


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_seed_fixes_the_pairs(faces: NDArray[np.uint8], protocol: str) -> None:
    first, again, other = (make_pairs(faces, protocol, np.random.default_rng(seed)) for seed in (3, 3, 4))
    np.testing.assert_array_equal(first.lr, again.lr)
    side = PROTOCOLS[protocol]
    assert first.lr.shape == (12, 3, side, side) and first.lr.dtype == np.uint8
    assert first.hr.shape == (12, 3, 8 * side, 8 * side) and first.hr.dtype == np.uint8
    assert (protocol in ("aligned", "loose")) == np.array_equal(first.lr, other.lr)


def test_ranges_are_those_of_the_protocol() -> None:
    theta = random_theta(4000, PoseRange(angle=45, shift=0.05, scale=0.8), np.random.default_rng(0))
    scale = np.hypot(theta[:, 0, 0], theta[:, 1, 0])
    angle = np.degrees(np.arctan2(theta[:, 1, 0], theta[:, 0, 0]))
    assert 0.8 <= scale.min() < 0.801 and 0.999 < scale.max() <= 1.0001
    assert -45 <= angle.min() < -44.9 and 44.9 < angle.max() <= 45
    assert 0.099 < np.abs(theta[:, :, 2]).max() <= 0.1001  # 5 % of a crop that is 2 wide


def test_camera_damages_but_keeps_the_face(faces: NDArray[np.uint8]) -> None:
    hr = planes(np.repeat(faces, 4, 0))
    damaged = camera(hr, 16, np.random.default_rng(0))
    clean = make_pairs(np.repeat(faces, 4, 0), "aligned", np.random.default_rng(0)).lr
    error = np.abs(damaged.astype(float) - clean).mean(axis=(1, 2, 3))
    assert error.min() > 0.3 and 2 < error.mean() < 25
    assert np.abs(bicubic_hr(damaged) - hr).mean() < 40


def test_loose_faces_are_blurred_and_decimated(faces: NDArray[np.uint8]) -> None:
    pairs = make_pairs(faces[:3], "loose", np.random.default_rng(0))
    np.testing.assert_array_equal(pairs.hr, faces[:3].transpose(0, 3, 1, 2))
    for lr, face in zip(pairs.lr, faces, strict=False):
        blurred = cv2.GaussianBlur(face.astype(np.float32), (21, 21), 7 / 3, borderType=cv2.BORDER_REFLECT_101)[4::8, 4::8]
        assert np.abs(lr.transpose(1, 2, 0) - blurred).max() <= 0.51


@pytest.mark.parametrize(("factor", "sigma"), [(8, 7 / 3), (4, 1.0), (2, 1 / 3)])
def test_a_loose_face_at_every_scale(faces: NDArray[np.uint8], factor: int, sigma: float) -> None:
    """OpenCV's blur and every factor-th pixel; what all three show lies as far off the middle."""
    hr = np.ascontiguousarray(faces[:2].transpose(0, 3, 1, 2), dtype=np.float32)
    reduced = gaussian_lr(hr, factor)
    reach = 2 * int(np.ceil(4 * sigma)) + 1
    for small, face in zip(reduced, faces, strict=False):
        blurred = cv2.GaussianBlur(face.astype(np.float32), (reach, reach), sigma, borderType=cv2.BORDER_REFLECT_101)
        assert np.abs(small.transpose(1, 2, 0) - blurred[factor // 2 :: factor, factor // 2 :: factor]).max() <= 0.51
    seen = reduction_matrix(192, factor) @ np.arange(192, dtype=np.float32)  # of a ramp: where the pixels lie
    inside = slice(24 // factor, -24 // factor)
    middle = (np.arange(192 // factor) + 0.5) * factor - 0.5
    np.testing.assert_allclose((seen - middle)[inside], IN_PHASE, atol=1e-4)


def test_the_loose_baseline_lies_where_its_faces_do(faces: NDArray[np.uint8]) -> None:
    """Of a ramp, and nearer to the truth than enlarged about the middle."""
    ramp = np.broadcast_to(np.arange(32, 224, dtype=np.uint8)[:, None], (1, 192, 192, 3))
    pairs = make_pairs(ramp, "loose", np.random.default_rng(0))
    error = (bicubic_hr(pairs.lr, pairs.phase) - pairs.hr)[..., 20:-20, 20:-20]
    assert np.abs(error).max() < 0.6 and abs(error.mean()) < 0.02
    assert (bicubic_hr(pairs.lr) - pairs.hr)[..., 20:-20, 20:-20].mean() == pytest.approx(0.5, abs=0.02)
    pairs = make_pairs(faces, "loose", np.random.default_rng(0))
    right, middle = (np.square(bicubic_hr(pairs.lr, phase) - pairs.hr).mean() for phase in (pairs.phase, 0.0))
    assert right < middle


def test_noise_of_a_tenth_of_the_range(faces: NDArray[np.uint8]) -> None:
    many = np.repeat(faces, 4, 0)
    clean, noisy = (make_pairs(many, name, np.random.default_rng(5)) for name in ("unaligned", "noisy"))
    np.testing.assert_array_equal(clean.theta, noisy.theta)
    noise = (noisy.lr.astype(float) - clean.lr)[(clean.lr > 90) & (clean.lr < 165)]  # where nothing is clipped
    assert noise.std() == pytest.approx(25.5, rel=0.05) and abs(noise.mean()) < 1
