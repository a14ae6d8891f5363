"""Moves a graph's weights into one fp16 safetensors file that torch and ONNX share."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import save_file


def externalise(proto: onnx.ModelProto, folder: Path, file: str) -> None:
    """Write every floating initialiser to ``folder/file`` as fp16 and let the graph point there by offset; changes ``proto``.

    The graph computes in float32: each weight passes a Cast, which runtimes fold away when they load the file.
    """
    graph = proto.graph
    floats = [tensor for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT]
    save_file({_key(t.name): numpy_helper.to_array(t).astype(np.float16) for t in floats}, folder / file)
    with (folder / file).open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    casts = []
    for tensor in floats:
        name, dims = tensor.name, list(tensor.dims)
        begin, end = header[_key(name)]["data_offsets"]
        half = TensorProto(name=f"{name}.fp16", data_type=TensorProto.FLOAT16, dims=dims, data_location=TensorProto.EXTERNAL)
        for key, value in (("location", file), ("offset", 8 + length + begin), ("length", end - begin)):
            half.external_data.add(key=key, value=str(value))
        tensor.CopyFrom(half)
        casts.append(helper.make_node("Cast", [half.name], [name], name=f"{name}.cast", to=TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def _key(name: str) -> str:
    """The state-dict key of an initialiser."""
    return name.removeprefix("model.")
