"""The discriminator that UR-DGN, TDN, TDAE and MTUN share (UR-DGN §3.1)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn


class Discriminator(nn.Module):
    """``forward(faces [N, 3, 128, 128] in [-1, 1])`` → the probability [N, 1] that each is a real face."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = (3, 32, 64, 128)
        for inputs, outputs in pairwise(channels):
            layers += [nn.Conv2d(inputs, outputs, 5, padding=2), nn.MaxPool2d(2), nn.ReLU(), nn.Dropout2d(0.2)]
        layers += [nn.Conv2d(128, 96, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2), nn.Dropout2d(0.2)]
        layers += [nn.Flatten(), nn.Linear(8 * 8 * 96, 1024), nn.ReLU(), nn.Dropout(0.5), nn.Linear(1024, 1), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)

    def forward(self, faces: Tensor) -> Tensor:
        return self.layers(faces)
