"""Pairs of products in 16 bits: how x86 processors without VNNI multiply int8, weights that are safe there, and what others give.

Their instruction (vpmaddubsw) multiplies unsigned by signed bytes and adds two neighbouring products in 16 bits: what does not fit becomes
the largest or smallest number that does. oneDNN, and with it OpenVINO, computes there with activations as bytes 0 to 255 (int8 ones plus
128) and with the input channels 2k and 2k + 1 at one tap of the kernel as a pair; what it gives on AVX2 is what `SaturatingSession` gives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fhrt.errors import BadInputError
from fhrt.export.weights import internalise

LAYERS = ("Conv", "ConvTranspose", "MatMul")
"""What is quantised where its weight is constant. Gemm is not: those layers end the spatial transformers' localisation, cost next to
nothing, and a shaking pose is seen at once.
"""

LEAST, LARGEST = -32768, 32767
SHIFT, ACTIVATION = 128, 255  # what is added to activations, and the largest that comes of it
PAIR = LARGEST // ACTIVATION  # 128: so much two weights of one sign may come to
CHUNK = 1 << 22  # sums of pairs that are computed at once


def safe_scales(weight: NDArray[np.float32], kind: str) -> NDArray[np.float32]:
    """What one int8 step is worth in each output channel, [O], so that no sum of two products can overflow.

    weight: float32 as a layer of this kind of `LAYERS` takes it. A 127th of the channel's largest magnitude where no two weights of one
    sign in the channel then come to more than `PAIR`; else just as much more as it takes, at most twice that (seven bits). Any two: which
    ones a processor adds up depends on how its library arranges them.
    """
    channels = _by_output(weight, kind)
    channels = channels.reshape(len(channels), -1)
    scales = np.maximum(np.abs(channels).max(1) / 127, _largest_pairs(channels) / PAIR)
    scales = np.where(scales > 0, scales, 1).astype(np.float32)
    while (over := _largest_pairs(np.rint(channels / scales[:, None])) > PAIR).any():  # two that were both rounded up
        scales[over] *= np.float32(1.001)
    return scales


def _by_output(weight: NDArray[Any], kind: str) -> NDArray[Any]:
    """A layer's weight with its output channels first and its input channels second."""
    return weight if kind == "Conv" else weight.swapaxes(0, 1)


def _largest_pairs(channels: NDArray[Any]) -> NDArray[Any]:
    """The largest magnitude of a sum of two numbers of one sign in each row of [O, K], of [O]."""
    rows = np.pad(channels, ((0, 0), (0, 2)))  # so that there are two of either sign
    ordered = np.partition(rows, (1, -2), axis=1)
    largest: NDArray[Any] = np.maximum(ordered[:, -2:].clip(0).sum(1), -ordered[:, :2].clip(None, 0).sum(1))
    return largest


@dataclass(frozen=True)
class _Layer:
    """A layer some of whose pairs may overflow."""

    node: onnx.NodeProto
    activations: str
    """The int8 tensor that it reads."""
    weight: NDArray[np.int8]
    step: NDArray[np.float32]
    """What 1 in an output channel's sum is worth, [O]."""

    def excess(self, activations: NDArray[np.int8], shape: Sequence[int]) -> NDArray[np.float32]:
        """How much larger the layer's output, of this shape, is than what saturated sums give."""
        given = {each.name: helper.get_attribute_value(each) for each in self.node.attribute}
        raised = activations.astype(np.int32) + SHIFT
        if self.node.op_type == "MatMul":
            lost = _excess(raised.reshape(-1, raised.shape[-1]).T, self.weight.T)
            return (lost.T * self.step).reshape(shape).astype(np.float32)
        strides, dilations = given.get("strides", [1, 1]), given.get("dilations", [1, 1])
        pads, groups = given.get("pads", [0] * 4), given.get("group", 1)
        weight = _by_output(self.weight, self.node.op_type)
        if groups > 1:
            raise BadInputError(f"{self.node.name} is a convolution in groups, of which nobody has computed what saturation takes away")
        total = np.zeros((shape[1], shape[0], shape[2] + pads[0] + pads[2], shape[3] + pads[1] + pads[3]), np.int64)
        transposed = self.node.op_type == "ConvTranspose"
        if not transposed:
            total = total[:, :, : shape[2], : shape[3]]
            raised = np.pad(raised, ((0, 0), (0, 0), (pads[0], pads[2]), (pads[1], pads[3])), constant_values=SHIFT)
        rows, columns = raised.shape[2:] if transposed else shape[2:]
        for tap in np.ndindex(*weight.shape[2:]):
            starts = [at * dilation for at, dilation in zip(tap, dilations, strict=True)]
            ends = [start + stride * (size - 1) + 1 for start, stride, size in zip(starts, strides, (rows, columns), strict=True)]
            window = (slice(None), slice(None), *(slice(*each) for each in zip(starts, ends, strides, strict=True)))
            source = raised if transposed else raised[window]
            lost = _excess(source.swapaxes(0, 1).reshape(source.shape[1], -1), weight[:, :, tap[0], tap[1]])
            target = total[window] if transposed else total
            target += lost.reshape(target.shape)
        if transposed:
            total = total[:, :, pads[0] : pads[0] + shape[2], pads[1] : pads[1] + shape[3]]
        return (total.swapaxes(0, 1) * self.step[:, None, None]).astype(np.float32)


def _excess(activations: NDArray[np.int32], weight: NDArray[np.int8]) -> NDArray[np.int64]:
    """How much more the sums of products are than those of saturated pairs, [O, M], of activations [C, M] and weights [O, C]."""
    wide = np.pad(weight.astype(np.int32), ((0, 0), (0, weight.shape[1] % 2)))
    first, second = wide[:, ::2], wide[:, 1::2]
    most, least = (bound(first, 0) + bound(second, 0) for bound in (np.maximum, np.minimum))
    outputs, pairs = np.nonzero((most * ACTIVATION > LARGEST) | (least * ACTIVATION < LEAST))
    lost = np.zeros((len(weight), activations.shape[1]), np.int64)
    if not len(outputs):
        return lost
    touched, starts = np.unique(outputs, return_index=True)
    factors = first[outputs, pairs][:, None], second[outputs, pairs][:, None]
    others = np.minimum(2 * pairs + 1, len(activations) - 1)  # where there is none its weight is 0
    width = max(CHUNK // len(outputs), 1)
    for at in range(0, activations.shape[1], width):
        some = activations[:, at : at + width]
        sums = factors[0] * some[2 * pairs] + factors[1] * some[others]
        lost[touched, at : at + width] = np.add.reduceat(sums - sums.clip(LEAST, LARGEST), starts, axis=0)
    return lost


class SaturatingSession:
    """As much of `onnxruntime.InferenceSession` as `fhrt.runtime.ort` uses, for an INT8 graph on a processor whose sums of pairs saturate.

    ONNX Runtime computes each layer in float32, of the rounded activations and weights; what saturation takes away is computed in whole
    numbers and subtracted.
    """

    def __init__(self, graph: Path) -> None:
        proto = internalise(graph)
        self._layers = {layer.node.output[0]: layer for layer in _layers(proto)}
        kinds = {value.name: value.type.tensor_type.elem_type for value in _values(onnx.shape_inference.infer_shapes(proto))}
        results = [value.name for value in proto.graph.output]
        stretches: list[list[onnx.NodeProto]] = [[]]
        for node in proto.graph.node:
            stretches[-1].append(node)
            if set(node.output) & self._layers.keys():
                stretches.append([])
        self._parts: list[tuple[onnxruntime.InferenceSession, list[str], list[str]]] = []
        wanted = set(results)
        for nodes in reversed([each for each in stretches if each]):
            made = {name for node in nodes for name in node.output}
            wanted |= {self._layers[name].activations for name in self._layers.keys() & made}
            read = {name for node in nodes for name in node.input} - made - {""}
            constants = [tensor for tensor in proto.graph.initializer if tensor.name in read]
            inputs, outputs = sorted(read - {tensor.name for tensor in constants}), sorted(made & wanted)
            wanted |= set(inputs)
            given, taken = ([helper.make_tensor_value_info(name, kinds[name], None) for name in names] for names in (inputs, outputs))
            part = helper.make_graph(nodes, "part", given, taken, constants)
            model = helper.make_model(part, opset_imports=proto.opset_import, functions=proto.functions, ir_version=proto.ir_version)
            options = onnxruntime.SessionOptions()
            options.log_severity_level = 3
            options.add_session_config_entry("session.disable_quant_qdq", "1")
            session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
            self._parts.insert(0, (session, inputs, outputs))

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The graph's outputs of these names."""
        tensors = dict(feeds)
        for session, inputs, outputs in self._parts:
            tensors.update(zip(outputs, session.run(outputs, {name: tensors[name] for name in inputs}), strict=True))
            for name in self._layers.keys() & set(outputs):
                layer = self._layers[name]
                tensors[name] = tensors[name] - layer.excess(tensors[layer.activations], tensors[name].shape)
        return [tensors[name] for name in names]


def _values(proto: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    yield from proto.graph.input
    yield from proto.graph.output
    yield from proto.graph.value_info


def _layers(proto: onnx.ModelProto) -> Iterator[_Layer]:
    """The layers that compute in int8 and of which some pair may overflow."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    dequantised = {node.output[0]: node for node in proto.graph.node if node.op_type == "DequantizeLinear"}
    for node in proto.graph.node:
        if node.op_type not in LAYERS or not set(node.input[:2]) <= dequantised.keys():
            continue
        (activations, step, *_), (name, steps, *_) = (dequantised[each].input for each in node.input[:2])
        if name not in constants:
            continue
        weight, ratios = numpy_helper.to_array(constants[name]), numpy_helper.to_array(constants[steps])
        channels = _by_output(weight, node.op_type)
        if (_largest_pairs(channels.astype(np.int32).reshape(len(channels), -1)) > PAIR).any():
            yield _Layer(node, activations, weight, ratios * numpy_helper.to_array(constants[step]))
