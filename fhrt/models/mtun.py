"""MTUN (Yu, Fernando, Ghanem, Porikli & Hartley, ECCV 2018): 16×16 → 128×128, unaligned faces, large poses, component heatmaps."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fhrt.errors import BadInputError
from fhrt.models.hourglass import Residual, StackedHourglass
from fhrt.models.layers import ModelOutput, SpatialTransformer, UpsampleConv2d, check_size, half_pixel_theta
from fhrt.systems import COMPONENTS

SIDE = 64  # of the aligned features and of the heatmaps


class AutoEncoder(nn.Module):
    """The picture [N, 3, 16, 16] → features [N, 8g, 16, 16]: four steps down to one position and four up, with skips (§3.2).

    d: channels of the first step down, which the others have 4, 16 and 64 times; g: an eighth of those of the last step up.
    """

    def __init__(self, d: int, g: int) -> None:
        super().__init__()
        self.down1, self.down2, self.down3 = _down(3, d), _down(d, 4 * d), _down(4 * d, 16 * d)
        self.down4 = _down(16 * d, 64 * d, kernel=2)
        self.up4 = _up(64 * d, 32 * g, kernel=2)
        self.up3, self.up2, self.up1 = _up(32 * g + 16 * d, 24 * g), _up(24 * g + 4 * d, 16 * g), _up(16 * g + d, 8 * g)

    def forward(self, lr: Tensor) -> Tensor:
        eight = self.down1(lr)
        four = self.down2(eight)
        two = self.down3(four)
        x = self.up4(self.down4(two))
        x = self.up3(torch.cat([x, two], 1))
        x = self.up2(torch.cat([x, four], 1))
        return self.up1(torch.cat([x, eight], 1))


class MTUN(nn.Module):
    """``forward(lr [N, 3, 16, 16] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 128, 128], theta [N, 2, 3], heatmaps)``.

    heatmaps: [N, 4, 64, 64] of every stack, for `COMPONENTS`. The localisation's flattened size is 500; the paper prints 80, which its own
    layers cannot give.

    width: half the channels of the aligned features, from which those of most layers follow. contracting: channels of the first of the
    auto-encoder's steps down, which together take 0.15 % of the operations. hourglass: of the hourglasses' maps. last: of the map before
    the picture. The paper's are 32, 32, 64 and 16.

    The other hyper-parameters are the rows of the paper's ablations. stacks: 1 to 4. skip 0: without the branch past the heatmaps.
    autoencoder 0: one convolution in its place. heatmap_side 16 or 32: the heatmaps are estimated from the aligned features at that side
    and enlarged. The paper instead estimates them at layers of 16 and 32 pixels, before the features are aligned at 64. Raises
    BadInputError for others.
    """

    def __init__(
        self, width: int = 32, stacks: int = 4, skip: int = 1, autoencoder: int = 1, heatmap_side: int = SIDE,
        contracting: int = 32, hourglass: int = 64, last: int = 16,
    ) -> None:  # fmt: skip
        super().__init__()
        for name, size in (("width", width), ("contracting", contracting), ("hourglass", hourglass), ("last", last)):
            check_size("mtun", name, size)
        if heatmap_side not in (16, 32, SIDE) or not 1 <= stacks <= 4:
            raise BadInputError(f"mtun: heatmap_side must be 16, 32 or 64 and stacks 1 to 4, not {heatmap_side} and {stacks}")
        g, self.heatmap_side = width, heatmap_side
        self.encoder = (
            AutoEncoder(contracting, g)
            if autoencoder
            else nn.Sequential(nn.Conv2d(3, 8 * g, 3, padding=1), nn.BatchNorm2d(8 * g), nn.ReLU())
        )
        self.upsample = nn.Sequential(_up(8 * g + 3, 4 * g), _up(4 * g, 2 * g))
        self.stn = SpatialTransformer(
            nn.Sequential(
                nn.MaxPool2d(2), nn.Conv2d(2 * g + 3, 20, 5), nn.ReLU(),
                nn.MaxPool2d(2), nn.Conv2d(20, 20, 5), nn.ReLU(), nn.MaxPool2d(2),
            ), 500,
        )  # fmt: skip
        self.align = nn.Sequential(nn.Conv2d(2 * g + 3, 2 * g, 3, padding=1), nn.BatchNorm2d(2 * g), nn.ReLU())
        self.before_heatmaps = nn.Sequential(nn.Conv2d(2 * g, hourglass, 3, padding=1), Residual(hourglass, hourglass))
        self.hourglasses = StackedHourglass(stacks, 4, hourglass, len(COMPONENTS))
        self.fuse = nn.Sequential(
            nn.Conv2d(2 * g + len(COMPONENTS), 2 * g, 3, padding=1), Residual(2 * g, 2 * g), nn.ReLU(),
            UpsampleConv2d(2 * g, g, 3), Residual(g, g), nn.ReLU(),
        )  # fmt: skip
        self.skip = nn.Sequential(UpsampleConv2d(2 * g, 2 * g, 3), Residual(2 * g, 2 * g), nn.ReLU()) if skip else None
        self.tail = nn.Sequential(
            nn.Conv2d(3 * g if skip else g, 2 * g, 3, padding=1), Residual(2 * g, g), Residual(g, g), nn.ReLU(),
            nn.Conv2d(g, last, 3, padding=1), Residual(last, last), nn.ReLU(),
            nn.Conv2d(last, 3, 5, padding=2),
        )  # fmt: skip

    def upright(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """The map [N, 2g + 3, 64, 64] behind the transformer, and theta [N, 2, 3]."""
        x = self.upsample(torch.cat([self.encoder(lr), lr], 1))
        x, theta = self.stn(torch.cat([x, F.interpolate(lr, scale_factor=4, mode="nearest")], 1))
        return x, half_pixel_theta(theta, SIDE)

    def forward(self, lr: Tensor) -> ModelOutput:
        x, theta = self.upright(lr)
        aligned = self.align(x)
        heatmaps = self._heatmaps(aligned)
        x = self.fuse(torch.cat([aligned, heatmaps[-1]], 1))
        if self.skip is not None:
            x = torch.cat([self.skip(aligned), x], 1)
        return ModelOutput(self.tail(x), theta, heatmaps)

    def _heatmaps(self, aligned: Tensor) -> tuple[Tensor, ...]:
        factor = SIDE // self.heatmap_side
        if factor == 1:
            return self.hourglasses(self.before_heatmaps(aligned))
        small = self.hourglasses(self.before_heatmaps(F.avg_pool2d(aligned, factor)))
        return tuple(F.interpolate(each, scale_factor=factor, mode="nearest") for each in small)


def _down(inputs: int, outputs: int, kernel: int = 4) -> nn.Sequential:
    """Half the side; with kernel 2, from 2×2 to one position."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, 2, (kernel - 2) // 2), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2))


def _up(inputs: int, outputs: int, kernel: int = 4) -> nn.Sequential:
    """Twice the side."""
    return nn.Sequential(nn.ConvTranspose2d(inputs, outputs, kernel, 2, (kernel - 2) // 2), nn.BatchNorm2d(outputs), nn.ReLU())
