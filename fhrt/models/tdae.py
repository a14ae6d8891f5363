"""TDAE (Yu & Porikli, CVPR 2017): 16×16 → 128×128, unaligned and noisy faces, in three stages: decoder, encoder, decoder."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fhrt.models.layers import ModelOutput, SpatialTransformer, UpsampleConv2d, compose, half_pixel_theta
from fhrt.models.tdn import TDN


class Encoder(nn.Module):
    """A rough upright face [N, 3, 128, 128] → a clean LR face [N, 3, 16, 16] and the theta [N, 2, 3] that sets it upright (§3.2)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(
            nn.Conv2d(3, 32, 5, padding=2), nn.BatchNorm2d(32), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(32, 64, 5, padding=2), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(64, 128, 3, padding=1), nn.BatchNorm2d(128), nn.ReLU(),
        )  # fmt: skip
        self.stn1 = SpatialTransformer(nn.Sequential(nn.MaxPool2d(2), *_localisation(128)), 80)
        self.second = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(128, 256, 3, padding=1), nn.BatchNorm2d(256), nn.ReLU())
        self.stn2 = SpatialTransformer(nn.Sequential(*_localisation(256)), 80)
        self.last = nn.Conv2d(256, 3, 3, padding=1)

    def forward(self, face: Tensor) -> tuple[Tensor, Tensor]:
        x, theta1 = self.stn1(self.first(face))
        x, theta2 = self.stn2(self.second(x))
        return self.last(x), compose(half_pixel_theta(theta1, 32), half_pixel_theta(theta2, 16))


class TDAE(nn.Module):
    """``forward(lr [N, 3, 16, 16] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 128, 128], theta [N, 2, 3])``.

    decoder1: TDN's generator, trained on noisy LR faces. decoder2: the same without its transformers. What passes from stage to stage is
    clamped to [-1, 1], as a picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.decoder1, self.encoder = TDN(), Encoder()
        self.decoder2 = nn.Sequential(
            nn.Conv2d(3, 512, 3, padding=1), nn.BatchNorm2d(512), nn.ReLU(),
            UpsampleConv2d(512, 256, 3), nn.BatchNorm2d(256), nn.ReLU(),
            UpsampleConv2d(256, 128, 5), nn.BatchNorm2d(128), nn.ReLU(),
            UpsampleConv2d(128, 64, 5), nn.BatchNorm2d(64), nn.ReLU(), nn.Conv2d(64, 3, 5, padding=2),
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
