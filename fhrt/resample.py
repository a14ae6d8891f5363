"""Separable resampling as matrices: a picture X becomes A X Bᵀ, so that a batch is two matrix products on any device."""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float32]

# name -> (support radius in source samples at factor 1, weight function)
_KERNELS = {
    "box": (0.5, lambda t: ((t >= -0.5) & (t < 0.5)).astype(np.float64)),
    "bilinear": (1.0, lambda t: np.maximum(0.0, 1.0 - np.abs(t))),
    # Keys' cubic with a = -0.5, the "bicubic" of Pillow and of MATLAB's imresize.
    "bicubic": (
        2.0,
        lambda t: np.where(
            np.abs(t) <= 1,
            1.5 * np.abs(t) ** 3 - 2.5 * t**2 + 1,
            np.where(np.abs(t) < 2, -0.5 * np.abs(t) ** 3 + 2.5 * t**2 - 4 * np.abs(t) + 2, 0.0),
        ),
    ),
    "lanczos": (3.0, lambda t: np.where(np.abs(t) < 3, np.sinc(t) * np.sinc(t / 3), 0.0)),
}

KERNELS = tuple(_KERNELS)


@lru_cache(maxsize=256)
def resample_matrix(source: int, target: int, kernel: str = "bicubic", blur: float = 0.0, shift: float = 0.0) -> Matrix:
    """Matrix [target, source] float32 that resamples a line of ``source`` samples to ``target`` samples.

    The kernel is widened by source/target when that shrinks the line (antialiasing, as Pillow does); samples beyond the ends
    are left out and the weights renormalised. ``blur`` is the σ in source samples of a Gaussian applied before; ``shift``: how many source
    samples further on the target's lie than where both lines have one middle.
    """
    radius, weight = _KERNELS[kernel]
    stretch = max(1.0, source / target)
    centres = (np.arange(target) + 0.5) * source / target - 0.5 + shift
    distance = np.arange(source)[None, :] - centres[:, None]
    matrix = np.where(np.abs(distance) <= radius * stretch, weight(distance / stretch), 0.0)
    matrix /= matrix.sum(axis=1, keepdims=True)
    if blur > 0:
        offset = np.arange(source)[None, :] - np.arange(source)[:, None]
        gaussian = np.exp(-0.5 * (offset / blur) ** 2)
        matrix = matrix @ (gaussian / gaussian.sum(axis=1, keepdims=True))
    matrix = matrix.astype(np.float32)
    matrix.setflags(write=False)
    return matrix


def decimation_matrix(source: int, factor: int, sigma: float) -> Matrix:
    """Matrix [source / factor, source] float32 of a Gaussian blur and decimation: every ``factor``-th sample from ``factor`` / 2 on.

    The Gaussian of σ ``sigma`` samples is taken at the samples up to 4σ, the line's ends are reflected about its outermost samples.
    """
    reach = math.ceil(4 * sigma)
    taps = np.arange(-reach, reach + 1)
    weights = np.exp(-0.5 * (taps / sigma) ** 2) if reach else np.ones(1)
    position = np.abs(np.arange(factor // 2, source, factor)[:, None] + taps)
    position = np.where(position < source, position, 2 * (source - 1) - position)
    matrix = np.zeros((len(position), source))
    np.add.at(matrix, (np.arange(len(position))[:, None], position), weights / weights.sum())
    return matrix.astype(np.float32)


def resize(pictures: NDArray[np.float32], size: tuple[int, int], kernel: str = "bicubic", shift: float = 0.0) -> NDArray[np.float32]:
    """Resample ``[..., H, W]`` float32 to ``[..., h, w]``; antialiased when it shrinks. shift: of both axes, as in `resample_matrix`."""
    rows = resample_matrix(pictures.shape[-2], size[0], kernel, shift=shift)
    columns = resample_matrix(pictures.shape[-1], size[1], kernel, shift=shift)
    return np.matmul(np.matmul(rows, pictures), columns.T)


def to_uint8(pictures: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Round and clip float pictures on the [0, 255] scale to uint8."""
    return np.clip(np.rint(pictures), 0, 255).astype(np.uint8)
