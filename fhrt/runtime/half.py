"""A plan in half precision: fp16 where the work is, float32 where rounding would be seen. Needs onnx."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from fhrt.runtime.plan import Kernel, Plan, Segment, Step, Tensor, require_onnx

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto, TensorProto

# Between these and a float32 output every layer stays float32: the pose is summed up in layers that cost nothing, and half a thousandth
# of it is a good part of a pixel.
HEAVY = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "GlobalAveragePool"}
FLOAT32_INPUTS = {"Resize": (1, 2)}  # roi and scales, whatever the picture's dtype


def halve(plan: Plan) -> Plan:
    """The same steps in fp16. The graph's inputs and outputs, and thetas, stay float32."""
    wide = _wide(plan)
    return replace(
        plan,
        steps=tuple(_halved(step, wide) for step in plan.steps),
        inputs=_typed(plan.inputs, wide),
        outputs=_typed(plan.outputs, wide),
    )


def _wide(plan: Plan) -> set[str]:
    """Tensors between steps that stay float32; a kernel's picture has one dtype before and after."""
    kernels = [step for step in plan.steps if isinstance(step, Kernel)]
    wide = {tensor.name for tensor in (*plan.inputs, *plan.outputs)}
    wide |= {tensor.name for kernel in kernels for tensor in kernel.inputs[1:]}
    before = 0
    while len(wide) > before:
        before = len(wide)
        for kernel in kernels:
            ends = {kernel.inputs[0].name, kernel.output.name}
            wide |= ends if ends & wide else set()
    return wide


def _typed(tensors: tuple[Tensor, ...], wide: set[str]) -> tuple[Tensor, ...]:
    return tuple(replace(each, dtype="float16") if each.dtype == "float32" and each.name not in wide else each for each in tensors)


def _halved(step: Step, wide: set[str]) -> Step:
    inputs = _typed(step.inputs, wide)
    if isinstance(step, Kernel):
        return replace(step, inputs=inputs, output=_typed((step.output,), wide)[0])
    outputs = _typed(step.outputs, wide)
    return Segment(_Halver(step.model, {tensor.name: tensor.dtype for tensor in (*inputs, *outputs)}).model(), inputs, outputs)


class _Halver:
    """One segment. Each node computes in one dtype; a tensor that is wanted in the other passes a Cast."""

    def __init__(self, model: ModelProto, ends: dict[str, str]) -> None:
        onnx = require_onnx()
        self.source, self.ends, self.FLOAT = model, ends, onnx.TensorProto.FLOAT
        graph = onnx.shape_inference.infer_shapes(model).graph
        kinds = {each.name: each.type.tensor_type.elem_type for each in (*graph.value_info, *graph.input, *graph.output)}
        kinds |= {each.name: each.data_type for each in graph.initializer}
        self.floats = {name for name, kind in kinds.items() if kind == self.FLOAT}
        self.constants: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        self.producers = {name: node for node in model.graph.node for name in node.output}
        self.wide_nodes = self._wide_nodes()
        self.home: dict[str, str] = {}  # tensor → dtype of which it keeps its name
        self.made: set[tuple[str, str]] = set()
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []

    def model(self) -> ModelProto:
        require_onnx()
        from onnx import ModelProto, numpy_helper
        from onnx.helper import np_dtype_to_tensor_dtype

        model = ModelProto()
        model.CopyFrom(self.source)
        graph = model.graph
        for node in graph.node:
            for name in node.output:
                self.home[name] = self.ends.get(name) or ("float32" if name in self.wide_nodes else "float16")
        for tensor in graph.initializer:
            self.made.add((tensor.name, "float32"))
            if tensor.name in self.floats:
                self.home[tensor.name] = "float32"
        for value in graph.input:
            self.home[value.name] = self.ends[value.name]
            self.made.add((value.name, self.ends[value.name]))
        for node in graph.node:
            if not (node.op_type == "Cast" and node.input[0] in self.constants):
                self._add(node)
        for value in graph.output:
            self._get(value.name, self.ends[value.name])
        for value in (*graph.input, *graph.output):
            value.type.tensor_type.elem_type = np_dtype_to_tensor_dtype(np.dtype(self.ends[value.name]))
        used = {name for node in self.nodes for name in node.input}
        halves = [numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{name}.float16")
                  for name, tensor in self.constants.items() if name in self.floats and f"{name}.float16" in used]  # fmt: skip
        kept = [tensor for name, tensor in self.constants.items() if name in used]
        del graph.initializer[:], graph.value_info[:], graph.node[:]
        graph.initializer.extend([*kept, *halves])
        graph.node.extend(self.nodes)
        return model

    def _wide_nodes(self) -> set[str]:
        """Outputs of the nodes that compute in float32."""
        wide: set[str] = set()
        names = [name for name, dtype in self.ends.items() if dtype == "float32" and name in self.producers]
        while names:
            name = names.pop()
            node = self.producers.get(name)
            if node is not None and name not in wide and node.op_type not in HEAVY:
                wide.update(node.output)
                names += node.input
        for node in self.source.graph.node:
            if node.op_type in ("Cast", "Constant", "ConstantOfShape", "DequantizeLinear"):  # these say themselves what they give
                wide.update(node.output)
        return wide

    def _add(self, node: NodeProto) -> None:
        from onnx import NodeProto

        new = NodeProto()
        new.CopyFrom(node)
        dtype = "float32" if node.output[0] in self.wide_nodes else "float16"
        for index, name in enumerate(node.input):
            new.input[index] = self._get(name, "float32" if index in FLOAT32_INPUTS.get(node.op_type, ()) else dtype)
        for index, name in enumerate(node.output):
            new.output[index] = self._name(name, dtype)
            self.made.add((name, dtype))
        self.nodes.append(new)

    def _name(self, name: str, dtype: str) -> str:
        return name if name not in self.floats or self.home[name] == dtype else f"{name}.{dtype}"

    def _get(self, name: str, dtype: str) -> str:
        """The name of a tensor in this dtype, after a Cast where it is not there yet."""
        from onnx import TensorProto, helper

        if name not in self.floats:
            return name
        producer = self.producers.get(name)
        if dtype == "float16" and name in self.constants:
            return f"{name}.float16"
        if producer is not None and producer.op_type == "Cast" and producer.input[0] in self.constants:  # a weight, fp16 in its file
            if dtype == "float16":
                return str(producer.input[0])
            if (name, dtype) not in self.made:
                self.nodes.append(producer)
                self.made.add((name, dtype))
            return name
        if (name, dtype) not in self.made:
            other = "float32" if dtype == "float16" else "float16"
            to = TensorProto.FLOAT16 if dtype == "float16" else TensorProto.FLOAT
            self.nodes.append(helper.make_node("Cast", [self._name(name, other)], [self._name(name, dtype)], to=to))
            self.made.add((name, dtype))
        return self._name(name, dtype)
