"""Moves a graph's weights into one safetensors file that torch and ONNX share, and back."""

from __future__ import annotations

import json
import struct
from collections.abc import Collection
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file

_SMALL = 1024  # bytes: smaller constants stay in the graph


def externalise(proto: onnx.ModelProto, folder: Path, file: str, parameters: Collection[str] | None = None) -> None:
    """Write the initialisers to ``folder/file`` and let the graph point there by offset; changes ``proto``.

    Those named in ``parameters`` (state-dict keys; all when left out) become fp16 where they are float32. The graph computes in float32:
    each of them passes a Cast, which runtimes fold away when they load the file. Large constants (dictionaries, int8 weights) keep their
    type.
    What (de)quantises stays in the graph: a scale is exact or wrong, and TensorRT wants to see it.
    """
    graph = proto.graph
    scales = {name for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear") for name in node.input[1:]}
    halved, arrays = set(), {}
    for tensor in graph.initializer:
        key, value = _key(tensor.name), numpy_helper.to_array(tensor)
        if tensor.name in scales:
            continue
        if value.dtype == np.float32 and (parameters is None or key in parameters):
            halved.add(key)
            arrays[key] = value.astype(np.float16)
        elif value.nbytes >= _SMALL or value.dtype == np.int8:
            arrays[key] = value
    save_file(arrays, folder / file)
    with (folder / file).open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    casts = []
    for tensor in graph.initializer:
        key = _key(tensor.name)
        if tensor.name in scales or key not in arrays:
            continue
        if key in halved:
            whole = tensor.name
            tensor.name, tensor.data_type = f"{whole}.fp16", TensorProto.FLOAT16
            casts.append(helper.make_node("Cast", [tensor.name], [whole], name=f"{whole}.cast", to=TensorProto.FLOAT))
        begin, end = header[key]["data_offsets"]
        tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL))
        for name, where in (("location", file), ("offset", 8 + length + begin), ("length", end - begin)):
            tensor.external_data.add(key=name, value=str(where))
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
