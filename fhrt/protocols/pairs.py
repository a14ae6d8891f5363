"""LR faces for the three protocols, made from upright loose faces: ``aligned``, ``unaligned`` and ``camera``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhrt.protocols.archive import TIGHT, tight
from fhrt.protocols.camera import camera
from fhrt.protocols.pose import PoseRange, random_theta, turn
from fhrt.protocols.resample import resize, to_uint8

PROTOCOLS = ("aligned", "unaligned", "camera")
LR = 16
IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], np.float32)


@dataclass(frozen=True)
class Pairs:
    """A batch: ``lr`` [N, 3, 16, 16] uint8, ``hr`` [N, 3, 128, 128] uint8 upright, ``theta`` [N, 2, 3] from hr to lr."""

    lr: NDArray[np.uint8]
    hr: NDArray[np.uint8]
    theta: NDArray[np.float32]


def make_pairs(loose: NDArray[np.uint8], protocol: str, rng: np.random.Generator, pose: PoseRange | None = None) -> Pairs:
    """LR faces of upright loose faces ``[N, 192, 192, 3]`` uint8 RGB.

    ``aligned``: antialiased bicubic 128 → 16. ``unaligned``: turned by a random similarity first (default: ±45°, ±5 %, 0.8–1;
    TDN §Data). ``camera``: unaligned, with the damage of `fhrt.protocols.camera` in place of the bicubic.
    """
    hr = np.ascontiguousarray(tight(loose).transpose(0, 3, 1, 2))
    if protocol == "aligned":
        return Pairs(bicubic_lr(hr.astype(np.float32)), hr, np.repeat(IDENTITY[None], len(hr), 0))
    theta = random_theta(len(loose), pose or PoseRange(), rng)
    turned = turn(loose, theta)
    return Pairs(camera(turned, LR, rng) if protocol == "camera" else bicubic_lr(turned), hr, theta)


def bicubic_lr(hr: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Antialiased bicubic reduction ``[N, 3, 128, 128]`` on [0, 255] → ``[N, 3, 16, 16]`` uint8."""
    return to_uint8(resize(hr, (LR, LR)))


def bicubic_hr(lr: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Bicubic enlargement ``[N, 3, 16, 16]`` uint8 → ``[N, 3, 128, 128]`` float32 on [0, 255], not clipped."""
    return resize(lr.astype(np.float32), (TIGHT, TIGHT))
