"""A trained network made larger without a change of what it computes (Net2Net: Chen, Goodfellow & Shlens, ICLR 2016).

Wider: channel j of a map is a copy of channel ``j % narrow``, and what reads the copies of a channel shares its weight out among them. As
every map follows this one rule, maps that are summed agree, and a pixel shuffle's groups of four stay together; a layer that reads two maps
side by side is the one thing that has to be told (`BESIDE`). Deeper: what is added gives 0 to the sum that it stands in.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from fhrt import models
from fhrt.errors import BadInputError, WeightsError
from fhrt.files import make_folder
from fhrt.models.csrip import CSRIP
from fhrt.models.layers import ModelOutput
from fhrt.models.mtun import COMPONENTS, MTUN
from fhrt.runtime.bundle import open_bundle
from training import checkpoint
from training.unfold import bundle_weights, unfold

DEPTHS = ("blocks", "tail", "stacks")
SIZES = {
    "urdgn": ("width",),
    "tdn": ("width", "localisation"),
    "tdae": ("width", "localisation"),
    "mtun": ("width", "contracting", "hourglass", "last", "stacks"),
    "csrip": ("width", "blocks", "tail"),
}
"""System → the hyper-parameters that can grow."""

BESIDE: dict[str, str | int] = {
    "encoder.up3.0": "encoder.down3.0",
    "encoder.up2.0": "encoder.down2.0",
    "encoder.up1.0": "encoder.down1.0",
    "upsample.0.0": 3,
    "stn.localisation.1": 3,
    "align.0": 3,
    "fuse.0": len(COMPONENTS),
    "tail.0": "fuse.3.conv",
}
"""MTUN's layers that read two maps side by side → what the second is: a layer's output, or so many channels that never grow."""

TOLERANCE = 1e-4
"""How much the pictures, heatmaps and theta of a network and of what grew from it may differ."""


def grow(
    name: str, network: nn.Module, hparams: Mapping[str, Any], sizes: Mapping[str, Any], noise: float = 0.0, seed: int = 0
) -> nn.Module:
    """A ``name`` of other ``sizes`` that computes what ``network`` does; both in evaluation mode.

    hparams: the network's own. sizes: hyper-parameters in `SIZES`, to take the place of those. noise: 0 to 1, by how
    much the shares of a channel's copies differ from equal ones, at random in every weight. The function stays, but each copy gets
    gradients of its own; without noise the copies of a channel inside the network stay equal for ever.

    Raises BadInputError for a system that has no sizes, and for sizes that it does not have, that are smaller, or that change nothing.
    """
    _refuse(name)
    for size in sizes:
        if size not in SIZES[name]:
            raise BadInputError(f"{name} has no {size} that could grow, but {', '.join(SIZES[name])}")
    if not 0 <= noise <= 1:
        raise BadInputError(f"noise must be 0 to 1, not {noise}")
    own = own_sizes(name, network, hparams)
    target = dict(hparams) | dict(sizes)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        larger = models.create(name, **target).eval()  # which refuses what it does not take
        for size, value in sizes.items():
            if any(new < old for new, old in zip(_numbers(value), _numbers(own[size]), strict=True)):
                raise BadInputError(f"{name} can grow, but not shrink: {told({size: own[size]})} is more than {told({size: value})}")
        if all(value == own[size] for size, value in sizes.items()):
            raise BadInputError(f"{name} has these sizes already: {told(sizes)}")
        depths = {size: own[size] for size in DEPTHS if size in own}
        wider = models.create(name, **target | depths).eval()
        _widen(network, wider, noise)
        _deepen(wider, larger)
    return larger


def grow_from(source: str | Path, out: Path, sizes: Mapping[str, Any], noise: float = 0.0, seed: int = 0) -> float:
    """Write the checkpoint ``out`` of a network grown from ``source``, and return the largest difference of their outputs.

    source: a checkpoint (of a ``last.safetensors`` its average), a bundle's folder or name. sizes: as of `grow`; none: the published ones.
    ``fit --start`` and ``fhrt export`` take ``out``. Its description says which sizes the network ``grown`` had, and which normalisations
    are ``unseen``, for `training.unfold.calibrate`: those that were added, and all of a bundle.

    Raises BadInputError as `grow`, for a quantised bundle, and where ``out`` is the source; WeightsError for a damaged source, and where
    the outputs `differ` by more than `TOLERANCE`, for pictures of noise; UnknownModelError.
    """
    if out.exists() and Path(source).exists() and out.samefile(source):
        raise BadInputError(f"{out} is what shall grow: choose another file")
    make_folder(out.parent)
    network, about = _read(source)
    name, hparams = about["model"], about["hparams"]
    own = own_sizes(name, network, hparams)
    sizes = sizes or own_sizes(name, network, {})
    grown = grow(name, network, hparams, sizes, noise, seed)
    difference = differ(network, grown, _pictures(name, 2))
    if not difference <= TOLERANCE:
        raise WeightsError(f"what grew from {source} differs from it by {difference:.1e}; it was not written")
    before = told({size: value for size, value in own.items() if size in sizes and sizes[size] != value})
    facts = {
        "hparams": hparams | dict(sizes),
        "grown": f"{about['grown']}, then {before}" if "grown" in about else before,
        "unseen": sorted(_norms(grown) - _norms(network) | set(about.get("unseen", []))),
    }
    checkpoint.save(out, grown.state_dict(), about | facts)
    return difference


def differ(network: nn.Module, grown: nn.Module, lr: Tensor) -> float:
    """The largest difference of their outputs for pictures [N, 3, H, W], as a share of an output's largest magnitude where that is over 1.

    Of heatmaps those of the last stack.
    """
    with torch.no_grad():
        ours, wanted = (_outputs(each(lr)) for each in (grown, network))
    return max(float((mine - each).abs().max() / each.abs().max().clamp(min=1)) for mine, each in zip(ours, wanted, strict=True))


def own_sizes(name: str, network: nn.Module, hparams: Mapping[str, Any]) -> dict[str, Any]:
    """The sizes of a ``name`` with these hyper-parameters, those that its class has by itself included."""
    parameters = inspect.signature(type(network)).parameters
    sizes = {size: hparams.get(size, parameters[size].default) for size in SIZES.get(name, ())}
    return {size: list(value) if isinstance(value, tuple) else value for size, value in sizes.items()}


def told(sizes: Mapping[str, Any]) -> str:
    """``width 64, blocks 6 1 0``."""
    return ", ".join(f"{size} {' '.join(str(number) for number in _numbers(value))}" for size, value in sizes.items())


def _read(source: str | Path) -> tuple[nn.Module, dict[str, Any]]:
    """A network in evaluation mode, and the description that a checkpoint of it has."""
    if Path(source).suffix == ".safetensors":
        tensors, about = checkpoint.load(Path(source))
        about = {"hparams": {}} | {key: value for key, value in about.items() if key not in ("best", "best_step")}
        _refuse(about.get("model", "it"))
        network = models.create(about["model"], **about["hparams"])
        try:
            network.load_state_dict(checkpoint.unpack("average", tensors) or tensors)
        except RuntimeError as error:
            raise WeightsError(f"{source} is not a checkpoint of {about['model']}: {str(error).splitlines()[0]}") from error
        return network.eval(), about
    bundle = open_bundle(source)
    card = bundle.card
    _refuse(card.name)
    if any(node.op_type == "QuantizeLinear" for node in onnx.load(bundle.graph, load_external_data=False).graph.node):
        raise BadInputError(f"{source} is quantised: grow the bundle that it was made of")
    try:
        network = unfold(models.create(card.name, **card.hparams), bundle_weights(source), _pictures(card.name, 8)).eval()
    except WeightsError as error:
        raise WeightsError(f"{source}: {error}") from error
    return network, {"model": card.name, "hparams": card.hparams, "start": card.training, "unseen": sorted(_norms(network))}


def _refuse(name: str) -> None:
    """Raises BadInputError for a system that has no sizes."""
    if name not in SIZES:
        raise BadInputError(f"{name} cannot grow; these can: {', '.join(SIZES)}")


def _pictures(name: str, count: int) -> Tensor:
    """[count, 3, H, W] of noise."""
    side = models.system(name).lr_side
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


def _norms(network: nn.Module) -> set[str]:
    return {name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)}


def _outputs(output: ModelOutput) -> list[Tensor]:
    theta = [] if output.theta is None else [output.theta]
    return [output.sr, *theta, *output.heatmaps[-1:], *output.coarser]


def _numbers(value: int | list[int]) -> list[int]:
    return value if isinstance(value, list) else [value]


# -- wider ----------------------------------------------------------------------------------------------------------------------------


def _widen(narrow: nn.Module, wide: nn.Module, noise: float) -> None:
    """Give ``wide``, which has narrow's layers with more channels, the weights with which it computes the same."""
    small: dict[str, Any] = dict(narrow.named_modules())
    large: dict[str, Any] = dict(wide.named_modules())
    for name, layer in large.items():
        source = small[name]
        if isinstance(layer, nn.BatchNorm2d):
            channels = _sources(source.num_features, layer.num_features)
            for key, value in layer.state_dict().items():
                own = source.state_dict()[key]
                value.copy_(own[channels] if own.dim() else own)
        elif isinstance(layer, (nn.Conv2d, nn.ConvTranspose2d)):
            inputs = _inputs(name, small, large)
            outputs = _sources(source.out_channels, layer.out_channels)
            swapped = isinstance(layer, nn.ConvTranspose2d)  # whose weight is [inputs, outputs, kernel]
            weight = _shared_out(source.weight.transpose(0, 1) if swapped else source.weight, outputs, inputs, noise)
            layer.weight.copy_(weight.transpose(0, 1) if swapped else weight)
            if layer.bias is not None:
                layer.bias.copy_(source.bias[outputs])
        elif isinstance(layer, nn.Linear):  # of a localisation, whose last map has its channels in every size
            layer.load_state_dict(source.state_dict())


def _inputs(name: str, small: dict[str, Any], large: dict[str, Any]) -> Tensor:
    """The narrow channel that each of a layer's inputs is a copy of."""
    narrow, wide = small[name].in_channels, large[name].in_channels
    second = BESIDE.get(name, 0) if isinstance(large[""], MTUN) else 0
    few, many = (second, second) if isinstance(second, int) else (small[second].out_channels, large[second].out_channels)
    return torch.cat([_sources(narrow - few, wide - many), narrow - few + _sources(few, many)])


def _sources(narrow: int, wide: int) -> Tensor:
    """[wide]: the narrow channel that each of a map's is a copy of."""
    return torch.arange(wide) % max(1, narrow)


def _shared_out(weight: Tensor, outputs: Tensor, inputs: Tensor, noise: float) -> Tensor:
    """[wide outputs, wide inputs, kernel] of [outputs, inputs, kernel]: over the copies of a channel it sums to the channel's weight.

    No share is negative, so that nothing cancels that did not before.
    """
    wide = weight[outputs][:, inputs]
    shares = 1 + noise * (2 * torch.rand_like(wide) - 1)
    sums = torch.zeros_like(weight)[outputs].index_add_(1, inputs, shares)
    return wide * shares / sums[:, inputs]


# -- deeper ---------------------------------------------------------------------------------------------------------------------------


def _deepen(shallow: nn.Module, deep: nn.Module) -> None:
    """Give ``deep``, which has shallow's widths, the weights with which it computes the same."""
    deep.load_state_dict(shallow.state_dict(), strict=False)  # all but what is added, and what stands behind it
    if isinstance(shallow, CSRIP) and isinstance(deep, CSRIP):
        for before, after in zip((*shallow.sr_modules, shallow.tail), (*deep.sr_modules, deep.tail), strict=True):
            after[-1].load_state_dict(before[-1].state_dict())
            for block in after[len(before) - 1 : -1]:
                nn.init.zeros_(block.layers[4].weight)  # the second normalisation's, whose bias is 0 too: the block adds LeakyReLU(0)
    if isinstance(shallow, MTUN) and isinstance(deep, MTUN):
        stacks, count = deep.hourglasses.stacks, len(shallow.hourglasses.stacks)
        for stack in stacks[count:]:  # copies of the last one, which see what it saw, as nothing is handed on:
            stack.load_state_dict(shallow.hourglasses.stacks[-1].state_dict(), strict=False)
        for stack in stacks[count - 1 : -1]:
            for name, parameter in stack.named_parameters():
                if name.startswith("remap"):
                    nn.init.zeros_(parameter)
