"""fhrt's own detector: a network that says at each place of the frame whether a face's centre is there (fhrt/models/detector.py).

It knows faces of 8 to about 128 pixels, turned by up to 45 degrees. A second look at the frame, shrunk, finds those that are larger.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import ceil
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.errors import WeightsError
from fhrt.faces.detect import Detection
from fhrt.faces.inputs import Picture
from fhrt.runtime import Card, load_frames
from fhrt.runtime.bundle import CARD

SHIPPED = Path(__file__).parent.parent / "weights" / "detectors" / "tiny"
LEAST = 0.3
FAINTEST = 0.03  # of the network's own scores; fainter peaks are no faces
STRIDE, UNIT = 4, 16.0  # as in fhrt/models/detector.py, which needs torch
OVERLAP = 0.4  # intersection over union from which on two boxes are one face's
TILE = (1152, 2048)  # rows and columns that the network takes at once: a 1080p frame is one piece, a 4K frame four
SHARED = 128  # pixels that neighbouring tiles have in common; half of them belong to each
SHRINK = 4  # of the second look,
LARGE = 96.0  # which finds faces from this size on (root of the area, pixels)

Floats = NDArray[np.float64]


class CentreDetector:
    """Finds faces with the network of a bundle folder. The rest, and the errors, as `fhrt.runtime.load_frames`.

    Scores are probabilities, as far as photographs of crowds can tell. `least`: the lowest score of a face.
    """

    def __init__(
        self,
        folder: str | Path = SHIPPED,
        *,
        least: float = LEAST,
        backend: str = "auto",
        precision: str = "auto",
        threads: int | None = None,
    ) -> None:
        self.engine = load_frames(folder, backend=backend, precision=precision, threads=threads)
        self.least = least
        self._calibration = _calibration(folder, self.engine.card)

    def detect(self, frame_bgr: Picture) -> list[Detection]:
        """See `fhrt.faces.Detector`."""
        height, width = frame_bgr.shape[:2]
        found = [self._look(frame_bgr, *tile) for tile in _tiles(height, width)]
        if min(height, width) >= LARGE:
            small = cv2.resize(frame_bgr, (ceil(width / SHRINK), ceil(height / SHRINK)), interpolation=cv2.INTER_AREA)
            boxes, scores, eyes = self._decode(np.asarray(small, np.uint8))
            large = boxes[:, 2] - boxes[:, 0] >= LARGE / SHRINK
            found.append((boxes[large] * SHRINK, scores[large], eyes[large] * SHRINK))
        boxes, scores, eyes = (np.concatenate(parts) for parts in zip(*found, strict=True))
        kept = _apart(boxes, scores)
        rows = zip(boxes[kept].tolist(), scores[kept].tolist(), eyes[kept], strict=True)
        return [Detection(tuple(box), score, pair) for box, score, pair in rows]

    def _look(self, frame: Picture, rows: slice, columns: slice, mine: Floats) -> tuple[Floats, Floats, Floats]:
        """The faces of a tile whose centres lie in the part of it that is its own, `mine` (x1, y1, x2, y2)."""
        boxes, scores, eyes = self._decode(frame[rows, columns])
        offset = np.array([columns.start, rows.start])
        boxes, eyes = boxes + np.tile(offset, 2), eyes + offset
        centre = (boxes[:, :2] + boxes[:, 2:]) / 2
        own = ((centre >= mine[:2]) & (centre < mine[2:])).all(1)
        return boxes[own], scores[own], eyes[own]

    def _decode(self, frame: Picture) -> tuple[Floats, Floats, Floats]:
        heat, geometry = self.engine.run(frame)
        boxes, scores, eyes = decode(heat[0, 0], geometry[0], FAINTEST)
        scores = probability(scores, boxes, self._calibration)
        sure = scores >= self.least
        return boxes[sure], scores[sure], eyes[sure]


def _calibration(folder: str | Path, card: Card) -> list[float]:
    """What `probability` wants, out of a detector's card. Raises WeightsError."""
    names = [f"calibration_{index}" for index in range(4)]
    numbers = {name: float(value) for name in names if isinstance(value := card.hparams.get(name), (int, float))}
    missing = [name for name in names if name not in numbers]
    if missing:
        raise WeightsError(f"{folder}: {CARD} has no number {missing[0]} under hparams; export the detector again: fhrt export detector")
    return list(numbers.values())


def decode(heat: NDArray[np.float32], geometry: NDArray[np.float32], least: float) -> tuple[Floats, Floats, Floats]:
    """Boxes [N, 4] (x1, y1, x2, y2, pixels), scores [N] and eyes [N, 2, 2] of the faces with a score of `least` or more, best first.

    `heat` [h, w]: scores, 0 to 1. `geometry` [8, h, w]: as `fhrt.models.detector.Maps`.
    """
    rows, columns = np.divmod(np.flatnonzero(heat >= least), heat.shape[1])
    peaks = heat[rows, columns] == cv2.dilate(heat, np.ones((3, 3), np.uint8))[rows, columns]
    rows, columns = rows[peaks], columns[peaks]
    scores = heat[rows, columns].astype(np.float64)
    at = geometry[:, rows, columns].astype(np.float64).T
    centre = (np.stack([columns, rows], 1) + 0.5 + at[:, :2]) * STRIDE
    size = np.exp(np.clip(at[:, 2:4], -3, 4)) * UNIT
    boxes = np.hstack([centre - size / 2, centre + size / 2])
    eyes = centre[:, None] + at[:, 4:].reshape(-1, 2, 2) * np.sqrt(size.prod(1))[:, None, None]
    kept = _apart(boxes, scores)
    return boxes[kept], scores[kept], eyes[kept]


def probability(scores: Floats, boxes: Floats, calibration: Sequence[float]) -> Floats:
    """How likely each box [N, 4] of a score [N] is a face, as it was on photographs that the network did not learn from."""
    size = np.sqrt((boxes[:, 2:] - boxes[:, :2]).prod(1))
    likely: Floats = 1 / (1 + np.exp(-score_features(scores, size) @ np.asarray(calibration)))
    return likely


def score_features(scores: Floats, size: Floats) -> Floats:
    """What a probability is a logistic function of, [N, 4]: a score's logit, the logarithm of a face's size [N], its square, and 1."""
    kept = np.clip(scores, 1e-4, 1 - 1e-4)
    grown = np.log(size / UNIT)
    return np.stack([np.log(kept / (1 - kept)), grown, grown**2, np.ones_like(grown)], 1)


def _apart(boxes: Floats, scores: Floats) -> NDArray[np.int64]:
    """Which boxes to keep, best first, so that no two are one face's: greedy, as everywhere, but only neighbours are compared."""
    across = np.argsort(boxes[:, 0], kind="stable")
    after = np.searchsorted(boxes[across, 0], boxes[across, 2])  # from here on boxes begin where this one has ended
    count = after - np.arange(len(boxes)) - 1
    first = np.repeat(np.arange(len(boxes)), count)
    second = first + 1 + np.arange(len(first)) - np.repeat(np.cumsum(count) - count, count)
    one, other = across[first], across[second]
    a, b = boxes[one], boxes[other]
    common = np.maximum(np.minimum(a[:, 2:], b[:, 2:]) - np.maximum(a[:, :2], b[:, :2]), 0).prod(1)
    same = common > OVERLAP * ((a[:, 2:] - a[:, :2]).prod(1) + (b[:, 2:] - b[:, :2]).prod(1) - common)
    rank = np.empty(len(boxes), np.int64)
    order = np.argsort(-scores, kind="stable")
    rank[order] = np.arange(len(boxes))
    kept = np.ones(len(boxes), np.bool_)  # by rank
    pairs = np.sort(np.stack([rank[one[same]], rank[other[same]]], 1), axis=1)
    for better, worse in pairs[np.lexsort(pairs.T[::-1])].tolist():
        if kept[better]:
            kept[worse] = False
    return order[kept]


def _tiles(height: int, width: int) -> Iterator[tuple[slice, slice, Floats]]:
    """Rows and columns of each tile, and the part that is its own (x1, y1, x2, y2); the frame's edge lies at infinity."""
    for rows, top, bottom in _spans(height, TILE[0]):
        for columns, left, right in _spans(width, TILE[1]):
            yield rows, columns, np.array([left, top, right, bottom])


def _spans(length: int, most: int) -> Iterator[tuple[slice, float, float]]:
    """Pieces of a side, and from where to where each is alone responsible."""
    count = max(1, ceil((length - SHARED) / (most - SHARED)))
    starts = np.linspace(0, max(length - most, 0), count).astype(int).tolist()
    middles = [(start + most + after) / 2 for start, after in pairwise(starts)]
    ends = [-np.inf, *middles, np.inf]
    for index, start in enumerate(starts):
        yield slice(start, min(start + most, length)), ends[index], ends[index + 1]
