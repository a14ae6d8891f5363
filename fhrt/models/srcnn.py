"""SRCNN (Dong, Loy, He & Tang, ECCV 2014 and TPAMI 2016) for 8× enlargement: three convolutions on the bicubic picture."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from fhrt.models.layers import ModelOutput


def bicubic(lr: Tensor) -> Tensor:
    """[N, C, h, w] → [N, C, 8h, 8w]: cubic convolution with a = -0.75, pixel centres at half positions, the border repeated.

    This is torch's and OpenCV's kernel; the papers' pictures come from MATLAB's, which has a = -0.5. It may leave [-1, 1].
    """
    return F.interpolate(lr, scale_factor=8, mode="bicubic", align_corners=False)


class SRCNN(nn.Module):
    """``forward(lr [N, 3, h, w] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 8h, 8w])``, no output activation.

    The filters are 9-5-5 with 64 and 32 features, which TPAMI finds the best of 9-1-5 (the ECCV paper's), 9-3-5 and 9-5-5 and compares with
    other methods (§4.3.2, §4.4). All three channels go in and come out (§4.5). The paper's convolutions shrink the picture in training and
    keep its size in use; these pad with zeros always. They start as torch's do, not as the paper's Gaussian of standard deviation 0.001,
    from which Adam takes longer.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 64, 9, padding=4), nn.ReLU(),
            nn.Conv2d(64, 32, 5, padding=2), nn.ReLU(),
            nn.Conv2d(32, 3, 5, padding=2),
        )  # fmt: skip

    def forward(self, lr: Tensor) -> ModelOutput:
        return ModelOutput(self.layers(bicubic(lr)))
