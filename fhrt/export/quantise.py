"""Post-training quantisation: the INT8 form of a bundle, beside its fp32 one.

ONNX Runtime's quantiser in QDQ format. What it writes states every scale, so ONNX Runtime, OpenVINO and TensorRT run the same file: int8
weights with one scale per output channel, int8 activations with one scale per tensor, all symmetric, which is what TensorRT takes. NNCF was
tried: it drops model-local functions, and with them fhrt's nodes.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.export.folder import checksums, new_bundle, write_card
from fhrt.export.weights import externalise, internalise
from fhrt.faces.centres import CentreDetector
from fhrt.metrics import psnr
from fhrt.metrics.detection import average_precision, match_all
from fhrt.protocols import PROTOCOLS, make_pairs
from fhrt.protocols.archive import read_faces, walk_faces
from fhrt.protocols.frames import HELD_BACK, walk_frames
from fhrt.resample import to_uint8
from fhrt.runtime import Engine, load
from fhrt.runtime.batch import whole_pieces
from fhrt.runtime.bundle import GRAPH, INT8_GRAPH, INT8_WEIGHTS, WEIGHTS, open_bundle
from fhrt.runtime.card import Card, Int8

FACES, PHOTOGRAPHS = 300, 64  # to calibrate with
FEWEST = 32
BATCH = 10
SEED = 2018
Feeds = list[dict[str, NDArray[Any]]]
"""Inputs of a graph by name."""

LAYERS = ("Conv", "ConvTranspose", "MatMul")
"""What is quantised where its weight is constant. Gemm is not: those layers end the spatial transformers' localisation, cost next to
nothing, and a shaking pose is seen at once.
"""


def quantise(name: str | Path, data: Path, out: Path, progress: Callable[[str], None] = lambda stage: None) -> Path:
    """Write the bundle folder ``out``: that of a model's name or folder with an INT8 form added, and return it.

    Calibrated on faces of the archive's train split, its loss measured on the validation split, both under every protocol of the model's
    size; a detector's on photographs of the frames archive's train split, and on the last 100 of them, which it was not trained with.
    progress: called with what is done next. Raises UnknownModelError, WeightsError; BadInputError for a bundle that has an INT8 form
    already, an archive without these splits or with fewer than 32 faces in one, or an ``out`` that exists and is no bundle. A bundle
    appears whole or not at all.
    """
    bundle = open_bundle(name)
    card = bundle.card
    if card.int8 is not None:
        raise BadInputError(f"{name} has an INT8 form already; quantise the bundle that was exported")
    feeds, measure = (_on_frames if "heat" in card.outputs else _on_faces)(card, data)
    with new_bundle(out) as folder:
        for file in (GRAPH, WEIGHTS):
            shutil.copyfile(bundle.folder / file, folder / file)
        progress("calibrating")
        write_int8(bundle.graph, feeds, folder)
        files = checksums(folder, GRAPH, WEIGHTS, INT8_GRAPH, INT8_WEIGHTS)
        write_card(card.model_copy(update={"sha256": files, "int8": Int8(loss={}, faces=0, backend="none")}), folder)
        progress("measuring the loss")
        write_card(card.model_copy(update={"sha256": files, "int8": measure(folder)}), folder)
    return out


def _on_faces(card: Card, data: Path) -> tuple[Feeds, Callable[[Path], Int8]]:
    """What calibrates a model of faces, and what measures the loss of the bundle in a folder."""
    protocols = [protocol for protocol, side in PROTOCOLS.items() if side == card.input_size[0]]
    if not protocols:
        raise BadInputError(f"no protocol has LR faces of {card.input_size[0]}×{card.input_size[1]}, which {card.name} takes")
    validation = _enough(read_faces(data, "val"), data, "val")

    def measure(folder: Path) -> Int8:
        fp32, int8 = load(folder, precision="fp32"), load(folder, precision="int8")
        loss = {protocol: _loss(fp32, int8, validation, protocol) for protocol in protocols}
        return Int8(loss=loss, faces=len(validation), backend=int8.backend)

    return _calibration(data, protocols), measure


def _on_frames(card: Card, data: Path) -> tuple[Feeds, Callable[[Path], Int8]]:
    """The same for a detector."""
    photographs = list(walk_frames(data, "train"))
    training, validation = photographs[:-HELD_BACK], photographs[-HELD_BACK:]
    if len(training) < FEWEST:
        raise BadInputError(f"the train photographs in {data} are {len(photographs)}; quantisation needs at least {HELD_BACK + FEWEST}")

    def measure(folder: Path) -> Int8:
        precision: dict[str, float] = {}
        for form in ("fp32", "int8"):
            detector = CentreDetector(folder, precision=form, least=0.05)
            found = [detector.detect(picture) for _, picture, _ in validation]
            split = [(np.array([one.box for one in each]), np.array([one.score for one in each])) for each in found]
            precision[form] = float(average_precision(match_all(split, [boxes for _, _, boxes in validation])))
        loss = round(precision["fp32"] - precision["int8"], 4)
        return Int8(loss={"average precision": loss}, faces=sum(len(boxes) for _, _, boxes in validation), backend=detector.engine.backend)

    step = -(-len(training) // PHOTOGRAPHS)
    return [{"frame": whole_pieces(picture, card)} for _, picture, _ in training[::step]], measure


def write_int8(graph: Path, feeds: Feeds, folder: Path) -> None:
    """Write the INT8 form of a bundle's fp32 graph into ``folder``, calibrated on these inputs."""
    proto = _quantised(internalise(graph), feeds)
    externalise(proto, folder, INT8_WEIGHTS)
    onnx.save(proto, folder / INT8_GRAPH)
    onnx.checker.check_model(folder / INT8_GRAPH)


def _calibration(data: Path, protocols: list[str]) -> Feeds:
    """LR faces [10, 3, s, s] in [-1, 1], 30 times: faces from all over the train split, under each protocol in turn."""
    rng = np.random.default_rng(SEED)
    kept: list[NDArray[np.uint8]] = []
    for count, (_, face) in enumerate(walk_faces(data, "train")):  # one by one: the split does not fit into memory
        if len(kept) < FACES:
            kept.append(face)
        elif (place := int(rng.integers(count + 1))) < FACES:
            kept[place] = face
    faces = _enough(np.stack(kept), data, "train")
    parts = [make_pairs(faces[start :: len(protocols)], protocol, rng).lr for start, protocol in enumerate(protocols)]
    lr = np.concatenate(parts).astype(np.float32) / 127.5 - 1
    return [{"lr": lr[at : at + BATCH]} for at in range(0, len(lr), BATCH)]


def _enough(faces: NDArray[np.uint8], data: Path, split: str) -> NDArray[np.uint8]:
    if len(faces) < FEWEST:
        raise BadInputError(f"the {split} shards in {data} hold {len(faces)} faces; quantisation needs at least {FEWEST}")
    return faces


def _quantised(proto: onnx.ModelProto, feeds: Feeds) -> onnx.ModelProto:
    """The graph with every layer of `LAYERS` reading quantised values; what a layer gives stays float32 until the next one reads it.

    Whoever else reads a quantised tensor, a residual sum for instance, gets the rounded values too: keeping the exact ones for them
    gained neither accuracy nor time on lite.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(feeds)

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self.feeds, None)

    weights = {tensor.name for tensor in proto.graph.initializer}
    add_pre_process_metadata(proto)  # or it advises to do what `internalise` did
    with TemporaryDirectory() as folder:
        target = Path(folder) / INT8_GRAPH
        quantize_static(
            proto, target, Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(LAYERS),
            nodes_to_exclude=[node.name for node in proto.graph.node if node.op_type in LAYERS and node.input[1] not in weights],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": list(LAYERS),
            },
        )  # fmt: skip
        quantised = onnx.load(target)
    quantised.ClearField("metadata_props")
    return quantised


def _loss(fp32: Engine, int8: Engine, faces: NDArray[np.uint8], protocol: str) -> float:
    """Mean PSNR that ``int8`` loses, dB."""
    rng = np.random.default_rng(SEED)
    losses = []
    for start in range(0, len(faces), BATCH):
        pairs = make_pairs(faces[start : start + BATCH], protocol, rng)
        lr, hr = pairs.lr.astype(np.float32) / 127.5 - 1, pairs.hr.transpose(0, 2, 3, 1)
        before, after = (psnr(to_uint8((engine.run(lr).sr + 1) * 127.5).transpose(0, 2, 3, 1), hr) for engine in (fp32, int8))
        losses.append(before - after)
    return round(float(np.concatenate(losses).mean()), 4)
