"""UR-DGN (Yu & Porikli, ECCV 2016), generator: 16×16 → 128×128, roughly aligned faces."""

from __future__ import annotations

from torch import Tensor, nn

from fhrt.models.layers import ModelOutput, UpsampleConv2d, check_size


class URDGN(nn.Module):
    """``forward(lr [N, 3, 16, 16] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 128, 128])`` (§3.1; no output activation).

    width: channels of the last map, 256 in the paper. The maps before it have the paper's 16, 64 and 128, but no more than ``width``: they
    take hardly any of the operations. Raises BadInputError for fewer than 16.
    """

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        check_size("urdgn", "width", width, least=16)
        second, third = min(64, width), min(128, width)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
            UpsampleConv2d(16, second, 3), nn.BatchNorm2d(second), nn.ReLU(),
            UpsampleConv2d(second, third, 5), nn.BatchNorm2d(third), nn.ReLU(),
            UpsampleConv2d(third, width, 5), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, 3, 5, padding=2),
        )  # fmt: skip

    def forward(self, lr: Tensor) -> ModelOutput:
        return ModelOutput(self.layers(lr))
