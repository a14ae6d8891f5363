import numpy as np
import pytest
from PIL import Image

from fhrt.resample import KERNELS, resample_matrix, resize, to_uint8


@pytest.mark.parametrize("size", [(16, 16), (37, 23), (200, 300)])
def test_bicubic_is_pillows(size: tuple[int, int]) -> None:
    picture = np.random.default_rng(0).integers(70, 186, (128, 96), np.uint8)
    ours = to_uint8(resize(picture.astype(np.float32), size))
    theirs = np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BICUBIC))
    # Pillow rounds to uint8 between its two passes; the contrast is low, so that neither pass has to clip.
    assert np.abs(ours.astype(int) - theirs).max() <= 1


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("blur", [0.0, 2.5])
def test_a_flat_picture_stays_flat(kernel: str, blur: float) -> None:
    np.testing.assert_allclose(resample_matrix(128, 16, kernel, blur).sum(axis=1), 1, rtol=1e-5)


def test_blur_takes_detail_away() -> None:
    noise = np.random.default_rng(0).standard_normal((128, 1)).astype(np.float32)
    spread = [float((resample_matrix(128, 16, "bicubic", blur) @ noise).std()) for blur in (0.0, 4.0)]
    assert spread[1] < 0.9 * spread[0]
