"""From a face box, or its eyes, to the pixel transform of the canonical crop.

Boxes and eye points have (0, 0) at the outer corner of the first pixel; transforms have pixel centres at integers.
"""

from __future__ import annotations

from functools import lru_cache
from math import hypot, isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]

UNMOVED = np.eye(2, 3)

# The canonical square of side w: eyes 0.36 w apart, mid-point at (0.5 w, 0.42 w).
EYE_DISTANCE = 0.36
EYES_IN_SQUARE = np.array([0.5, 0.42])

# From a tight face box to that square: medians over 162 hand-drawn boxes of crowd photographs whose square is known
# from the Haar detector (see detect.py). The square's side is 1.10 times the root of the box's area (standard deviation
# 0.096; of its width alone 1.24 with 0.120, of its height 0.99 with 0.109), and the eyes' mid-point lies at 0.51 of its
# width (0.11) and 0.38 of its height (0.07). 68-point landmarks give about the same: cheek to cheek is 0.76 of the
# square's side, so with the boxes' usual shape (height 1.26 of the width) the factor is 1.17.
SIDE_PER_BOX = 1.10
EYES_IN_BOX = np.array([0.5, 0.38])

# Side of the crop in canonical squares by network input: the 24 -> 192 systems see the whole head, all others the
# square.
CROP_MARGIN = {(24, 24): 1.5}
# Networks that straighten faces were trained on faces of 0.8 to 1 of their input's side, and of a crop that is a little
# too small they cannot see the rest. On 120 faces set into photographs at 12 to 32 pixels and found by fhrt's own
# detector (sizes off by 5 to 8 %) lite has 0.1 to 0.4 dB more PSNR with a margin of 1.05 to 1.08 than with none.
STRAIGHTENED_MARGIN = 1.06


def crop_transforms(boxes: Floats, size: tuple[int, int], *, eyes: Floats | None = None, margin: float = 1.0) -> NDArray[np.float32]:
    """Transforms `[N, 2, 3]` from the pixels of crops of `size` (h, w) to the frame's.

    `boxes` `[N, 4]`: tight faces, x1, y1, x2, y2. `eyes` `[N, 2, 2]`: eye centres (x, y), NaN where they are not known; a crop is then
    turned so that they are level, and lies by them. Its size is the box's all the same: a head turned to the side brings the eyes
    together. `margin`: side of the crop in canonical squares, about the same centre (see `CROP_MARGIN`).
    """
    low, extent = boxes[:, :2], boxes[:, 2:] - boxes[:, :2]
    side = SIDE_PER_BOX * np.sqrt(extent[:, 0] * extent[:, 1])
    middle, cos, sin = low + EYES_IN_BOX * extent, np.ones_like(side), np.zeros_like(side)
    for n, ((x1, y1), (x2, y2)) in enumerate([] if eyes is None else eyes.tolist()):
        if isnan(x1):
            continue
        middle[n] = (x1 + x2) / 2, (y1 + y2) / 2
        if length := hypot(x2 - x1, y2 - y1):
            cos[n], sin[n] = (x2 - x1) / length, (y2 - y1) / length
    # Where the crop's first pixel lies from the eyes' mid-point, in canonical squares before the turn.
    height, width = size
    x, y = (0.5 - EYES_IN_SQUARE) - margin * (0.5 - 0.5 / np.array([width, height]))
    transforms = np.empty((len(boxes), 2, 3), np.float32)
    cos *= side
    sin *= side
    transforms[:, 0, 0], transforms[:, 0, 1] = cos * (margin / width), sin * (-margin / height)
    transforms[:, 1, 0], transforms[:, 1, 1] = sin * (margin / width), cos * (margin / height)
    transforms[:, 0, 2] = middle[:, 0] + cos * x - sin * y - 0.5
    transforms[:, 1, 2] = middle[:, 1] + sin * x + cos * y - 0.5
    return transforms


def crop_transform(
    box: tuple[float, float, float, float], size: tuple[int, int], *, eyes: Floats | None = None, margin: float = 1.0
) -> NDArray[np.float32]:
    """`crop_transforms` of one face: `[2, 3]`."""
    return crop_transforms(np.array([box]), size, eyes=None if eyes is None else eyes[None], margin=margin)[0]


def face_transform(crop: Floats, theta: Floats | None, lr_size: tuple[int, int], sr_size: tuple[int, int]) -> NDArray[np.float32]:
    """Transforms `[..., 2, 3]` from SR pixels to frame pixels.

    `crop` `[..., 2, 3]`: LR pixels to frame pixels. `theta` `[..., 2, 3]`: what the network's spatial transformer did, from the
    upright output to its input in normalised coordinates (align_corners=False); None: nothing. Sizes are (height, width).
    """
    to_normalised, to_lr = _grids(lr_size, sr_size)
    warp = to_normalised if theta is None else compose(theta, to_normalised)
    return compose(crop, compose(to_lr, warp)).astype(np.float32)


def compose(outer: Floats, inner: Floats) -> NDArray[np.float64]:
    """The affine maps `[..., 2, 3]` that `inner` and then `outer` are together."""
    both = np.asarray(outer[..., :2] @ inner, np.float64)
    both[..., 2] += outer[..., 2]
    return both


def inverse(maps: Floats) -> NDArray[np.float64]:
    """The affine maps `[..., 2, 3]` that lead back."""
    a, b, x, c, d, y = np.moveaxis(np.asarray(maps, np.float64).reshape(*maps.shape[:-2], 6), -1, 0)
    back = np.stack([d, -b, b * y - d * x, -c, a, c * x - a * y], -1) / (a * d - b * c)[..., None]
    return np.asarray(back.reshape(maps.shape))


@lru_cache(maxsize=8)
def _grids(lr_size: tuple[int, int], sr_size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """SR pixels to normalised coordinates, and these to LR pixels: `[2, 3]` each."""
    (h, w), (sr_h, sr_w) = lr_size, sr_size
    to_normalised = np.array([[2 / sr_w, 0, 1 / sr_w - 1], [0, 2 / sr_h, 1 / sr_h - 1]])
    return to_normalised, np.array([[w / 2, 0, (w - 1) / 2], [0, h / 2, (h - 1) / 2]])
