"""What every op asks of its arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError


def is_torch(array: Any) -> bool:
    """Whether this is a torch tensor (or parameter), found out without importing torch."""
    return any(base.__module__ == "torch" and base.__name__ == "Tensor" for base in type(array).__mro__)


def check_rank(op: str, name: str, array: Any, shape: str) -> None:
    """Raise BadInputError unless ``array`` has as many axes as ``shape`` names, none of them empty but the first."""
    rank = shape.count(",") + 1
    if array.ndim != rank or 0 in array.shape[1:]:
        raise BadInputError(f"{op}: {name} must be [{shape}], not {list(array.shape)}")


def as_float32(op: str, name: str, array: Any) -> NDArray[np.float32]:
    """A float32 NumPy array as it is; other dtypes are an error, since a silent conversion would hide a mistake."""
    array = np.asarray(array)
    if array.dtype != np.float32:
        raise BadInputError(f"{op}: {name} must be float32, not {array.dtype}")
    return array


def check_affine(op: str, name: str, maps: Any, count: int | None = None) -> None:
    """Raise BadInputError unless ``maps`` is [N, 2, 3] (N = ``count`` where given)."""
    if maps.ndim != 3 or tuple(maps.shape[1:]) != (2, 3) or count not in (None, maps.shape[0]):
        raise BadInputError(f"{op}: {name} must be [{'N' if count is None else count}, 2, 3], not {list(maps.shape)}")


def check_finite(op: str, name: str, array: NDArray[np.float32]) -> None:
    if not np.isfinite(array).all():
        raise BadInputError(f"{op}: {name} holds NaN or infinity")
