"""TDN (Yu & Porikli, AAAI 2017), generator: 16×16 → 128×128, unaligned faces, two spatial transformers."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fhrt import ops
from fhrt.models.layers import ModelOutput, UpsampleConv2d, compose, similarity_theta


class SpatialTransformer(nn.Module):
    """Nearest ×2, then a similarity found by a small localisation network on the upsampled map (§3.1).

    Grid with corners aligned, bilinear, zeros outside. The upsampled map is never stored: the localisation's first max-pool 2 undoes the
    nearest ×2 exactly, so that it looks at the map itself, and the sampler upsamples as it reads.
    """

    def __init__(self, localisation: nn.Sequential, features: int) -> None:
        super().__init__()
        self.localisation = localisation
        self.fc1, self.fc2 = nn.Linear(features, 20), nn.Linear(20, 4)
        nn.init.zeros_(self.fc2.weight)
        with torch.no_grad():
            self.fc2.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H, W] → the transformed map [N, C, 2H, 2W] and its theta [N, 2, 3] (corners aligned)."""
        theta = similarity_theta(self.fc2(F.relu(self.fc1(self.localisation(x).flatten(1)))))
        return ops.stn_sample(x, theta, align_corners=True, upsample=2), theta


def half_pixel_theta(theta: Tensor, side: int) -> Tensor:
    """A corners-aligned theta of a side × side map as one with align_corners=False.

    A corners-aligned coordinate c and a half-pixel one h of the same pixel obey h = c·(side − 1)/side, so the linear part stays
    and the shift shrinks.
    """
    return torch.cat([theta[:, :, :2], theta[:, :, 2:] * ((side - 1) / side)], 2)


class TDN(nn.Module):
    """``forward(lr [N, 3, 16, 16] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 128, 128], theta [N, 2, 3])``.

    ``theta`` is the two transformers' composition: the picture is upright after the second, whose output samples the first's.
    The flattened size of the first localisation is 80; the paper prints 400, which its own layers cannot give.
    """

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(3, 512, 3, padding=1), nn.BatchNorm2d(512), nn.ReLU())
        self.stn1 = SpatialTransformer(
            nn.Sequential(
                nn.Conv2d(512, 20, 5), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(20, 20, 5), nn.ReLU(),
            ), 80,
        )  # fmt: skip
        self.conv2 = nn.Sequential(nn.Conv2d(512, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU())
        self.stn2 = SpatialTransformer(
            nn.Sequential(
                nn.Conv2d(256, 128, 5), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(128, 20, 5), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(20, 20, 3), nn.ReLU(),
            ), 180,
        )  # fmt: skip
        self.conv3 = nn.Sequential(nn.Conv2d(256, 128, 5, padding=2), nn.BatchNorm2d(128), nn.ReLU())
        self.conv4 = nn.Sequential(UpsampleConv2d(128, 64, 5), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 3, 5, padding=2))

    def forward(self, lr: Tensor) -> ModelOutput:
        x, theta1 = self.stn1(self.conv1(lr))
        x, theta2 = self.stn2(self.conv2(x))
        theta = compose(half_pixel_theta(theta1, 32), half_pixel_theta(theta2, 64))
        return ModelOutput(self.conv4(self.conv3(x)), theta)
