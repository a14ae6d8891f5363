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

import fhrt.ops.torch  # noqa: F401  registers torch.ops.fhrt
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


def _node(name: str, inputs: tuple[str, ...], attributes: dict[str, onnx.defs.OpSchema.AttrType]) -> onnxscript.values.Op:
    """A node type of the domain ``fhrt``; the exporter wants a schema for it."""
    parameter = onnx.defs.OpSchema.FormalParameter
    schema = onnx.defs.OpSchema(
        name, "fhrt", 1,
        inputs=[parameter(each, "T") for each in inputs], outputs=[parameter("y", "T")],
        type_constraints=[("T", ["tensor(float)", "tensor(float16)"], "")],
        attributes=[onnx.defs.OpSchema.Attribute(key, kind, required=True) for key, kind in attributes.items()],
    )  # fmt: skip
    return onnxscript.values.Op(_DOMAIN, name, schema)


_INT, _STRING = onnx.defs.OpSchema.AttrType.INT, onnx.defs.OpSchema.AttrType.STRING
_STN_NODE = _node("StnSample", ("x", "theta"), {"h": _INT, "w": _INT, "align_corners": _INT, "padding": _STRING, "upsample": _INT})
_SHUFFLE_NODE = _node("SubPixelShuffle", ("x",), {"factor": _INT})


def _stn_sample(x: Any, theta: Any, h: int, w: int, align_corners: bool, padding: str, upsample: int) -> Any:
    return _STN_NODE(x, theta, h=h, w=w, align_corners=int(align_corners), padding=padding, upsample=upsample)


def _pixel_shuffle(x: Any, factor: int) -> Any:
    return _SHUFFLE_NODE(x, factor=factor)


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
    for text, name in ((_STN_SAMPLE, "StnSample"), (_SUB_PIXEL_SHUFFLE, "SubPixelShuffle")):
        if name in used:
            proto.functions.append(onnx.parser.parse_function(text))
    if used and "fhrt" not in {entry.domain for entry in proto.opset_import}:
        proto.opset_import.append(onnx.helper.make_opsetid("fhrt", 1))
    return proto


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
        },
        verbose=False,
    )
    assert program is not None
    proto = program.model_proto
    for part in (proto, proto.graph, *proto.graph.node, *proto.graph.value_info, *proto.graph.input, *proto.graph.output):
        part.ClearField("metadata_props")  # the exporter's stack traces: paths of the machine that exported
    return proto
