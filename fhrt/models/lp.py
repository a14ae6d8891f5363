"""The perceptual-loss network (Johnson, Alahi & Fei-Fei, ECCV 2016) for 8× enlargement; papers on faces call it ℓp.

What makes it perceptual is the feature loss that it is trained with; the network itself knows nothing of that.
"""

from __future__ import annotations

from torch import Tensor, nn

from fhrt.models.layers import ModelOutput

WIDTH = 64

# Convolutions before a batch norm have no bias: the norm would take it away again.


class ResidualBlock(nn.Module):
    """[N, 64, H, W] → the same: conv k3, BN, ReLU, conv k3, BN, plus the input, and no ReLU after the sum (Gross & Wilber, 2016)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1, bias=False), nn.BatchNorm2d(WIDTH),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class LP(nn.Module):
    """``forward(lr [N, 3, h, w] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 8h, 8w])``, in [-1, 1] (§3.1 and the supplement's table 2).

    The three ×2 stages are convolutions k3 with stride ½, that is, transposed ones. The paper's scaled tanh at the end is a plain one for
    this range. Zero padding; the authors' histogram matching with the LR picture is left to who wants it.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, WIDTH, 9, padding=4, bias=False), nn.BatchNorm2d(WIDTH), nn.ReLU(),
            *(ResidualBlock() for _ in range(4)),
            *_double(), *_double(), *_double(),
            nn.Conv2d(WIDTH, 3, 9, padding=4), nn.Tanh(),
        )  # fmt: skip

    def forward(self, lr: Tensor) -> ModelOutput:
        return ModelOutput(self.layers(lr))


def _double() -> tuple[nn.Module, ...]:
    conv = nn.ConvTranspose2d(WIDTH, WIDTH, 3, stride=2, padding=1, output_padding=1, bias=False)
    return conv, nn.BatchNorm2d(WIDTH), nn.ReLU()
