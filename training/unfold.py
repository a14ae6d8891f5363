"""The detector's network back from its bundle, to go on training: the batch normalisation that was folded into it begins anew."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from fhrt.errors import WeightsError
from fhrt.models.detector import Detector
from fhrt.runtime.bundle import WEIGHTS, open_bundle

TRAINED = 0.2
"""Root mean square of a normalised layer's weights. Their scale is free, and decides how far a step turns them: 200 steps, the rate rising
to 1e-3, left the heat's loss of a batch 5 % above the bundle's; with filters of length 1 it was 23 %.
"""


def unfold(folder: Path, frames: Tensor) -> Detector:
    """The network of a bundle folder, computing what the bundle does on ``frames`` [N, 3, H, W] (RGB in [0, 1]; some dozens).

    A normalisation's mean and variance are what it sees of ``frames``, its weight and bias what undoes them: so it computes the folded
    layer exactly, also from a batch's own statistics where they are like those. Raises WeightsError for a damaged bundle or another
    network's, UnknownModelError where there is none.
    """
    stored = {name: value.float() for name, value in load_file(open_bundle(folder).folder / WEIGHTS).items()}
    network = Detector().eval()
    modules = dict(network.named_modules())
    hooks = []
    behind = {name: _norm_behind(name, modules) for name, module in modules.items() if isinstance(module, nn.Conv2d)}
    try:
        # The bundle takes bytes in BGR.
        stored["stem.0.0.weight"] = stored["stem.0.0.weight"].flip(1) * 255
        with torch.no_grad():
            for name, norm in behind.items():
                conv, weight, bias = modules[name], stored.pop(f"{name}.weight"), stored.pop(f"{name}.bias")
                if norm is None:
                    conv.load_state_dict({"weight": weight, "bias": bias})
                    continue
                scale = weight.pow(2).mean((1, 2, 3), keepdim=True).sqrt().clamp(min=1e-6) / TRAINED
                conv.load_state_dict({"weight": weight / scale})
                hooks.append(norm.register_forward_pre_hook(_Undo(scale.flatten(), bias)))
            if stored:
                raise KeyError(next(iter(stored)))
            network(frames)
    except (KeyError, RuntimeError) as error:
        raise WeightsError(f"{folder} is not a bundle of fhrt's detector: {error}") from error
    for hook in hooks:
        hook.remove()
    return network.train()


class _Undo:
    """Before a normalisation's first pass: makes it ``x · scale + bias`` of what it is about to see."""

    def __init__(self, scale: Tensor, bias: Tensor) -> None:
        self.scale, self.bias = scale, bias

    def __call__(self, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(self.scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(self.scale * mean + self.bias)


def _norm_behind(name: str, modules: dict[str, nn.Module]) -> nn.BatchNorm2d | None:
    """The normalisation that follows a convolution in its sequence."""
    head, _, place = name.rpartition(".")
    following = modules.get(f"{head}.{int(place) + 1}") if place.isdigit() else None
    return following if isinstance(following, nn.BatchNorm2d) else None
