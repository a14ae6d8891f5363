"""Moves a graph's weights into one safetensors file that torch and ONNX share."""

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


def externalise(proto: onnx.ModelProto, folder: Path, file: str, parameters: Collection[str]) -> None:
    """Write the initialisers to ``folder/file`` and let the graph point there by offset; changes ``proto``.

    Those named in ``parameters`` (state-dict keys) become fp16. The graph computes in float32: each passes a Cast, which runtimes fold away
    when they load the file. Large constants (dictionaries, say) keep their type.
    """
    graph = proto.graph
    halved = [tensor for tensor in graph.initializer if _key(tensor.name) in parameters and tensor.data_type == TensorProto.FLOAT]
    arrays = {_key(tensor.name): numpy_helper.to_array(tensor).astype(np.float16) for tensor in halved}
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        if _key(tensor.name) not in arrays and value.nbytes >= _SMALL:
            arrays[_key(tensor.name)] = value
    save_file(arrays, folder / file)
    with (folder / file).open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    casts = []
    for tensor in graph.initializer:
        key = _key(tensor.name)
        if key not in arrays:
            continue
        if key in parameters and tensor.data_type == TensorProto.FLOAT:
            whole = tensor.name
            tensor.name, tensor.data_type = f"{whole}.fp16", TensorProto.FLOAT16
            casts.append(helper.make_node("Cast", [tensor.name], [whole], name=f"{whole}.cast", to=TensorProto.FLOAT))
        begin, end = header[key]["data_offsets"]
        tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL))
        for name, where in (("location", file), ("offset", 8 + length + begin), ("length", end - begin)):
            tensor.external_data.add(key=name, value=str(where))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _key(name: str) -> str:
    """The state-dict key of an initialiser."""
    return name.removeprefix("model.")
