"""How sure a table's figure is: bootstrap confidence intervals."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fhrt.errors import BadInputError

AT_ONCE = 100  # samples


def confidence(values: ArrayLike, level: float = 0.95, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """(low, high) of the mean of ``values`` [N], by `resample`.

    For the gain of one system over another pass the differences face by face: that leaves out how much the faces differ. Raises
    BadInputError for values that are not a finite [N] with N ≥ 1, and as `resample`.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0 or not np.isfinite(data).all():
        raise BadInputError(f"values must be a finite [N] with N from 1 on, not {list(data.shape)}")
    return resample(lambda times: times @ data / data.size, data.size, level, samples, seed)


def resample(
    statistic: Callable[[NDArray[np.float64]], NDArray[np.float64]], count: int, level: float = 0.95, samples: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """(low, high) of a statistic over ``count`` things: percentile bootstrap (Efron, 1979; Efron & Tibshirani, 1993, ch. 13).

    Things are drawn with replacement, ``samples`` times; ``statistic`` gets how often each was, of some samples at once ``[S, count]``,
    and gives ``[S]``. ``level`` of its values lie between low and high. NaN, where what was drawn has no value, is left out; (NaN, NaN) if
    all are. Raises BadInputError for a level outside (0, 1), fewer than one sample and nothing to draw from.
    """
    if not 0 < level < 1:
        raise BadInputError(f"level must lie between 0 and 1, not be {level!r}")
    if samples < 1 or count < 1:
        raise BadInputError(f"samples and count must be at least 1, not {samples!r} and {count!r}")
    rng = np.random.default_rng(seed)
    parts = []
    for start in range(0, samples, AT_ONCE):
        some = min(AT_ONCE, samples - start)
        drawn = rng.integers(count, size=(some, count)) + count * np.arange(some)[:, None]
        parts.append(statistic(np.bincount(drawn.ravel(), minlength=some * count).reshape(some, count).astype(np.float64)))
    values = np.concatenate(parts)
    values = values[~np.isnan(values)]
    if not len(values):
        return np.nan, np.nan
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
