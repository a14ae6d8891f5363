"""SRGAN (Ledig et al., CVPR 2017) for 8× enlargement: the generator, SRResNet, and its discriminator (both Figure 4)."""

from __future__ import annotations

from itertools import pairwise

from torch import Tensor, nn

from fhrt import ops
from fhrt.errors import BadInputError
from fhrt.models.layers import ModelOutput

# Convolutions before a batch norm have no bias: the norm would take it away again.


class ResidualBlock(nn.Module):
    """[N, C, H, W] → the same: conv k3, BN, PReLU, conv k3, BN, plus the input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels), nn.PReLU(channels),
            nn.Conv2d(channels, channels, 3, padding=1, bias=False), nn.BatchNorm2d(channels),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x)


class SubPixelUpsample(nn.Module):
    """[N, C, H, W] → [N, C, 2H, 2W]: conv k3 to four times the channels, sub-pixel shuffle, PReLU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, 4 * channels, 3, padding=1)
        self.activation = nn.PReLU(channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.activation(ops.pixel_shuffle(self.conv(x), 2))


class SRGAN(nn.Module):
    """The generator. ``forward(lr [N, 3, h, w] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 8h, 8w])``, no output activation.

    Three ×2 stages, where the paper has two for ×4. A PReLU has one slope per channel; the paper does not say, and He et al. (ICCV 2015),
    whom it cites, find this better than one for all. The paper scales LR pictures to [0, 1].
    """

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Sequential(nn.Conv2d(3, 64, 9, padding=4), nn.PReLU(64))
        self.trunk = nn.Sequential(
            *(ResidualBlock(64) for _ in range(16)),
            nn.Conv2d(64, 64, 3, padding=1, bias=False), nn.BatchNorm2d(64),
        )  # fmt: skip
        self.tail = nn.Sequential(*(SubPixelUpsample(64) for _ in range(3)), nn.Conv2d(64, 3, 9, padding=4))

    def forward(self, lr: Tensor) -> ModelOutput:
        x = self.head(lr)
        return ModelOutput(self.tail(x + self.trunk(x)))


class SRGANDiscriminator(nn.Module):
    """``forward(faces [N, 3, side, side] in [-1, 1])`` → the probability [N, 1] that each is a real face.

    Eight convolutions k3, the first without a norm; every second one halves the side. side: 128, 192 or another multiple of 16 (the paper
    has 96). Raises BadInputError for others.
    """

    def __init__(self, side: int = 128) -> None:
        super().__init__()
        if side < 16 or side % 16:
            raise BadInputError(f"srgan: side must be a multiple of 16, not {side}")
        layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.LeakyReLU(0.2)]
        for index, (inputs, outputs) in enumerate(pairwise((64, 64, 128, 128, 256, 256, 512, 512))):
            stride = 2 - index % 2
            layers += [nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs), nn.LeakyReLU(0.2)]
        layers += [nn.Flatten(), nn.Linear(512 * (side // 16) ** 2, 1024), nn.LeakyReLU(0.2), nn.Linear(1024, 1), nn.Sigmoid()]
        self.layers = nn.Sequential(*layers)

    def forward(self, faces: Tensor) -> Tensor:
        return self.layers(faces)
