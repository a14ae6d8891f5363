"""Landmarks follow a mirror, and heatmaps stand where the landmarks are."""

from pathlib import Path

import numpy as np
import pytest
import torch

from fhrt.errors import BadInputError
from training.landmarks import MIRRORED, Landmarks, component_heatmaps, read_landmarks


def some(count: int = 3) -> Landmarks:
    rng = np.random.default_rng(0)
    return Landmarks(rng.uniform(40, 150, (count, 68, 2)).astype(np.float32), rng.random((count, 68)) < 0.8)


def test_a_mirror_is_its_own_inverse_and_swaps_sides() -> None:
    marks, both = some(), np.ones(3, bool)
    assert sorted(MIRRORED) == list(range(68)) and (MIRRORED[MIRRORED] == np.arange(68)).all()
    again = marks.mirrored(both).mirrored(both)
    np.testing.assert_allclose(again.points, marks.points, atol=1e-4)
    np.testing.assert_array_equal(again.visible, marks.visible)
    once = marks.mirrored(np.array([True, False, True]))
    np.testing.assert_array_equal(once.points[1], marks.points[1])
    # iBUG: jaw 0 and 16, outer eye corners 36 and 45, mouth corners 48 and 54.
    for left, right in ((0, 16), (36, 45), (48, 54), (31, 35), (17, 26), (60, 64), (41, 46)):
        np.testing.assert_allclose(once.points[0, left], (191 - marks.points[0, right, 0], marks.points[0, right, 1]), atol=1e-4)
        assert once.visible[0, left] == marks.visible[0, right]


def test_heatmaps_peak_at_visible_points_only() -> None:
    points = torch.full((2, 68, 2), -500.0)  # far outside
    visible = torch.ones(2, 68, dtype=torch.bool)
    points[0, 30] = torch.tensor([32 + 2 * 20 + 0.5, 32 + 2 * 41 + 0.5])  # the tip of the nose, on the centre of heatmap pixel (41, 20)
    points[1, 48] = torch.tensor([96.5, 140.5])
    visible[1, 48] = False
    maps = component_heatmaps(points, visible)
    assert maps.shape == (2, 4, 64, 64)
    assert maps[0, 1, 41, 20] == pytest.approx(1) and maps[0, 1, 41, 21] == pytest.approx(np.exp(-0.5))
    assert maps[0, 1].sum() == pytest.approx(2 * np.pi, rel=1e-3)
    assert maps[0, [0, 2, 3]].max() < 1e-6
    assert maps[1].max() < 1e-6  # hidden: empty


def test_heatmaps_of_neighbours_do_not_add_up() -> None:
    points, visible = torch.full((1, 68, 2), 96.0), torch.ones(1, 68)
    assert component_heatmaps(points, visible).max() <= 1


def test_landmarks_must_match_the_faces(tmp_path: Path) -> None:
    marks = some()
    with pytest.raises(BadInputError, match=r"landmarks\.npz cannot be read"):
        read_landmarks(tmp_path, ["a"])
    np.savez(tmp_path / "landmarks.npz", key=["c", "a", "b"], points=marks.points, visible=marks.visible)
    read = read_landmarks(tmp_path, ["a", "b"])
    np.testing.assert_array_equal(read.points, marks.points[1:])
    with pytest.raises(BadInputError, match="lacks 1 of 2 faces, first z"):
        read_landmarks(tmp_path, ["a", "z"])
    np.savez(tmp_path / "landmarks.npz", key=["c", "a"], points=marks.points, visible=marks.visible)
    with pytest.raises(BadInputError, match="points must be"):
        read_landmarks(tmp_path, ["a"])
    (tmp_path / "landmarks.npz").write_bytes(b"PK no archive")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_landmarks(tmp_path, ["a"])
