"""C-SRIP (Grm, Scheirer & Štruc, "Face hallucination using cascaded super-resolution and identity priors"): 24×24 → 192×192.

This is the super-resolving network; the frozen networks that judge its pictures while it is trained are in `fhrt.models.squeezenet`.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fhrt import ops
from fhrt.errors import BadInputError
from fhrt.models.layers import ModelOutput, check_size

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

    blocks: residual blocks of each SR module, 7 in the paper. tail: residual blocks before the last picture, 1 in the paper.

    The other hyper-parameters are the rows of the paper's ablation. multi_scale 0: without the branches, ``coarser`` empty. cascade 0: the
    baseline, all residual blocks at 24×24 and the three shuffles after them. Its blocks all have ``width`` channels, with which it takes
    as many operations as the cascade (106 M parameters): a block of half the channels at twice the side costs the same.

    Raises BadInputError for a width that is not a positive multiple of 8, and for blocks that are not three whole numbers.
    """

    def __init__(self, width: int = 512, cascade: int = 1, multi_scale: int = 1, blocks: Sequence[int] = (7, 7, 7), tail: int = 1) -> None:
        super().__init__()
        check_size("csrip", "width", width, 8, 8)
        check_size("csrip", "tail", tail, least=0)
        if not isinstance(blocks, Sequence) or len(blocks) != 3 or not all(isinstance(each, int) and each >= 0 for each in blocks):
            raise BadInputError(f"csrip: blocks must be three whole numbers, one of each SR module, not {blocks}")
        self.head = nn.Sequential(nn.Conv2d(3, width, 9, padding=4), nn.LeakyReLU(SLOPE))
        channels, counts = (width, width // 2, width // 4), blocks if cascade else (sum(blocks), 0, 0)
        self.sr_modules = nn.ModuleList(
            nn.Sequential(*(ResidualBlock(each) for _ in range(count)), Enlarge(each))
            for each, count in zip(channels, counts, strict=True)
        )  # fmt: skip
        self.branches = nn.ModuleList(_to_picture(each // 2) for each in channels[:2]) if multi_scale else None
        self.tail = nn.Sequential(*(ResidualBlock(width // 8) for _ in range(tail)), _to_picture(width // 8))

    def forward(self, lr: Tensor) -> ModelOutput:
        maps = [self.head(lr)]
        for module in self.sr_modules:
            maps.append(module(maps[-1]))
        branches = () if self.branches is None else zip(self.branches, maps[1:3], strict=True)
        coarser = tuple(self._picture(branch, x) for branch, x in branches)
        return ModelOutput(self._picture(self.tail[-1], self.tail[:-1](maps[-1])), coarser=coarser)

    def _picture(self, conv: nn.Module, x: Tensor) -> Tensor:
        made = picture_of_phases(conv, x) if self.training and isinstance(conv, nn.Conv2d) else conv(x)
        clipped: Tensor = made.clamp(-1, 1)
        return clipped


def picture_of_phases(conv: nn.Conv2d, x: Tensor) -> Tensor:
    """``conv(x)`` of a k9 convolution with zero padding, [N, C, 2H, 2W] → [N, 3, 2H, 2W], computed at the half side.

    What it sees there are 5×5 positions of 4·C channels, the pixels of a 2×2 square, and it gives 12: those of the picture's square. Three
    channels at the full side are what processors are slow at.
    """
    taps = _taps(x.device)
    weight = torch.einsum("oiyx,pyak,qxbl->opqiabkl", conv.weight, taps, taps).flatten(0, 2).flatten(1, 3)
    bias = conv.bias
    assert bias is not None
    return ops.pixel_shuffle(F.conv2d(F.pixel_unshuffle(x, 2), weight, bias.repeat_interleave(4), padding=2), 2)


@cache
def _taps(device: torch.device) -> Tensor:
    """[2, 9, 2, 5]: 1 where tap d of the output pixel at place p of a square is the input pixel at place a, k − 2 squares on."""
    taps = torch.zeros(2, 9, 2, 5)
    for p in range(2):
        for d in range(9):
            square, place = divmod(p + d - 4, 2)
            taps[p, d, place, square + 2] = 1
    return taps.to(device)


def _to_picture(channels: int) -> nn.Conv2d:
    return nn.Conv2d(channels, 3, 9, padding=4)
