"""FSIM against an independent implementation's figures, and its behaviour at the edges."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage import data

from fhrt.errors import BadInputError
from fhrt.metrics.fsim import fsim

CROPS = {
    "astronaut": np.s_[:, :],  # 512×512: averaged down by 2
    "face": np.s_[20:148, 160:288],
    "odd": np.s_[20:149, 160:301],
    "camera": np.s_[:, :],
    "tripod": np.s_[100:292, 180:372],
}


def clean(name: str) -> NDArray[np.uint8]:
    """A part of scikit-image's portrait in colour, or of its grey cameraman."""
    return (data.camera() if name in ("camera", "tripod") else data.astronaut())[CROPS[name]]


def damaged(picture: NDArray[np.uint8], damage: str) -> NDArray[np.uint8]:
    if damage == "noise":
        return np.clip(np.rint(picture + np.random.default_rng(0).normal(0, 20, picture.shape)), 0, 255).astype(np.uint8)
    if damage == "blur":
        return cv2.GaussianBlur(picture, (0, 0), 2)
    return picture[::8, ::8].repeat(8, 0).repeat(8, 1)[: picture.shape[0], : picture.shape[1]]


# Measured with piq 0.8.0 on torch 2.13: piq.fsim(x, y, data_range=255.0, chromatic=False), float64 tensors [1, C, H, W] of these pictures.
# It takes the lower of the two middle values for the median and another epsilon: the last digits differ.
REFERENCE = [
    ("astronaut", "noise", 0.937317),
    ("astronaut", "blur", 0.918915),
    ("face", "noise", 0.872943),
    ("face", "blur", 0.822708),
    ("odd", "noise", 0.872424),
    ("odd", "blur", 0.819574),
    ("camera", "noise", 0.851269),
    ("camera", "blur", 0.901829),
    ("tripod", "noise", 0.742429),
    ("tripod", "blur", 0.820706),
    ("astronaut", "blocks", 0.656633),
    ("face", "blocks", 0.506793),
    ("odd", "blocks", 0.501935),
    ("camera", "blocks", 0.683574),
    ("tripod", "blocks", 0.575773),
]


@pytest.mark.parametrize(("name", "damage", "expected"), REFERENCE)
def test_fsim_agrees_with_an_independent_implementation(name: str, damage: str, expected: float) -> None:
    picture = clean(name)
    values = fsim(picture, damaged(picture, damage))
    assert values.shape == (1,) and values.dtype == np.float64
    assert values[0] == pytest.approx(expected, abs=2e-5)


def test_a_batch_is_its_pictures_and_the_order_does_not_matter() -> None:
    a = np.stack([clean("face")] * 2)
    b = np.stack([damaged(a[0], "noise"), damaged(a[0], "blur")])
    values = fsim(a, b)
    np.testing.assert_array_equal(values, [fsim(x, y)[0] for x, y in zip(a, b, strict=True)])
    np.testing.assert_allclose(fsim(b, a), values, rtol=1e-12)
    assert values[0] != values[1]


def test_equal_pictures_are_perfect() -> None:
    assert fsim(clean("face"), clean("face"))[0] == pytest.approx(1, abs=1e-12)


def test_floats_and_grey_pictures_are_the_same_pictures() -> None:
    a, b = clean("tripod"), damaged(clean("tripod"), "blur")
    expected = fsim(a, b)[0]
    assert fsim(a.astype(np.float32), b.astype(np.float64))[0] == expected
    assert fsim(*(np.repeat(x[..., None], 3, axis=2) for x in (a, b)))[0] == pytest.approx(expected, abs=1e-9)


def test_only_luminance_counts() -> None:
    a = clean("face").astype(np.float64)
    shifted = a + np.array([20, -20 * 0.299 / 0.587, 0])  # another hue of the same luminance
    assert fsim(a, shifted)[0] == pytest.approx(1, abs=1e-9)


def test_pictures_without_structure_have_a_score() -> None:
    grey, white = np.full((20, 20), 128, np.uint8), np.full((20, 20), 255, np.uint8)
    assert fsim(grey, grey)[0] == 1
    assert 0 < fsim(grey, white)[0] < 1  # the borders differ: zeros lie beyond them


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((16, 16)), np.zeros((16, 17)), "equal shape"),
        (np.zeros((16, 16), np.int32), np.zeros((16, 16), np.int32), "uint8 or float"),
        (np.zeros((2, 16, 16)), np.zeros((2, 16, 16)), r"\[H, W\]"),
        (np.zeros((2, 16, 16, 1)), np.zeros((2, 16, 16, 1)), r"\[H, W\]"),
        (np.zeros((15, 40, 3)), np.zeros((15, 40, 3)), "16×16"),
        (np.zeros((0, 16, 16, 3)), np.zeros((0, 16, 16, 3)), "16×16"),
        (np.zeros((0, 16, 3)), np.zeros((0, 16, 3)), "16×16"),
        (np.zeros((16, 16)), np.full((16, 16), np.nan), "b holds NaN"),
    ],
    ids=["unequal", "integers", "no channels", "one channel", "small", "empty", "no rows", "nan"],
)
def test_unusable_pictures_are_refused(a: NDArray, b: NDArray, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        fsim(a, b)
