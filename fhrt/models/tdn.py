"""TDN (Yu & Porikli, AAAI 2017), generator: 16×16 → 128×128, unaligned faces, two spatial transformers."""

from __future__ import annotations

from torch import Tensor, nn

from fhrt.models.layers import ModelOutput, SpatialTransformer, UpsampleConv2d, check_size, compose, half_pixel_theta


class TDN(nn.Module):
    """``forward(lr [N, 3, 16, 16] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 128, 128], theta [N, 2, 3])``.

    Each transformer stands behind a nearest ×2 (§3.1). Its localisation's first max-pool 2 undoes that exactly, so the upsampled map is
    never stored: the localisation looks at the map itself, and the sampler upsamples as it reads.

    ``theta`` is the two transformers' composition: the picture is upright after the second, whose output samples the first's.
    The flattened size of the first localisation is 80; the paper prints 400, which its own layers cannot give.

    width: channels of the first map; the next have a half, a quarter and an eighth. localisation: channels of the second transformer's
    first convolution. The paper's are 512 and 128. Raises BadInputError for a width that is not a positive multiple of 8.
    """

    def __init__(self, width: int = 512, localisation: int = 128) -> None:
        super().__init__()
        check_size("tdn", "width", width, 8, 8)
        check_size("tdn", "localisation", localisation)
        first, second, third, last = width, width // 2, width // 4, width // 8
        self.conv1 = nn.Sequential(nn.Conv2d(3, first, 3, padding=1), nn.BatchNorm2d(first), nn.ReLU())
        self.stn1 = SpatialTransformer(
            nn.Sequential(
                nn.Conv2d(first, 20, 5), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(20, 20, 5), nn.ReLU(),
            ), 80, upsample=2,
        )  # fmt: skip
        self.conv2 = nn.Sequential(nn.Conv2d(first, second, 3, padding=1), nn.BatchNorm2d(second), nn.ReLU())
        self.stn2 = SpatialTransformer(
            nn.Sequential(
                nn.Conv2d(second, localisation, 5), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(localisation, 20, 5), nn.ReLU(), nn.MaxPool2d(2),
                nn.Conv2d(20, 20, 3), nn.ReLU(),
            ), 180, upsample=2,
        )  # fmt: skip
        self.conv3 = nn.Sequential(nn.Conv2d(second, third, 5, padding=2), nn.BatchNorm2d(third), nn.ReLU())
        self.conv4 = nn.Sequential(UpsampleConv2d(third, last, 5), nn.BatchNorm2d(last), nn.ReLU(), nn.Conv2d(last, 3, 5, padding=2))

    def upright(self, lr: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The map [N, width / 2, 64, 64] behind both transformers, their composition [N, 2, 3], and the first one's theta."""
        x, theta1 = self.stn1(self.conv1(lr))
        x, theta2 = self.stn2(self.conv2(x))
        first = half_pixel_theta(theta1, 32)
        return x, compose(first, half_pixel_theta(theta2, 64)), first

    def forward(self, lr: Tensor) -> ModelOutput:
        x, theta, first = self.upright(lr)
        return ModelOutput(self.conv4(self.conv3(x)), theta, first_theta=first)
