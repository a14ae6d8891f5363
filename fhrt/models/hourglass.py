"""Stacked hourglasses (Newell, Yang & Deng, ECCV 2016) as MTUN has them (§3.2): component heatmaps of a feature map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn


class Residual(nn.Module):
    """BN, ReLU, conv k3, BN, ReLU, conv k1, plus the input (through a conv k1 where the channels change)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(inputs), nn.ReLU(), nn.Conv2d(inputs, outputs, 3, padding=1),
            nn.BatchNorm2d(outputs), nn.ReLU(), nn.Conv2d(outputs, outputs, 1),
        )  # fmt: skip
        self.shortcut = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.shortcut(x) + self.layers(x)


class Hourglass(nn.Module):
    """[N, C, H, W] → the same, H and W divisible by 2^depth: one branch at this scale, one at half of it, and so on, summed."""

    def __init__(self, depth: int, channels: int) -> None:
        super().__init__()
        self.upper, self.before, self.after = (Residual(channels, channels) for _ in range(3))
        self.inner: nn.Module = Hourglass(depth - 1, channels) if depth > 1 else Residual(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        lower = self.after(self.inner(self.before(F.max_pool2d(x, 2))))
        return self.upper(x) + F.interpolate(lower, scale_factor=2, mode="nearest")


class Stack(nn.Module):
    """An hourglass and what follows it: the features for the next stack and the heatmaps."""

    def __init__(self, depth: int, channels: int, heatmaps: int, last: bool) -> None:
        super().__init__()
        self.features = nn.Sequential(
            Hourglass(depth, channels), Residual(channels, channels), nn.Conv2d(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU()
        )
        self.heatmaps = nn.Conv2d(channels, heatmaps, 1)
        self.remap = None if last else nn.Conv2d(channels, channels, 1)
        self.remap_heatmaps = None if last else nn.Conv2d(heatmaps, channels, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(x)
        heatmaps = self.heatmaps(features)
        if self.remap is None or self.remap_heatmaps is None:
            return x, heatmaps
        return x + self.remap(features) + self.remap_heatmaps(heatmaps), heatmaps


class StackedHourglass(nn.Module):
    """``forward(x [N, C, H, W])`` → the heatmaps [N, heatmaps, H, W] of every stack, each looking at what the one before saw."""

    def __init__(self, stacks: int, depth: int, channels: int, heatmaps: int) -> None:
        super().__init__()
        self.stacks = nn.ModuleList(Stack(depth, channels, heatmaps, last=index == stacks - 1) for index in range(stacks))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        every = []
        for stack in self.stacks:
            x, heatmaps = stack(x)
            every.append(heatmaps)
        return tuple(every)
