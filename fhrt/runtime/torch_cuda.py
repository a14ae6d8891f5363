"""Backend ``torch``: a plan by torch and fhrt's kernels, on a CUDA device with one captured graph per batch size, or on the CPU."""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.errors import BackendError, MissingExtraError
from fhrt.ops.arrays import is_cupy

try:
    import torch
except ImportError as error:
    raise MissingExtraError('backend torch needs torch and onnx: pip install "fhrt[train]"') from error

from fhrt.runtime.batch import run_in_parts
from fhrt.runtime.bundle import Bundle
from fhrt.runtime.card import Card
from fhrt.runtime.cut import run_kernel
from fhrt.runtime.device import Torch, library_of
from fhrt.runtime.engine import BUCKETS, Options, Output
from fhrt.runtime.half import halve
from fhrt.runtime.plan import Kernel, cut
from fhrt.runtime.torch_graph import TorchSegment

Tensors = dict[str, torch.Tensor]


def open_engine(bundle: Bundle, options: Options) -> TorchEngine:
    """On a device in fp16 where no precision is asked for; on the CPU in fp32, with torch's own number of threads."""
    options.require("torch", devices=("cpu", "cuda"), precisions=("fp32", "fp16"), plans=("cut",))
    return TorchEngine(bundle, options)


class TorchEngine:
    """The reference for TensorRT, and the way to a GPU without it: the same plan, the same precisions."""

    backend = "torch"

    def __init__(self, bundle: Bundle, options: Options) -> None:
        on_cpu = options.device == "cpu"
        if not on_cpu and not torch.cuda.is_available():
            raise BackendError("backend torch: the installed torch finds no CUDA device")
        if not on_cpu and not hasattr(_C, "cuda"):
            raise BackendError("backend torch: fhrt was built without CUDA; install it again where nvcc is on the PATH")
        if on_cpu and options.precision == "fp16":
            raise BackendError("backend torch has fp16 on a CUDA device only")
        if on_cpu and options.threads not in (None, torch.get_num_threads()):
            raise BackendError(f"backend torch runs with torch's {torch.get_num_threads()} threads; torch.set_num_threads changes that")
        self.card: Card = bundle.card
        self._lock = Lock()
        self.device = torch.device("cpu") if on_cpu else torch.device("cuda", options.device_index)
        self.array_library = None if on_cpu else Torch(options.device_index)
        self.precision = "fp32" if on_cpu or options.precision == "fp32" else "fp16"
        self.plan = halve(cut(bundle, device=True)) if self.precision == "fp16" else cut(bundle, device=True)
        self._steps = [step if isinstance(step, Kernel) else TorchSegment(step, bundle, self.device) for step in self.plan.steps]
        self._buckets: dict[int, _Bucket] = {}

    def run(self, lr: Any) -> Output:
        """See `fhrt.runtime.engine.Engine.run`; on a device one call at a time, further threads wait."""
        return run_in_parts(self._some, lr, self.card, library=self.array_library)

    def _some(self, lr: Any) -> list[Any]:
        if self.device.type == "cpu":
            given = self._execute({"lr": torch.from_numpy(np.ascontiguousarray(lr))})
            return [given[name].numpy() for name in self.card.outputs]
        batch = next(size for size in BUCKETS if size >= len(lr))
        with self._lock:
            if batch not in self._buckets:
                self._buckets[batch] = _Bucket(self, batch)
            bucket = self._buckets[batch]
            results = bucket.run(lr) if library_of(lr) is None else _of_cupy(lr, bucket) if is_cupy(lr) else bucket.run_there(lr)
        return [results[name] for name in self.card.outputs]

    @torch.no_grad()
    def _execute(self, tensors: Tensors) -> Tensors:
        """The plan's steps, on a device on the current stream."""
        for index, (step, work) in enumerate(zip(self.plan.steps, self._steps, strict=True)):
            inputs = [tensors[tensor.name] for tensor in step.inputs]
            results = work(*inputs) if isinstance(work, TorchSegment) else [run_kernel(work, inputs)]
            tensors |= zip((tensor.name for tensor in step.outputs), results, strict=True)
            for tensor in step.inputs:
                if self.plan.last_use.get(tensor.name) == index:
                    tensors.pop(tensor.name, None)
        return {tensor.name: tensors[tensor.name] for tensor in self.plan.outputs}


def _of_cupy(lr: Any, bucket: _Bucket) -> dict[str, Any]:
    """`_Bucket.run_there` of CuPy's faces, on CuPy's current stream, to CuPy's results."""
    import cupy

    from fhrt.ops.cupy import ARRAYS

    pointer = ARRAYS.stream(lr)  # of the default stream 0, for which ExternalStream would take another
    stream = torch.cuda.ExternalStream(pointer, bucket.device) if pointer else torch.cuda.default_stream(bucket.device)
    with torch.cuda.stream(stream):
        return {name: cupy.from_dlpack(result) for name, result in bucket.run_there(torch.from_dlpack(lr)).items()}


class _Bucket:
    """One batch size on a device: fixed memory, and the captured graph between copies."""

    def __init__(self, engine: TorchEngine, batch: int) -> None:
        (lr,) = engine.plan.inputs
        self.device = engine.device
        self._stream = torch.cuda.Stream(engine.device)
        self._free = torch.cuda.Event()  # when nobody reads the memory on the device any more
        exact = torch.backends.cudnn.flags(enabled=True, benchmark=True, allow_tf32=False)  # float32 is float32
        with torch.cuda.device(engine.device), torch.cuda.stream(self._stream), exact:
            self._host = torch.zeros(lr.at(batch), pin_memory=True)
            self._lr = torch.zeros(lr.at(batch), device=engine.device)
            for _ in range(2):  # cuDNN chooses its algorithms, the kernels are loaded
                engine._execute({lr.name: self._lr})
            self._stream.synchronize()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._results = engine._execute({lr.name: self._lr})
            self._given = {name: torch.empty(result.shape, dtype=result.dtype, pin_memory=True) for name, result in self._results.items()}

    def run(self, lr: NDArray[np.float32]) -> dict[str, NDArray[np.float32]]:
        """The outputs of up to ``batch`` faces, copied out of the fixed memory."""
        self._host[: len(lr)] = torch.from_numpy(np.ascontiguousarray(lr))
        with torch.cuda.stream(self._stream):
            self._stream.wait_event(self._free)
            self._lr.copy_(self._host, non_blocking=True)
            self._graph.replay()
            for name, result in self._results.items():
                self._given[name].copy_(result, non_blocking=True)
        self._stream.synchronize()
        return {name: result[: len(lr)].numpy().copy() for name, result in self._given.items()}

    @torch.no_grad()
    def run_there(self, lr: torch.Tensor) -> Tensors:
        """The same of faces on the device, on torch's current stream. Waits for nothing."""
        with torch.cuda.device(self.device):
            stream = torch.cuda.current_stream()
            stream.wait_event(self._free)
            self._lr[: len(lr)].copy_(lr)
            self._graph.replay()
            results = {name: result[: len(lr)].clone() for name, result in self._results.items()}
            self._free.record(stream)
        return results
