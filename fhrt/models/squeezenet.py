"""C-SRIP's identity networks: SqueezeNet with complex bypass (Iandola et al., 2016, fig. 2, right) on residual images of faces."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fhrt.errors import BadInputError
from fhrt.ops.arrays import check_rank, check_real

SIGMAS = {2: 1 / 3, 4: 1.0, 8: 7 / 3}  # upscaling factor -> σ in pixels of that scale's residual image

# Side of the pictures -> stride of the first convolution, and whether a pooling follows it.
_STEMS = {48: (1, False), 96: (2, False), 192: (2, True)}


def residual_image(x: Tensor, sigma: float) -> Tensor:
    """Δx = x − g∗x of pictures [N, C, H, W]: what of them a Gaussian of σ ``sigma`` pixels takes away (C-SRIP's identity prior).

    The Gaussian is sampled at the pixels up to 4σ, and the borders are reflected about the outermost pixels' centres, as OpenCV does.
    Returns float32, whatever x is and under autocast too: at σ = 1/3 the residual of a face has a standard deviation of 0.004, hardly
    more than the steps of bfloat16 near 1. Raises BadInputError for a σ under 1/8, which blurs nothing, or so wide that the picture cannot
    be reflected that far.
    """
    check_rank("residual_image", "x", x, "N, C, H, W")
    check_real("residual_image", "sigma", sigma, 1 / 8, (min(x.shape[2:]) - 1) / 4)
    reach = math.floor(4 * sigma + 0.5)
    with torch.autocast(x.device.type, enabled=False):
        x, channels = x.float(), x.shape[1]
        offset = torch.arange(-reach, reach + 1, device=x.device)
        gaussian = torch.softmax(-0.5 * (offset / sigma) ** 2, 0).expand(channels, 1, 1, -1)
        blurred = F.conv2d(F.pad(x, (reach, reach, reach, reach), mode="reflect"), gaussian, groups=channels)
        return x - F.conv2d(blurred, gaussian.transpose(2, 3), groups=channels)


class Fire(nn.Module):
    """[N, inputs, H, W] → [N, outputs, H, W]: squeezed by a 1×1 convolution, expanded by a 1×1 and a 3×3 one side by side, plus a bypass.

    The bypass is the input itself, or a 1×1 convolution of it where the channels change (SqueezeNet, §3.2 and §6).
    """

    def __init__(self, inputs: int, squeezed: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, squeezed, 1)
        self.expand1 = nn.Conv2d(squeezed, outputs // 2, 1)
        self.expand3 = nn.Conv2d(squeezed, outputs // 2, 3, padding=1)
        self.bypass = nn.Identity() if inputs == outputs else nn.Conv2d(inputs, outputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        squeezed = F.relu(self.squeeze(x))
        return F.relu(torch.cat([self.expand1(squeezed), self.expand3(squeezed)], 1)) + self.bypass(x)


class SqueezeNet(nn.Module):
    """``forward(x [N, 3, size, size])`` → logits [N, classes]; x are residual images of faces, of size 48, 96 or 192.

    SqueezeNet has eight fire modules, fire2 to fire9; C-SRIP counts nine, so fire10 repeats the shape of fire9. The stem's strides and
    pooling are set so that fire2 to fire4 see 48×48 positions at every size (SqueezeNet: 55×55 of 224×224), fire5 to fire8 24×24 and the
    last ones 12×12. The classifier stands behind the average pooling, not before it (linear either way, so the same), and without a ReLU.
    Residual images are faint, the more so the smaller σ is, and there is no batch norm inside: the first layer standardises the channels.
    Raises BadInputError for another size.
    """

    def __init__(self, classes: int, size: int) -> None:
        super().__init__()
        if size not in _STEMS:
            raise BadInputError(f"squeezenet: size must be 48, 96 or 192, not {size}")
        stride, pooled = _STEMS[size]
        self.stem = nn.Sequential(
            nn.BatchNorm2d(3, affine=False), nn.Conv2d(3, 96, 7, stride, padding=3), nn.ReLU(), _pool() if pooled else nn.Identity()
        )
        self.low = nn.ModuleList([Fire(96, 16, 128), Fire(128, 16, 128), Fire(128, 32, 256)])  # fire2 to fire4
        self.high = nn.Sequential(
            _pool(), Fire(256, 32, 256), Fire(256, 48, 384), Fire(384, 48, 384), Fire(384, 64, 512),
            _pool(), Fire(512, 64, 512), Fire(512, 64, 512),
        )  # fmt: skip
        self.dropout = nn.Dropout(0.5)
        self.classifier = nn.Linear(512, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # Glorot's, as in SqueezeNet's release: a bypass adds its input, so He's makes logits with a deviation of 60.
                nn.init.xavier_uniform_(module.weight)
                assert module.bias is not None
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.dropout(self._pooled(x)))

    def features(self, x: Tensor) -> tuple[Tensor, ...]:
        """Activations after fire2, fire3 and fire4, [N, 128, 48, 48], the same and [N, 256, 48, 48]: the perceptual loss compares them."""
        x, taken = self.stem(x), []
        for fire in self.low:
            x = fire(x)
            taken.append(x)
        return tuple(taken)

    def embedding(self, x: Tensor) -> Tensor:
        """The pooled features [N, 512] at length 1: the scalar product of two is their identities' similarity."""
        return F.normalize(self._pooled(x))

    def _pooled(self, x: Tensor) -> Tensor:
        return self.high(self.features(x)[-1]).mean((2, 3))


def _pool() -> nn.MaxPool2d:
    return nn.MaxPool2d(3, 2, padding=1)
