"""A training checkpoint made into a bundle: graph, weights and card, checked before it is put in place."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fhrt.errors import WeightsError
from fhrt.export.folder import checksums, new_bundle, write_card
from fhrt.export.graph import named_outputs, to_onnx
from fhrt.export.probe import add_probe
from fhrt.export.rewrite import rewrite
from fhrt.export.weights import externalise, on_grid
from fhrt.models import create, system
from fhrt.runtime.bundle import GRAPH, WEIGHTS, open_bundle
from fhrt.runtime.card import Card
from fhrt.runtime.ort import OrtEngine
from fhrt.systems import system_name

LICENCE = "Weights: research and non-commercial use only, because of their training data's terms."
TOLERANCE = {"fit": 1e-4, "dictionary": 2e-3}
"""Largest difference from torch's picture, by how a system is made: the neighbours' weights solve a system that amplifies rounding."""


def export(name: str, checkpoint: Path, out: Path, scores: dict[str, dict[str, float]] | None = None, *, packed: bool = False) -> Path:
    """Write the bundle folder ``out`` of a ``best.safetensors`` that ``python -m training`` wrote, and return it.

    packed: the layers' weights as int8 with a scale per output channel, half as many bytes; they are computed with in float32 all the same.

    Raises UnknownModelError; WeightsError when the checkpoint is damaged, is another model's, or when ONNX Runtime's picture differs from
    torch's by more than `TOLERANCE`; BadInputError when ``out`` exists and is no bundle. A bundle appears whole or not at all.
    """
    name = system_name(name)
    facts = system(name)
    lr_size, sr_size = (facts.lr_side, facts.lr_side), (facts.sr_side, facts.sr_side)
    state, about = read_checkpoint(checkpoint)
    model = rewritten(create(name, **about.get("hparams", {})), state, f"{checkpoint} is not a checkpoint of {name}", packed)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        given = named_outputs(model(torch.zeros(1, 3, *lr_size)))
    numbers = model.parameters() if facts.made == "fit" else model.state_dict().values()  # a dictionary's entries are no parameters
    outputs = tuple(name for name in facts.outputs if name in given)  # a row of an ablation may lack some
    with new_bundle(out) as folder:
        proto = to_onnx(model, lr_size, outputs)
        own = {key: value.numpy() for key, value in model.state_dict().items()} if facts.made == "fit" else {}
        names = {name for name, _ in model.named_parameters()}
        externalise(proto, folder, WEIGHTS, names, packable(model) if packed else {}, state=own)
        onnx.save(proto, folder / GRAPH)
        onnx.checker.check_model(folder / GRAPH)
        card = Card(
            name=name,
            title=facts.title,
            input_size=lr_size,
            output_size=sr_size,
            outputs=outputs,
            hparams=about.get("hparams", {}),
            scores=scores or {},
            **counted(numbers, counter, about, folder),
        )
        write_card(card, folder)
        add_probe(folder)
        _compare(model, folder, TOLERANCE[facts.made])
    return out


def counted(numbers: Iterable[torch.Tensor], counter: FlopCounterMode, about: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The fields of a card that follow from a network's numbers, its operations, its checkpoint, and the files in its folder."""
    return {
        "parameters": sum(tensor.numel() for tensor in numbers),
        "gflops": round(counter.get_total_flops() / 1e9, 3),
        "training": _training(about),
        "licence": LICENCE,
        "sha256": checksums(folder, GRAPH, WEIGHTS),
    }


def _training(about: dict[str, Any]) -> str:
    """What a card says of it, from what a checkpoint says of itself."""
    data = about.get("data", "data not recorded")
    if "entries" in about:
        return f"{data}, {about['entries']:,} of them in the dictionary"
    earlier, start = about.get("earlier_steps", 0), about.get("start", "")
    grown = f"; grown from {about['grown']}" if "grown" in about else ""
    if start and "step" not in about:  # a bundle's network that grew, and was trained no further
        return start + grown
    steps = f"{data}, {about.get('step', '?')} steps" + (f" from the weights of {earlier} earlier steps" if earlier else "")
    return steps + (f"; begun with a bundle's weights: {start}" if start else "") + grown


def read_checkpoint(checkpoint: Path) -> tuple[dict[str, torch.Tensor], dict[str, Any]]:
    """Weights, and what the checkpoint says of itself. Raises WeightsError."""
    try:
        with safe_open(checkpoint, "pt") as file:
            about = json.loads((file.metadata() or {}).get("fhrt", "{}"))
            return {key: file.get_tensor(key) for key in file.keys()}, about  # noqa: SIM118  not a dict
    except (OSError, SafetensorError, json.JSONDecodeError) as error:
        raise WeightsError(f"{checkpoint} is not a checkpoint: {error}") from error


def packable(model: nn.Module) -> dict[str, int]:
    """Names of the layers' weights, with the axis of their output channels."""
    kinds = {nn.Conv2d: 0, nn.ConvTranspose2d: 1, nn.Linear: 0}
    return {f"{name}.weight": kinds[type(layer)] for name, layer in model.named_modules() if type(layer) in kinds}


def rewritten(model: nn.Module, state: dict[str, torch.Tensor], what: str, packed: bool = False) -> nn.Module:
    """The network with these weights, rewritten, rounded as its file will be. Raises WeightsError where they are not ``what``'s."""
    try:
        model.load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{what}: {str(error).splitlines()[0]}") from error
    model = rewrite(model)
    axes = packable(model) if packed else {}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            rounded = torch.from_numpy(on_grid(parameter.numpy(), axes[name])) if name in axes else parameter.half().float()
            parameter.copy_(rounded)
    return model


def _compare(model: nn.Module, folder: Path, tolerance: float) -> None:
    """Raise WeightsError unless ONNX Runtime gives torch's picture, for one face and for several."""
    engine = OrtEngine(open_bundle(folder))
    for count in (1, 3):
        lr = np.random.default_rng(count).uniform(-1, 1, (count, 3, *engine.card.input_size)).astype(np.float32)
        with torch.no_grad():
            expected = model(torch.from_numpy(lr)).sr.numpy()
        error = float(np.abs(engine.run(lr).sr - expected).max())
        if not error <= tolerance:
            raise WeightsError(f"the exported graph differs from the network by {error:.1e}; the bundle was not written")
