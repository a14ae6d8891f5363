"""From a face box, or its eyes, to the pixel transform of the canonical crop.

Boxes and eye points have (0, 0) at the outer corner of the first pixel; transforms have pixel centres at integers.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import repeat
from math import hypot, isnan, nan, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt.resample import decimation_matrix

Floats = NDArray[np.floating[Any]]

UNMOVED = np.eye(2, 3)

# The canonical square of side w: eyes 0.36 w apart, mid-point at (0.5 w, 0.42 w).
EYE_DISTANCE = 0.36
EYES_IN_SQUARE = (0.5, 0.42)

# From a tight face box to that square: medians over 162 hand-drawn boxes of crowd photographs whose square is known
# from the Haar detector (see detect.py). The square's side is 1.10 times the root of the box's area (standard deviation
# 0.096; of its width alone 1.24 with 0.120, of its height 0.99 with 0.109), and the eyes' mid-point lies at 0.51 of its
# width (0.11) and 0.38 of its height (0.07). 68-point landmarks give about the same: cheek to cheek is 0.76 of the
# square's side, so with the boxes' usual shape (height 1.26 of the width) the factor is 1.17.
SIDE_PER_BOX = 1.10
EYES_IN_BOX = (0.5, 0.38)

# Side of the crop in canonical squares by network input: the 24 -> 192 systems see the whole head, all others the
# square.
CROP_MARGIN = {(24, 24): 1.5}
# Those systems were trained on LR faces that a Gaussian blurred and decimation made small (C-SRIP; fhrt.protocols.pairs), the others on
# bicubic ones. For them crops are cut at so many times the LR face's side, and reduced as their training faces were.
DECIMATED = {(24, 24): 8}
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
    height, width = size
    # Where the crop's first pixel lies from the eyes' mid-point, in canonical squares before the turn.
    x, y = (0.5 - eye - margin * (0.5 - 0.5 / side) for eye, side in zip(EYES_IN_SQUARE, (width, height), strict=True))
    pairs = repeat(None) if eyes is None else eyes.tolist()
    rows: list[float] = []
    for (left, top, right, bottom), pair in zip(boxes.tolist(), pairs, strict=False):  # a face at a time: most frames have few
        w, h = right - left, bottom - top
        side = SIDE_PER_BOX * (sqrt(w * h) if w * h >= 0 else nan)
        middle_x, middle_y, cos, sin = left + EYES_IN_BOX[0] * w, top + EYES_IN_BOX[1] * h, side, 0.0
        if pair is not None and not isnan(pair[0][0]):
            (x1, y1), (x2, y2) = pair
            middle_x, middle_y = (x1 + x2) / 2, (y1 + y2) / 2
            if length := hypot(x2 - x1, y2 - y1):
                cos, sin = (x2 - x1) / length * side, (y2 - y1) / length * side
        rows += cos * (margin / width), sin * (-margin / height), middle_x + cos * x - sin * y - 0.5
        rows += sin * (margin / width), cos * (margin / height), middle_y + sin * x + cos * y - 0.5
    return np.array(rows, np.float32).reshape(-1, 2, 3)


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
    return compose(crop, lr_transform(theta, lr_size, sr_size)).astype(np.float32)


def lr_transform(theta: Floats | None, lr_size: tuple[int, int], sr_size: tuple[int, int]) -> NDArray[np.float64]:
    """Transforms `[..., 2, 3]` from SR pixels to LR pixels: see `face_transform`."""
    to_normalised, to_lr = _grids(lr_size, sr_size)
    return compose(to_lr, to_normalised if theta is None else compose(theta, to_normalised))


def decimations(shrink: Floats, side: int, factor: int, finer: int = 1) -> NDArray[np.float32]:
    """Matrices `[N, finer · side, factor · side]` that reduce lines of crops as C-SRIP's training faces are reduced, and in that phase.

    `shrink` `[N]`: pixels of the frame to one of the LR face. Where it is `factor`, the frame shows as much as an HR face, and the Gaussian
    has the training faces' σ, (factor − 1) / 3 of its pixels; where it is less, (shrink − 1) / 3, down to none at 1: the frame's own pixels
    are as large as the LR face's, and the camera has blurred them. `finer`: times the rows and columns of an LR face, of which the mean of
    `finer` × `finer` pixels makes one later; what that will blur the Gaussian leaves out.
    """
    known = np.clip(shrink, 1, factor)
    mean = (factor / finer) ** 2 * (finer**2 - 1) / 12  # the variance of such a mean, in pixels of the crop
    sigma = np.sqrt(np.maximum((factor / 3 * (1 - 1 / known)) ** 2 - mean, 0))
    return np.stack([decimation_matrix(factor * side, factor // finer, one) for one in sigma.tolist()])


def compose(outer: Floats, inner: Floats) -> NDArray[np.float64]:
    """The affine maps `[..., 2, 3]` that `inner` and then `outer` are together."""
    both = np.asarray(outer[..., :2] @ inner, np.float64)
    both[..., 2] += outer[..., 2]
    return both


@lru_cache(maxsize=8)
def _grids(lr_size: tuple[int, int], sr_size: tuple[int, int]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """SR pixels to normalised coordinates, and these to LR pixels: `[2, 3]` each."""
    (h, w), (sr_h, sr_w) = lr_size, sr_size
    to_normalised = np.array([[2 / sr_w, 0, 1 / sr_w - 1], [0, 2 / sr_h, 1 / sr_h - 1]])
    return to_normalised, np.array([[w / 2, 0, (w - 1) / 2], [0, h / 2, (h - 1) / 2]])
