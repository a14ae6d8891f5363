"""``lite``: our own network for CPUs, 16×16 → 128×128, unaligned faces.

All heavy layers run at 16×16 or 32×32. A two-step localisation finds the similarity that makes the face upright; features are
sampled along it on a 32×32 grid (twice the density, so that turning loses little), and residual blocks at 16×16 do the rest.
Known ideas it stands on: spatial transformers (Jaderberg 2015), supervised localisation with a second, finer look (as in inverse
compositional transformers, Lin & Lucey 2017), re-parameterised convolutions (RepVGG, Ding 2021), sub-pixel convolution (Shi 2016),
token mixing across positions (MLP-Mixer, Tolstikhin 2021), which an aligned face suits.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fhrt import ops
from fhrt.models.layers import ModelOutput, compose, similarity_theta


class RepConv2d(nn.Module):
    """k3 convolution trained as k3 + k1 + a per-channel shortcut; the three are summed into one kernel before use (RepVGG)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.pointwise = nn.Parameter(torch.zeros(channels, channels))
        self.shortcut = nn.Parameter(torch.zeros(channels))

    def weight(self) -> Tensor:
        centre = self.pointwise + torch.diag(self.shortcut)
        return self.conv.weight + F.pad(centre[:, :, None, None], (1, 1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.weight(), self.conv.bias, padding=1)

    def fold(self) -> nn.Conv2d:
        """The plain convolution that computes the same."""
        with torch.no_grad():
            self.conv.weight.copy_(self.weight())
        return self.conv


class ResidualBlock(nn.Module):
    """conv k3, ReLU, conv k3, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first, self.second = RepConv2d(channels), RepConv2d(channels)
        nn.init.normal_(self.second.conv.weight, std=0.01)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.relu(self.first(x)))


class PositionLinear(nn.Module):
    """``x @ weight + bias`` over the last axis, the weight as [in, out]: the graph then holds the very array that torch does."""

    def __init__(self, positions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(positions, positions).normal_(std=0.002))
        self.bias = nn.Parameter(torch.zeros(positions))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


class PositionMixer(nn.Module):
    """Mixes all positions of each channel by one learnt matrix, plus the input: [N, C, S, S] → the same."""

    def __init__(self, channels: int, side: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)
        self.mix = PositionLinear(side * side)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.mix(F.relu(self.gate(x)).flatten(2)).view_as(x)


class Localisation(nn.Module):
    """[N, C, 16, 16] → similarity parameters [N, 4]: angle (radians), scale, x and y shift; starts at the identity."""

    def __init__(self, channels: int, width: int, stem_stride: int = 1) -> None:
        super().__init__()
        self.convs = nn.Sequential(
            nn.Conv2d(channels, width, 3, stem_stride, 1), nn.ReLU(),
            nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, 1, 1), nn.ReLU(),
            nn.Conv2d(2 * width, 2 * width, 3, 2, 1), nn.ReLU(),
        )  # fmt: skip
        self.fc1 = nn.Linear(2 * width * 16, 128)
        self.fc2 = nn.Linear(128, 4)
        nn.init.zeros_(self.fc2.weight)
        with torch.no_grad():
            self.fc2.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))

    def forward(self, x: Tensor) -> Tensor:
        return self.fc2(F.relu(self.fc1(self.convs(x).flatten(1))))


class Lite(nn.Module):
    """The network. ``forward(lr [N, 3, 16, 16] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 128, 128], theta [N, 2, 3])``."""

    def __init__(self, width: int = 96, blocks: int = 12, detail: int = 48, stem: int = 24, localisation: int = 32) -> None:
        super().__init__()
        self.coarse = Localisation(3, localisation)
        self.fine = Localisation(4, localisation, stem_stride=2)
        self.stem = nn.Conv2d(3, stem, 3, padding=1)
        self.head = nn.Conv2d(stem + 4, width, 4, stride=2, padding=1)
        self.position = nn.Parameter(torch.zeros(1, width, 16, 16))
        half = blocks // 2
        self.trunk = nn.Sequential(
            *(ResidualBlock(width) for _ in range(half)), PositionMixer(width, 16),
            *(ResidualBlock(width) for _ in range(blocks - half)), PositionMixer(width, 16),
        )  # fmt: skip
        self.up = nn.Conv2d(width, 4 * detail, 3, padding=1)
        self.detail = ResidualBlock(detail)
        self.tail = nn.Conv2d(detail, 3 * 16, 3, padding=1)

    def localise(self, lr: Tensor) -> tuple[Tensor, Tensor]:
        """The first guess and the refined theta, both [N, 2, 3]; the second look gets the face as the first guess turns it."""
        first = similarity_theta(self.coarse(lr))
        look = ops.stn_sample(_with_mask(lr), first.detach(), (32, 32))
        return first, compose(first.detach(), similarity_theta(self.fine(look)))

    def restore(self, lr: Tensor, theta: Tensor) -> Tensor:
        """SR faces [N, 3, 128, 128] of LR faces whose upright position is ``theta``."""
        features = torch.cat([_with_mask(lr), self.stem(lr)], 1)
        upright = ops.stn_sample(features, theta, (32, 32))
        start = self.head(upright) + self.position
        x = start + self.trunk(start)
        x = F.relu(ops.pixel_shuffle(self.up(x), 2))
        return ops.pixel_shuffle(self.tail(self.detail(x)), 4)

    def forward(self, lr: Tensor) -> ModelOutput:
        _, theta = self.localise(lr)
        return ModelOutput(self.restore(lr, theta), theta)

    def fold(self) -> None:
        """Replace every re-parameterised convolution by the plain one that computes the same."""
        for block in self.modules():
            if isinstance(block, ResidualBlock):
                block.first, block.second = block.first.fold(), block.second.fold()  # type: ignore[assignment]


def _with_mask(lr: Tensor) -> Tensor:
    """The picture and a plane of ones: after sampling, the ones tell where the face lay outside the picture."""
    return torch.cat([lr, torch.ones_like(lr[:, :1])], 1)
