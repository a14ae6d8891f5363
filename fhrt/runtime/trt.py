"""Backend ``tensorrt``: engines for the stretches of a plan, fhrt's kernels between them, one CUDA graph around both per batch size."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.errors import BackendError, MissingExtraError

try:
    import cupy
    import tensorrt
except ImportError as error:
    raise MissingExtraError('backend tensorrt needs TensorRT, CuPy and onnx: pip install "fhrt[tensorrt]"') from error

from fhrt.runtime import trt_build
from fhrt.runtime.batch import run_in_parts
from fhrt.runtime.bundle import Bundle
from fhrt.runtime.card import Card
from fhrt.runtime.cut import run_kernel
from fhrt.runtime.device import Cupy, arrays_of, library_of
from fhrt.runtime.engine import BUCKETS, Options, Output
from fhrt.runtime.engine_cache import EngineCache, EngineKey
from fhrt.runtime.half import halve
from fhrt.runtime.ort import OrtEngine
from fhrt.runtime.plan import Kernel, Plan, Segment, Tensor, cut

LOG = logging.getLogger("fhrt")
PARITY_DB = {"fp32": 70.0, "fp16": 50.0, "int8": 40.0}
"""PSNR (range 2) that an engine's picture must have against ONNX Runtime's of the same bundle."""

DTYPES = {"float32": tensorrt.DataType.FLOAT, "float16": tensorrt.DataType.HALF}


def open_engine(bundle: Bundle, options: Options) -> TensorRTEngine:
    """Every batch size of which the engines are built; all of `BUCKETS` are where none is and ``options`` allow it."""
    options.require("tensorrt", devices=("cuda",), precisions=("fp32", "fp16", "int8"), plans=("cut",))
    return TensorRTEngine(bundle, options)


class TensorRTEngine:
    """``batches``: sizes to build and open; default see `open_engine`. progress: told of each step of building. Raises BackendError."""

    backend = "tensorrt"

    def __init__(
        self, bundle: Bundle, options: Options, batches: Sequence[int] | None = None, progress: trt_build.Progress | None = None
    ) -> None:
        if not hasattr(_C, "cuda"):
            raise BackendError("backend tensorrt: fhrt was built without CUDA; install it again where nvcc is on the PATH")
        self.card: Card = bundle.card
        self._bundle, self._index = bundle, options.device_index
        self.array_library = Cupy(self._index)
        self._lock, self._log = Lock(), trt_build.Log()
        self.gpu, capability = _device(self._index)
        self.plan, self.precision = _plan(bundle, options.precision)
        builder = _Builder(bundle, self.plan, self.precision, self.gpu, capability, self._log, progress)
        wanted = tuple(sorted(batches)) if batches else tuple(batch for batch in BUCKETS if builder.built(batch))
        if not wanted and not options.may_build:
            raise BackendError(f"the engines of {bundle.card.name} are not built for this GPU; fhrt build {bundle.folder} does it")
        self._buckets: list[_Bucket] = []
        self.build_seconds: float | None = 0.0
        """What building the engines took, now or when they were built; None: the cache does not know."""
        with cupy.cuda.Device(self._index):
            self._stream = cupy.cuda.Stream(non_blocking=True)
            runtime = tensorrt.Runtime(self._log)
            for batch in wanted or BUCKETS:
                try:
                    self._buckets.append(self._open(builder, runtime, batch))
                except (trt_build.OutOfMemory, cupy.cuda.memory.OutOfMemoryError) as error:
                    if not self._buckets:
                        raise BackendError(f"{self.gpu} has too little memory for a batch of {batch}: {error}") from error
                    LOG.warning("%s has too little memory for batches of %d; %d is the largest now", self.gpu, batch, self.batches[-1])
                    break
                except cupy.cuda.runtime.CUDARuntimeError as error:
                    raise BackendError(f"{self.gpu}, batch of {batch}: {error}") from error

    @property
    def batches(self) -> tuple[int, ...]:
        """The batch sizes that are there."""
        return tuple(bucket.batch for bucket in self._buckets)

    def run(self, lr: Any) -> Output:
        """See `fhrt.runtime.engine.Engine.run`; one call at a time, further threads wait."""
        with self._lock, cupy.cuda.Device(self._index):
            return run_in_parts(self._some, lr, self.card, self.batches[-1], self.array_library)

    def _some(self, lr: Any) -> list[Any]:
        bucket = next(each for each in self._buckets if each.batch >= len(lr))
        try:
            results = bucket.run(lr) if library_of(lr) is None else bucket.run_there(lr)
        except cupy.cuda.runtime.CUDARuntimeError as error:
            raise BackendError(f"{self.gpu}: {error}") from error
        return [results[name] for name in self.card.outputs]

    def _open(self, builder: _Builder, runtime: Any, batch: int) -> _Bucket:
        engines, keys = builder.engines(runtime, batch)
        for took in map(builder.cache.build_seconds, keys):
            self.build_seconds = None if took is None or self.build_seconds is None else self.build_seconds + took
        bucket = _Bucket(self.plan, engines, batch, self._stream, self._log)
        parities = [builder.cache.parity(key) for key in keys]
        if None not in parities:
            return bucket
        parity = self._parity(bucket)
        if not parity >= PARITY_DB[self.precision]:
            for key in keys:
                builder.cache.remove(key)
            raise BackendError(
                f"the {self.precision} engine of {self.card.name} for {batch} faces differs from ONNX Runtime: {parity:.1f} dB, and"
                f" {PARITY_DB[self.precision]:.0f} are needed; it was deleted. precision='fp32' is the nearest"
            )
        for key in keys:
            builder.cache.passed(key, parity)
        return bucket

    def _parity(self, bucket: _Bucket) -> float:
        """PSNR of the first and the last face, against ONNX Runtime."""
        lr = np.random.default_rng(0).uniform(-1, 1, (bucket.batch, 3, *self.card.input_size)).astype(np.float32)
        ends = [0, -1]
        difference = bucket.run(lr)["sr"][ends] - OrtEngine(self._bundle).run(lr[ends]).sr
        error = float(np.mean(difference.astype(np.float64) ** 2))
        return float(10 * np.log10(4 / max(error, 1e-20)))


@dataclass(frozen=True)
class _Builder:
    """The engines of one bundle on one GPU, from the cache or built."""

    bundle: Bundle
    plan: Plan
    precision: str
    gpu: str
    capability: str
    log: trt_build.Log
    progress: trt_build.Progress | None
    cache: EngineCache = field(default_factory=EngineCache)

    def models(self, batch: int) -> list[tuple[EngineKey, bytes]]:
        """Key and ONNX bytes of every segment."""
        native = hashlib.sha256(Path(_C.__file__).read_bytes()).hexdigest()
        found = []
        for step in self.plan.steps:
            if isinstance(step, Segment):
                model = step.serialize(self.bundle, batch)
                ends = (*step.inputs, *step.outputs)
                key = EngineKey(
                    bundle=self.bundle.sha256, graph=hashlib.sha256(model).hexdigest(),
                    profiles={tensor.name: tensor.at(batch) for tensor in step.inputs},
                    io_types={tensor.name: tensor.dtype for tensor in ends},
                    precision=self.precision, native=native, tensorrt=tensorrt.__version__, gpu=self.gpu,
                    compute_capability=self.capability, flags=trt_build.flags(self.precision),
                )  # fmt: skip
                found.append((key, model))
        return found

    def built(self, batch: int) -> bool:
        """Whether all engines of this batch size are in the cache."""
        return all(self.cache.has(key) for key, _ in self.models(batch))

    def engines(self, runtime: Any, batch: int) -> tuple[list[Any], list[EngineKey]]:
        """The engines of the segments in their order."""
        models, opened = self.models(batch), {}
        for number, (key, model) in enumerate(models):

            def build(timings: bytes, number: int = number, model: bytes = model) -> tuple[bytes, bytes]:
                what = f"batch {batch}, engine {number + 1} of {len(models)}"
                LOG.info("building %s of %s", what, self.bundle.card.name)
                report = None if self.progress is None else _named(self.progress, what)
                return trt_build.build(model, self.precision, timings, self.log, report)

            def usable(plan: bytes, key: EngineKey = key) -> bool:
                opened[key.digest] = runtime.deserialize_cuda_engine(plan)
                return opened[key.digest] is not None

            plan = self.cache.get(key, build, usable)
            if opened.get(key.digest) is None and not usable(plan):
                raise self.log.error("TensorRT cannot open the engine that it built")
        keys = [key for key, _ in models]
        return [opened[key.digest] for key in keys], keys


def _named(progress: trt_build.Progress, what: str) -> trt_build.Progress:
    return lambda phase, done, total: progress(f"{what}: {phase}", done, total)


class _Bucket:
    """One batch size: fixed memory on the device and the host, and the captured graph of engines and kernels."""

    def __init__(self, plan: Plan, engines: Sequence[Any], batch: int, stream: Any, log: trt_build.Log) -> None:
        self.plan, self.batch, self._stream, self._log = plan, batch, stream, log
        tensors = {tensor.name: tensor for step in plan.steps for tensor in (*step.inputs, *step.outputs)}
        self._device = {name: cupy.zeros(tensor.at(batch), tensor.dtype) for name, tensor in tensors.items()}
        self._host = {tensor.name: _pinned(tensor, batch) for tensor in (*plan.inputs, *plan.outputs)}
        self._free = cupy.cuda.Event(disable_timing=True)  # when nobody reads the memory on the device any more
        waiting = iter(engines)
        self._work = [step if isinstance(step, Kernel) else self._context(step, next(waiting)) for step in plan.steps]
        stream.synchronize()
        cupy.cuda.Device().synchronize()  # the zeros were written on another stream
        self._enqueue()  # once outside: TensorRT and the kernels allocate and load what they need
        stream.synchronize()
        stream.begin_capture()
        self._enqueue()
        self._graph = stream.end_capture()

    def run(self, lr: NDArray[np.float32]) -> dict[str, NDArray[Any]]:
        """The outputs of up to ``batch`` faces, copied out of the fixed memory."""
        given, results = ({each.name: self._host[each.name][: len(lr)] for each in ends} for ends in (self.plan.inputs, self.plan.outputs))
        self._stream.wait_event(self._free)
        for name, host in given.items():
            host[...] = lr
            self._device[name].data.copy_from_host_async(host.ctypes.data, host.nbytes, self._stream)
        self._graph.launch(self._stream)
        for name, host in results.items():
            self._device[name].data.copy_to_host_async(host.ctypes.data, host.nbytes, self._stream)
        self._stream.synchronize()
        return {name: host.copy() for name, host in results.items()}

    def run_there(self, lr: Any) -> dict[str, Any]:
        """The same of faces on the device, CuPy's or torch's, on their library's current stream. Waits for nothing."""
        arrays = arrays_of(lr)
        stream = cupy.cuda.ExternalStream(arrays.stream(lr))
        stream.wait_event(self._free)
        (given,) = self.plan.inputs
        _copy(arrays, arrays.contiguous(lr), self._device[given.name].data.ptr, stream, back=False)
        self._graph.launch(stream)
        results = {each.name: arrays.empty(each.at(len(lr)), each.dtype, lr) for each in self.plan.outputs}
        for name, array in results.items():
            _copy(arrays, array, self._device[name].data.ptr, stream, back=True)
        self._free.record(stream)
        return results

    def _context(self, segment: Segment, engine: Any) -> Any:
        context = engine.create_execution_context()
        if context is None:
            raise self._log.error("TensorRT cannot make a context")
        for tensor in (*segment.inputs, *segment.outputs):
            dtype, shape = engine.get_tensor_dtype(tensor.name), tuple(engine.get_tensor_shape(tensor.name))
            if dtype != DTYPES[tensor.dtype] or shape != tensor.at(self.batch):
                raise BackendError(
                    f"the engine has {tensor.name} as {dtype} {list(shape)}, not as {tensor.dtype} {list(tensor.at(self.batch))}"
                )
            if not context.set_tensor_address(tensor.name, self._device[tensor.name].data.ptr):
                raise self._log.error(f"TensorRT does not take the memory of {tensor.name}")
        return context

    def _enqueue(self) -> None:
        for work in self._work:
            if isinstance(work, Kernel):
                inputs = [self._device[tensor.name] for tensor in work.inputs]
                run_kernel(work, inputs, out=self._device[work.output.name], stream=self._stream.ptr)
            elif not work.execute_async_v3(self._stream.ptr):
                raise self._log.error("TensorRT cannot run the engine")


def _copy(arrays: Any, array: Any, memory: int, stream: Any, *, back: bool) -> None:
    """An array's bytes into memory of the same device, or back out of it."""
    size = int(np.prod(array.shape)) * np.dtype(arrays.dtype(array)).itemsize
    ends = (arrays.pointer(array), memory) if back else (memory, arrays.pointer(array))
    cupy.cuda.runtime.memcpyAsync(*ends, size, cupy.cuda.runtime.memcpyDeviceToDevice, stream.ptr)


def _pinned(tensor: Tensor, batch: int) -> NDArray[Any]:
    """Zeros in memory that the device copies from and to by itself; the array keeps it alive."""
    shape, dtype = tensor.at(batch), np.dtype(tensor.dtype)
    memory = cupy.cuda.alloc_pinned_memory(int(np.prod(shape)) * dtype.itemsize)
    array = np.frombuffer(memory, dtype, int(np.prod(shape))).reshape(shape)
    array[...] = 0
    return array


def _plan(bundle: Bundle, precision: str) -> tuple[Plan, str]:
    """The plan in a precision; "auto" is int8 for a quantised graph and fp16 for any other."""
    plan = cut(bundle, device=True)
    segments = [step for step in plan.steps if isinstance(step, Segment)]
    quantised = any(node.op_type == "QuantizeLinear" for segment in segments for node in segment.model.graph.node)
    if precision == "auto":
        precision = "int8" if quantised else "fp16"
    if (precision == "int8") != quantised:
        has = "has" if quantised else "has no"
        raise BackendError(f"the graph of {bundle.card.name} {has} quantisation nodes, so precision={precision!r} cannot be had from it")
    return (halve(plan) if precision == "fp16" else plan), precision


def _device(index: int) -> tuple[str, str]:
    """Name and compute capability of a CUDA device. Raises BackendError where there is none."""
    try:
        count = cupy.cuda.runtime.getDeviceCount()
        if index >= count:
            raise BackendError(f"there is no device cuda:{index}; there are {count}")
        facts = cupy.cuda.runtime.getDeviceProperties(index)
    except cupy.cuda.runtime.CUDARuntimeError as error:
        raise BackendError(f"no CUDA device can be had: {error}") from error
    return facts["name"].decode(), f"{facts['major']}.{facts['minor']}"
