"""A network back from its bundle, to go on training: what export folded into fewer layers (`fhrt.export.rewrite`) is taken apart again."""

from __future__ import annotations

from collections.abc import Collection
from itertools import pairwise
from pathlib import Path

import torch
from onnx import numpy_helper
from safetensors.numpy import load_file
from torch import Tensor, nn

from fhrt.errors import WeightsError
from fhrt.export.rewrite import rewrite
from fhrt.export.weights import internalise
from fhrt.models.layers import FoldedUpsampleConv2d, UpsampleConv2d
from fhrt.models.lite import RepConv2d
from fhrt.runtime.bundle import GRAPH, WEIGHTS, open_bundle

TRAINED = 0.2
"""Root mean square of a normalised layer's weights. Their scale is free, and decides how far a step turns them: 200 steps of the detector,
the rate rising to 1e-3, left the heat's loss of a batch 5 % above the bundle's; with filters of length 1 it was 23 %.
"""


def bundle_weights(bundle: str | Path) -> dict[str, Tensor]:
    """The numbers of a bundle (its folder or name) by the names of the network that was exported, in float32.

    Raises WeightsError for a damaged bundle, UnknownModelError where there is none.
    """
    folder = open_bundle(bundle).folder
    numbers = load_file(folder / WEIGHTS)  # some of them may be fp16 or int8 here, and some not in the graph
    for tensor in internalise(folder / GRAPH).graph.initializer:
        numbers[tensor.name.removeprefix("model.")] = numpy_helper.to_array(tensor)
    return {name: torch.tensor(array).float() for name, array in numbers.items()}


def unfold(network: nn.Module, weights: dict[str, Tensor], seen: Tensor) -> nn.Module:
    """Gives a fresh network the weights of its bundle (`bundle_weights`): in evaluation it computes what the bundle does.

    seen [N, ...]: some dozens of what the network takes. A folded normalisation's mean and variance are what it sees of them, its weight
    and bias what undoes them: so it computes the folded layer exactly, also from a batch's own statistics where they are like those.
    Raises WeightsError for another network's weights.
    """
    network.eval()
    norms = _folded_norms(network)
    layers, folded = _layers(network, set(norms.values())), _layers(rewrite(network), set())
    hooks = []
    try:
        with torch.no_grad():
            for (_, layer), (name, twin) in zip(layers, folded, strict=True):
                own = {key: weights[f"{name}.{key}" if name else key] for key in _numbers(twin)}
                inner = layer.conv if isinstance(layer, (RepConv2d, UpsampleConv2d)) else layer
                if isinstance(layer, UpsampleConv2d):
                    own = _whole_kernel(layer, own)
                if layer in norms:
                    scale = _length(own["weight"], 1 if isinstance(inner, nn.ConvTranspose2d) else 0)
                    hooks.append(norms[layer].register_forward_pre_hook(_Undo(scale.flatten(), own["bias"])))
                    own = {"weight": own["weight"] / scale, "bias": torch.zeros_like(own["bias"])}
                for key, number in _numbers(inner).items():
                    if number.shape != own[key].shape:
                        raise ValueError(f"{name}.{key} is {list(own[key].shape)}, not {list(number.shape)}")
                    number.copy_(own[key])
            network(seen)
    except (KeyError, RuntimeError, ValueError) as error:
        raise WeightsError(f"these are weights of another network: {str(error).splitlines()[0]}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return network.train()


def calibrate(network: nn.Module, norms: Collection[str], seen: Tensor) -> None:
    """Gives the normalisations of these names the statistics of what they see; in evaluation the network computes what it did.

    seen [N, ...]: some dozens of what the network takes. For blocks that were added, and networks that were unfolded without faces: a step
    of training, which normalises by its batch, then begins where evaluation stands.
    """
    training, hooks = network.training, []
    with torch.no_grad():
        for name, norm in network.named_modules():
            if name in norms and isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None and norm.running_var is not None
                scale = norm.weight / (norm.running_var + norm.eps).sqrt()
                hooks.append(norm.register_forward_pre_hook(_Undo(scale, norm.bias - scale * norm.running_mean)))
        network.eval()(seen)
    for hook in hooks:
        hook.remove()
    network.train(training)


class _Undo:
    """Before a normalisation's pass: makes it ``x · scale + bias`` of what it is about to see."""

    def __init__(self, scale: Tensor, bias: Tensor) -> None:
        self.scale, self.bias = scale, bias

    def __call__(self, norm: nn.Module, inputs: tuple[Tensor]) -> None:
        assert isinstance(norm, nn.BatchNorm2d) and norm.running_mean is not None and norm.running_var is not None
        variance, mean = torch.var_mean(inputs[0], (0, 2, 3))
        norm.running_mean.copy_(mean)
        norm.running_var.copy_(variance)
        norm.weight.copy_(self.scale * (variance + norm.eps).sqrt())
        norm.bias.copy_(self.scale * mean + self.bias)


def _layers(network: nn.Module, without: set[nn.Module], name: str = "") -> list[tuple[str, nn.Module]]:
    """What has numbers of its own, in order; what export folds as a whole is one layer."""
    if isinstance(network, FoldedUpsampleConv2d):
        return [(f"{name}.conv", network.conv)]
    if isinstance(network, (RepConv2d, UpsampleConv2d)):
        return [(name, network)]
    own = [(name, network)] if network not in without and _numbers(network) else []
    parts = (_layers(child, without, f"{name}.{key}".lstrip(".")) for key, child in network.named_children())
    return own + [layer for part in parts for layer in part]


def _numbers(layer: nn.Module) -> dict[str, Tensor]:
    """A layer's own parameters, and a normalisation's statistics."""
    statistics = {key: value for key, value in layer.named_buffers(recurse=False) if key in ("running_mean", "running_var")}
    return dict(layer.named_parameters(recurse=False)) | statistics


def _folded_norms(network: nn.Module) -> dict[nn.Module, nn.BatchNorm2d]:
    """Layer → the normalisation behind it, which export folds into it."""
    kinds = (nn.Conv2d, nn.ConvTranspose2d, UpsampleConv2d)
    pairs = (pair for module in network.modules() if isinstance(module, nn.Sequential) for pair in pairwise(module))
    return {layer: norm for layer, norm in pairs if isinstance(norm, nn.BatchNorm2d) and isinstance(layer, kinds)}


def _whole_kernel(layer: UpsampleConv2d, own: dict[str, Tensor]) -> dict[str, Tensor]:
    """The kernel of which an `UpsampleConv2d` made its four small ones (`UpsampleConv2d.fold`), and its bias."""
    parts = own["weight"].unflatten(0, (-1, 2, 2))  # [outputs, phase, phase, inputs, small, small]
    back = torch.linalg.pinv(layer.taps.transpose(1, 2).flatten(0, 1))  # [kernel, phase and small]: each tap is in some part or sum
    parts = parts.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)
    return {"weight": back @ parts @ back.T, "bias": own["bias"][::4]}


def _length(weight: Tensor, outputs: int) -> Tensor:
    """How many times `TRAINED` the filters are, along the axis of the outputs."""
    others = [axis for axis in range(weight.dim()) if axis != outputs]
    return weight.pow(2).mean(others, keepdim=True).sqrt().clamp(min=1e-6) / TRAINED
