"""The recognition network of the reports: SqueezeNet on whole faces, which gives each a direction; two faces are alike as these are."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fhrt.models.squeezenet import SqueezeNet
from fhrt.resample import resample_matrix

FACE, SIDE = 128, 96  # pixels of the tight face, and of what SqueezeNet sees of it


def shrink(faces: Tensor) -> Tensor:
    """Tight faces [N, 3, 128, 128] → [N, 3, 96, 96], antialiased."""
    matrix = torch.from_numpy(resample_matrix(FACE, SIDE).copy()).to(faces)
    return matrix @ faces @ matrix.mT


class Recognition(nn.Module):
    """``forward(face [N, 3, 128, 128])``, tight RGB faces in [-1, 1] → embeddings [N, 512] of length 1."""

    def __init__(self, network: SqueezeNet) -> None:
        super().__init__()
        self.network = network

    def forward(self, face: Tensor) -> Tensor:
        return self.network.embedding(shrink(face))
