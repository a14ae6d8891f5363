"""Post-training quantisation: the INT8 form of a bundle, beside its fp32 one.

ONNX Runtime's quantiser in QDQ format. What it writes states every scale, so ONNX Runtime, OpenVINO and TensorRT run the same file: int8
weights with one scale per output channel, int8 activations with one scale per tensor, all symmetric, which is what TensorRT takes. Weights
are so small that sums overflow on no processor (fhrt/export/saturation.py). NNCF was tried: it drops model-local functions, and with
them fhrt's nodes.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, cast

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.export.folder import checksums, new_bundle, write_card
from fhrt.export.probe import add_probe
from fhrt.export.saturation import LAYERS, SaturatingSession, safe_scales
from fhrt.export.weights import externalise, halved, internalise
from fhrt.faces.centres import CentreDetector
from fhrt.metrics import psnr
from fhrt.metrics.detection import average_precision, match_all
from fhrt.protocols import PROTOCOLS, make_pairs
from fhrt.protocols.archive import read_faces, walk_faces
from fhrt.protocols.frames import HELD_BACK, walk_frames
from fhrt.resample import to_uint8
from fhrt.runtime import Engine, load
from fhrt.runtime.batch import whole_pieces
from fhrt.runtime.bundle import GRAPH, INT8_GRAPH, INT8_WEIGHTS, WEIGHTS, open_bundle, read_card
from fhrt.runtime.card import Card, Int8
from fhrt.runtime.ort import OrtEngine, OrtFrames, Session

FACES, PHOTOGRAPHS = 300, 64  # to calibrate with
FEWEST = 32
SATURATED = 100
"""Faces, evenly chosen, that are hallucinated as a processor does whose sums saturate: it takes as long as in float32, or longer."""

BATCH = 10
SEED = 2018
Feeds = list[dict[str, NDArray[Any]]]
"""Inputs of a graph by name."""

SAMPLE = 20_000
"""Values that are kept of a tensor and a calibration input, to find its range."""

CLIPPED = np.linspace(0.15, 1, 60)
"""Shares of the largest value seen that are tried as the range's end."""


def quantise(name: str | Path, data: Path, out: Path, progress: Callable[[str], None] = lambda stage: None) -> Path:
    """Write the bundle folder ``out``: that of a model's name or folder with an INT8 form added, and return it.

    Calibrated on faces of the archive's train split, its loss measured on the validation split, both under every protocol of the model's
    size; a detector's on photographs of the frames archive's train split, and on the last 100 of them, which it was not trained with. The
    loss is measured twice: as this processor computes, and as those do whose sums saturate.
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
        add_probe(folder)
        progress("measuring the loss")
        write_card(read_card(folder).model_copy(update={"int8": measure(folder)}), folder)
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
        saturated = OrtEngine(open_bundle(folder), _saturating(folder))
        some = validation[:: -(-len(validation) // SATURATED)]
        saturating = {protocol: _loss(fp32, saturated, some, protocol) for protocol in protocols}
        return Int8(loss=loss, saturating=saturating, faces=len(validation), backend=int8.backend)

    return _calibration(data, protocols), measure


def _on_frames(card: Card, data: Path) -> tuple[Feeds, Callable[[Path], Int8]]:
    """The same for a detector."""
    photographs = list(walk_frames(data, "train"))
    training, validation = photographs[:-HELD_BACK], photographs[-HELD_BACK:]
    if len(training) < FEWEST:
        raise BadInputError(f"the train photographs in {data} are {len(photographs)}; quantisation needs at least {HELD_BACK + FEWEST}")

    def precision(detector: CentreDetector) -> float:
        found = [detector.detect(picture) for _, picture, _ in validation]
        split = [(np.array([one.box for one in each]), np.array([one.score for one in each])) for each in found]
        return float(average_precision(match_all(split, [boxes for _, _, boxes in validation])))

    def measure(folder: Path) -> Int8:
        fp32, int8, saturated = (CentreDetector(folder, precision=form, least=0.05) for form in ("fp32", "int8", "int8"))
        saturated.engine = OrtFrames(open_bundle(folder), _saturating(folder), "onnxruntime")
        whole, *rounded = (precision(detector) for detector in (fp32, int8, saturated))
        loss, saturating = ({"average precision": round(whole - each, 4)} for each in rounded)
        faces = sum(len(boxes) for _, _, boxes in validation)
        return Int8(loss=loss, saturating=saturating, faces=faces, backend=int8.engine.backend)

    step = -(-len(training) // PHOTOGRAPHS)
    return [{"frame": whole_pieces(picture, card)} for _, picture, _ in training[::step]], measure


def _saturating(folder: Path) -> Session:
    return cast(Session, SaturatingSession(folder / INT8_GRAPH))


def write_int8(graph: Path, feeds: Feeds, folder: Path) -> None:
    """Write the INT8 form of a bundle's fp32 graph into ``folder``, where its weights are already, calibrated on these inputs."""
    proto = _quantised(internalise(graph), feeds)
    externalise(proto, folder, INT8_WEIGHTS, halved(graph), shared=WEIGHTS)
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
    gained neither accuracy nor time on lite. Ranges are `_ranges`': with those that hold every value UR-DGN loses twice as much.
    """
    from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.quant_utils import add_pre_process_metadata

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.feeds = iter(feeds[:1])  # the ranges are known; it wants to see one all the same

        def get_next(self) -> dict[str, NDArray[Any]] | None:
            return next(self.feeds, None)

    _split_concatenations(proto)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    # Where a dictionary is searched, products with constants make what is searched for: they cost little, and rounded they find others.
    searched = any(node.op_type == "NeighbourEmbedding" for node in proto.graph.node)
    kinds = [kind for kind in LAYERS if not (searched and kind == "MatMul")]
    layers = [node for node in proto.graph.node if node.op_type in kinds]
    chosen = [node for node in layers if node.input[1] in weights]
    ranges = _ranges(proto, {node.input[0] for node in chosen}, feeds)
    scales = {name: [_scale(end / 127)] for name, end in ranges.items()}
    for node in chosen:
        steps = safe_scales(onnx.numpy_helper.to_array(weights[node.input[1]]), node.op_type)
        scales[node.input[1]] = [_scale(step) | {"axis": int(node.op_type != "Conv")} for step in steps]
    add_pre_process_metadata(proto)  # or it advises to do what `internalise` did
    with TemporaryDirectory() as folder:
        target = Path(folder) / INT8_GRAPH
        quantize_static(
            proto, target, Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=kinds,
            nodes_to_exclude=[node.name for node in layers if node.input[1] not in weights],
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": kinds,
                "TensorQuantOverrides": scales,
            },
        )  # fmt: skip
        quantised = onnx.load(target)
    quantised.ClearField("metadata_props")
    return quantised


def _scale(step: float) -> dict[str, Any]:
    return {"scale": np.array(step, np.float32), "zero_point": np.array(0, np.int8)}


def _split_concatenations(proto: onnx.ModelProto) -> None:
    """A convolution of a concatenation becomes the sum of convolutions of its parts, where no other layer reads a part quantised.

    OpenVINO leaves such a convolution in float32 otherwise, and of MTUN it is a quarter of a face's time.
    """
    graph = proto.graph
    weights = {tensor.name: tensor for tensor in graph.initializer}
    users = Counter(name for node in graph.node for name in node.input)
    layers = [node for node in graph.node if node.op_type in LAYERS and node.input[1] in weights]
    quantised = {node.input[0] for node in layers}
    joined = {node.output[0]: node for node in graph.node if node.op_type == "Concat" and node.attribute[0].i == 1}
    shapes = {value.name: value.type.tensor_type.shape.dim for value in onnx.shape_inference.infer_shapes(proto).graph.value_info}
    for conv in layers:
        source, kernel, *bias = conv.input
        parts = list(joined[source].input) if source in joined else []
        grouped = any(each.name == "group" and each.i != 1 for each in conv.attribute)
        if conv.op_type != "Conv" or grouped or users[source] != 1 or not parts or quantised & set(parts) or not set(parts) <= set(shapes):
            continue
        ends = np.cumsum([shapes[part][1].dim_value for part in parts])
        pieces = np.split(onnx.numpy_helper.to_array(weights[kernel]), ends[:-1], axis=1)
        made: list[onnx.NodeProto] = []
        for number, (part, piece) in enumerate(zip(parts, pieces, strict=True)):
            name = f"{kernel}.part{number}"
            graph.initializer.append(onnx.numpy_helper.from_array(np.ascontiguousarray(piece), name))
            one = onnx.NodeProto(name=f"{conv.name}.part{number}", op_type="Conv", attribute=conv.attribute)
            one.input.extend([part, name, *([] if number else bias)])
            one.output.append(f"{name}.out")
            made.append(one)
            if number:
                total = conv.output[0] if number + 1 == len(parts) else f"{name}.sum"
                made.append(onnx.helper.make_node("Add", [made[-2].output[0], one.output[0]], [total], f"{one.name}.add"))
        at = list(graph.node).index(conv)
        for node in reversed(made):
            graph.node.insert(at, node)
        graph.node.remove(conv)
        graph.node.remove(joined[source])
        if users[kernel] == 1:
            graph.initializer.remove(weights[kernel])


def _ranges(proto: onnx.ModelProto, names: set[str], feeds: Feeds) -> dict[str, float]:
    """Tensor → the end of its symmetric range: what is beyond is clipped, so that all else is rounded less, and the mean squared error of
    both together is least.
    """
    model = onnx.ModelProto()
    model.CopyFrom(proto)
    inside = sorted(names - {value.name for value in (*model.graph.input, *model.graph.output)})
    model.graph.output.extend(onnx.helper.make_empty_tensor_value_info(name) for name in inside)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    rng = np.random.default_rng(SEED)
    seen: dict[str, list[NDArray[np.float32]]] = {name: [] for name in sorted(names)}
    largest = dict.fromkeys(seen, 0.0)
    for feed in feeds:
        computed = feed | dict(zip(fetched := sorted(names - set(feed)), session.run(fetched, feed), strict=True))
        for name, values in seen.items():
            magnitudes = np.abs(computed[name]).ravel()
            largest[name] = max(largest[name], float(magnitudes.max()))
            values.append(rng.choice(magnitudes, SAMPLE))
    return {name: _clipped(np.concatenate(values), largest[name]) for name, values in seen.items()}


def _clipped(magnitudes: NDArray[np.float32], largest: float) -> float:
    """The end of the range of which 127 steps give these values with the least mean squared error."""

    def error(end: float) -> float:
        rounded = np.minimum(np.round(magnitudes * (127 / end)), 127) * (end / 127)
        return float(np.mean((rounded - magnitudes) ** 2))

    return min((largest * float(share) for share in CLIPPED), key=error) if largest > 0 else 1.0


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
