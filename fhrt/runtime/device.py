"""Arrays on a CUDA device, CuPy's or torch's, beyond what the ops do with them: sent up, brought down, turned round, joined.

As in `fhrt.ops`, work is put on the library's current stream, and nothing waits for the device but what says so.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from threading import Lock
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.ops.arrays import is_cupy, is_torch


class Mark(Protocol):
    """A place in a stream's work."""

    def synchronize(self) -> None:
        """Wait until everything before it is done."""


class Library(Protocol):
    """CuPy or torch, on one device."""

    @property
    def place(self) -> str:
        """The device's name."""

    def up(self, array: NDArray[Any]) -> Any:
        """A copy on the device, under way through pinned memory out of the library's own pool: the next one does not wait for it."""

    def down(self, arrays: Sequence[Any]) -> list[NDArray[Any]]:
        """Copies of contiguous arrays, after one wait for all."""

    def mark(self) -> Mark: ...

    def flip(self, array: Any, axis: int) -> Any:
        """A contiguous copy with that axis backwards."""

    def join(self, arrays: Sequence[Any]) -> Any:
        """One behind the other along the first axis."""


class Download:
    """Arrays of one place that come to the host together, when they are first asked for; None, and what is NumPy's, stay as they are."""

    def __init__(self, *arrays: Any) -> None:
        self._arrays = list(arrays)
        self._library = library_of(arrays[0])
        self._done = None if self._library is None else self._library.mark()
        self._lock = Lock()

    def __call__(self) -> list[Any]:
        """The arrays, in their order. Waits for the work that they come from."""
        with self._lock:
            if self._library is not None and self._done is not None:
                self._done.synchronize()
                arrived = iter(self._library.down([array for array in self._arrays if array is not None]))
                self._arrays = [None if array is None else next(arrived) for array in self._arrays]
                self._done = None
            return self._arrays


def library_of(array: Any) -> Library | None:
    """The library of an array on a device; None: it is the host's. CuPy and torch are not imported to find out."""
    if is_cupy(array):
        return Cupy(int(array.device.id))
    if is_torch(array) and array.is_cuda:
        return Torch(int(array.device.index))
    return None


def arrays_of(array: Any) -> Any:
    """What the kernels ask of the library of an array on a device: `fhrt.ops.device.Arrays`."""
    return import_module("fhrt.ops.cupy" if is_cupy(array) else "fhrt.ops.torch").ARRAYS


def beside(array: NDArray[Any], like: Any) -> Any:
    """The array, or its copy on the device where ``like`` is."""
    library = library_of(like)
    return array if library is None else library.up(array)


def flip(array: Any, axis: int) -> Any:
    """A contiguous copy with that axis backwards."""
    library = library_of(array)
    return np.ascontiguousarray(np.flip(array, axis)) if library is None else library.flip(array, axis)


def join(arrays: Sequence[Any]) -> Any:
    """Arrays of one place, one behind the other along the first axis."""
    library = library_of(arrays[0])
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if library is None else library.join(arrays)


def send(array: Any, library: Library | None, what: str) -> Any:
    """The array where an engine of this ``library`` computes. Raises BadInputError as `check_place` does."""
    check_place(array, library, what)
    return array if library is None or library_of(array) is not None else library.up(array)


def check_place(array: Any, library: Library | None, what: str) -> None:
    """Raise BadInputError for an array on a device where an engine of this ``library`` is not."""
    here = library_of(array)
    if here is not None and library is None:
        raise BadInputError(
            f"{what} on {here.place} cannot go into a model that runs on the CPU: load it with device='cuda', or pass NumPy's arrays"
        )
    if here is not None and library is not None and here.place != library.place:
        raise BadInputError(f"{what} on {here.place} cannot go into a model that runs on {library.place}")


@dataclass(frozen=True)
class _OnCuda:
    index: int

    @property
    def place(self) -> str:
        return f"cuda:{self.index}"


class Cupy(_OnCuda):
    """See `Library`."""

    def up(self, array: NDArray[Any]) -> Any:
        import cupy

        with cupy.cuda.Device(self.index):
            return cupy.asarray(array)

    def down(self, arrays: Sequence[Any]) -> list[NDArray[Any]]:
        import cupy

        with cupy.cuda.Device(self.index):
            stream = cupy.cuda.get_current_stream()
            pinned = [cupy.cuda.alloc_pinned_memory(array.nbytes) for array in arrays]
            for array, memory in zip(arrays, pinned, strict=True):
                array.data.copy_to_host_async(memory.ptr, array.nbytes, stream)
            stream.synchronize()
        pairs = zip(arrays, pinned, strict=True)
        return [np.frombuffer(memory, array.dtype, array.size).reshape(array.shape).copy() for array, memory in pairs]

    def mark(self) -> Mark:
        import cupy

        with cupy.cuda.Device(self.index):
            event: Mark = cupy.cuda.get_current_stream().record(cupy.cuda.Event(disable_timing=True))
        return event

    def flip(self, array: Any, axis: int) -> Any:
        import cupy

        with array.device:
            return cupy.ascontiguousarray(cupy.flip(array, axis))

    def join(self, arrays: Sequence[Any]) -> Any:
        import cupy

        with arrays[0].device:
            return cupy.concatenate(arrays)


class Torch(_OnCuda):
    """See `Library`."""

    def up(self, array: NDArray[Any]) -> Any:
        import torch

        pinned = torch.empty(array.shape, dtype=getattr(torch, array.dtype.name), pin_memory=True)
        np.copyto(pinned.numpy(), array)
        return pinned.to(self.place, non_blocking=True)

    def down(self, arrays: Sequence[Any]) -> list[NDArray[Any]]:
        import torch

        pinned = [torch.empty(array.shape, dtype=array.dtype, pin_memory=True).copy_(array, non_blocking=True) for array in arrays]
        torch.cuda.current_stream(self.index).synchronize()
        return [array.numpy().copy() for array in pinned]

    def mark(self) -> Mark:
        import torch

        event: Mark = torch.cuda.current_stream(self.index).record_event()
        return event

    def flip(self, array: Any, axis: int) -> Any:
        return array.flip(axis)

    def join(self, arrays: Sequence[Any]) -> Any:
        import torch

        return torch.cat(list(arrays))
