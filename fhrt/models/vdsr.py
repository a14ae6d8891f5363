"""VDSR (Kim, Lee & Lee, CVPR 2016) for 8× enlargement: twenty convolutions that correct the bicubic picture."""

from __future__ import annotations

from torch import Tensor, nn

from fhrt.models.layers import ModelOutput
from fhrt.models.srcnn import bicubic

LAYERS, WIDTH = 20, 64


class VDSR(nn.Module):
    """``forward(lr [N, 3, h, w] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 8h, 8w])``: bicubic plus the residual (§3.1, §3.2).

    The paper restores the luminance alone; here all three channels go in and come out. Zero padding, no output activation.
    Initialised as in He et al. (ICCV 2015; §5.2): from torch's own start the picture fades on its way through twenty layers and the network
    stays bicubic.
    """

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, WIDTH, 3, padding=1), nn.ReLU()]
        for _ in range(LAYERS - 2):
            layers += [nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.ReLU()]
        layers.append(nn.Conv2d(WIDTH, 3, 3, padding=1))
        self.layers = nn.Sequential(*layers)
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d) and layer.bias is not None:
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                nn.init.zeros_(layer.bias)

    def forward(self, lr: Tensor) -> ModelOutput:
        start = bicubic(lr)
        return ModelOutput(start + self.layers(start))
