"""Loss terms, each a function of the batch; pictures are [N, 3, H, W] in [-1, 1]."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from fhrt import ops
from training.recipe import Losses

SMOOTH = 0.5  # pixels


def picture_losses(sr: Tensor, hr: Tensor, weights: Losses) -> dict[str, Tensor]:
    """The weighted picture terms that the recipe asks for.

    ``l1``: mean |sr − hr|. ``mse``: mean (sr − hr)². ``psnr``: the mean of the pictures' negative PSNR in dB of range [-1, 1] (HINet,
    Chen et al., 2021, eq. 4); where the input leaves much open it leads to a higher PSNR than L1. ``ssim``: 1 − mean SSIM, as
    `fhrt.metrics.ssim` measures it.
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
        # On [0, 2]: its luminance term compares brightnesses with zero, which must be black.
        terms["ssim"] = weights.ssim * (1 - ops.ssim(sr + 1, hr + 1, data_range=2.0))
    return terms


def theta_loss(theta: Tensor, truth: Tensor) -> Tensor:
    """Mean |θ − θ*|: the true transform is known because the LR faces are made here."""
    return F.l1_loss(theta, truth)


def corner_loss(theta: Tensor, truth: Tensor, side: int) -> Tensor:
    """Mean distance between where theta and the truth [N, 2, 3] take the corners of an upright face, in pixels of its ``side``.

    It weighs angle, scale and shift by what they do to the picture. √(d² + ε²) − ε in place of d, ε = `SMOOTH` pixels: the gradient fades
    where the corners are right, and elsewhere is that of the distance itself, so that a face that was found badly does not rule the batch.
    """
    x, y, shift = (theta - truth).unbind(2)
    moved = torch.stack([shift - x - y, shift + x - y, shift - x + y, shift + x + y]) * (side / 2)
    return ((moved.square().sum(2) + SMOOTH**2).sqrt() - SMOOTH).mean()


def heatmap_loss(stacks: tuple[Tensor, ...], target: Tensor) -> Tensor:
    """Mean squared error of every stack's heatmaps [N, 4, h, w], summed over the stacks: intermediate supervision (MTUN, eq. 5).

    Over all pixels, as its authors' code has it; the equation sums over visible landmarks.
    """
    return torch.stack([F.mse_loss(heatmaps, target) for heatmaps in stacks]).sum()


def discriminator_loss(real: Tensor, fake: Tensor) -> Tensor:
    """Binary cross-entropy of the discriminator's probabilities on real and super-resolved faces (UR-DGN, eq. 3)."""
    return _entropy(real, 1.0) + _entropy(fake, 0.0)


def adversarial_loss(fake: Tensor) -> Tensor:
    """−log D(sr): how well the generator passes for real. UR-DGN (eq. 7) and TDN (eq. 4) minimise log(1 − D(sr)), whose gradient is faint
    where D is sure; both lead the same way (Goodfellow et al., 2014, §3).
    """
    return _entropy(fake, 1.0)


def _entropy(probability: Tensor, target: float) -> Tensor:
    """Binary cross-entropy, NaN where a probability is: torch's own refuses that, and on a device ends the process."""
    known = probability.nan_to_num(nan=0.5)
    return F.binary_cross_entropy(known, torch.full_like(known, target)) + 0 * probability.mean()
