"""Checkpoints: one safetensors file with the model, its moving average and the optimiser, written whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from fhrt.errors import BadInputError, WeightsError


def save(path: Path, tensors: dict[str, Tensor], about: dict[str, Any]) -> None:
    """Write tensors and a JSON description (safetensors metadata) atomically."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".partial")
    save_file({k: v.detach().cpu().contiguous() for k, v in tensors.items()}, temporary, {"fhrt": json.dumps(about)})
    os.replace(temporary, path)


def load(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and description of a checkpoint. Raises WeightsError when it is missing, truncated or not one of ours."""
    try:
        with safe_open(path, "pt") as file:
            about = json.loads((file.metadata() or {})["fhrt"])
            return {key: file.get_tensor(key) for key in file.keys()}, about  # noqa: SIM118
    except (OSError, SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise WeightsError(f"{path} is not a checkpoint of fhrt: {error}") from error


def refuse_to_overwrite(out: Path) -> None:
    """Raises BadInputError where the folder holds a run, whose checkpoints another one's would replace."""
    if any((out / name).exists() for name in ("last.safetensors", "best.safetensors")):
        raise BadInputError(f"{out} holds a run already: go on with it by --resume, or choose another --out")


def average(path: Path, out: Path) -> None:
    """Write the averaged weights of a ``last.safetensors`` as a ``best.safetensors`` is, which export takes. Raises WeightsError."""
    tensors, about = load(path)
    averaged = unpack("average", tensors)
    if not averaged:
        raise WeightsError(f"{path} holds no averaged weights; they are in a run's last.safetensors")
    save(out, averaged, {key: value for key, value in about.items() if key not in ("best", "best_step")})


def pack(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"{prefix}.{key}": value for key, value in tensors.items()}


def unpack(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = len(prefix) + 1
    return {key[start:]: value for key, value in tensors.items() if key.startswith(prefix + ".")}


def pack_optimiser(optimiser: torch.optim.Optimizer, prefix: str) -> dict[str, Tensor]:
    """The optimiser's state tensors under ``prefix.PARAMETER.FIELD``."""
    state = optimiser.state_dict()["state"]
    return {
        f"{prefix}.{index}.{field}": torch.as_tensor(value)
        for index, fields in state.items()
        for field, value in fields.items()
        if value is not None
    }


def unpack_optimiser(optimiser: torch.optim.Optimizer, prefix: str, tensors: dict[str, Tensor]) -> None:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in unpack(prefix, tensors).items():
        index, field = key.split(".", 1)
        state.setdefault(int(index), {})[field] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def plain_state(module: nn.Module) -> dict[str, Tensor]:
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


def follow(average: dict[str, Tensor], module: nn.Module, decay: float | Tensor) -> None:
    """Moves a `plain_state` towards the module's, in place: ``average · decay + value · (1 − decay)``; whole numbers are copied.

    decay: a number, or a float64 tensor on the module's device, which a captured step reads anew.
    """
    weight: Any = (1 - decay).float() if isinstance(decay, Tensor) else 1 - decay
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            average[key].lerp_(value.detach(), weight)
        else:
            average[key].copy_(value)
