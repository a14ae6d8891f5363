"""A bundle's graph cut at its ``fhrt`` nodes: what a runtime executes, and the kernels between, in order. Needs onnx."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from fhrt.errors import MissingExtraError, WeightsError
from fhrt.runtime.bundle import Bundle

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto, TypeProto

DOMAIN = "fhrt"
ON_HOST = [(DOMAIN, "NeighbourEmbedding")]
"""Nodes that no device has a kernel for; there they are executed as the standard operators that they stand for."""
ACTIVATIONS = {"Relu": 0.0, "LeakyRelu": 0.01}
"""Those that the sub-pixel shuffle's kernel computes as it moves values, and their default slope below zero."""


@dataclass(frozen=True)
class Tensor:
    """What passes between steps. An axis of ``shape`` that is None is the batch."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def at(self, batch: int) -> tuple[int, ...]:
        """The shape for so many faces."""
        return tuple(batch if size is None else size for size in self.shape)


@dataclass(frozen=True)
class Segment:
    """A stretch without ``fhrt`` nodes, as an ONNX model of its own whose weights still lie in the bundle's file."""

    model: ModelProto
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]

    def serialize(self, bundle: Bundle, batch: int | None = None) -> bytes:
        """The model with its weights inside, as its layers read them, and with ``batch`` for exactly so many faces."""
        from onnx import ModelProto
        from onnx.external_data_helper import load_external_data_for_model

        model = ModelProto()
        model.CopyFrom(self.model)
        load_external_data_for_model(model, str(bundle.folder))
        fold_weights(model)
        if batch is not None:
            for value, tensor in zip(model.graph.input, self.inputs, strict=True):
                for axis, size in zip(value.type.tensor_type.shape.dim, tensor.at(batch), strict=True):
                    axis.dim_value = size
        return model.SerializeToString()


@dataclass(frozen=True)
class Kernel:
    """A ``fhrt`` node. ``attributes``: as in the graph; ``negative_slope`` of an activation that follows, where the kernel takes it.
    ``constants``: what the node takes after its inputs, as it stands in the bundle.
    """

    op: str
    attributes: Mapping[str, Any]
    inputs: tuple[Tensor, ...]
    output: Tensor
    constants: tuple[TensorProto, ...] = ()

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return (self.output,)


Step = Segment | Kernel


@dataclass(frozen=True)
class Plan:
    """Steps in an order in which each finds its inputs. ``last_use``: tensor → index of the last step that reads it; the graph's outputs
    are not in it, and may not be freed.
    """

    steps: tuple[Step, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    last_use: Mapping[str, int]


def cut(bundle: Bundle, *, device: bool = False) -> Plan:
    """The plan of a bundle with as few segments as its graph allows. device: whether its kernels run on one (`ON_HOST`). Raises
    MissingExtraError without onnx, WeightsError for a graph that cannot be cut.
    """
    onnx = require_onnx()
    try:
        model = onnx.load(bundle.graph, load_external_data=False)
        return cut_model(onnx.inliner.inline_selected_functions(model, ON_HOST) if device else model)
    except WeightsError as error:
        raise WeightsError(f"{bundle.graph} cannot be cut: {error}") from error


def require_onnx() -> Any:
    """The onnx package. Raises MissingExtraError."""
    try:
        import onnx.inliner
        import onnx.shape_inference
    except ImportError as error:
        raise MissingExtraError('a bundle is cut with the onnx package: pip install "fhrt[tensorrt]"') from error
    return onnx


def cut_model(model: ModelProto) -> Plan:
    """See `cut`. The same model gives the same plan; it is not changed."""
    return _Cutter(model).plan()


class _Cutter:
    def __init__(self, model: ModelProto) -> None:
        onnx = require_onnx()
        self.model = model
        graph = onnx.shape_inference.infer_shapes(model).graph
        self.types = {value.name: value.type for value in (*graph.value_info, *graph.input, *graph.output)}
        self.constants = {tensor.name for tensor in model.graph.initializer}
        self.feeds = [value.name for value in model.graph.input if value.name not in self.constants]
        self.results = [value.name for value in model.graph.output]
        self.batch = next((axis.dim_param for axis in self.types[self.feeds[0]].tensor_type.shape.dim), "") if self.feeds else ""
        self.users = Counter(name for node in model.graph.node for name in node.input)
        # What depends on no input, such as the Cast of an fp16 weight: it goes along with the node that uses it.
        self.constant_nodes: dict[str, NodeProto] = {}
        for node in model.graph.node:
            if any(each.HasField("g") for each in node.attribute):
                raise WeightsError(f"node {node.name or node.op_type} holds a graph of its own")
            if node.domain != DOMAIN and set(node.input) <= self.constants | {""} and not set(node.output) & set(self.results):
                self.constants.update(node.output)
                self.constant_nodes.update(dict.fromkeys(node.output, node))

    def plan(self) -> Plan:
        waiting = [node for node in self.model.graph.node if not set(node.output) <= set(self.constant_nodes)]
        done = self.constants | set(self.feeds) | {""}
        stretches: list[list[NodeProto]] = []
        # All kernels that can run, then all other nodes that can, and so on: no order has fewer segments.
        while waiting:
            ready: list[NodeProto] = []
            for kernels in (True, False):
                some, waiting = _take(waiting, done, kernels)
                ready += some
                stretches += [[node] for node in some] if kernels else [some] if some else []
            if not ready:
                raise WeightsError(f"the inputs of node {waiting[0].name or waiting[0].op_type} come from nowhere")
        steps: list[Step] = []
        fused: set[str] = set()
        for index, nodes in enumerate(stretches):
            if nodes[0].domain == DOMAIN:
                steps.append(self.kernel(nodes[0], fused))
            elif rest := [node for node in nodes if node.output[0] not in fused]:
                later = {name for stretch in stretches[index + 1 :] for node in stretch for name in node.input} | set(self.results)
                steps.append(self.segment(rest, later, len(steps)))
        last_use = {tensor.name: index for index, step in enumerate(steps) for tensor in step.inputs if tensor.name not in self.results}
        return Plan(tuple(steps), self.tensors(self.feeds), self.tensors(self.results), last_use)

    def kernel(self, node: NodeProto, fused: set[str]) -> Kernel:
        """A node of our domain; the activation right behind a shuffle goes with it, and into ``fused``."""
        from onnx.helper import get_node_attr_value

        held = [name for name in node.input if name in self.constants]
        stored = {tensor.name: tensor for tensor in self.model.graph.initializer}
        if held and (node.op_type != "NeighbourEmbedding" or held != list(node.input[1:]) or not set(held) <= set(stored)):
            raise WeightsError(f"node {node.name or node.op_type} takes the constant {held[0]}")
        attributes = {each.name: get_node_attr_value(node, each.name) for each in node.attribute}
        attributes = {key: value.decode() if isinstance(value, bytes) else value for key, value in attributes.items()}
        output = node.output[0]
        if node.op_type == "SubPixelShuffle" and self.users[output] == 1 and output not in self.results:
            after = next(each for each in self.model.graph.node if output in each.input)
            slope = next((each.f for each in after.attribute), ACTIVATIONS.get(after.op_type, -1.0))
            if after.op_type in ACTIVATIONS and 0 <= slope <= 1:
                attributes["negative_slope"] = slope
                output = after.output[0]
                fused.add(output)
        inputs = self.tensors(name for name in node.input if name not in held)
        return Kernel(node.op_type, attributes, inputs, self.tensor(output), tuple(stored[name] for name in held))

    def segment(self, nodes: list[NodeProto], later: set[str], number: int) -> Segment:
        from onnx import helper

        made = {name for node in nodes for name in node.output}
        held = self.constants_of(nodes)
        inputs = self.tensors(dict.fromkeys(name for node in nodes for name in node.input if name not in made | self.constants | {""}))
        outputs = self.tensors(dict.fromkeys(name for node in nodes for name in node.output if name in later))
        weights = [tensor for tensor in self.model.graph.initializer if tensor.name in held]
        before = [node for node in self.model.graph.node if set(node.output) & held]
        graph = helper.make_graph(
            [*before, *nodes],
            f"segment_{number}",
            [helper.make_value_info(tensor.name, self.types[tensor.name]) for tensor in inputs],
            [helper.make_value_info(tensor.name, self.types[tensor.name]) for tensor in outputs],
            weights,
        )
        opsets = [entry for entry in self.model.opset_import if entry.domain != DOMAIN]
        return Segment(helper.make_model(graph, opset_imports=opsets, ir_version=self.model.ir_version), inputs, outputs)

    def constants_of(self, nodes: Iterable[NodeProto]) -> set[str]:
        """The constants that these nodes need, and those of which these are made."""
        held: set[str] = set()
        names = [name for node in nodes for name in node.input]
        while names:
            name = names.pop()
            if name in self.constants and name not in held:
                held.add(name)
                names += self.constant_nodes[name].input if name in self.constant_nodes else []
        return held

    def tensors(self, names: Iterable[str]) -> tuple[Tensor, ...]:
        return tuple(self.tensor(name) for name in names)

    def tensor(self, name: str) -> Tensor:
        from onnx.helper import tensor_dtype_to_np_dtype

        kind: TypeProto | None = self.types.get(name)
        if kind is None or not kind.tensor_type.HasField("shape"):
            raise WeightsError(f"the shape of {name} is not known")
        shape: list[int | None] = []
        for axis in kind.tensor_type.shape.dim:
            if not axis.HasField("dim_value") and axis.dim_param != self.batch:
                raise WeightsError(f"{name} has an axis {axis.dim_param or 'without a name'}; only the batch may be free")
            shape.append(axis.dim_value if axis.HasField("dim_value") else None)
        return Tensor(name, str(tensor_dtype_to_np_dtype(kind.tensor_type.elem_type)), tuple(shape))


def _take(waiting: list[NodeProto], done: set[str], kernels: bool) -> tuple[list[NodeProto], list[NodeProto]]:
    """The nodes that can run one after another, of our domain or not, and those that remain; ``done`` grows by what the former give.

    ONNX lists nodes in topological order, so one pass finds them all.
    """
    taken, rest = [], []
    for node in waiting:
        if (node.domain == DOMAIN) == kernels and set(node.input) <= done:
            taken.append(node)
            done.update(node.output)
        else:
            rest.append(node)
    return taken, rest


def fold_weights(model: ModelProto) -> None:
    """Weights as its layers read them, whose files keep them smaller: TensorRT wants those of a convolution to be constants. Changes
    ``model``, which holds its weights inside. A graph that computes in INT8 keeps its int8 weights.
    """
    from onnx import TensorProto, numpy_helper
    from onnx.helper import get_node_attr_value, tensor_dtype_to_np_dtype

    graph = model.graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    int8 = any(node.op_type == "QuantizeLinear" for node in graph.node)
    for node in list(graph.node):
        if not set(node.input) <= held.keys():
            continue
        if node.op_type == "Cast" and held[node.input[0]].data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(held[node.input[0]]).astype(tensor_dtype_to_np_dtype(get_node_attr_value(node, "to")))
        elif node.op_type == "DequantizeLinear" and not int8:
            packed, scale = (numpy_helper.to_array(held[name]) for name in node.input)
            along = np.ones(packed.ndim, int)
            along[get_node_attr_value(node, "axis")] = -1
            values = packed * scale.reshape(along)
        else:
            continue
        held[node.output[0]] = numpy_helper.from_array(values, node.output[0])
        graph.node.remove(node)
    used = {name for node in graph.node for name in node.input}
    del graph.initializer[:]
    graph.initializer.extend(tensor for name, tensor in held.items() if name in used)
