"""The loss terms are what they are called."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from fhrt import metrics
from fhrt.models.layers import similarity_theta
from fhrt.protocols.pairs import bicubic_hr, make_pairs
from fhrt.resample import to_uint8
from training.losses import corner_loss, picture_losses
from training.recipe import Losses


def planes(pictures: NDArray[np.uint8]) -> torch.Tensor:
    """[N, H, W, 3] as networks give them: [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(pictures.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)


@pytest.mark.parametrize("brightness", ["as it is", "mid-grey", "black"])
def test_the_ssim_term_is_the_metric(faces: NDArray[np.uint8], brightness: str) -> None:
    """In mid-grey, which is 0 to a network, a term that took 0 for black would be 0.27 where the metric is 0.67."""
    pairs = make_pairs(faces, "aligned", np.random.default_rng(0))
    hr, sr = (each.transpose(0, 2, 3, 1) for each in (pairs.hr, to_uint8(bicubic_hr(pairs.lr))))
    if brightness != "as it is":
        middle = 127 if brightness == "mid-grey" else 8
        hr, sr = (np.clip((each.astype(int) - 127) // 16 + middle, 0, 255).astype(np.uint8) for each in (hr, sr))
    term = picture_losses(planes(sr), planes(hr), Losses(ssim=1))["ssim"]
    assert float(1 - term) == pytest.approx(metrics.ssim(sr, hr).mean(), abs=1e-5)


def test_the_corners_term_counts_pixels() -> None:
    truth = similarity_theta(torch.tensor([[0.3, 0.9, 0.05, -0.02]]))
    assert corner_loss(truth, truth, 128) == 0
    moved = truth + torch.tensor([[0, 0, 6 / 64], [0, 0, 8 / 64]])  # 6 and 8 pixels of a face of 128, which is 2 wide
    assert float(corner_loss(moved, truth, 128)) == pytest.approx(10, abs=0.5)
    assert float(corner_loss(moved, truth, 192)) == pytest.approx(15, abs=0.5)
    # Turned by a degree, every corner moves along a circle through the corners: 0.9 · 64 · √2 pixels about the middle.
    turned = similarity_theta(torch.tensor([[0.3 + np.pi / 180, 0.9, 0.05, -0.02]]))
    assert float(corner_loss(turned, truth, 128)) == pytest.approx(0.9 * 64 * 2**0.5 * np.pi / 180, abs=0.5)


def test_the_corners_term_is_smooth_where_it_is_right_and_level_elsewhere() -> None:
    truth = similarity_theta(torch.tensor([[0.0, 1.0, 0.0, 0.0]]))

    def slope(pixels: float) -> float:
        theta = (truth + torch.tensor([[0, 0, pixels / 64], [0, 0, 0]])).requires_grad_()
        (gradient,) = torch.autograd.grad(corner_loss(theta, truth, 128), theta)
        return float(gradient[0, 0, 2]) / 64

    assert slope(0) == 0 and 0 < slope(0.1) < 0.3
    assert slope(5) == pytest.approx(1, abs=0.01) and slope(50) == pytest.approx(1, abs=0.001)
