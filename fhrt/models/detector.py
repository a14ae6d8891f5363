"""fhrt's own detector of tiny faces: a fully convolutional network with a centre heatmap at a quarter of the frame's resolution.

Faces as points (CenterNet: Zhou, Wang & Krähenbühl, 2019) need no anchors, and a map of stride 4 keeps apart what is 8 pixels wide. Half of
the layers work at strides 8 and 16, where context is cheap: a tiny face is mostly known by the head and shoulders around it.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

STRIDE = 4
COARSEST = 16
"""Height and width of what goes in are multiples of this."""
UNIT = 16.0
"""Pixels of a box whose logarithmic sizes are 0."""


class Maps(NamedTuple):
    """What the network says at each cell, [N, C, H/4, W/4].

    heat: [N, 1, …] logit of a face's centre. geometry: [N, 8, …] of the face there: its centre's offset from the cell's middle (x, y, in
    cells), the logarithm of its width and height in units of 16 pixels, and the places of its two eyes from its centre (x, y, x, y, in
    roots of its box's area).
    """

    heat: Tensor
    geometry: Tensor


class Detector(nn.Module):
    """``forward(frame [N, 3, H, W])`` RGB in [0, 1], H and W multiples of 16 → `Maps`.

    channels: at strides 2, 4, 8 and 16. blocks: residual blocks at strides 4, 8 and 16.
    """

    def __init__(self, channels: tuple[int, int, int, int] = (16, 32, 64, 64), blocks: tuple[int, int, int] = (2, 2, 2)) -> None:
        super().__init__()
        c2, c4, c8, c16 = channels
        self.stem = nn.Sequential(_conv(3, c2, stride=2), _conv(c2, c4, stride=2))
        self.stage4 = nn.Sequential(*(Residual(c4) for _ in range(blocks[0])))
        self.stage8 = nn.Sequential(_conv(c4, c8, stride=2), *(Residual(c8) for _ in range(blocks[1])))
        self.stage16 = nn.Sequential(_conv(c8, c16, stride=2), *(Residual(c16) for _ in range(blocks[2])))
        self.down16 = nn.Sequential(nn.Conv2d(c16, c8, 1), nn.Upsample(scale_factor=2, mode="nearest"))
        self.merge8 = _conv(c8, c8)
        self.down8 = nn.Sequential(nn.Conv2d(c8, c4, 1), nn.Upsample(scale_factor=2, mode="nearest"))
        self.merge4 = _conv(c4, c4)
        self.head = nn.Sequential(_conv(c4, 2 * c4), nn.Conv2d(2 * c4, 1 + 8, 1))
        with torch.no_grad():
            last = self.head[-1]
            assert isinstance(last, nn.Conv2d) and last.bias is not None
            last.weight.mul_(0.1)
            last.bias.zero_()
            last.bias[0] = -4.6  # a face at one cell of a hundred: else the many empty cells drown the first steps (RetinaNet, §4.1)

    def forward(self, frame: Tensor) -> Maps:
        x4 = self.stage4(self.stem(frame))
        x8 = self.stage8(x4)
        x8 = self.merge8(x8 + self.down16(self.stage16(x8)))
        maps = self.head(self.merge4(x4 + self.down8(x8)))
        return Maps(maps[:, :1], maps[:, 1:])


class Residual(nn.Module):
    """x + conv(conv(x)), all that comes out positive: what INT8 likes best."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(channels, channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(x + self.body(x))


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU())
