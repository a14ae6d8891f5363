"""neighbour_embedding against its least squares solved one by one in float64, over every way that its sizes can leave vectors unfilled."""

import numpy as np
import pytest

from fhrt import ops
from fhrt.errors import BadInputError

SETTINGS = {"neighbours": 6, "strength": 0.3}


def dictionary(components: int, queries: int, entries: int, features: int, targets: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(entries)
    return {
        "query": rng.normal(size=(components, queries, features)).astype(np.float32),
        "codes": rng.integers(1, 256, (components, features, entries)).astype(np.uint8),
        "scale": rng.uniform(0.005, 0.02, (components, features)).astype(np.float32),
        "target_codes": rng.integers(1, 256, (components, entries, targets)).astype(np.uint8),
        "target_scale": rng.uniform(0.005, 0.02, (components, targets)).astype(np.float32),
    }


def solved(given: dict[str, np.ndarray], neighbours: int, strength: float) -> np.ndarray:
    """min ‖q − Σ w_k n_k‖² + λ·mean(d²)·Σ (d_k w_k)² as one tall system for each query, d in units of its mean square."""
    query = given["query"].astype(float)
    found = (given["codes"].transpose(0, 2, 1) - 128.0) * given["scale"][:, None]
    targets = (given["target_codes"] - 128.0) * given["target_scale"][:, None]
    sums = np.empty((*query.shape[:2], targets.shape[2]))
    for c, n in np.ndindex(*query.shape[:2]):
        squared = ((found[c] - query[c, n]) ** 2).sum(1)
        near = np.argsort(squared)[:neighbours]
        mean, last = squared[near].mean(), squared[near].max()
        faded = np.maximum(squared[near] / np.maximum(1 - squared[near] / last, 1e-4), 1e-4 * mean)
        tall = np.vstack([found[c, near].T, np.diag(np.sqrt(strength * faded))])
        weights = np.linalg.lstsq(tall, np.append(query[c, n], np.zeros(neighbours)), rcond=None)[0]
        sums[c, n] = weights @ targets[c, near]
    return sums


@pytest.mark.parametrize(
    ("queries", "entries", "features", "targets", "neighbours"),
    [
        (1, 5200, 24, 16, 300),
        (6, 333, 24, 16, 40),
        (4, 64, 16, 32, 64),
        (5, 3, 2, 1, 2),
        (2, 9, 40, 21, 9),
        (3, 200, 3, 5, 1),
        (2, 90, 17, 3, 20),
    ],
)
def test_it_solves_the_stated_least_squares(queries: int, entries: int, features: int, targets: int, neighbours: int) -> None:
    given = dictionary(3, queries, entries, features, targets)
    ours = ops.neighbour_embedding(**given, neighbours=neighbours, strength=0.3)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, solved(given, neighbours, 0.3), atol=2e-4, rtol=1e-3)


def test_a_query_that_is_an_entry_gets_what_belongs_to_it() -> None:
    given = dictionary(2, 1, 50, 12, 4)
    given["query"] = ((given["codes"][:, :, 17] - np.float32(128)) * given["scale"])[:, None]
    wanted = (given["target_codes"][:, 17] - np.float32(128)) * given["target_scale"]
    ours = ops.neighbour_embedding(**given, neighbours=10, strength=0.01)
    np.testing.assert_allclose(ours[:, 0], wanted, atol=0.05)


@pytest.mark.parametrize("order", ["near first", "far first", "all alike"])
def test_the_nearest_are_found_wherever_they_stand(order: str) -> None:
    """How far the last neighbour is, is guessed from every sixteenth entry; here that guess is as wrong as can be."""
    given = dictionary(1, 1, 4000, 8, 6)
    distance = ((given["query"][0, 0, :, None] + given["scale"][0, :, None] * (128.0 - given["codes"][0])) ** 2).sum(0)
    sampled = np.arange(4000) % 16 == 0
    places = np.argsort(np.argsort(~sampled if order == "near first" else sampled, kind="stable"))
    given["codes"] = np.ascontiguousarray(given["codes"][:, :, np.argsort(distance)[places]])
    if order == "all alike":
        given["codes"][:] = given["codes"][:, :, :1]
        given["target_codes"][:] = given["target_codes"][:, :1]
    ours = ops.neighbour_embedding(**given, neighbours=240, strength=0.3)
    np.testing.assert_allclose(ours, solved(given, 240, 0.3), atol=2e-4, rtol=1e-3)


def test_neither_threads_nor_company_change_a_result() -> None:
    given = dictionary(8, 7, 500, 24, 16)
    whole = ops.neighbour_embedding(**given, **SETTINGS)
    assert np.array_equal(whole, ops.neighbour_embedding(**given, **SETTINGS, threads=1))
    single = [ops.neighbour_embedding(**{**given, "query": given["query"][:, n : n + 1]}, **SETTINGS) for n in range(7)]
    np.testing.assert_allclose(np.concatenate(single, 1), whole, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"query": np.zeros((2, 5), np.float32)}, "query"),
        ({"query": np.zeros((2, 5, 12))}, "query must be float32"),
        ({"query": np.full((2, 1, 12), np.nan, np.float32)}, "NaN"),
        ({"query": np.zeros((2, 1, 11), np.float32)}, "codes must be"),
        ({"codes": np.zeros((2, 12, 50), np.int8)}, "codes must be uint8"),
        ({"codes": np.zeros((2, 50, 12), np.uint8).transpose(0, 2, 1)}, "contiguous"),
        ({"codes": np.zeros((2, 12, 49), np.uint8)}, "target_codes"),
        ({"target_codes": np.zeros((2, 50), np.uint8)}, "target_codes"),
        ({"scale": np.zeros((2, 1, 12), np.float32)}, "scale"),
        ({"target_scale": np.zeros((2, 5), np.float32)}, "target_scale"),
        ({"neighbours": 0}, "neighbours"),
        ({"neighbours": 51}, "neighbours"),
        ({"strength": 0.0}, "strength"),
        ({"strength": float("nan")}, "strength"),
        ({"threads": 0}, "threads"),
    ],
)
def test_what_does_not_fit_is_refused(changes: dict[str, object], words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        ops.neighbour_embedding(**{**dictionary(2, 1, 50, 12, 4), **SETTINGS, **changes})  # type: ignore[arg-type]


def test_more_features_than_it_takes_are_refused() -> None:
    with pytest.raises(BadInputError, match="256 features"):
        ops.neighbour_embedding(**dictionary(1, 1, 10, 257, 2), **SETTINGS)
