"""From a face box, or its eyes, to the pixel transform of the canonical crop.

Boxes and eye points have (0, 0) at the outer corner of the first pixel; transforms have pixel centres at integers.
"""

from __future__ import annotations

from math import atan2, cos, sin

import numpy as np
from numpy.typing import NDArray

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
# Networks that straighten faces were trained on faces of 0.8 to 1 of their input's side, and of a crop that is a little
# too small they cannot see the rest. On 120 faces set into photographs at 12 to 32 pixels and found by fhrt's own
# detector (sizes off by 5 to 8 %) lite has 0.1 to 0.4 dB more PSNR with a margin of 1.05 to 1.08 than with none.
STRAIGHTENED_MARGIN = 1.06


def crop_transform(
    box: tuple[float, float, float, float],
    size: tuple[int, int],
    *,
    eyes: NDArray[np.float64] | None = None,
    margin: float = 1.0,
) -> NDArray[np.float32]:
    """Transform `[2, 3]` from the pixels of a crop of `size` (h, w) to the frame's.

    `box`: tight face, x1, y1, x2, y2. `eyes` `[2, 2]`: eye centres (x, y); the crop is then turned so that they are
    level, and lies by them. Its size is the box's all the same: a head turned to the side brings the eyes together.
    `margin`: side of the crop in canonical squares, about the same centre (see `CROP_MARGIN`).
    """
    x1, y1, x2, y2 = box
    side = SIDE_PER_BOX * ((x2 - x1) * (y2 - y1)) ** 0.5
    if eyes is None:
        angle = 0.0
        middle = np.array([x1 + EYES_IN_BOX[0] * (x2 - x1), y1 + EYES_IN_BOX[1] * (y2 - y1)])
    else:
        dx, dy = (eyes[1] - eyes[0]).tolist()
        angle = atan2(dy, dx)
        middle = eyes.mean(0)
    turn = np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    centre = middle + turn @ (0.5 - np.array(EYES_IN_SQUARE)) * side
    height, width = size
    linear = turn * (side * margin / np.array([width, height]))
    offset = centre - linear @ [width / 2 - 0.5, height / 2 - 0.5] - 0.5
    return np.column_stack([linear, offset]).astype(np.float32)


def face_transform(
    crop: NDArray[np.float32], theta: NDArray[np.float32] | None, lr_size: tuple[int, int], sr_size: tuple[int, int]
) -> NDArray[np.float32]:
    """Transform `[2, 3]` from SR pixels to frame pixels.

    `crop` `[2, 3]`: LR pixels to frame pixels. `theta` `[2, 3]`: what the network's spatial transformer did, from the
    upright output to its input in normalised coordinates (align_corners=False); None: nothing. Sizes are (height,
    width).
    """
    (h, w), (sr_h, sr_w) = lr_size, sr_size
    to_normalised = np.array([[2 / sr_w, 0, 1 / sr_w - 1], [0, 2 / sr_h, 1 / sr_h - 1], [0, 0, 1]])
    to_lr = np.array([[w / 2, 0, (w - 1) / 2], [0, h / 2, (h - 1) / 2], [0, 0, 1]])
    warp = np.eye(3) if theta is None else np.vstack([theta, [0, 0, 1]])
    return (crop.astype(np.float64) @ to_lr @ warp @ to_normalised).astype(np.float32)
