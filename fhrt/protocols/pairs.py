"""LR faces for the protocols, made from upright loose faces: ``aligned``, ``unaligned``, ``noisy``, ``camera`` and ``loose``."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fhrt.protocols.archive import tight
from fhrt.protocols.camera import camera
from fhrt.protocols.pose import PoseRange, random_theta, turn
from fhrt.resample import resize, to_uint8

PROTOCOLS = {"aligned": 16, "unaligned": 16, "noisy": 16, "camera": 16, "loose": 24}
"""Name → side of the LR faces in pixels; the HR faces are 8 times as large."""
IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], np.float32)


@dataclass(frozen=True)
class Pairs:
    """A batch: ``lr`` [N, 3, s, s] uint8, ``hr`` [N, 3, 8s, 8s] uint8 upright, ``theta`` [N, 2, 3] from hr to lr."""

    lr: NDArray[np.uint8]
    hr: NDArray[np.uint8]
    theta: NDArray[np.float32]


def make_pairs(loose: NDArray[np.uint8], protocol: str, rng: np.random.Generator, pose: PoseRange | None = None) -> Pairs:
    """LR faces of upright loose faces ``[N, 192, 192, 3]`` uint8 RGB.

    ``aligned``: antialiased bicubic 128 → 16. ``unaligned``: turned by a random similarity first (default: ±45°, ±5 %, 0.8–1;
    TDN §Data). ``noisy``: that with Gaussian noise of a tenth of the full range (TDAE §4). ``camera``: unaligned, with the damage of
    `fhrt.protocols.camera` in place of the bicubic. ``loose``: all 192 pixels, a Gaussian of σ 7/3 and every eighth pixel from offset 4
    (C-SRIP §Data).
    """
    if protocol == "loose":
        hr = np.ascontiguousarray(loose.transpose(0, 3, 1, 2))
        return Pairs(gaussian_lr(hr.astype(np.float32)), hr, np.repeat(IDENTITY[None], len(hr), 0))
    hr = np.ascontiguousarray(tight(loose).transpose(0, 3, 1, 2))
    if protocol == "aligned":
        return Pairs(bicubic_lr(hr.astype(np.float32)), hr, np.repeat(IDENTITY[None], len(hr), 0))
    theta = random_theta(len(loose), pose or PoseRange(), rng)
    turned = turn(loose, theta)
    if protocol == "camera":
        return Pairs(camera(turned, PROTOCOLS[protocol], rng), hr, theta)
    lr = bicubic_lr(turned)
    if protocol == "noisy":
        lr = to_uint8(lr + 25.5 * rng.standard_normal(lr.shape, np.float32))
    return Pairs(lr, hr, theta)


def bicubic_lr(hr: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Antialiased bicubic reduction ``[N, 3, 8h, 8w]`` on [0, 255] → ``[N, 3, h, w]`` uint8."""
    return to_uint8(resize(hr, (hr.shape[2] // 8, hr.shape[3] // 8)))


def gaussian_lr(hr: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Gaussian blur of σ 7/3 (borders reflected) and decimation ``[N, 3, 192, 192]`` on [0, 255] → ``[N, 3, 24, 24]`` uint8."""
    matrix = _gaussian_decimation(hr.shape[2])
    return to_uint8(np.matmul(np.matmul(matrix, hr), matrix.T))


@lru_cache(maxsize=4)
def _gaussian_decimation(side: int, sigma: float = 7 / 3, offset: int = 4) -> NDArray[np.float32]:
    """Matrix [side / 8, side]: the rows of a blur that decimation keeps."""
    taps = np.arange(-math.ceil(4 * sigma), math.ceil(4 * sigma) + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2)
    matrix = np.zeros((side // 8, side))
    for row, centre in enumerate(range(offset, side, 8)):
        position = np.abs(centre + taps)
        np.add.at(matrix[row], np.where(position < side, position, 2 * side - 2 - position), weights / weights.sum())
    return matrix.astype(np.float32)


def bicubic_hr(lr: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bicubic enlargement ``[N, 3, h, w]`` uint8 → ``[N, 3, 8h, 8w]`` float32 on [0, 255], not clipped."""
    return resize(lr.astype(np.float32), (8 * lr.shape[2], 8 * lr.shape[3]))
