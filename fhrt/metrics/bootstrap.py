"""How sure a table's mean is: bootstrap confidence intervals."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from fhrt.errors import BadInputError


def confidence(values: ArrayLike, level: float = 0.95, samples: int = 2000, seed: int = 0) -> tuple[float, float]:
    """(low, high) of the mean of ``values`` [N]: percentile bootstrap (Efron, 1979; Efron & Tibshirani, 1993, ch. 13).

    ``samples`` times N values are drawn with replacement; ``level`` of the means lie between low and high. For the gain of one system over
    another pass the differences face by face: that leaves out how much the faces differ. Takes ``12 · N · samples`` bytes meanwhile.
    Raises BadInputError for values that are not a finite [N] with N ≥ 1, a level outside (0, 1) and fewer than one sample.
    """
    data = np.asarray(values, dtype=np.float64)
    if data.ndim != 1 or data.size == 0 or not np.isfinite(data).all():
        raise BadInputError(f"values must be a finite [N] with N from 1 on, not {list(data.shape)}")
    if not 0 < level < 1:
        raise BadInputError(f"level must lie between 0 and 1, not be {level!r}")
    if samples < 1:
        raise BadInputError(f"samples must be at least 1, not {samples!r}")
    drawn = np.random.default_rng(seed).integers(data.size, size=(samples, data.size), dtype=np.int32)
    low, high = np.quantile(data[drawn].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
