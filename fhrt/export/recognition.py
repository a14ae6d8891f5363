"""The recognition network's checkpoint made into a graph that `fhrt.metrics.Recognition` opens."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

from fhrt.errors import BadInputError
from fhrt.export.graph import FREE_BATCH, trace
from fhrt.export.weights import externalise
from fhrt.models.recognition import FACE, Recognition
from fhrt.models.squeezenet import SqueezeNet
from fhrt.runtime.bundle import GRAPH, WEIGHTS


def export_recognition(network: SqueezeNet, folder: Path) -> Path:
    """Write ``model.onnx`` (``face`` [N, 3, 128, 128] → ``embedding`` [N, 512]) and ``model.safetensors`` (fp16) to a new folder.

    Raises BadInputError where the folder exists already.
    """
    try:
        folder.mkdir(parents=True)
    except FileExistsError as error:
        raise BadInputError(f"{folder} exists; it is left alone") from error
    model = Recognition(network)
    proto = trace(model, torch.zeros(2, 3, FACE, FACE), FREE_BATCH, "face", ("embedding",))
    externalise(proto, folder, WEIGHTS, {name for name, _ in model.named_parameters()})
    onnx.save(proto, folder / GRAPH)
    return folder
