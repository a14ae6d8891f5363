"""The detector's checkpoint made into a bundle, whose graph takes a frame's bytes as they are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fhrt.errors import WeightsError
from fhrt.export.bundle import counted, read_checkpoint, rewritten
from fhrt.export.folder import new_bundle, write_card
from fhrt.export.graph import trace
from fhrt.export.probe import add_probe
from fhrt.export.weights import externalise
from fhrt.models.detector import COARSEST, STRIDE, Detector
from fhrt.runtime import load_frames
from fhrt.runtime.bundle import GRAPH, WEIGHTS
from fhrt.runtime.card import Card

COUNTED = (480, 640)
"""Height and width of the frame of which the card counts operations."""
OUTPUTS = ("heat", "geometry")
NONE = (1.0, 0.0, 0.0, 0.0)
"""The calibration that leaves scores as they are."""
TOLERANCE = 1e-3


class _Frames(nn.Module):
    """``forward(frame [H, W, 3])`` uint8 BGR → heat [1, 1, H/4, W/4], 0 to 1, and geometry [1, 8, H/4, W/4]."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.model = network

    def forward(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        maps = self.model(frame.permute(2, 0, 1)[None].float())
        return maps.heat.sigmoid(), maps.geometry


def export_detector(checkpoint: Path, out: Path, scores: dict[str, dict[str, float]] | None = None) -> Path:
    """Write the bundle folder ``out`` of a ``best.safetensors`` of ``python -m training detector``, and return it.

    Graph: ``frame`` [H, W, 3] uint8 BGR, H and W multiples of 16 → ``heat`` and ``geometry`` of `fhrt.models.detector.Maps`, the heat as a
    score. Raises WeightsError when the checkpoint is damaged or another network's, or when ONNX Runtime's maps differ from torch's;
    BadInputError when ``out`` exists and is no bundle. A bundle appears whole or not at all.
    """
    state, about = read_checkpoint(checkpoint)
    network = rewritten(Detector(), state, f"{checkpoint} is not a checkpoint of the detector")
    first = network.get_submodule("stem.0.0")
    assert isinstance(first, nn.Conv2d)
    with torch.no_grad():
        # Bytes in BGR in place of RGB in [0, 1]. Black stays 0, so the zeros around the frame are what they were.
        first.weight.copy_(first.weight.flip(1) / 255)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, *COUNTED))
    model = _Frames(network)
    with new_bundle(out) as folder:
        height, width = (COARSEST * torch.export.Dim(name, min=1, max=4096) for name in ("rows", "columns"))
        example = torch.zeros(4 * COARSEST, 5 * COARSEST, 3, dtype=torch.uint8)
        proto = trace(model, example, {0: height, 1: width}, "frame", OUTPUTS)
        # 1/255 of a weight is too small a number for fp16.
        halved = {name for name, parameter in network.named_parameters() if parameter is not first.weight}
        externalise(proto, folder, WEIGHTS, halved, state={key: value.numpy() for key, value in network.state_dict().items()})
        onnx.save(proto, folder / GRAPH)
        onnx.checker.check_model(folder / GRAPH)
        card = Card(
            name=out.name,
            title="fhrt's own detector of tiny faces",
            input_size=(COARSEST, COARSEST),
            output_size=(COARSEST // STRIDE, COARSEST // STRIDE),
            outputs=OUTPUTS,
            hparams={f"calibration_{index}": weight for index, weight in enumerate(about.get("calibration", NONE))},
            scores=scores or {},
            **counted(network.parameters(), counter, about, folder),
        )
        write_card(card, folder)
        add_probe(folder)
        _compare(model, folder)
    return out


def _compare(model: nn.Module, folder: Path) -> None:
    """Raise WeightsError unless ONNX Runtime gives torch's maps, of two sizes of frame."""
    engine = load_frames(folder, backend="onnxruntime")
    for seed, (height, width) in enumerate(((48, 80), (COARSEST, 160))):
        frame = np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)
        with torch.no_grad():
            expected = model(torch.from_numpy(frame))
        for ours, theirs in zip(engine.run(frame), expected, strict=True):
            error = float(np.abs(ours - theirs.numpy()).max())
            if not error <= TOLERANCE:
                raise WeightsError(f"the exported graph differs from the network by {error:.1e}; the bundle was not written")
