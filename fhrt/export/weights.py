"""Moves a graph's weights into one safetensors file that torch and ONNX share, and back."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file


def externalise(proto: onnx.ModelProto, folder: Path, file: str) -> None:
    """Write every floating initialiser to ``folder/file`` as fp16, every int8 one as it is, and let the graph point there by offset;
    changes ``proto``.

    The graph computes in float32: each fp16 weight passes a Cast, which runtimes fold away when they load the file. What (de)quantises
    stays float32 and in the graph: a scale is exact or wrong, and TensorRT wants to see it.
    """
    graph = proto.graph
    scales = {name for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear") for name in node.input[1:]}
    stored = [
        tensor for tensor in graph.initializer if tensor.data_type in (TensorProto.FLOAT, TensorProto.INT8) and tensor.name not in scales
    ]
    arrays = {_key(tensor.name): numpy_helper.to_array(tensor) for tensor in stored}
    save_file({key: array if array.dtype == np.int8 else array.astype(np.float16) for key, array in arrays.items()}, folder / file)
    with (folder / file).open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    casts = []
    for tensor in stored:
        name, kind = tensor.name, tensor.data_type
        begin, end = header[_key(name)]["data_offsets"]
        outside = TensorProto(name=name, data_type=kind, dims=list(tensor.dims), data_location=TensorProto.EXTERNAL)
        for key, value in (("location", file), ("offset", 8 + length + begin), ("length", end - begin)):
            outside.external_data.add(key=key, value=str(value))
        if kind == TensorProto.FLOAT:
            outside.name, outside.data_type = f"{name}.fp16", TensorProto.FLOAT16
            casts.append(helper.make_node("Cast", [outside.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
        tensor.CopyFrom(outside)
    _replace_nodes(graph, [*casts, *graph.node])


def internalise(path: Path) -> onnx.ModelProto:
    """The graph that `externalise` wrote to ``path``, its weights inside, as float32 and without their casts."""
    proto = onnx.load(path)
    weights = {tensor.name: tensor for tensor in proto.graph.initializer}
    casts = [node for node in proto.graph.node if node.op_type == "Cast" and node.input[0] in weights]
    for node in casts:
        tensor = weights[node.input[0]]
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float32), node.output[0]))
    _replace_nodes(proto.graph, [node for node in proto.graph.node if node not in casts])
    return proto


def _replace_nodes(graph: onnx.GraphProto, nodes: list[onnx.NodeProto]) -> None:
    del graph.node[:]
    graph.node.extend(nodes)


def _key(name: str) -> str:
    """The state-dict key of an initialiser."""
    return name.removeprefix("model.")
