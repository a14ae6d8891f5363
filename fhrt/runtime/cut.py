"""A bundle in pieces on the CPU: ONNX Runtime for the segments of its plan, fhrt's kernels between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import onnxruntime
from numpy.typing import NDArray

from fhrt import ops
from fhrt.errors import WeightsError
from fhrt.runtime.bundle import Bundle
from fhrt.runtime.plan import Kernel, Plan, Segment, cut


class CutSession:
    """As much of `onnxruntime.InferenceSession` as `fhrt.runtime.ort` uses. The kernels take `fhrt.ops.get_num_threads` threads."""

    def __init__(self, bundle: Bundle, options: onnxruntime.SessionOptions) -> None:
        self.plan = cut(bundle)
        self._sessions = [self._open(step, bundle, options) if isinstance(step, Segment) else None for step in self.plan.steps]
        ends: list[list[str]] = [[] for _ in self.plan.steps]
        for name, index in self.plan.last_use.items():
            ends[index].append(name)
        self._ends = ends

    @staticmethod
    def _open(segment: Segment, bundle: Bundle, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
        return onnxruntime.InferenceSession(segment.serialize(bundle), options, providers=["CPUExecutionProvider"])

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The graph's outputs of these names."""
        tensors = dict(feeds)
        for step, session, ends in zip(self.plan.steps, self._sessions, self._ends, strict=True):
            inputs = {tensor.name: tensors[tensor.name] for tensor in step.inputs}
            if session is None:
                tensors[step.outputs[0].name] = run_kernel(step, *inputs.values())
            else:
                tensors.update(zip((tensor.name for tensor in step.outputs), session.run(None, inputs), strict=True))
            for name in ends:
                del tensors[name]
        return [tensors[name] for name in names]


def run_kernel(kernel: Kernel, *inputs):
    a = kernel.attributes
    if kernel.op == "StnSample":
        return ops.stn_sample(*inputs, (a["h"], a["w"]), align_corners=bool(a["align_corners"]), padding=a["padding"], upsample=a["upsample"])
    return ops.pixel_shuffle(*inputs, a["factor"], negative_slope=a.get("negative_slope"))
