"""Pictures with tiny faces to find: cut-outs of photographs, with faces of the archive pasted where there are none."""

from __future__ import annotations

from dataclasses import dataclass
from math import cos, log, sin
from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.faces.align import EYES_IN_BOX, SIDE_PER_BOX
from fhrt.faces.detect import BOX_ASPECT
from fhrt.metrics.detection import box_sizes
from fhrt.protocols.archive import LOOSE, TIGHT
from fhrt.protocols.camera import compress_h264, compress_jpeg
from training.faces import FaceSet

SIDE = 256
"""Of a training picture, pixels."""
SIZES = (7.0, 72.0)  # root of a face's area, drawn log-uniformly: what a photograph is scaled to, what a face is pasted at
LABELLED = (7.0, 144.0)  # faces of other sizes are neither wanted nor held against the network
ZOOM = (0.2, 2.0)  # of a photograph: more would be blur alone
PASTED = 5  # faces at most, in
PASTE_SHARE = 0.4  # of the pictures: pasted faces look at the camera, most of a crowd does not
DECOY_SHARE = 0.25  # of what is pasted: pieces of photographs without a face, so that a pasted edge is no sign of one
TILT = 45.0  # degrees, either way
CLEAN_SHARE = 0.3  # of the pictures: as the photograph is
MASK = (0.37, 0.45)  # semi-axes of the ellipse that is pasted, in parts of the loose crop: the head with its hair
EYES = ((36, 42), (42, 48))  # landmarks of the eye on the left of the picture, and of the other (iBUG-68)

# The tight box of an upright face of the archive: its eyes' mid-point is at (96, 86) of the loose crop.
_HEIGHT = TIGHT / SIDE_PER_BOX * BOX_ASPECT**0.5
_WIDTH = _HEIGHT / BOX_ASPECT
_MIDDLE = (96.0 + (0.5 - EYES_IN_BOX[0]) * _WIDTH, 86.0 + (0.5 - EYES_IN_BOX[1]) * _HEIGHT)


class Scene(NamedTuple):
    """A picture [256, 256, 3] uint8 RGB; boxes [N, 4] (x1, y1, x2, y2) of the faces to find; eyes [N, 2, 2], NaN where nobody knows them;
    ignored [M, 4]: boxes in which the network may say what it likes.
    """

    picture: NDArray[np.uint8]
    boxes: NDArray[np.float64]
    eyes: NDArray[np.float64]
    ignored: NDArray[np.float64]


@dataclass(frozen=True)
class Photograph:
    """RGB [H, W, 3] uint8 and its faces' boxes [N, 4]."""

    picture: NDArray[np.uint8]
    boxes: NDArray[np.float64]


def make_scene(photographs: list[Photograph], faces: FaceSet, rng: np.random.Generator) -> Scene:
    """A picture drawn from all that there is; ``faces`` with landmarks."""
    picture, boxes, hidden = _cut_out(photographs, rng)
    eyes = np.full((len(boxes), 2, 2), np.nan)
    if rng.random() < PASTE_SHARE:
        canvas = picture.astype(np.float32)
        for _ in range(int(rng.integers(1, PASTED + 1))):
            found = _free_place(np.vstack([boxes, hidden]), rng)
            if found is None:
                continue
            if rng.random() < DECOY_SHARE:
                loose = _decoy(photographs[rng.integers(len(photographs))], rng)
                if loose is not None:
                    _paste(canvas, loose, *found, rng)
                continue
            index = int(rng.integers(len(faces)))
            box, pair = _paste(canvas, faces.pictures[index], *found, rng, _eyes(faces, index))
            boxes, eyes = np.vstack([boxes, box]), np.concatenate([eyes, pair[None]])
        picture = np.clip(np.rint(canvas), 0, 255).astype(np.uint8)
    if rng.random() < 0.5:
        picture = picture[:, ::-1]
        boxes, hidden = (each[:, [2, 1, 0, 3]] * [-1, 1, -1, 1] + [SIDE, 0, SIDE, 0] for each in (boxes, hidden))
        eyes = eyes[:, ::-1] * [-1, 1] + [SIDE, 0]
    return _labelled(picture if rng.random() < CLEAN_SHARE else _damaged(picture, rng), boxes, eyes, hidden)


def _cut_out(photographs: list[Photograph], rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.float64], NDArray[np.float64]]:
    """A square of a photograph, scaled so that one of its faces has a wanted size: picture, boxes, and boxes half hidden.

    Where the photograph ends, another one goes on.
    """
    photograph = photographs[rng.integers(len(photographs))]
    source, boxes = photograph.picture, photograph.boxes
    height, width = source.shape[:2]
    seen = np.flatnonzero(box_sizes(boxes) >= 4)
    centre, zoom = rng.uniform(0, 1, 2) * [width, height], float(np.exp(rng.uniform(log(0.4), log(1.2))))
    if len(seen) and rng.random() < 0.85:
        box = boxes[rng.choice(seen)]
        zoom = float(np.clip(np.exp(rng.uniform(*np.log(SIZES))) / box_sizes(box[None])[0], *ZOOM))
        centre = (box[:2] + box[2:]) / 2 + rng.uniform(-0.45, 0.45, 2) * SIDE / zoom
    side = max(8, round(SIDE / zoom))
    left, top = np.rint(np.clip(centre - side / 2, 0, np.maximum(np.array([width, height]) - side, 0))).astype(int).tolist()
    part = source[top : top + side, left : left + side]
    size = (np.rint(np.array(part.shape[1::-1]) * (SIDE / side)).astype(int)).tolist()
    smooth = (cv2.INTER_AREA, cv2.INTER_AREA, cv2.INTER_LINEAR) if side > SIDE else (cv2.INTER_LINEAR, cv2.INTER_CUBIC)
    picture = np.asarray(cv2.resize(part, size, interpolation=int(rng.choice(smooth))), np.uint8)
    boxes = (boxes - [left, top, left, top]) * (SIDE / side)
    if size == [SIDE, SIDE]:
        return picture, boxes, np.empty((0, 4))
    around, others, hidden = _cut_out(photographs, rng)
    corner = (rng.integers(0, 2, 2) * (SIDE - np.array(size))).tolist()
    around[corner[1] : corner[1] + size[1], corner[0] : corner[0] + size[0]] = picture
    covered = ((others[:, :2] < np.add(corner, size)) & (others[:, 2:] > corner)).all(1)
    inside = ((others[:, :2] >= corner) & (others[:, 2:] <= np.add(corner, size))).all(1)
    boxes = boxes[((boxes[:, :2] < size) & (boxes[:, 2:] > 0)).all(1)] + [*corner, *corner]
    return around, np.vstack([boxes, others[~covered]]), np.vstack([hidden, others[covered & ~inside]])


def _free_place(boxes: NDArray[np.float64], rng: np.random.Generator) -> tuple[float, float, float] | None:
    """Centre x, y and size of a face that would touch no other; None if ten tries find none."""
    for _ in range(10):
        size = float(np.exp(rng.uniform(*np.log(SIZES))))
        x, y = rng.uniform(0.3 * size, SIDE - 0.3 * size, 2).tolist()
        reach = 0.8 * size  # the head is larger than the face
        apart = (boxes[:, 0] > x + reach) | (boxes[:, 2] < x - reach) | (boxes[:, 1] > y + reach) | (boxes[:, 3] < y - reach)
        if apart.all():
            return x, y, size
    return None


def _decoy(photograph: Photograph, rng: np.random.Generator) -> NDArray[np.uint8] | None:
    """A piece of a photograph that holds no face, as large as a loose crop; None where the first try holds one."""
    height, width = photograph.picture.shape[:2]
    side = int(rng.integers(24, min(height, width, 257)))
    left, top = int(rng.integers(width - side + 1)), int(rng.integers(height - side + 1))
    boxes = photograph.boxes
    apart = (boxes[:, 0] > left + side) | (boxes[:, 2] < left) | (boxes[:, 1] > top + side) | (boxes[:, 3] < top)
    part = photograph.picture[top : top + side, left : left + side]
    return np.asarray(cv2.resize(part, (LOOSE, LOOSE), interpolation=cv2.INTER_AREA), np.uint8) if apart.all() else None


def _eyes(faces: FaceSet, index: int) -> NDArray[np.float64]:
    """Of a face of the archive, [2, 2] in the loose crop's pixels."""
    assert faces.landmarks is not None
    points = faces.landmarks.points[index].astype(np.float64)
    return np.stack([points[first:last].mean(0) for first, last in EYES])


def _paste(
    canvas: NDArray[np.float32],
    loose: NDArray[np.uint8],
    x: float,
    y: float,
    size: float,
    rng: np.random.Generator,
    eyes: NDArray[np.float64] | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Blend a loose crop into the canvas with its face's centre at x, y and the root of its area `size`; returns the box, and the eyes."""
    angle = np.deg2rad(rng.uniform(-TILT, TILT) if rng.random() < 0.5 else rng.normal(0, 8))
    scale = size / (_WIDTH * _HEIGHT) ** 0.5
    turn = scale * np.array([[cos(angle), -sin(angle)], [sin(angle), cos(angle)]])
    # Bilinear sampling would alias: the crop is first reduced to at most twice what is needed.
    reduced = int(np.clip(2 ** np.ceil(np.log2(LOOSE * scale)), 8, LOOSE))
    picture = cv2.resize(loose, (reduced, reduced), interpolation=cv2.INTER_AREA).astype(np.float32)
    ratio = LOOSE / reduced
    linear = turn * ratio
    shift = np.array([x, y]) - turn @ _MIDDLE
    axes = np.array(MASK) * rng.uniform(0.85, 1.1)
    reach = LOOSE * scale * axes.max() + 2
    middle = np.array([x, y]) - turn @ [0, 6]  # the head's middle lies above the face's
    low, high = np.clip([middle - reach, middle + reach + 1], 0, SIDE).astype(int)
    part = canvas[low[1] : high[1], low[0] : high[0]]
    matrix = np.column_stack([linear, shift + linear @ [0.5, 0.5] - 0.5 - low])
    warped = cv2.warpAffine(picture, matrix, part.shape[1::-1], borderMode=cv2.BORDER_REPLICATE)
    rows, columns = np.ogrid[low[1] : high[1], low[0] : high[0]]
    across, down = columns + 0.5 - middle[0], rows + 0.5 - middle[1]
    u, v = (cos(angle) * across + sin(angle) * down, cos(angle) * down - sin(angle) * across)
    far = np.sqrt((u / axes[0]) ** 2 + (v / axes[1]) ** 2) / (LOOSE * scale)
    soft = max(rng.uniform(0.05, 0.25), 0.7 / size)
    mask = np.clip((1 - far) / soft, 0, 1).astype(np.float32)
    weight = mask.sum() + 1e-6
    own, around = (np.tensordot(mask, each, 2) / weight for each in (warped, part))
    gain = np.clip((own + rng.uniform(0, 0.8) * (around - own)) / (own + 1e-6), 0.4, 1.6).astype(np.float32)
    part += mask[..., None] * (warped * gain - part)
    half = np.hypot(np.array([cos(angle), sin(angle)]) * _WIDTH / 2, np.array([sin(angle), cos(angle)]) * _HEIGHT / 2) * scale
    box = np.array([x - half[0], y - half[1], x + half[0], y + half[1]])
    return box, np.full((2, 2), np.nan) if eyes is None else eyes @ turn.T + shift


def _damaged(picture: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What a camera does: light, blur, noise, and compression."""
    gain = np.exp(rng.normal(0, 0.18) + rng.normal(0, 0.05, 3))
    light = 255 * np.clip(np.arange(256)[:, None] * gain / 255, 0, 1) ** np.exp(rng.normal(0, 0.2))
    out = np.stack([light.astype(np.float32)[picture[..., channel], channel] for channel in range(3)], 2)
    if rng.random() < 0.1:
        out = np.repeat(out.mean(2, keepdims=True), 3, 2)
    if rng.random() < 0.4:
        out = cv2.GaussianBlur(out, (0, 0), rng.uniform(0.3, 1.3))
    if rng.random() < 0.5:
        out += np.float32(rng.uniform(1, 10)) * rng.standard_normal(out.shape, np.float32)
    damaged = np.clip(np.rint(out), 0, 255).astype(np.uint8)
    codec = rng.random()
    if codec < 0.4:
        return compress_jpeg(damaged, int(rng.integers(30, 96)))
    return compress_h264(damaged, int(rng.integers(20, 35))) if codec < 0.5 else damaged


def _labelled(picture: NDArray[np.uint8], boxes: NDArray[np.float64], eyes: NDArray[np.float64], hidden: NDArray[np.float64]) -> Scene:
    size = box_sizes(boxes)
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2
    inside = np.clip(boxes, 0, SIDE)
    shown = (inside[:, 2] - inside[:, 0]) * (inside[:, 3] - inside[:, 1])
    wanted = (size >= LABELLED[0]) & (size <= LABELLED[1]) & ((middle > 0) & (middle < SIDE)).all(1) & (shown > 0.5 * size**2)
    return Scene(picture, boxes[wanted], eyes[wanted], np.vstack([inside[~wanted & (shown > 0)], np.clip(hidden, 0, SIDE)]))
