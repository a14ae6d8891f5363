"""A bundle of a system that has no trained weights: its time is the same with random ones. Needs torch."""

from pathlib import Path

import numpy as np
import torch

from fhrt.export import export
from fhrt.export.folder import checksums, write_card
from fhrt.export.quantise import write_int8
from fhrt.models import create
from fhrt.runtime.bundle import read_card
from fhrt.runtime.card import Int8
from training import checkpoint


def write(name: str, folder: Path) -> Path:
    """The bundle folder, with an INT8 form calibrated on noise; nothing is known of its loss, so "auto" is fp32."""
    torch.manual_seed(0)
    checkpoint.save(folder / "random.safetensors", create(name).state_dict(), {"model": name, "step": 0})
    bundle = export(name, folder / "random.safetensors", folder / name)
    card = read_card(bundle)
    lr = np.random.default_rng(0).uniform(-1, 1, (2, 3, *card.input_size)).astype(np.float32)
    write_int8(bundle / "model.onnx", [{"lr": lr}], bundle)
    files = [path.name for path in bundle.glob("model.*")]
    write_card(card.model_copy(update={"int8": Int8(loss={}, faces=0, backend="none"), "sha256": checksums(bundle, *files)}), bundle)
    return bundle
