"""A bundle in pieces on the CPU: ONNX Runtime for the segments of its plan, fhrt's kernels between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from fhrt import ops
from fhrt.errors import WeightsError
from fhrt.runtime.bundle import Bundle
from fhrt.runtime.plan import Kernel, Plan, Segment, Tensor, cut


class CutSession:
    """As much of `onnxruntime.InferenceSession` as `fhrt.runtime.ort` uses. The kernels take `fhrt.ops.get_num_threads` threads."""

    def __init__(self, bundle: Bundle, options: onnxruntime.SessionOptions, plan: Plan | None = None) -> None:
        self.plan = cut(bundle) if plan is None else plan
        self._sessions = [_open(step, bundle, options) if isinstance(step, Segment) else None for step in self.plan.steps]
        self._constants = [_dictionary(step, bundle) if isinstance(step, Kernel) else [] for step in self.plan.steps]

    def get_outputs(self) -> Sequence[Tensor]:
        return self.plan.outputs

    def run(self, names: Sequence[str], feeds: Mapping[str, NDArray[Any]]) -> list[NDArray[Any]]:
        """The graph's outputs of these names."""
        tensors = dict(feeds)
        for index, (step, session, constants) in enumerate(zip(self.plan.steps, self._sessions, self._constants, strict=True)):
            inputs = {tensor.name: tensors[tensor.name] for tensor in step.inputs}
            if isinstance(step, Kernel):
                tensors[step.output.name] = run_kernel(step, [*inputs.values(), *constants])
            elif session is not None:
                tensors.update(zip((tensor.name for tensor in step.outputs), session.run(None, inputs), strict=True))
            for name in inputs:
                if self.plan.last_use.get(name) == index:
                    del tensors[name]
        return [tensors[name] for name in names]


def _open(segment: Segment, bundle: Bundle, options: onnxruntime.SessionOptions) -> onnxruntime.InferenceSession:
    try:
        return onnxruntime.InferenceSession(segment.serialize(bundle), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's own errors share no public base class
        raise WeightsError(f"{bundle.graph} cannot be opened in pieces: {str(error).splitlines()[0]}") from error


def _dictionary(kernel: Kernel, bundle: Bundle) -> list[NDArray[Any]]:
    """The constants of a node, as `fhrt.ops.neighbour_embedding` takes them: of all nodes, its own alone has some."""
    if not kernel.constants:
        return []
    from onnx import numpy_helper

    codes, scale, targets, target_scale = (numpy_helper.to_array(tensor, str(bundle.folder)) for tensor in kernel.constants)
    return [np.ascontiguousarray(codes.transpose(0, 2, 1)), scale[:, 0], targets, target_scale[:, 0]]


def run_kernel(kernel: Kernel, inputs: Sequence[Any], **out: Any) -> Any:
    """The node's result, in the library whose arrays come in; with ``out`` and ``stream`` by the op's ``_out`` twin."""
    given, x = kernel.attributes, inputs[0]
    if kernel.op == "SubPixelShuffle":
        slope = given.get("negative_slope")
        if out:
            return ops.pixel_shuffle_out(x, factor=given["factor"], negative_slope=slope, **out)
        return ops.pixel_shuffle(x, given["factor"], negative_slope=slope)
    if kernel.op == "NeighbourEmbedding":
        return ops.neighbour_embedding(*inputs, neighbours=given["neighbours"], strength=given["strength"])
    sampling: dict[str, Any] = {"align_corners": bool(given["align_corners"]), "padding": given["padding"], "upsample": given["upsample"]}
    if out:
        return ops.stn_sample_out(x, inputs[1], **out, **sampling)
    return ops.stn_sample(x, inputs[1], (given["h"], given["w"]), **sampling)
