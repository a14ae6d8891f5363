"""Random similarities between the upright face and the LR picture, and LR-side warps made with our own sampler."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhrt import ops
from fhrt.protocols.archive import LOOSE, TIGHT


@dataclass(frozen=True)
class PoseRange:
    """Uniform ranges, our own: ``angle`` ± degrees, ``shift`` ± of the crop's width, ``scale`` of the face from ``scale`` to 1."""

    angle: float = 45.0
    shift: float = 0.05
    scale: float = 0.8


def random_theta(count: int, pose: PoseRange, rng: np.random.Generator) -> NDArray[np.float32]:
    """Thetas ``[N, 2, 3]`` float32 from the upright face to the turned picture (normalised, align_corners=False).

    This is what a spatial transformer must find: sampling the turned picture with it gives the upright face.
    """
    angle = np.deg2rad(rng.uniform(-pose.angle, pose.angle, count))
    scale = rng.uniform(pose.scale, 1.0, count)
    shift = rng.uniform(-2 * pose.shift, 2 * pose.shift, (count, 2))  # the crop is 2 wide in normalised units
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    return np.stack([np.stack([cos, -sin, shift[:, 0]], 1), np.stack([sin, cos, shift[:, 1]], 1)], 1).astype(np.float32)


def invert_theta(theta: NDArray[np.float32]) -> NDArray[np.float32]:
    """Inverse of affine maps ``[N, 2, 3]``."""
    linear = np.linalg.inv(theta[:, :, :2].astype(np.float64))
    return np.concatenate([linear, -linear @ theta[:, :, 2:]], axis=2).astype(np.float32)


def turn(loose: NDArray[np.uint8], theta: NDArray[np.float32]) -> NDArray[np.float32]:
    """The turned tight crops ``[N, 3, 128, 128]`` float32 on [0, 255] of upright loose faces ``[N, 192, 192, 3]``.

    The little that falls outside the loose crop is reflected.
    """
    pad = TIGHT // 4
    padded = np.pad(loose, ((0, 0), (pad, pad), (pad, pad), (0, 0)), mode="reflect").transpose(0, 3, 1, 2)
    upright_from_turned = invert_theta(theta) * np.float32(TIGHT / (LOOSE + 2 * pad))
    return ops.stn_sample(np.ascontiguousarray(padded, dtype=np.float32), upright_from_turned, (TIGHT, TIGHT), padding="border")
