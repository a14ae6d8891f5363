"""TDAE (Yu & Porikli, CVPR 2017): 16×16 → 128×128, unaligned and noisy faces, in three stages: decoder, encoder, decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fhrt.models.layers import ModelOutput, SpatialTransformer, UpsampleConv2d, check_size, compose, half_pixel_theta
from fhrt.models.tdn import TDN


class Encoder(nn.Module):
    """A rough upright face [N, 3, 128, 128] → a clean LR face [N, 3, 16, 16] and the theta [N, 2, 3] that sets it upright (§3.2).

    width: channels of the last map; the ones before it have an eighth, a quarter and a half. It is 256 in the paper.
    """

    def __init__(self, width: int = 256) -> None:
        super().__init__()
        first, second, third, last = width // 8, width // 4, width // 2, width
        self.first = nn.Sequential(
            nn.Conv2d(3, first, 5, padding=2), nn.BatchNorm2d(first), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(first, second, 5, padding=2), nn.BatchNorm2d(second), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(second, third, 3, padding=1), nn.BatchNorm2d(third), nn.ReLU(),
        )  # fmt: skip
        self.stn1 = SpatialTransformer(nn.Sequential(nn.MaxPool2d(2), *_localisation(third)), 80)
        self.second = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(third, last, 3, padding=1), nn.BatchNorm2d(last), nn.ReLU())
        self.stn2 = SpatialTransformer(nn.Sequential(*_localisation(last)), 80)
        self.last = nn.Conv2d(last, 3, 3, padding=1)

    def forward(self, face: Tensor) -> tuple[Tensor, Tensor]:
        x, theta1 = self.stn1(self.first(face))
        x, theta2 = self.stn2(self.second(x))
        return self.last(x), compose(half_pixel_theta(theta1, 32), half_pixel_theta(theta2, 16))


class TDAE(nn.Module):
    """``forward(lr [N, 3, 16, 16] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 128, 128], theta [N, 2, 3])``.

    decoder1: TDN's generator, trained on noisy LR faces. decoder2: the same without its transformers. What passes from stage to stage is
    clamped to [-1, 1], as a picture.

    width: channels of the decoders' first maps, from which all others follow, and twice those of the encoder's last one. localisation: as
    `TDN` has it. The paper's are 512 and 128. Raises BadInputError for a width that is not a positive multiple of 16.
    """

    def __init__(self, width: int = 512, localisation: int = 128) -> None:
        super().__init__()
        check_size("tdae", "width", width, 16, 16)
        check_size("tdae", "localisation", localisation)
        self.decoder1, self.encoder = TDN(width, localisation), Encoder(width // 2)
        first, second, third, last = width, width // 2, width // 4, width // 8
        self.decoder2 = nn.Sequential(
            nn.Conv2d(3, first, 3, padding=1), nn.BatchNorm2d(first), nn.ReLU(),
            UpsampleConv2d(first, second, 3), nn.BatchNorm2d(second), nn.ReLU(),
            UpsampleConv2d(second, third, 5), nn.BatchNorm2d(third), nn.ReLU(),
            UpsampleConv2d(third, last, 5), nn.BatchNorm2d(last), nn.ReLU(), nn.Conv2d(last, 3, 5, padding=2),
        )  # fmt: skip

    def forward(self, lr: Tensor) -> ModelOutput:
        clean, theta = self._encode(self.decoder1(lr))
        return ModelOutput(self.decoder2(clean.clamp(-1, 1)), theta)

    def stage(self, name: str, lr: Tensor) -> ModelOutput:
        """What the stage ``name`` makes of the ones before it, which stay as they are: they are trained one after another (§3.3).

        ``decoder1`` and ``decoder2`` give ``sr`` [N, 3, 128, 128], ``encoder`` the clean LR face [N, 3, 16, 16].
        """
        if name == "decoder1":
            return self.decoder1(lr)
        earlier = (self.decoder1,) if name == "encoder" else (self.decoder1, self.encoder)
        for module in earlier:
            module.eval()
        with torch.no_grad():
            rough = self.decoder1(lr)
        if name == "encoder":
            return ModelOutput(*self._encode(rough))
        with torch.no_grad():
            clean, theta = self._encode(rough)
        return ModelOutput(self.decoder2(clean.clamp(-1, 1)), theta)

    def _encode(self, rough: ModelOutput) -> tuple[Tensor, Tensor]:
        assert rough.theta is not None
        clean, theta = self.encoder(rough.sr.clamp(-1, 1))
        return clean, compose(rough.theta, theta)


def _localisation(channels: int) -> list[nn.Module]:
    return [nn.Conv2d(channels, 20, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(20, 20, 5), nn.ReLU()]
