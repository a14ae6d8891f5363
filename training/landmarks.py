"""Landmarks of the faces, and the component heatmaps that MTUN learns from them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fhrt.errors import BadInputError
from fhrt.protocols.archive import LOOSE, MARGIN, TIGHT

# iBUG's 68 points by MTUN's components: eyes with brows, nose, mouth, and the jaw line as chin.
COMPONENTS = (slice(17, 27), slice(36, 48)), (slice(27, 36),), (slice(48, 68),), (slice(0, 17),)
SIGMA = 1.0  # pixels of the heatmap; the paper names none, the stacked hourglasses that it builds on have 1

# Which point is which after a mirror.
MIRRORED = np.array([
    *range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,
    *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1),
])  # fmt: skip


@dataclass(frozen=True)
class Landmarks:
    """points: ``[N, 68, 2]`` float32, x and y in pixels of the 192×192 face; visible: ``[N, 68]`` bool."""

    points: NDArray[np.float32]
    visible: NDArray[np.bool_]

    def __getitem__(self, index: NDArray[np.integer]) -> Landmarks:
        return Landmarks(self.points[index], self.visible[index])

    def mirrored(self, which: NDArray[np.bool_]) -> Landmarks:
        """Of the faces that are mirrored, ``which`` [N]."""
        points = self.points[:, MIRRORED] * np.float32([-1, 1]) + np.float32([LOOSE - 1, 0])
        return Landmarks(
            np.where(which[:, None, None], points, self.points), np.where(which[:, None], self.visible[:, MIRRORED], self.visible)
        )


def read_landmarks(data: Path, keys: list[str]) -> Landmarks:
    """Of the faces with these keys, from ``landmarks.npz``. Raises BadInputError where it is missing, damaged or lacks a face."""
    path = data / "landmarks.npz"
    try:
        with np.load(path) as file:
            known, points, visible = file["key"], file["points"].astype(np.float32), file["visible"].astype(bool)
    except (OSError, KeyError, ValueError) as error:
        raise BadInputError(f"{path} cannot be read: {error}") from error
    if points.shape != (len(known), 68, 2) or visible.shape != (len(known), 68):
        raise BadInputError(f"{path}: points must be [N, 68, 2] and visible [N, 68], not {list(points.shape)} and {list(visible.shape)}")
    rows = {key: row for row, key in enumerate(known.tolist())}
    missing = [key for key in keys if key not in rows]
    if missing:
        raise BadInputError(f"{path} does not match the shards: it lacks {len(missing)} of {len(keys)} faces, first {missing[0]}")
    index = np.array([rows[key] for key in keys])
    return Landmarks(points[index], visible[index])


def component_heatmaps(points: Tensor, visible: Tensor, side: int = 64) -> Tensor:
    """Heatmaps ``[N, 4, side, side]`` of the tight 128×128 face: a Gaussian of peak 1 at each visible point, the highest counts.

    points: ``[N, 68, 2]`` as in `Landmarks`; visible: ``[N, 68]``. A component whose points are all hidden is empty (MTUN §3.2).
    """
    at = (points - MARGIN + 0.5) * (side / TIGHT) - 0.5
    grid = torch.arange(side, device=points.device, dtype=points.dtype)
    across, down = (torch.exp(-0.5 * ((grid - at[:, :, axis, None]) / SIGMA) ** 2) for axis in (0, 1))  # [N, 68, side]
    across = across * visible[:, :, None]
    maps = []
    for parts in COMPONENTS:
        x, y = (torch.cat([line[:, part] for part in parts], 1) for line in (across, down))
        maps.append((y[:, :, :, None] * x[:, :, None, :]).amax(1))
    return torch.stack(maps, 1)
