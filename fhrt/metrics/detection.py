"""How well faces are found: matching, precision and recall, average precision, recall at so many false positives per photograph.

A face's **size** is the root of its box's area in pixels: of a box's measures the one that tells the canonical square best (its side is
1.10 times that, with less scatter than from width or height: fhrt/faces/align.py). A range of sizes is [low, high). Faces outside it, and
the detections matched to them, are ignored: neither hits nor errors, as in COCO and WIDER FACE.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fhrt.errors import BadInputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

LEAST = 8.0  # where ranges begin unless told otherwise: smaller faces are not labelled reliably
OVERLAP = 0.5


def box_sizes(boxes: Floats) -> Floats:
    """Roots of the areas ``[N]`` of boxes ``[N, 4]`` (x1, y1, x2, y2)."""
    return np.sqrt(_areas(boxes))


def iou(boxes: Floats, others: Floats) -> Floats:
    """Intersection over union ``[N, M]`` of boxes ``[N, 4]`` and ``[M, 4]`` (x1, y1, x2, y2); 0 where both are empty."""
    low = np.maximum(boxes[:, None, :2], others[None, :, :2])
    high = np.minimum(boxes[:, None, 2:], others[None, :, 2:])
    common = np.prod(np.maximum(high - low, 0), axis=2)
    union = _areas(boxes)[:, None] + _areas(others) - common
    shares: Floats = common / np.where(union > 0, union, 1)
    return shares


def match(boxes: ArrayLike, scores: ArrayLike, faces: ArrayLike, least: float = OVERLAP) -> Ints:
    """Which of the faces ``[N, 4]`` each detection ``[D, 4]`` found: indices ``[D]``, -1 for none.

    Greedy, best score first (``[D]``; equal scores in the given order): a detection takes, of the faces that are left, the one with the
    highest intersection over union, if that is at least ``least``. Raises BadInputError for other shapes, NaN, infinity and inverted boxes.
    """
    detected, faces, scores = _boxes("boxes", boxes), _boxes("faces", faces), np.asarray(scores, np.float64)
    if scores.shape != (len(detected),) or not np.isfinite(scores).all():
        raise BadInputError(f"scores must be finite, one per box: [{len(detected)}], not {list(scores.shape)}")
    found = np.full(len(detected), -1, np.int64)
    overlaps = iou(detected, faces)
    for index in np.argsort(-scores, kind="stable") if len(faces) else []:
        best = int(overlaps[index].argmax())
        if overlaps[index, best] >= least:
            found[index] = best
            overlaps[:, best] = -1
    return found


@dataclass(frozen=True)
class Matches:
    """All detections in ``images`` photographs, best score first, set against all faces.

    Of the detections: image, score, size and face, an index into the faces or -1. Of the faces: face_image, face_size.
    """

    images: int
    image: Ints
    score: Floats
    size: Floats
    face: Ints
    face_image: Ints
    face_size: Floats

    def false_positives(self) -> Ints:
        """Unmatched detections per photograph ``[images]``, of any size."""
        return np.bincount(self.image[self.face < 0], minlength=self.images)

    def hits(self, low: float = LEAST, high: float = np.inf) -> NDArray[np.bool_]:
        """Which detections ``[D]`` found a face of the range."""
        sizes = np.append(self.face_size, np.nan)[self.face]  # -1 is the appended one
        return (sizes >= low) & (sizes < high)

    def counted(self, low: float = LEAST, high: float = np.inf) -> NDArray[np.bool_]:
        """Which faces ``[N]`` are of the range."""
        return (self.face_size >= low) & (self.face_size < high)


@dataclass(frozen=True)
class Curve:
    """Precision and recall at every score that a detection has, from the highest down: score ``[K]``, recall and precision ``[..., K]``."""

    score: Floats
    recall: Floats
    precision: Floats


def match_all(found: Sequence[tuple[ArrayLike, ArrayLike]], faces: Sequence[ArrayLike], least: float = OVERLAP) -> Matches:
    """Sets detections, (boxes ``[D, 4]``, scores ``[D]``) per photograph, against the faces ``[N, 4]`` of the same photographs, by `match`.

    Raises BadInputError, also where there is no photograph.
    """
    if len(found) != len(faces) or not faces:
        raise BadInputError(f"detections and faces must be of the same photographs, at least one: {len(found)} and {len(faces)}")
    detected = [(_boxes("boxes", boxes), np.asarray(scores, np.float64)) for boxes, scores in found]
    truth = [_boxes("faces", boxes) for boxes in faces]
    before = np.cumsum([0, *(len(boxes) for boxes in truth)])
    matched = [match(boxes, scores, some, least) for (boxes, scores), some in zip(detected, truth, strict=True)]
    face = np.concatenate([np.where(one >= 0, one + offset, -1) for one, offset in zip(matched, before, strict=False)])
    image = np.repeat(np.arange(len(found)), [len(one) for one in matched])
    score = np.concatenate([scores for _, scores in detected])
    order = np.argsort(-score, kind="stable")
    return Matches(
        images=len(found),
        image=image[order],
        score=score[order],
        size=box_sizes(np.concatenate([boxes for boxes, _ in detected]))[order],
        face=face[order],
        face_image=np.repeat(np.arange(len(truth)), [len(boxes) for boxes in truth]),
        face_size=box_sizes(np.concatenate(truth)),
    )


def precision_recall(matches: Matches, low: float = LEAST, high: float = np.inf, weights: ArrayLike | None = None) -> Curve:
    """Of the faces and the unmatched detections whose sizes are in the range.

    Equal scores are one threshold, so the order of the photographs does not matter. ``weights`` ``[..., images]``: how often each
    photograph counts, a curve for each of the leading axes (for the bootstrap). Recall is NaN where the range has no face. Raises
    BadInputError.
    """
    weight = _weights(matches, weights)
    hits = matches.hits(low, high)
    misses = (matches.face < 0) & (matches.size >= low) & (matches.size < high)
    kept = hits | misses
    score, each = matches.score[kept], weight[..., matches.image[kept]]
    ends = _ends(score)
    right, wrong = (np.cumsum(each * which[kept], axis=-1)[..., ends] for which in (hits, misses))
    total = right + wrong
    return Curve(score[ends], right / _faces(matches, low, high, weight)[..., None], right / np.where(total > 0, total, 1))


def average_precision(matches: Matches, low: float = LEAST, high: float = np.inf, weights: ArrayLike | None = None) -> Floats:
    """Area ``[...]`` under the precision-recall curve, all points, precision made monotonic (PASCAL VOC from 2010 on; WIDER FACE alike).

    As `precision_recall` otherwise. NaN where the range has no face.
    """
    curve = precision_recall(matches, low, high, weights)
    best = np.maximum.accumulate(curve.precision[..., ::-1], axis=-1)[..., ::-1]
    area: Floats = np.sum(np.diff(curve.recall, prepend=0, axis=-1) * best, axis=-1)
    return area + 0 * _faces(matches, low, high, _weights(matches, weights))  # NaN too where there is no detection either


def recall_at(
    matches: Matches, per_image: float, low: float = LEAST, high: float = np.inf, weights: ArrayLike | None = None
) -> tuple[Floats, Floats]:
    """The recall of faces of the range at the lowest score with at most ``per_image`` false positives per photograph, and that score.

    All unmatched detections are false positives, of whatever size: one threshold serves all ranges. Where the detector returned fewer,
    this is the recall of everything that it returned. (0, inf) where even the best score has more; recall is NaN where the range has no
    face. ``weights``: as in `precision_recall`; both ``[...]``. Raises BadInputError.
    """
    if not per_image >= 0:
        raise BadInputError(f"false positives per photograph must not be negative, got {per_image}")
    weight = _weights(matches, weights)
    ends = _ends(matches.score)
    each = weight[..., matches.image]
    right, wrong = (np.cumsum(each * which, axis=-1)[..., ends] for which in (matches.hits(low, high), matches.face < 0))
    # A hair of tolerance: 0.1 times 30 photographs is not quite 3.
    allowed = np.sum(wrong <= per_image * weight.sum(axis=-1, keepdims=True) + 1e-6, axis=-1, keepdims=True)
    nothing = np.zeros((*weight.shape[:-1], 1))
    found = np.take_along_axis(np.concatenate([nothing, right], axis=-1), allowed, axis=-1)[..., 0]
    return found / _faces(matches, low, high, weight), np.append(np.inf, matches.score[ends])[allowed[..., 0]]


def _faces(matches: Matches, low: float, high: float, weight: Floats) -> Floats:
    """How many there are in the range, ``[...]``; NaN for none, so that no recall comes of it."""
    faces: Floats = weight[..., matches.face_image[matches.counted(low, high)]].sum(axis=-1)
    return np.where(faces > 0, faces, np.nan)


def _ends(score: Floats) -> Ints:
    """The last index of each run of equal values."""
    return np.flatnonzero(np.diff(score, append=-np.inf))


def _weights(matches: Matches, weights: ArrayLike | None) -> Floats:
    array = np.ones(matches.images) if weights is None else np.asarray(weights, np.float64)
    if array.shape[-1:] != (matches.images,):
        raise BadInputError(f"weights must be one per photograph: [..., {matches.images}], not {list(array.shape)}")
    return array


def _areas(boxes: Floats) -> Floats:
    return np.prod(boxes[:, 2:] - boxes[:, :2], axis=1, dtype=np.float64)


def _boxes(name: str, boxes: Any) -> Floats:
    array = np.asarray(boxes, np.float64)
    if array.size == 0:
        return np.empty((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise BadInputError(f"{name} must be [N, 4] (x1, y1, x2, y2), not {list(array.shape)}")
    if not np.isfinite(array).all() or (array[:, 2:] < array[:, :2]).any():
        raise BadInputError(f"{name} must be finite, with x1 ≤ x2 and y1 ≤ y2")
    return array
