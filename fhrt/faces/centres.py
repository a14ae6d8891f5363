"""From the maps of fhrt's own detector (fhrt/models/detector.py) to faces: peaks of the heat, the boxes and eyes there, and no face twice."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

STRIDE, UNIT = 4, 16.0  # as in fhrt/models/detector.py, which needs torch
OVERLAP = 0.4  # intersection over union from which on two boxes are one face's

Floats = NDArray[np.float64]


def decode(heat: NDArray[np.float32], geometry: NDArray[np.float32], least: float) -> tuple[Floats, Floats, Floats]:
    """Boxes [N, 4] (x1, y1, x2, y2, pixels), scores [N] and eyes [N, 2, 2] of the faces with a score of `least` or more, best first.

    `heat` [h, w]: scores, 0 to 1. `geometry` [8, h, w]: as `fhrt.models.detector.Maps`.
    """
    highest = cv2.dilate(heat, np.ones((3, 3), np.uint8))
    rows, columns = np.nonzero((heat >= least) & (heat == highest))
    scores = heat[rows, columns].astype(np.float64)
    at = geometry[:, rows, columns].astype(np.float64).T
    centre = (np.stack([columns, rows], 1) + 0.5 + at[:, :2]) * STRIDE
    size = np.exp(np.clip(at[:, 2:4], -3, 4)) * UNIT
    boxes = np.hstack([centre - size / 2, centre + size / 2])
    eyes = centre[:, None] + at[:, 4:].reshape(-1, 2, 2) * np.sqrt(size.prod(1))[:, None, None]
    kept = cv2.dnn.NMSBoxes(np.hstack([boxes[:, :2], size]).tolist(), scores.tolist(), least, OVERLAP) if len(boxes) else []
    index = np.asarray(kept, np.int64).reshape(-1)
    return boxes[index], scores[index], eyes[index]
