"""PSNR and SSIM against scikit-image."""

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from fhrt.errors import BadInputError
from fhrt.metrics import psnr, ssim


@pytest.fixture
def pair() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Three smooth colour pictures and noisy copies, the noise growing from picture to picture."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:40, :33]
    clean = 128 + 100 * np.sin(x / 5 + rng.uniform(0, 6, (3, 3, 1, 1))) * np.cos(y / 7)
    clean = clean.transpose(0, 2, 3, 1)
    noisy = clean + rng.normal(0, 1, clean.shape) * np.array([2, 10, 40]).reshape(3, 1, 1, 1)
    return clean.clip(0, 255).astype(np.uint8), noisy.clip(0, 255).astype(np.uint8)


def test_psnr_agrees_with_scikit_image(pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    expected = [peak_signal_noise_ratio(a, b, data_range=255) for a, b in zip(*pair, strict=True)]
    values = psnr(*pair)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected, rtol=1e-12)


def test_ssim_agrees_with_scikit_image(pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    expected = [
        structural_similarity(a, b, data_range=255, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False)
        for a, b in zip(*pair, strict=True)
    ]
    values = ssim(*pair)
    assert values.dtype == np.float64
    np.testing.assert_allclose(values, expected, atol=2e-5)


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_one_picture_is_a_batch_of_one(metric, pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    a, b = pair
    np.testing.assert_array_equal(metric(a[1], b[1]), metric(a, b)[1:2])


def test_equal_pictures_are_perfect(pair: tuple[NDArray[np.uint8], NDArray[np.uint8]]) -> None:
    a, _ = pair
    assert np.all(np.isposinf(psnr(a, a)))
    np.testing.assert_allclose(ssim(a, a), 1, atol=1e-6)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize(
    ("a", "b"),
    [
        (np.zeros((16, 16, 3), np.float32), np.zeros((16, 16, 3), np.float32)),
        (np.zeros((16, 16, 3), np.uint8), np.zeros((16, 17, 3), np.uint8)),
        (np.zeros((16, 16), np.uint8), np.zeros((16, 16), np.uint8)),
        (np.zeros((0, 16, 16, 3), np.uint8), np.zeros((0, 16, 16, 3), np.uint8)),
    ],
    ids=["float", "unequal", "grey", "empty"],
)
def test_unusable_pictures_are_refused(metric, a: NDArray, b: NDArray) -> None:
    with pytest.raises(BadInputError, match="metrics compare"):
        metric(a, b)
