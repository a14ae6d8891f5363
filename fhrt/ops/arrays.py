"""What every op asks of its arrays."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError


def is_torch(array: Any) -> bool:
    """Whether this is a torch tensor (or parameter), found out without importing torch."""
    return _library(type(array)) == "torch"  # type: ignore[arg-type]


def is_cupy(array: Any) -> bool:
    """Whether this is a CuPy array, found out without importing CuPy."""
    return _library(type(array)) == "cupy"  # type: ignore[arg-type]


@lru_cache(maxsize=64)
def _library(kind: Any) -> str:
    for base in kind.__mro__:
        library = base.__module__.partition(".")[0]
        if (library, base.__name__) in (("torch", "Tensor"), ("cupy", "ndarray")):
            return library
    return "numpy"


def check_rank(op: str, name: str, array: Any, shape: str) -> None:
    """Raise BadInputError unless ``array`` has as many axes as ``shape`` names, none of them empty but the first."""
    if not hasattr(array, "ndim"):
        raise BadInputError(f"{op}: {name} must be an array [{shape}], not {type(array).__name__}")
    if array.ndim != shape.count(",") + 1 or 0 in array.shape[1:]:
        raise BadInputError(f"{op}: {name} must be [{shape}], not {list(array.shape)}")


def as_numpy(op: str, name: str, array: Any, *dtypes: str) -> NDArray[Any]:
    """A NumPy array as it is; dtypes other than these are an error, since a silent conversion would hide a mistake."""
    array = np.asarray(array)
    if dtype_of(array) not in dtypes:
        raise BadInputError(f"{op}: {name} must be {' or '.join(dtypes)}, not {array.dtype}")
    return array


def check_affine(op: str, name: str, maps: Any, count: int | None = None) -> None:
    """Raise BadInputError unless ``maps`` is [N, 2, 3] (N = ``count`` where given)."""
    if not hasattr(maps, "ndim"):
        raise BadInputError(f"{op}: {name} must be an array [N, 2, 3], not {type(maps).__name__}")
    if maps.ndim != 3 or tuple(maps.shape[1:]) != (2, 3) or count not in (None, maps.shape[0]):
        raise BadInputError(f"{op}: {name} must be [{'N' if count is None else count}, 2, 3], not {list(maps.shape)}")


def check_whole(op: str, name: str, value: Any, low: int, high: int) -> None:
    """Raise BadInputError unless ``value`` is an integer from ``low`` to ``high``."""
    if not isinstance(value, (int, np.integer)) or not low <= value <= high:
        raise BadInputError(f"{op}: {name} must be a whole number from {low} to {high}, not {value!r}")


def check_real(op: str, name: str, value: Any, low: float = -np.inf, high: float = np.inf) -> None:
    """Raise BadInputError unless ``value`` is a finite number from ``low`` to ``high``."""
    if not isinstance(value, (int, float, np.integer, np.floating)) or not abs(float(value)) < 1e300 or not low <= float(value) <= high:
        limits = "" if low == -np.inf and high == np.inf else f" from {low:g} to {high:g}"
        raise BadInputError(f"{op}: {name} must be a finite number{limits}, not {value!r}")


def check_size(op: str, size: Any, largest: int) -> None:
    """Raise BadInputError unless ``size`` is a pair of integers from 1 to ``largest``."""
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise BadInputError(f"{op}: size must be a pair (h, w), not {size!r}")
    for name, value in zip(("the height", "the width"), size, strict=True):
        check_whole(op, name, value, 1, largest)


def check_kind(op: str, name: str, array: Any, first_name: str, first: Any) -> None:
    """Raise BadInputError unless both are arrays of one library: NumPy's (and what turns into it), torch's or CuPy's."""
    kind, wanted = _library(type(array)), _library(type(first))  # type: ignore[arg-type]
    if kind != wanted:
        raise BadInputError(f"{op}: {name} must be an array of {wanted}, as {first_name} is, not of {kind}")


def check_out(op: str, out: Any, like: Any, shape: tuple[int, ...], dtype: str | None = None) -> None:
    """Raise BadInputError unless ``out`` is an array of the same library as ``like``, of this shape and dtype (default ``like``'s)."""
    check_kind(op, "out", out, "the input", like)
    if not hasattr(out, "shape") or tuple(out.shape) != shape:
        raise BadInputError(f"{op}: out must be {list(shape)}, not {list(getattr(out, 'shape', []))}")
    wanted = dtype or dtype_of(like)
    if dtype_of(out) != wanted:
        raise BadInputError(f"{op}: out must be {wanted}, not {dtype_of(out)}")


def dtype_of(array: Any) -> str:
    """NumPy's name of the dtype, or "bfloat16"."""
    return _name(array.dtype)


@lru_cache(maxsize=64)
def _name(dtype: Any) -> str:
    return str(dtype).removeprefix("torch.")


def call_native(op: str, function: Callable[..., None], *arguments: Any) -> None:
    """The native function, its own objections (layouts, overlapping or read-only arrays, NaN) as BadInputError."""
    try:
        function(*arguments)
    except (ValueError, TypeError) as error:
        words = str(error).partition("\n")[0].removeprefix(f"{op}: ")
        raise BadInputError(f"{op}: {words}") from error
