"""The feature loss: how far two faces are apart in the eyes of a network that knows what pictures hold."""

from __future__ import annotations

import pickle
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from fhrt.errors import WeightsError

# VGG-19 (Simonyan & Zisserman, 2015) up to relu3_2: convolutions by their place in torchvision's ``features``, "pool" between.
_VGG = ((0, 3, 64), (2, 64, 64), "pool", (5, 64, 128), (7, 128, 128), "pool", (10, 128, 256), (12, 256, 256))
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the pictures that it was trained on


class FeatureLoss(nn.Module):
    """Mean squared difference of VGG-19's relu3_2 features (Johnson et al., 2016, eq. 2; MTUN, eq. 2).

    path: a state dict in torchvision's naming (``features.0.weight`` …), as ``.pth`` or ``.safetensors``; what is not needed is left
    alone. Raises WeightsError where it lacks a layer or cannot be read.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        state = _read(path)
        layers: list[nn.Module] = []
        for entry in _VGG:
            if isinstance(entry, str):
                layers.append(nn.MaxPool2d(2))
                continue
            place, inputs, outputs = entry
            conv = nn.Conv2d(inputs, outputs, 3, padding=1)
            try:
                conv.load_state_dict({key: state[f"features.{place}.{key}"] for key in ("weight", "bias")})
            except (KeyError, RuntimeError) as error:
                raise WeightsError(f"{path} is not a VGG-19: features.{place} is missing or of another shape") from error
            layers += [conv, nn.ReLU()]
        self.network = nn.Sequential(*layers).requires_grad_(False).eval()
        self.register_buffer("mean", torch.tensor(_MEAN).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(_STD).view(1, 3, 1, 1))

    def forward(self, sr: Tensor, hr: Tensor) -> Tensor:
        """Faces [N, 3, H, W] in [-1, 1] → a scalar; its gradient reaches ``sr`` alone."""
        with torch.no_grad():
            wanted = self.features(hr)
        return F.mse_loss(self.features(sr), wanted)

    def features(self, faces: Tensor) -> Tensor:
        """[N, 256, H / 4, W / 4]."""
        return self.network(((faces + 1) / 2 - self.mean) / self.std)


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = load_file(path) if path.suffix == ".safetensors" else torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise WeightsError(f"{path} cannot be read: {str(error).splitlines()[0]}") from error
    if not isinstance(state, dict):
        raise WeightsError(f"{path} holds no state dict")
    return state
