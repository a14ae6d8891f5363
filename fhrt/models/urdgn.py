"""UR-DGN (Yu & Porikli, ECCV 2016), generator: 16×16 → 128×128, roughly aligned faces."""

from __future__ import annotations

from torch import Tensor, nn

from fhrt.models.layers import ModelOutput, UpsampleConv2d


class URDGN(nn.Module):
    """``forward(lr [N, 3, 16, 16] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 128, 128])`` (§3.1; no output activation)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            UpsampleConv2d(16, 64, 3), nn.BatchNorm2d(64), nn.ReLU(),
            UpsampleConv2d(64, 128, 5), nn.BatchNorm2d(128), nn.ReLU(),
            UpsampleConv2d(128, 256, 5), nn.BatchNorm2d(256), nn.ReLU(),
            nn.Conv2d(256, 3, 5, padding=2),
        )  # fmt: skip

    def forward(self, lr: Tensor) -> ModelOutput:
        return ModelOutput(self.layers(lr))
