"""A segment of a plan as a function of torch tensors: every ONNX operator that fhrt's systems use, by torch's own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fhrt.errors import BackendError
from fhrt.runtime.bundle import Bundle
from fhrt.runtime.plan import Segment

Attributes = dict[str, Any]
HOST_INPUTS = {"Expand", "Reshape", "Resize", "Slice", "Squeeze", "Unsqueeze"}
"""Operators whose inputs, all but the first, are read as numbers."""


class TorchSegment:
    """``segment(*inputs)`` gives its outputs, in their order. Weights lie on ``device``, those of convolutions with their channels last;
    sizes and places stay on the host, where reading them waits for nothing. Raises BackendError for an operator, or a setting of one, that
    is not here.
    """

    def __init__(self, segment: Segment, bundle: Bundle, device: torch.device) -> None:
        from onnx import ModelProto, numpy_helper
        from onnx.helper import get_attribute_value

        graph = ModelProto.FromString(segment.serialize(bundle)).graph
        self.inputs, self.outputs = ([tensor.name for tensor in side] for side in (segment.inputs, segment.outputs))
        self.nodes = []
        for node in graph.node:
            if node.op_type not in OPERATORS:
                raise BackendError(f"backend torch has no operator {node.op_type}; backend onnxruntime has")
            attributes = {each.name: get_attribute_value(each) for each in node.attribute}
            self.nodes.append((OPERATORS[node.op_type], attributes, list(node.input), list(node.output)))
        on_host = {name for node in graph.node if node.op_type in HOST_INPUTS for name in node.input[1:]}
        self.constants = {
            tensor.name: _constant(numpy_helper.to_array(tensor), torch.device("cpu") if tensor.name in on_host else device)
            for tensor in graph.initializer
        }

    def __call__(self, *inputs: Tensor) -> list[Tensor]:
        values: dict[str, Tensor | None] = {"": None, **self.constants, **dict(zip(self.inputs, inputs, strict=True))}
        for function, attributes, names, (result,) in self.nodes:
            values[result] = function(attributes, *(values[name] for name in names))
        return [values[name] for name in self.outputs]  # type: ignore[misc]


def _constant(array: np.ndarray, device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.array(array)).to(device)
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor


def _pad(x: Tensor, pads: Sequence[int], value: float = 0.0) -> tuple[Tensor, tuple[int, int]]:
    """Padding that torch's layers do themselves; what is not symmetric is done here. pads: top, left, bottom, right."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _pads(a: Attributes) -> Sequence[int]:
    if a.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID"):
        raise BackendError(f"backend torch has no auto_pad {a['auto_pad'].decode()}")
    pads: Sequence[int] = a.get("pads", (0, 0, 0, 0))
    return pads


def _conv(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x, padding = _pad(x, _pads(a))
    return F.conv2d(x, weight, bias, a.get("strides", (1, 1)), padding, a.get("dilations", (1, 1)), a.get("group", 1))


def _conv_transpose(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    pads = _pads(a)
    if tuple(pads[:2]) != tuple(pads[2:]) or "output_shape" in a:
        raise BackendError("backend torch has no ConvTranspose of unequal padding")
    rest = (a.get("output_padding", (0, 0)), a.get("group", 1), a.get("dilations", (1, 1)))
    return F.conv_transpose2d(x, weight, bias, a.get("strides", (1, 1)), tuple(pads[:2]), *rest)


def _max_pool(a: Attributes, x: Tensor) -> Tensor:
    x, padding = _pad(x, _pads(a), float("-inf"))
    ceil = bool(a.get("ceil_mode", 0))
    return F.max_pool2d(x, a["kernel_shape"], a.get("strides", (1, 1)), padding, a.get("dilations", (1, 1)), ceil)


def _gemm(a: Attributes, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    x, weight = x.T if a.get("transA", 0) else x, weight.T if a.get("transB", 0) else weight
    product = a.get("alpha", 1.0) * (x @ weight)
    return product if bias is None else product + a.get("beta", 1.0) * bias


def _reshape(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    sizes = shape.tolist()
    if not a.get("allowzero", 0):
        sizes = [x.shape[index] if size == 0 else size for index, size in enumerate(sizes)]
    return x.reshape(sizes)


def _slice(a: Attributes, x: Tensor, starts: Tensor, ends: Tensor, axes: Tensor | None = None, steps: Tensor | None = None) -> Tensor:
    places: list[slice] = [slice(None)] * x.ndim
    where = range(len(starts)) if axes is None else axes.tolist()
    strides = [1] * len(starts) if steps is None else steps.tolist()
    for axis, start, end, step in zip(where, starts.tolist(), ends.tolist(), strides, strict=True):
        if step < 0:
            raise BackendError("backend torch has no Slice that runs backwards")
        places[axis] = slice(start, end, step)
    return x[tuple(places)]


def _resize(a: Attributes, x: Tensor, roi: Tensor | None = None, scales: Tensor | None = None, sizes: Tensor | None = None) -> Tensor:
    mode, place = a.get("mode", b"nearest"), a.get("coordinate_transformation_mode", b"half_pixel")
    nearest = mode == b"nearest" and place == b"asymmetric" and a.get("nearest_mode", b"round_prefer_floor") == b"floor"
    smooth = mode in (b"linear", b"cubic") and place in (b"half_pixel", b"pytorch_half_pixel") and a.get("cubic_coeff_a", -0.75) == -0.75
    if not (nearest or smooth) or a.get("antialias", 0) or a.get("exclude_outside", 0):
        raise BackendError(f"backend torch has no Resize of mode {mode.decode()} with {place.decode()}")
    size = [round(n * s) for n, s in zip(x.shape, scales.tolist(), strict=True)] if scales is not None else _list(sizes)
    names = {b"nearest": "nearest", b"linear": "bilinear", b"cubic": "bicubic"}
    return F.interpolate(x, size[2:], mode=names[mode], align_corners=None if nearest else False)


def _list(tensor: Tensor | None) -> list[int]:
    assert tensor is not None
    return [int(value) for value in tensor.tolist()]


def _cast(a: Attributes, x: Tensor) -> Tensor:
    from onnx.helper import tensor_dtype_to_np_dtype

    return x.to(torch.from_numpy(np.empty(0, tensor_dtype_to_np_dtype(a["to"]))).dtype)


def _batch_norm(a: Attributes, x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
    return F.batch_norm(x, mean, variance, scale, bias, eps=a.get("epsilon", 1e-5))


def _gather(a: Attributes, x: Tensor, indices: Tensor) -> Tensor:
    axis = a.get("axis", 0)
    taken = x.index_select(axis, indices.flatten())
    return taken.reshape(*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :])


def _squeeze(a: Attributes, x: Tensor, axes: Tensor | None = None) -> Tensor:
    return x.squeeze() if axes is None else x.squeeze(tuple(_list(axes)))


def _unsqueeze(a: Attributes, x: Tensor, axes: Tensor) -> Tensor:
    rank = x.ndim + len(axes)
    for axis in sorted(axis % rank for axis in _list(axes)):
        x = x.unsqueeze(axis)
    return x


def _shape(a: Attributes, x: Tensor) -> Tensor:
    return torch.tensor(x.shape[a.get("start", 0) : a.get("end", x.ndim)])


def _expand(a: Attributes, x: Tensor, shape: Tensor) -> Tensor:
    return x.expand(torch.broadcast_shapes(x.shape, _list(shape)))


def _clip(a: Attributes, x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x.clamp(low, high)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": lambda a, x, y: x + y,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda a, *parts: torch.cat(parts, a["axis"]),
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "Cos": lambda a, x: x.cos(),
    "Div": lambda a, x, y: x / y,
    "Expand": _expand,
    "Flatten": lambda a, x: x.flatten(1),
    "Gather": _gather,
    "Gemm": _gemm,
    "GlobalAveragePool": lambda a, x: x.mean((2, 3), keepdim=True),
    "LeakyRelu": lambda a, x: F.leaky_relu(x, a.get("alpha", 0.01)),
    "MatMul": lambda a, x, y: x @ y,
    "MaxPool": _max_pool,
    "Mul": lambda a, x, y: x * y,
    "Neg": lambda a, x: -x,
    "PRelu": lambda a, x, slope: torch.where(x < 0, slope * x, x),
    "Relu": lambda a, x: x.relu(),
    "Reshape": _reshape,
    "Resize": _resize,
    "Shape": _shape,
    "Sigmoid": lambda a, x: x.sigmoid(),
    "Sin": lambda a, x: x.sin(),
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": lambda a, x, y: x - y,
    "Tanh": lambda a, x: x.tanh(),
    "Transpose": lambda a, x: x.permute(a["perm"]),
    "Unsqueeze": _unsqueeze,
}
"""Operator → function of the node's attributes and inputs."""
