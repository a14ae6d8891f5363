"""C-SRIP (Grm, Scheirer & Štruc, "Face hallucination using cascaded super-resolution and identity priors"): 24×24 → 192×192.

This is the super-resolving network; the frozen networks that judge its pictures while it is trained are in `fhrt.models.squeezenet`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fhrt import ops
from fhrt.errors import BadInputError
from fhrt.models.layers import ModelOutput

SLOPE = 0.2  # of every LeakyReLU: the field's usual one, as in DCGAN and MTUN


class ResidualBlock(nn.Module):
    """[N, C, H, W] → the same: conv k3, BN, LeakyReLU, twice, plus the input. The sum comes after the activation, as C-SRIP has it."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        # No biases: a batch norm takes the mean away, and its own bias stands in for them.
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.LeakyReLU(SLOPE),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.LeakyReLU(SLOPE),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class Enlarge(nn.Module):
    """[N, C, H, W] → [N, C/2, 2H, 2W]: conv k3 to twice the channels, sub-pixel shuffle (Shi et al., 2016), LeakyReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 2 * channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(ops.pixel_shuffle(self.conv(x), 2), SLOPE)


class CSRIP(nn.Module):
    """``forward(lr [N, 3, 24, 24] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 192, 192], coarser)``.

    coarser: the pictures [N, 3, 48, 48] and [N, 3, 96, 96], by branches that the paper has while training; here they stay, because these
    pictures are of use too. All three are clamped to [-1, 1], in training as well: the paper's clipping layers stand behind the output and
    behind both branches (§3.4).

    width: channels of the first SR module; the second has half, the third a quarter, the last residual block an eighth. At 512 the network
    has 49.9 M parameters and takes 138 GFLOP per face, of which the branches 0.9.

    The last residual block deviates from the paper's text, which gives it 128 filters. Here it has the 64 channels that the third shuffle
    leaves: a block adds its input to what it makes of it, and with 128 filters that sum would need a convolution on the shortcut, of which
    the paper says nothing; the whole would take 150 GFLOP.

    The other hyper-parameters are the rows of the paper's ablation. multi_scale 0: without the branches, ``coarser`` empty. cascade 0: the
    baseline, all 21 residual blocks at 24×24 and the three shuffles after them. Its blocks all have ``width`` channels, with which it takes
    as many operations as the cascade (106 M parameters): a block of half the channels at twice the side costs the same.

    Raises BadInputError for a width that is not a positive multiple of 8.
    """

    def __init__(self, width: int = 512, cascade: int = 1, multi_scale: int = 1) -> None:
        super().__init__()
        if width < 8 or width % 8:
            raise BadInputError(f"csrip: width must be a positive multiple of 8, not {width}")
        self.head = nn.Sequential(nn.Conv2d(3, width, 9, padding=4), nn.LeakyReLU(SLOPE))
        channels, blocks = (width, width // 2, width // 4), (7, 7, 7) if cascade else (21, 0, 0)
        self.sr_modules = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(each) for _ in range(count)), Enlarge(each))
            for each, count in zip(channels, blocks, strict=True)
        )  # fmt: skip
        self.branches = nn.ModuleList(_to_picture(each // 2) for each in channels[:2]) if multi_scale else None
        self.tail = nn.Sequential(ResidualBlock(width // 8), _to_picture(width // 8))

    def forward(self, lr: Tensor) -> ModelOutput:
        maps = [self.head(lr)]
        for module in self.sr_modules:
            maps.append(module(maps[-1]))
        branches = () if self.branches is None else self.branches
        coarser = tuple(branch(x).clamp(-1, 1) for branch, x in zip(branches, maps[1:3], strict=False))
        return ModelOutput(self.tail(maps[-1]).clamp(-1, 1), coarser=coarser)


def _to_picture(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, 3, 9, padding=4)
