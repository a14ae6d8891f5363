"""CuPy's arrays as `fhrt.ops.device` sees them. Imported only when a CuPy array comes in."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

import cupy


class CupyArrays:
    def dtype(self, array: Any) -> str:
        return str(array.dtype)

    def pointer(self, array: Any) -> int:
        return int(array.data.ptr)

    def strides(self, array: Any) -> Sequence[int]:
        return tuple(stride // array.itemsize for stride in array.strides)

    def contiguous(self, array: Any) -> Any:
        return cupy.ascontiguousarray(array)

    def empty(self, shape: Sequence[int], dtype: str, like: Any, channels_last: bool = False) -> Any:
        with like.device:
            if not channels_last:
                return cupy.empty(tuple(shape), dtype)
            n, c, h, w = shape
            return cupy.empty((n, h, w, c), dtype).transpose(0, 3, 1, 2)

    def stream(self, like: Any) -> int:
        with like.device:
            return int(cupy.cuda.get_current_stream().ptr)

    def on_device(self, like: Any) -> AbstractContextManager[Any]:
        device: AbstractContextManager[Any] = like.device
        return device

    def same_device(self, *arrays: Any) -> bool:
        return all(isinstance(array, cupy.ndarray) for array in arrays) and len({array.device.id for array in arrays}) == 1


ARRAYS = CupyArrays()
