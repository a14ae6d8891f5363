"""Backend ``openvino``: a bundle's graph on OpenVINO's CPU plugin (``pip install "fhrt[openvino]"``)."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt import ops
from fhrt.errors import BackendError, MissingExtraError
from fhrt.machine import usable_cores
from fhrt.runtime.batch import run_in_parts, whole_pieces
from fhrt.runtime.bundle import Bundle
from fhrt.runtime.card import Card
from fhrt.runtime.engine import Options, Output


@contextmanager
def _without_telemetry() -> Iterator[None]:
    """Within it the optional package openvino-telemetry is not found, as OpenVINO allows: else its import alone is reported.

    There is no other switch for one process: OpenVINO's ``opt_in_out --opt_out`` reports the refusal, and writes it into the home folder.
    """
    name = "openvino_telemetry"
    before = sys.modules.get(name)
    sys.modules[name] = None  # type: ignore[assignment]  # makes importing it an ImportError
    try:
        yield
    finally:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before


try:
    with _without_telemetry():
        import openvino
        from openvino import opset13 as op
        from openvino.frontend.onnx import ConversionExtension
except ImportError as error:
    if isinstance(error.__cause__, KeyboardInterrupt):  # its C++ part says ImportError whatever ended its import
        raise error.__cause__ from None
    raise MissingExtraError(f'backend openvino cannot be had ({error}): pip install "fhrt[openvino]"') from error


ANY = -1
"""OpenVINO's size of an axis that is not fixed."""


def open_engine(bundle: Bundle, options: Options) -> OpenVinoEngine:
    """A bundle's fp32 or INT8 form on the CPU."""
    options.require("openvino", devices=("cpu",), precisions=("fp32", "int8"))
    return OpenVinoEngine(bundle, options.threads)


def open_frames(bundle: Bundle, options: Options) -> OpenVinoFrames:
    """The same for networks that take frames."""
    options.require("openvino", devices=("cpu",), precisions=("fp32", "int8"))
    return OpenVinoFrames(bundle, options.threads)


class _Graph:
    """A bundle's graph, to be compiled for the shapes that come."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self._path = bundle.graph
        self._settings = {
            # Without it OpenVINO computes in bfloat16 where the processor has it: errors of 1e-2.
            openvino.properties.hint.inference_precision: openvino.Type.f32,
            openvino.properties.hint.performance_mode: openvino.properties.hint.PerformanceMode.LATENCY,
            openvino.properties.num_streams: 1,
            openvino.properties.inference_num_threads: threads or usable_cores(),
            # Pinned, the threads of two engines would share one core while another is idle.
            openvino.properties.hint.enable_cpu_pinning: False,
            # What it prepares for a shape it would keep for thousands of them, some megabytes for each size of a frame.
            "CPU_RUNTIME_CACHE_CAPACITY": "0",
        }
        self._core = openvino.Core()
        if "CPU" not in self._core.available_devices:
            raise BackendError("OpenVINO cannot use this processor (it wants SSE 4.2); choose backend onnxruntime")
        nodes = {"StnSample": _stn_sample, "SubPixelShuffle": _shuffle, "NeighbourEmbedding": partial(_embedding, threads)}
        self._core.add_extension([ConversionExtension(name, "fhrt", function) for name, function in nodes.items()])

    def compile(self, shape: list[int]) -> Any:
        """An inference request for inputs of this shape."""
        try:
            model = self._core.read_model(self._path)
            model.reshape(shape)
            return self._core.compile_model(model, "CPU", self._settings).create_infer_request()
        except RuntimeError as error:
            raise BackendError(f"OpenVINO cannot open {self._path}: {str(error).strip().splitlines()[-1]}") from error


class OpenVinoEngine:
    """Runs a bundle through two forms of its graph: one face, where a fixed batch saves a tenth of the time in INT8, and any number."""

    backend = "openvino"
    array_library = None

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.card: Card = bundle.card
        self.precision = bundle.precision
        self._graph = _Graph(bundle, threads)
        self._requests = {1: self._compile(1)}
        self._lock = Lock()  # a request serves one caller at a time

    def run(self, lr: NDArray[np.float32]) -> Output:
        """See `fhrt.runtime.engine.Engine.run`."""
        return run_in_parts(self._call, lr, self.card)

    def _call(self, lr: NDArray[np.float32]) -> list[NDArray[np.float32]]:
        batch = 1 if len(lr) == 1 else ANY
        with self._lock:
            if batch not in self._requests:
                self._requests[batch] = self._compile(batch)
            results = self._requests[batch].infer({"lr": np.ascontiguousarray(lr)}, share_inputs=True)
            return [results[name] for name in self.card.outputs]

    def _compile(self, batch: int) -> Any:
        return self._graph.compile([batch, 3, *self.card.input_size])


class OpenVinoFrames:
    """Runs a bundle whose graph takes ``frame`` [H, W, 3] uint8; no size is compiled for itself, which would gain a few percent."""

    backend = "openvino"

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.card: Card = bundle.card
        self.precision = bundle.precision
        self._request = _Graph(bundle, threads).compile([ANY, ANY, 3])
        self._lock = Lock()  # a request serves one caller at a time

    def run(self, frame: NDArray[np.uint8]) -> list[NDArray[np.float32]]:
        """See `fhrt.runtime.engine.FrameEngine.run`."""
        with self._lock:
            results = self._request.infer({"frame": whole_pieces(frame, self.card)}, share_inputs=True)
            return [np.array(results[name]) for name in self.card.outputs]  # the request's own memory is overwritten by the next call


# OpenVINO knows no model-local functions; it is told here what fhrt's nodes are, as fhrt/export/graph.py spells them.


def _stn_sample(node: Any) -> list[Any]:
    h, w, align_corners, padding, upsample = map(node.get_attribute, ("h", "w", "align_corners", "padding", "upsample"))
    x, theta = node.get_input(0), node.get_input(1)
    # Pixel centres of the output, (x, y, 1) each: a constant, so that only the product with theta is left.
    xs, ys = (2 * np.arange(side) / (side - align_corners) + (1 - align_corners) / side - 1 for side in (w, h))
    centres = np.stack([*(plane.ravel() for plane in np.meshgrid(xs, ys)), np.ones(h * w)], 1).astype(np.float32)
    points = op.matmul(op.constant(centres[None]), theta, False, True)
    grid = op.reshape(points, op.constant(np.array([0, h, w, 2])), True)
    if upsample > 1:
        scales, plane = op.constant(np.full(2, upsample, np.float32)), op.constant(np.array([2, 3]))
        none = [0, 0, 0, 0]
        x = op.interpolate(x, scales, "nearest", "scales", none, none, "asymmetric", "floor", False, -0.75, plane)
    sampling = {"mode": "bilinear", "padding_mode": padding, "align_corners": bool(align_corners)}
    return [op.grid_sample(x, grid, sampling).output(0)]


def _shuffle(node: Any) -> list[Any]:
    return [op.depth_to_space(node.get_input(0), "depth_first", node.get_attribute("factor")).output(0)]


def _embedding(threads: int | None, node: Any) -> list[Any]:
    query, codes, scale, target_codes, target_scale = (node.get_input(number) for number in range(5))
    by_feature = op.transpose(codes, op.constant(np.array([0, 2, 1])))  # of constants: once, when the graph is compiled
    rows = [op.squeeze(each, op.constant(np.array([1]))).output(0) for each in (scale, target_scale)]
    settings = {"neighbours": node.get_attribute("neighbours"), "strength": node.get_attribute("strength"), "threads": threads}
    return [_Embedding([query, by_feature.output(0), rows[0], target_codes, rows[1]], settings).output(0)]


class _Embedding(openvino.Op):
    """`fhrt.ops.neighbour_embedding` within a graph: OpenVINO's own top-K takes longer than this for everything."""

    def __init__(self, inputs: list[Any], settings: dict[str, Any]) -> None:
        self._settings = settings
        super().__init__(self, inputs)

    def validate_and_infer_types(self) -> None:
        query, targets = self.get_input_partial_shape(0), self.get_input_partial_shape(3)
        self.set_output_type(0, openvino.Type.f32, openvino.PartialShape([query[0], query[1], targets[2]]))

    def clone_with_new_inputs(self, inputs: list[Any]) -> _Embedding:
        return _Embedding(inputs, self._settings)

    def has_evaluate(self) -> bool:
        return True

    def evaluate(self, outputs: list[Any], inputs: list[Any]) -> bool:
        values = ops.neighbour_embedding(*(tensor.data for tensor in inputs), **self._settings)
        outputs[0].shape = values.shape
        outputs[0].data[...] = values
        return True

    def visit_attributes(self, visitor: Any) -> bool:
        return True
