"""Step 1 of Jiang et al. (IJCAI 2018): a CNN denoiser and the face that it regularises (RED, Romano et al., 2017).

The denoiser is the network of "Learning Deep CNN Denoiser Prior for Image Restoration" (Zhang et al., CVPR 2017), in colour.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fhrt.errors import BadInputError
from fhrt.resample import resample_matrix

DILATIONS = (1, 2, 3, 4, 3, 2, 1)


class Denoiser(nn.Module):
    """Seven dilated 3×3 convolutions that predict the noise of a picture: conv+ReLU, five times conv+BN+ReLU, conv.

    ``forward`` takes and gives [N, 3, H, W] float32, pictures in [-1, 1] (not clamped). Each output pixel sees 33×33 pixels.
    """

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        first, *middle, last = DILATIONS
        layers: list[nn.Module] = [nn.Conv2d(3, features, 3, padding=first, dilation=first), nn.ReLU()]
        for dilation in middle:
            # The norm's own bias makes the convolution's superfluous, but a folded network has it.
            layers += [nn.Conv2d(features, features, 3, padding=dilation, dilation=dilation), nn.BatchNorm2d(features), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Conv2d(features, 3, 3, padding=last, dilation=last))

    def forward(self, x: Tensor) -> Tensor:
        return x - self.layers(x)


class Reduction(nn.Module):
    """H: the antialiased bicubic reduction of side ``high`` to side ``low``, a linear map, with what solving with it needs.

    A picture X becomes A X Aᵀ with A = U diag(s) Vᵀ [low, high] (the matrix of `fhrt.resample`); so HᵀH is diagonal in the
    basis V ⊗ V, with the eigenvalues s_i² s_j², and zero on all that is orthogonal to it.
    """

    matrix: Tensor
    enlargement: Tensor
    left: Tensor
    singular: Tensor
    right: Tensor

    def __init__(self, low: int = 16, high: int = 128) -> None:
        super().__init__()
        self.side = high
        matrix = torch.from_numpy(resample_matrix(high, low).copy())
        left, singular, right = torch.linalg.svd(matrix.double(), full_matrices=False)
        buffers = {"matrix": matrix, "enlargement": torch.from_numpy(resample_matrix(low, high).copy())}
        buffers |= {"left": left, "singular": singular, "right": right.mT}
        for name, value in buffers.items():
            self.register_buffer(name, value.float(), persistent=False)

    def forward(self, picture: Tensor) -> Tensor:
        """H x: [..., high, high] → [..., low, low]."""
        return self.matrix @ picture @ self.matrix.mT

    def enlarge(self, lr: Tensor) -> Tensor:
        """Bicubic enlargement, [..., low, low] → [..., high, high] (not Hᵀ)."""
        return self.enlargement @ lr @ self.enlargement.mT

    def solve(self, lr: Tensor, prior: Tensor, strength: float) -> Tensor:
        """(HᵀH + λI)⁻¹(Hᵀy + λ·prior), exactly; lr is y [..., low, low], prior [..., high, high], strength λ > 0.

        The solution is prior + (HᵀH + λI)⁻¹ Hᵀ(y − H·prior), and Hᵀ reaches V ⊗ V only.
        """
        values = self.singular[:, None] * self.singular
        rest = self.left.mT @ (lr - self(prior)) @ self.left
        return prior + self.right @ (rest * (values / (values**2 + strength))) @ self.right.mT


def regularise(lr: Tensor, denoiser: Callable[[Tensor], Tensor], reduction: Reduction, strength: float, steps: int) -> Tensor:
    """f(y): ``steps`` times x ← (HᵀH + λI)⁻¹(Hᵀy + λ·h(x)) from the bicubic enlargement (Jiang et al., 2018, the denoiser step).

    lr: y [N, 3, low, low] in [-1, 1]; strength: λ, to be compared with the eigenvalues of HᵀH, 1/64 at most for an 8× reduction. Returns
    [N, 3, high, high]. With ``steps`` 0 it is the bicubic enlargement. Raises BadInputError unless λ > 0 and steps ≥ 0.
    """
    if strength <= 0 or steps < 0:
        raise BadInputError(f"strength must be positive and steps not negative, not {strength} and {steps}")
    x = reduction.enlarge(lr)
    for _ in range(steps):
        x = reduction.solve(lr, denoiser(x), strength)
    return x
