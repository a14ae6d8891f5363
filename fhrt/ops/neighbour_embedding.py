"""A face's components as weighted sums of their nearest in a dictionary: a layer of MNCE and mnce-ridge."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import as_numpy, call_native, check_rank, check_real, check_whole


def neighbour_embedding(
    query: NDArray[np.float32],
    codes: NDArray[np.uint8],
    scale: NDArray[np.float32],
    target_codes: NDArray[np.uint8],
    target_scale: NDArray[np.float32],
    *,
    neighbours: int,
    strength: float,
    threads: int | None = None,
) -> NDArray[np.float32]:
    """Σ w_k t_k over each query's ``neighbours`` nearest entries, with the locality-constrained weights of Jiang et al. (IJCAI 2018):
    w* = argmin ‖q − Σ w_k n_k‖² + strength·mean(d²)·‖d ⊙ w‖², where d grows without bound toward the last neighbour.

    query: ``[C, N, p]`` float32. The dictionary of each of the C components has M entries n = (codes − 128)·scale, ``[C, p, M]`` uint8 (one
    feature after the other) and ``[C, p]`` float32, p ≤ 256, with what belongs to them, t = (target_codes − 128)·target_scale,
    ``[C, M, t]`` uint8 and ``[C, t]`` float32. threads: CPU threads at most. Returns ``[C, N, t]`` float32. NumPy arrays only. Raises
    BadInputError for other shapes, dtypes or values.
    """
    op = "neighbour_embedding"
    check_rank(op, "query", query, "C, N, p")
    check_rank(op, "target_codes", target_codes, "C, M, t")
    check_whole(op, "neighbours", neighbours, 1, (1 << 31) - 1)
    check_real(op, "strength", strength)
    if threads is not None:
        check_whole(op, "threads", threads, 1, 1 << 15)
    query, scale, target_scale = (
        np.ascontiguousarray(as_numpy(op, name, array, "float32"))
        for name, array in (("query", query), ("scale", scale), ("target_scale", target_scale))
    )
    codes, target_codes = as_numpy(op, "codes", codes, "uint8"), as_numpy(op, "target_codes", target_codes, "uint8")
    if not np.isfinite(query).all():
        raise BadInputError(f"{op}: query holds NaN or infinity")
    out: NDArray[np.float32] = _C.empty([*query.shape[:2], target_codes.shape[2]], np.dtype(np.float32))
    dictionary = codes, scale, target_codes, target_scale
    call_native(op, _C.neighbour_embedding, query, *dictionary, out, neighbours, strength, threads or 0)
    return out
