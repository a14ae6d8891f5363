"""SR faces pasted back into the frame that they came from."""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.faces.inputs import Picture

FEATHER = 0.12  # width of the blend at each side, as a part of the SR face's side


def paste_faces(frame: Picture, faces: Iterable[tuple[Picture, NDArray[np.float32]]], scale: int = 1) -> Picture:
    """The frame, enlarged `scale` times (bicubic), with SR faces blended in along feathered edges.

    `frame` uint8 `[h, w, 3]`; `faces`: pairs of an SR face uint8 `[H, W, 3]` and its transform `[2, 3]` (SR pixel to
    frame pixel); later ones lie on top. Returns uint8 `[h·scale, w·scale, 3]`, a new array.
    """
    canvas = frame.copy()
    if scale > 1:
        canvas = cv2.resize(frame, None, fx=scale, fy=scale, interpolation=cv2.INTER_CUBIC).astype(np.uint8, copy=False)
    for sr, transform in faces:
        # Pixel centres: x of the frame is scale * (x + 0.5) - 0.5 of the canvas.
        matrix = transform.astype(np.float64) * scale
        matrix[:, 2] += (scale - 1) / 2
        _blend(canvas, sr, matrix)
    return canvas


def feather_mask(height: int, width: int) -> NDArray[np.float32]:
    """Weights `[height, width]`: 1 inside, falling smoothly to about 0 at the edges."""

    def ramp(length: int) -> NDArray[np.float32]:
        position = (np.arange(length, dtype=np.float32) + 0.5) / length
        t = np.clip(np.minimum(position, 1 - position) / FEATHER, 0, 1)
        return (t * t * (3 - 2 * t)).astype(np.float32)

    weights: NDArray[np.float32] = ramp(height)[:, None] * ramp(width)
    return weights


def _blend(canvas: Picture, sr: Picture, matrix: NDArray[np.float64]) -> None:
    """Blends `sr` into `canvas` in place, along `matrix` `[2, 3]` (SR pixel to canvas pixel)."""
    height, width = sr.shape[:2]
    zoom = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if zoom < 0.7:  # bilinear sampling would alias: shrink by area first
        small_h, small_w = max(round(height * zoom), 1), max(round(width * zoom), 1)
        ratio = np.array([width / small_w, height / small_h])
        offset = matrix[:, :2] @ (ratio / 2 - 0.5) + matrix[:, 2]
        matrix = np.column_stack([matrix[:, :2] * ratio, offset])
        sr = cv2.resize(sr, (small_w, small_h), interpolation=cv2.INTER_AREA).astype(np.uint8, copy=False)
        height, width = small_h, small_w
    corners = np.array([[x, y, 1] for x in (-0.5, width - 0.5) for y in (-0.5, height - 0.5)]) @ matrix.T
    limit = np.array(canvas.shape[1::-1])
    x1, y1 = np.clip(np.floor(corners.min(0)), 0, limit).astype(int).tolist()
    x2, y2 = np.clip(np.ceil(corners.max(0)) + 1, 0, limit).astype(int).tolist()
    if x1 >= x2 or y1 >= y2:
        return
    local = matrix - [[0, 0, x1], [0, 0, y1]]
    area = (x2 - x1, y2 - y1)
    face = cv2.warpAffine(sr, local, area, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    mask = cv2.warpAffine(feather_mask(height, width), local, area, flags=cv2.INTER_LINEAR)[:, :, None]
    below = canvas[y1:y2, x1:x2]
    below[:] = np.rint(below + mask * (face.astype(np.float32) - below))
