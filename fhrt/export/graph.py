"""torch module → ONNX graph, in which our ops are nodes of the domain ``fhrt`` with a model-local function in standard operators.

So any ONNX runtime executes the file as it is, and a planner can cut it at those nodes. Opset 18: from 20 on GridSample's bilinear
mode is spelled ``linear``, which older TensorRT parsers silently take for nearest.
"""

from __future__ import annotations

from typing import Any

import onnx
import onnxscript
import torch
from torch import nn

import fhrt.models.neighbours
import fhrt.ops.torch  # noqa: F401  both register torch.ops.fhrt
from fhrt.models.layers import ModelOutput

OPSET = 18
FREE_BATCH = {0: torch.export.Dim("batch", min=1, max=4096)}
_DOMAIN = onnxscript.values.Opset("fhrt", 1)

# Positions of pixel centres: −1 + (1 − a)/n + 2 j/(n − a), a = align_corners.
_STN_SAMPLE = """
<domain: "fhrt", opset_import: ["" : 18]>
StnSample <h, w, align_corners, padding, upsample> (x, theta) => (y) {
  a_int = Constant <value_int: int = @align_corners> ()
  h_int = Constant <value_int: int = @h> ()
  w_int = Constant <value_int: int = @w> ()
  u_int = Constant <value_int: int = @upsample> ()
  a = Cast <to = 1> (a_int)
  hf = Cast <to = 1> (h_int)
  wf = Cast <to = 1> (w_int)
  uf = Cast <to = 1> (u_int)
  zero = Constant <value_float = 0.0> ()
  one = Constant <value_float = 1.0> ()
  two = Constant <value_float = 2.0> ()
  zero_int = Constant <value_int = 0> ()
  one_int = Constant <value_int = 1> ()
  axis0 = Constant <value_ints = [0]> ()
  axis1 = Constant <value_ints = [1]> ()
  flat = Constant <value_ints = [1, -1]> ()
  not_a = Sub (one, a)

  h_span = Sub (hf, a)
  h_step = Div (two, h_span)
  h_half = Div (not_a, hf)
  h_start = Sub (h_half, one)
  h_index_int = Range (zero_int, h_int, one_int)
  h_index = Cast <to = 1> (h_index_int)
  h_scaled = Mul (h_index, h_step)
  ys = Add (h_scaled, h_start)

  w_span = Sub (wf, a)
  w_step = Div (two, w_span)
  w_half = Div (not_a, wf)
  w_start = Sub (w_half, one)
  w_index_int = Range (zero_int, w_int, one_int)
  w_index = Cast <to = 1> (w_index_int)
  w_scaled = Mul (w_index, w_step)
  xs = Add (w_scaled, w_start)

  h_dim = Unsqueeze (h_int, axis0)
  w_dim = Unsqueeze (w_int, axis0)
  plane = Concat <axis = 0> (h_dim, w_dim)
  xs_row = Unsqueeze (xs, axis0)
  ys_column = Unsqueeze (ys, axis1)
  xs_plane = Expand (xs_row, plane)
  ys_plane = Expand (ys_column, plane)
  xs_flat = Reshape (xs_plane, flat)
  ys_flat = Reshape (ys_plane, flat)
  nought = Mul (xs_flat, zero)
  ones = Add (nought, one)
  base = Concat <axis = 0> (xs_flat, ys_flat, ones)

  moved = MatMul (theta, base)
  points = Transpose <perm = [0, 2, 1]> (moved)
  keep = Constant <value_ints = [0]> ()
  pair = Constant <value_ints = [2]> ()
  grid_shape = Concat <axis = 0> (keep, h_dim, w_dim, pair)
  grid = Reshape (points, grid_shape)

  unit = Constant <value_floats = [1.0, 1.0]> ()
  u_once = Unsqueeze (uf, axis0)
  scales = Concat <axis = 0> (unit, u_once, u_once)
  big = Resize <mode = "nearest", coordinate_transformation_mode = "asymmetric", nearest_mode = "floor"> (x, , scales)
  y = GridSample <mode = "bilinear", padding_mode: string = @padding, align_corners: int = @align_corners> (big, grid)
}
"""

_SUB_PIXEL_SHUFFLE = """
<domain: "fhrt", opset_import: ["" : 18]>
SubPixelShuffle <factor> (x) => (y) {
  y = DepthToSpace <mode = "CRD", blocksize: int = @factor> (x)
}
"""

# As `fhrt.models.neighbours.embed`; the equations are always one per feature. The elimination's steps are put in by `_functions`.
_NEIGHBOUR_EMBEDDING = """
<domain: "fhrt", opset_import: ["" : 18]>
NeighbourEmbedding <neighbours, strength> (query, codes, scale, target_codes, target_scale) => (y) {
  axis0 = Constant <value_ints = [0]> ()
  axis1 = Constant <value_ints = [1]> ()
  axis2 = Constant <value_ints = [2]> ()
  last = Constant <value_ints = [-1]> ()
  rows_axis = Constant <value_ints = [-2]> ()
  next = Constant <value_ints = [1]> ()
  end = Constant <value_ints = [9223372036854775807]> ()
  both_axes = Constant <value_ints = [-2, -1]> ()
  at00 = Constant <value_ints = [0, 0]> ()
  at01 = Constant <value_ints = [0, 1]> ()
  at10 = Constant <value_ints = [1, 0]> ()
  at11 = Constant <value_ints = [1, 1]> ()
  to1e = Constant <value_ints = [1, 9223372036854775807]> ()
  toe1 = Constant <value_ints = [9223372036854775807, 1]> ()
  toee = Constant <value_ints = [9223372036854775807, 9223372036854775807]> ()
  no_int = Constant <value_int = 0> ()
  one_int = Constant <value_int = 1> ()
  middle = Constant <value_float = 128.0> ()
  nothing = Constant <value_float = 0.0> ()
  one = Constant <value_float = 1.0> ()
  two = Constant <value_float = 2.0> ()
  floor = Constant <value_float = 0.0001> ()
  tiny = Constant <value_float = 0.000000000001> ()
  lambda = Constant <value_float: float = @strength> ()
  k_int = Constant <value_int: int = @neighbours> ()
  k = Unsqueeze (k_int, axis0)

  raw = Cast <to = 1> (codes)
  centred = Sub (raw, middle)
  entries = Mul (centred, scale)
  columns = Transpose <perm = [0, 2, 1]> (entries)
  entries_squared = Mul (entries, entries)
  entries_power = ReduceSum <keepdims = 0> (entries_squared, last)
  entries_row = Unsqueeze (entries_power, axis1)
  query_squared = Mul (query, query)
  query_power = ReduceSum <keepdims = 1> (query_squared, last)
  twice = Mul (query, two)
  products = MatMul (twice, columns)
  powers = Add (query_power, entries_row)
  differences = Sub (powers, products)
  distances = Max (differences, nothing)
  squared, indices = TopK <axis = -1, largest = 0, sorted = 0> (distances, k)

  size = Shape (codes)
  c_size = Slice (size, axis0, axis1)
  m_size = Slice (size, axis1, axis2)
  c_count = Squeeze (c_size, axis0)
  m_count = Squeeze (m_size, axis0)
  p_size = Slice (size, axis2, end)
  p_count = Squeeze (p_size, axis0)
  numbers = Range (no_int, c_count, one_int)
  starts_flat = Mul (numbers, m_count)
  inner = Constant <value_ints = [1, 2]> ()
  starts = Unsqueeze (starts_flat, inner)
  places = Add (indices, starts)
  p_shape = Concat <axis = 0> (last, p_size)
  flat = Reshape (codes, p_shape)
  picked = Gather <axis = 0> (flat, places)
  picked_raw = Cast <to = 1> (picked)
  picked_centred = Sub (picked_raw, middle)
  worth = Unsqueeze (scale, axis2)
  found = Mul (picked_centred, worth)

  mean_raw = ReduceMean <keepdims = 1> (squared, last)
  mean = Max (mean_raw, tiny)
  furthest_raw = ReduceMax <keepdims = 1> (squared, last)
  furthest = Max (furthest_raw, tiny)
  share = Div (squared, furthest)
  rest_raw = Sub (one, share)
  rest = Max (rest_raw, floor)
  faded_raw = Div (squared, rest)
  least = Mul (mean, floor)
  faded = Max (faded_raw, least)
  ratio = Div (mean, faded)
  inverse_row = Sqrt (ratio)
  inverse = Unsqueeze (inverse_row, last)
  scaled = Mul (found, inverse)
  scaled_t = Transpose <perm = [0, 1, 3, 2]> (scaled)
  gram = MatMul (scaled_t, scaled)
  ridge_row = Mul (mean, lambda)
  ridge = Unsqueeze (ridge_row, last)
  line = Range (no_int, p_count, one_int)
  column_line = Unsqueeze (line, axis1)
  diagonal = Equal (line, column_line)
  eye = Cast <to = 1> (diagonal)
  on_diagonal = Mul (ridge, eye)
  system = Add (gram, on_diagonal)
  right = Unsqueeze (query, last)
  rows0 = Concat <axis = -1> (system, right)
ELIMINATION
  weights_raw = MatMul (scaled, SOLUTION)
  weights = Mul (weights_raw, inverse)
  weights_row = Transpose <perm = [0, 1, 3, 2]> (weights)
  target_size = Shape (target_codes)
  t_size = Slice (target_size, axis2, end)
  t_shape = Concat <axis = 0> (last, t_size)
  target_flat = Reshape (target_codes, t_shape)
  target_picked = Gather <axis = 0> (target_flat, places)
  target_raw = Cast <to = 1> (target_picked)
  target_centred = Sub (target_raw, middle)
  target_worth = Unsqueeze (target_scale, axis2)
  targets = Mul (target_centred, target_worth)
  sums = MatMul (weights_row, targets)
  y = Squeeze (sums, axis2)
}
"""
_ELIMINATION = """
  pivot{0} = Slice (rows{0}, at00, at11, both_axes)
  head{0} = Slice (rows{0}, at01, to1e, both_axes)
  column{0} = Slice (rows{0}, at10, toe1, both_axes)
  body{0} = Slice (rows{0}, at11, toee, both_axes)
  first{0} = Div (head{0}, pivot{0})
  part{0} = Mul (column{0}, first{0})
  reduced{0} = Sub (body{0}, part{0})
  rows{1} = Concat <axis = -2> (reduced{0}, first{0})
"""


def _node(
    name: str, inputs: tuple[str, ...], attributes: dict[str, onnx.defs.OpSchema.AttrType], coded: tuple[str, ...] = ()
) -> onnxscript.values.Op:
    """A node type of the domain ``fhrt``; the exporter wants a schema for it. coded: inputs that are bytes."""
    parameter = onnx.defs.OpSchema.FormalParameter
    schema = onnx.defs.OpSchema(
        name, "fhrt", 1,
        inputs=[parameter(each, "tensor(uint8)" if each in coded else "T") for each in inputs], outputs=[parameter("y", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "")],
        attributes=[onnx.defs.OpSchema.Attribute(key, kind, required=True) for key, kind in attributes.items()],
    )  # fmt: skip
    return onnxscript.values.Op(_DOMAIN, name, schema)


_INT, _FLOAT, _STRING = (getattr(onnx.defs.OpSchema.AttrType, kind) for kind in ("INT", "FLOAT", "STRING"))
_STN_NODE = _node("StnSample", ("x", "theta"), {"h": _INT, "w": _INT, "align_corners": _INT, "padding": _STRING, "upsample": _INT})
_SHUFFLE_NODE = _node("SubPixelShuffle", ("x",), {"factor": _INT})
_EMBEDDING_NODE = _node(
    "NeighbourEmbedding",
    ("query", "codes", "scale", "target_codes", "target_scale"),
    {"neighbours": _INT, "strength": _FLOAT},
    coded=("codes", "target_codes"),
)


def _stn_sample(x: Any, theta: Any, h: int, w: int, align_corners: bool, padding: str, upsample: int) -> Any:
    return _STN_NODE(x, theta, h=h, w=w, align_corners=int(align_corners), padding=padding, upsample=upsample)


def _pixel_shuffle(x: Any, factor: int) -> Any:
    return _SHUFFLE_NODE(x, factor=factor)


def _neighbour_embedding(query: Any, codes: Any, scale: Any, target_codes: Any, target_scale: Any, neighbours: int, strength: float) -> Any:
    return _EMBEDDING_NODE(query, codes, scale, target_codes, target_scale, neighbours=neighbours, strength=strength)


class _Outputs(nn.Module):
    """The named outputs as a plain tuple."""

    def __init__(self, model: nn.Module, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, lr: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = named_outputs(self.model(lr))
        return tuple(named[name] for name in self.names)


def named_outputs(output: ModelOutput) -> dict[str, torch.Tensor]:
    """What a network gives, by the names of `fhrt.runtime.Output`; of the heatmaps the last stack's."""
    named = {"sr": output.sr} | dict(zip(("sr_2x", "sr_4x"), output.coarser, strict=False))
    if output.theta is not None:
        named["theta"] = output.theta
    if output.heatmaps:
        named["heatmaps"] = output.heatmaps[-1]
    return named


def to_onnx(model: nn.Module, input_size: tuple[int, int], outputs: tuple[str, ...]) -> onnx.ModelProto:
    """The graph of a rewritten model with float32 weights inside: input ``lr`` [N, 3, h, w], N free, and the named outputs."""
    proto = trace(_Outputs(model, outputs), torch.zeros(2, 3, *input_size), FREE_BATCH, "lr", outputs)
    used = {node.op_type for node in proto.graph.node if node.domain == "fhrt"}
    texts = {"StnSample": _STN_SAMPLE, "SubPixelShuffle": _SUB_PIXEL_SHUFFLE}
    if "NeighbourEmbedding" in used:
        texts["NeighbourEmbedding"] = _eliminating(proto)
    proto.functions.extend(onnx.parser.parse_function(text) for name, text in texts.items() if name in used)
    if used and "fhrt" not in {entry.domain for entry in proto.opset_import}:
        proto.opset_import.append(onnx.helper.make_opsetid("fhrt", 1))
    return proto


def _eliminating(proto: onnx.ModelProto) -> str:
    """The function of NeighbourEmbedding for as many features as the graph's entries have: no ONNX operator solves equations."""
    shapes = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    (features,) = {shapes[node.input[1]][2] for node in proto.graph.node if node.op_type == "NeighbourEmbedding"}
    steps = "".join(_ELIMINATION.format(step, step + 1) for step in range(features))
    return _NEIGHBOUR_EMBEDDING.replace("ELIMINATION", steps).replace("SOLUTION", f"rows{features}")


def trace(model: nn.Module, example: torch.Tensor, free: dict[int, Any], given: str, outputs: tuple[str, ...]) -> onnx.ModelProto:
    """torch's graph of a module of one input, named ``given``, like ``example`` but for its ``free`` axes."""
    program = torch.onnx.export(
        model.eval(),
        (example,),
        dynamo=True,
        opset_version=OPSET,
        input_names=[given],
        output_names=list(outputs),
        dynamic_shapes=(free,),
        custom_translation_table={
            torch.ops.fhrt.stn_sample.default: _stn_sample,
            torch.ops.fhrt.pixel_shuffle.default: _pixel_shuffle,
            torch.ops.fhrt.neighbour_embedding.default: _neighbour_embedding,
        },
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        part.ClearField("metadata_props")  # the exporter's stack traces: paths of the machine that exported
    return proto
