"""An ONNX model to a TensorRT engine, on 8.6, 10 and 11. Features are asked for by name: they and their numbers differ between these."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import tensorrt

from fhrt.errors import BackendError

LOG = logging.getLogger("fhrt")
WORKSPACE = 1 << 30  # bytes that a layer may take for itself
BUNDLED_TACTICS = ("EDGE_MASK_CONVOLUTIONS", "JIT_CONVOLUTIONS")
"""TensorRT's own; cuDNN's and cuBLAS's are left out, so that neither needs to be installed."""

Progress = Callable[[str, int, int], None]
"""Called with a phase's name, the steps done and their number."""


class OutOfMemory(BackendError):
    """The device's memory is full; a smaller batch may fit."""


class Log(tensorrt.ILogger):
    """TensorRT's messages as records of Python's logging; the last error is kept for the exception that follows it."""

    LEVELS = (("INTERNAL_ERROR", logging.ERROR), ("ERROR", logging.ERROR), ("WARNING", logging.INFO))

    def __init__(self) -> None:
        tensorrt.ILogger.__init__(self)
        self.last_error = "TensorRT does not say why"

    def log(self, severity: Any, message: str) -> None:
        level = next((level for name, level in self.LEVELS if severity == getattr(tensorrt.ILogger, name)), logging.DEBUG)
        if level == logging.ERROR:
            self.last_error = message.strip().split("\n")[0]
            level = logging.WARNING  # what is wrong is raised
        LOG.log(level, "TensorRT: %s", message)

    def error(self, what: str) -> BackendError:
        """The exception to raise."""
        words = self.last_error.lower().replace(" ", "")
        kind = OutOfMemory if "outofmemory" in words or "insufficientmemory" in words else BackendError
        return kind(f"{what}: {self.last_error}")


def strongly_typed() -> bool:
    """Whether networks keep to the dtypes of the ONNX model; before, precision is a flag."""
    return hasattr(tensorrt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED") or not hasattr(tensorrt.BuilderFlag, "FP16")


def flags(precision: str) -> tuple[str, ...]:
    """The names of the builder flags that are set, or taken away with a minus."""
    wanted = ["-TF32"] if precision == "fp32" else []
    if not strongly_typed() and precision != "fp32":
        wanted += ["FP16", "PREFER_PRECISION_CONSTRAINTS"] + (["INT8"] if precision == "int8" else [])
    return tuple(name for name in wanted if hasattr(tensorrt.BuilderFlag, name.removeprefix("-")))


def parse(model: bytes, builder: Any, log: Log) -> Any:
    """The network of an ONNX model. Raises BackendError with the parser's words."""
    creation = tensorrt.NetworkDefinitionCreationFlag
    kinds = [name for name in ("STRONGLY_TYPED", "EXPLICIT_BATCH") if hasattr(creation, name)][:1]
    network = builder.create_network(sum(1 << int(getattr(creation, name)) for name in kinds))
    parser = tensorrt.OnnxParser(network, log)
    if not parser.parse(model):
        words = "; ".join(f"node {error.node()}: {error.desc()}" for error in map(parser.get_error, range(parser.num_errors)))
        raise BackendError(f"TensorRT {tensorrt.__version__} cannot read the graph: {words}")
    return network


def build(model: bytes, precision: str, timings: bytes, log: Log, progress: Progress | None = None) -> tuple[bytes, bytes]:
    """The engine of a model whose shapes are fixed, and the timing cache as it is afterwards. timings: an earlier one, or empty.

    Takes minutes. Raises BackendError, or OutOfMemory.
    """
    builder = tensorrt.Builder(log)
    network = parse(model, builder, log)
    config = builder.create_builder_config()
    config.set_memory_pool_limit(tensorrt.MemoryPoolType.WORKSPACE, WORKSPACE)
    sources = [getattr(tensorrt.TacticSource, name) for name in BUNDLED_TACTICS if hasattr(tensorrt.TacticSource, name)]
    if sources:
        config.set_tactic_sources(sum(1 << int(source) for source in sources))
    for name in flags(precision):
        change = config.clear_flag if name.startswith("-") else config.set_flag
        change(getattr(tensorrt.BuilderFlag, name.removeprefix("-")))
    if "PREFER_PRECISION_CONSTRAINTS" in flags(precision):
        _keep_float32(network)
    cache = config.create_timing_cache(timings)
    if cache is None or not config.set_timing_cache(cache, False):  # of another device, or damaged
        config.set_timing_cache(config.create_timing_cache(b""), False)
    if progress is not None and hasattr(tensorrt, "IProgressMonitor"):
        config.progress_monitor = _monitor(progress)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        raise log.error("TensorRT cannot build an engine")
    return bytes(plan), bytes(config.get_timing_cache().serialize())


def _keep_float32(network: Any) -> None:
    """Where precision is a flag, layers that the graph has in float32 beside fp16 ones are to stay so."""
    single, half = tensorrt.DataType.FLOAT, tensorrt.DataType.HALF
    layers = [network.get_layer(index) for index in range(network.num_layers)]
    dtypes = [{layer.get_output(index).dtype for index in range(layer.num_outputs)} for layer in layers]
    if not any(half in each for each in dtypes):
        return
    for layer, each in zip(layers, dtypes, strict=True):
        inputs = {layer.get_input(index).dtype for index in range(layer.num_inputs) if layer.get_input(index) is not None}
        if each == {single} and inputs & {single, half} == {single}:
            layer.precision = single


def _monitor(progress: Progress) -> Any:
    class Monitor(tensorrt.IProgressMonitor):  # which 8.6 lacks
        def __init__(self) -> None:
            tensorrt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            progress(phase_name, step + 1, self.steps.get(phase_name, step + 1))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()
