"""LR faces for the protocols, made from upright loose faces: ``aligned``, ``unaligned``, ``noisy``, ``camera`` and ``loose``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from fhrt.protocols.archive import tight
from fhrt.protocols.camera import camera
from fhrt.protocols.pose import PoseRange, random_theta, turn
from fhrt.resample import decimation_matrix, resize, to_uint8

PROTOCOLS = {"aligned": 16, "unaligned": 16, "noisy": 16, "camera": 16, "loose": 24}
"""Name → side of the LR faces in pixels; the HR faces are 8 times as large."""
IDENTITY = np.array([[1, 0, 0], [0, 1, 0]], np.float32)
IN_PHASE = 0.5
"""HR pixels that what `reduction_matrix` keeps lies to the right of and below a picture reduced about the middle, whatever the factor."""


@dataclass(frozen=True)
class Pairs:
    """A batch: ``lr`` [N, 3, s, s] uint8, ``hr`` [N, 3, 8s, 8s] uint8 upright, ``theta`` [N, 2, 3] from hr to lr. phase: HR pixels that
    the LR faces lie to the right of and below the middle.
    """

    lr: NDArray[np.uint8]
    hr: NDArray[np.uint8]
    theta: NDArray[np.float32]
    phase: float = 0.0


def make_pairs(loose: NDArray[np.uint8], protocol: str, rng: np.random.Generator, pose: PoseRange | None = None) -> Pairs:
    """LR faces of upright loose faces ``[N, 192, 192, 3]`` uint8 RGB.

    ``aligned``: antialiased bicubic 128 → 16. ``unaligned``: turned by a random similarity first, as TDN does; the ranges (by default ±45°,
    ±5 %, 0.8–1) are ours, and TDN leaves the scale alone. ``noisy``: that with Gaussian noise of a tenth of the full range (TDAE §4).
    ``camera``: unaligned, with the damage of `fhrt.protocols.camera` in place of the bicubic. ``loose``: all 192 pixels, Gaussian blur and
    decimation by `reduction_matrix` (C-SRIP).
    """
    if protocol == "loose":
        hr = np.ascontiguousarray(loose.transpose(0, 3, 1, 2))
        return Pairs(gaussian_lr(hr.astype(np.float32)), hr, np.repeat(IDENTITY[None], len(hr), 0), IN_PHASE)
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


def gaussian_lr(hr: NDArray[np.float32], factor: int = 8) -> NDArray[np.uint8]:
    """``[N, 3, s, s]`` on [0, 255] reduced by `reduction_matrix` → ``[N, 3, s / factor, s / factor]`` uint8."""
    matrix = reduction_matrix(hr.shape[2], factor)
    return to_uint8(np.matmul(np.matmul(matrix, hr), matrix.T))


@lru_cache(maxsize=8)
def reduction_matrix(side: int, factor: int) -> NDArray[np.float32]:
    """C-SRIP's degradation along a line of ``side`` pixels: matrix [side / factor, side] of a Gaussian of σ (factor − 1) / 3 pixels and of
    every ``factor``-th pixel from offset ``factor`` / 2.

    It makes the LR face (factor 8), and the targets at twice and four times its size (4 and 2). The paper blurs and decimates and says
    neither σ nor offset; it takes these σ, 7/3, 1 and 1/3, for the residual images of its identity networks. With these offsets all three
    pictures lie `IN_PHASE`.
    """
    matrix = decimation_matrix(side, factor, (factor - 1) / 3)
    matrix.setflags(write=False)
    return matrix


def bicubic_hr(lr: NDArray[np.uint8], phase: float = 0.0) -> NDArray[np.float32]:
    """Bicubic enlargement ``[N, 3, h, w]`` uint8 → ``[N, 3, 8h, 8w]`` float32 on [0, 255], not clipped. phase: as in `Pairs`."""
    return resize(lr.astype(np.float32), (8 * lr.shape[2], 8 * lr.shape[3]), shift=-phase / 8)
