import numpy as np

from training.crowd import HEIGHT, ROWS, WIDTH, compose


def test_the_same_seed_draws_the_same_crowd() -> None:
    people = sum(row[2] for row in ROWS)
    faces = np.random.default_rng(0).integers(0, 256, (people, 128, 128, 3), np.uint8)
    first, again = (compose(faces, np.random.default_rng(1)) for _ in range(2))
    assert first.shape == (HEIGHT, WIDTH, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert first.std() > 10
