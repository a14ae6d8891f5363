"""Loss terms, each a function of the batch; pictures are [N, 3, H, W] in [-1, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fhrt import ops
from training.recipe import Losses


def picture_losses(sr: Tensor, hr: Tensor, weights: Losses) -> dict[str, Tensor]:
    """The weighted picture terms that the recipe asks for.

    ``l1``: mean |sr − hr|. ``mse``: mean (sr − hr)². ``psnr``: the mean of the pictures' negative PSNR in dB of range [-1, 1] (HINet,
    Chen et al., 2021, eq. 4); where the input leaves much open it leads to a higher PSNR than L1. ``ssim``: 1 − mean SSIM (11×11 Gaussian).
    """
    terms: dict[str, Tensor] = {}
    if weights.l1:
        terms["l1"] = weights.l1 * F.l1_loss(sr, hr)
    if weights.mse:
        terms["mse"] = weights.mse * F.mse_loss(sr, hr)
    if weights.psnr:
        error = (sr - hr).square().mean(dim=(1, 2, 3))
        terms["psnr"] = weights.psnr * 10 * torch.log10((error + 1e-8) / 4).mean()
    if weights.ssim:
        terms["ssim"] = weights.ssim * (1 - ops.ssim(sr, hr, data_range=2.0))
    return terms


def theta_loss(theta: Tensor, truth: Tensor) -> Tensor:
    """Mean |θ − θ*|: the true transform is known because the LR faces are made here."""
    return F.l1_loss(theta, truth)


def heatmap_loss(stacks: tuple[Tensor, ...], target: Tensor) -> Tensor:
    """Mean squared error of every stack's heatmaps [N, 4, h, w], summed over the stacks: intermediate supervision (MTUN, eq. 4)."""
    return torch.stack([F.mse_loss(heatmaps, target) for heatmaps in stacks]).sum()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy of the discriminator's probabilities on real and super-resolved faces (UR-DGN, eq. 3)."""
    return _entropy(real, 1.0) + _entropy(fake, 0.0)


def adversarial_loss(fake: Tensor) -> Tensor:
    """−log D(sr): how well the generator passes for real."""
    return _entropy(fake, 1.0)


def _entropy(probability: Tensor, target: float) -> Tensor:
    """Binary cross-entropy, NaN where a probability is: torch's own refuses that, and on a device ends the process."""
    known = probability.nan_to_num(nan=0.5)
    return F.binary_cross_entropy(known, torch.full_like(known, target)) + 0 * probability.mean()
