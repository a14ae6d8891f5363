"""Bootstrap intervals against those of theory."""

import numpy as np
import pytest

from fhrt.errors import BadInputError
from fhrt.metrics.bootstrap import confidence


def test_of_many_values_it_is_the_normal_interval() -> None:
    values = np.random.default_rng(3).gamma(2.0, 3.0, 1000)
    low, high = confidence(values, samples=8000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.06 * half)


def test_it_holds_the_true_mean_as_often_as_it_says() -> None:
    rng = np.random.default_rng(4)
    intervals = [confidence(rng.normal(5, 2, 100), level=0.8, samples=500, seed=n) for n in range(300)]
    assert np.mean([low <= 5 <= high for low, high in intervals]) == pytest.approx(0.8, abs=0.06)


def test_of_few_values_it_is_every_resample() -> None:
    # Of two values the means are 0, ½, ½ and 1, a quarter each.
    assert confidence([0.0, 1.0], level=0.6) == (0.0, 1.0)
    assert confidence([0.0, 1.0], level=0.4) == (0.5, 0.5)
    assert confidence([7.0]) == (7.0, 7.0)


def test_the_seed_fixes_it() -> None:
    values = np.random.default_rng(5).normal(0, 1, 50)
    assert confidence(values, seed=1) == confidence(values, seed=1) != confidence(values, seed=2)


@pytest.mark.parametrize(
    ("values", "options", "message"),
    [
        ([], {}, "values"),
        ([[1.0, 2.0]], {}, "values"),
        ([1.0, np.inf], {}, "values"),
        ([1.0], {"level": 1.0}, "level"),
        ([1.0], {"level": 95}, "level"),
        ([1.0], {"samples": 0}, "samples"),
    ],
)
def test_bad_input(values: list, options: dict, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        confidence(values, **options)
