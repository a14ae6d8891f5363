"""Moves a graph's weights into one safetensors file that torch and ONNX share, and back."""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file

from fhrt.runtime.plan import fold_weights

_SMALL = 1024  # bytes: smaller constants stay in the graph


def externalise(
    proto: onnx.ModelProto,
    folder: Path,
    file: str,
    parameters: Collection[str] | None = None,
    packed: Mapping[str, int] | None = None,
    shared: str | None = None,
    state: Mapping[str, NDArray[Any]] | None = None,
) -> None:
    """Write the initialisers to ``folder/file`` and let the graph point there by offset; changes ``proto``.

    Those named in ``parameters`` (state-dict keys; all when left out) become fp16 where they are float32. The graph computes in float32:
    each of them passes a Cast, which runtimes fold away when they load the file. Large constants (dictionaries, int8 weights) keep their
    type.
    Those in ``packed`` (state-dict key → axis of the output channels) become int8 instead, with a scale for each channel, and pass a
    DequantizeLinear; what is on that grid already (`on_grid`) stays what it is.
    What (de)quantises stays in the graph: a scale is exact or wrong, and TensorRT wants to see it.
    shared: another such file in the folder; what lies there already is not written again.
    state: the network's own numbers. Those that the graph lacks are written too, for training to go on with: of equal ones torch's exporter
    keeps one, of biases of 0 none, and the weight of a PReLU loses its name.
    """
    graph, packed = proto.graph, packed or {}
    scales = {name for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear") for name in node.input[1:]}
    halved, dequantised, arrays = set(), {}, {}
    for tensor in graph.initializer:
        key, value = _key(tensor.name), numpy_helper.to_array(tensor)
        if tensor.name in scales:
            continue
        if key in packed:
            arrays[key], dequantised[key] = pack(value, packed[key])
        elif value.dtype == np.float32 and (parameters is None or key in parameters):
            halved.add(key)
            arrays[key] = value.astype(np.float16)
        elif value.nbytes >= _SMALL or value.dtype == np.int8:
            arrays[key] = value
    known = {} if shared is None else {_content(array): key for key, array in load_file(folder / shared).items()}
    named = {_key(tensor.name) for tensor in graph.initializer}
    for key, value in (state or {}).items():
        if key not in named and value.dtype == np.float32:
            arrays[key] = value.astype(np.float16) if key not in packed and (parameters is None or key in parameters) else value
    twins = {key: known[content] for key, array in arrays.items() if (content := _content(array)) in known}
    save_file({key: array for key, array in arrays.items() if key not in twins}, folder / file)
    places = {key: (file, *place) for key, place in _places(folder / file).items()}
    if shared is not None:
        there = _places(folder / shared)
        places |= {key: (shared, *there[twin]) for key, twin in twins.items()}
    unpacking, added = [], []
    for tensor in graph.initializer:
        key = _key(tensor.name)
        if tensor.name in scales or key not in arrays:
            continue
        if key in halved:
            whole = tensor.name
            tensor.name, tensor.data_type = f"{whole}.fp16", TensorProto.FLOAT16
            unpacking.append(helper.make_node("Cast", [tensor.name], [whole], name=f"{whole}.cast", to=TensorProto.FLOAT))
        elif key in dequantised:
            whole = tensor.name
            tensor.name, tensor.data_type, scale = f"{whole}.int8", TensorProto.INT8, f"{whole}.scale"
            added.append(numpy_helper.from_array(dequantised[key], scale))
            node = helper.make_node("DequantizeLinear", [tensor.name, scale], [whole], name=f"{whole}.dequantise", axis=packed[key])
            unpacking.append(node)
        tensor.CopyFrom(TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, data_location=TensorProto.EXTERNAL))
        for name, where in zip(("location", "offset", "length"), places[key], strict=True):
            tensor.external_data.add(key=name, value=str(where))
    graph.initializer.extend(added)
    nodes = [*unpacking, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)


def internalise(path: Path) -> onnx.ModelProto:
    """The graph that `externalise` wrote to ``path``, its weights inside, as float32."""
    proto = onnx.load(path)
    fold_weights(proto)
    return proto


def halved(path: Path) -> set[str]:
    """The keys of what the graph at ``path`` keeps as fp16 and reads as float32."""
    graph = onnx.load(path, load_external_data=False).graph
    fp16 = {tensor.name for tensor in graph.initializer if tensor.data_type == TensorProto.FLOAT16}
    return {_key(node.output[0]) for node in graph.node if node.op_type == "Cast" and node.input[0] in fp16}


def pack(weight: NDArray[np.float32], axis: int) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """A weight as int8 −127..127, and what one of them is worth in each channel along ``axis``: a 127th of its largest magnitude."""
    others = tuple(each for each in range(weight.ndim) if each != axis)
    scale = np.abs(weight).max(axis=others, keepdims=True) / 127
    values = np.rint(weight / np.where(scale > 0, scale, 1))
    return values.astype(np.int8), scale.reshape(-1)


def on_grid(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """A weight as it is after it was packed."""
    values, scale = pack(weight, axis)
    along = np.ones(weight.ndim, int)
    along[axis] = -1
    return values * scale.reshape(along)


def _content(array: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    """What two arrays share that hold the same."""
    return array.dtype.str, array.shape, hashlib.sha256(array.tobytes()).digest()


def _places(path: Path) -> dict[str, tuple[int, int]]:
    """Key → offset and length in bytes of each array of a safetensors file."""
    with path.open("rb") as stream:
        (length,) = struct.unpack("<Q", stream.read(8))
        header = json.loads(stream.read(length))
    header.pop("__metadata__", None)
    return {key: (8 + length + each["data_offsets"][0], each["data_offsets"][1] - each["data_offsets"][0]) for key, each in header.items()}


def _key(name: str) -> str:
    """The state-dict key of an initialiser."""
    return name.removeprefix("model.")
