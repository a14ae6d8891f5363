"""`fhrt.faces.track` in NumPy: what the native tracker is held against."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.faces.detect import Detection
from fhrt.faces.inputs import Picture, as_frame
from fhrt.faces.track import Track
from fhrt.ops import face_crop
from fhrt.ops.nv12 import rows

# Of centre x, centre y, log width, log height; lengths in face widths, times in seconds.
# Chosen on made-up scenes (`python -m benchmarks tracking`) of other faces than those that are reported.
MEASURED = np.array([0.06, 0.06, 0.08, 0.08])  # standard deviation of a detector's box
SPEED = np.array([4.0, 4.0, 0.3, 0.3])  # of a new face's rates
ACCELERATION = np.array([10.0, 10.0, 0.05, 0.05])  # root of the spectral density of the rates' random walk
SEARCHED = np.array([0.05, 0.05, inf, inf])  # standard deviation of a place found by its picture

GATE = 16.0  # largest squared Mahalanobis distance of a face's detection: 99.7 % of chi-squared, four degrees of freedom
NEAR = 0.5  # face widths between two centres below which they are one face's
CONFIRMED = 2  # detections from which on a face that the detector missed is still reported, if its picture is found,
MISSED = 3  # for so many detector runs

SIDE = 12  # pixels of a face's picture;
REACH = 6  # so many more to each side are searched,
FLAT = 1.0  # grey levels of standard deviation up to which a picture is found everywhere
ALIKE = 0.6  # and from this normalised correlation on a place is the face's

GRID = 32  # rows and columns of the pixels by which frames are compared
# Their correlation below which the scene has changed: 96 % of pairs of photographs lie below, 7 % of photographs moved by
# a twentieth of their width, and of 378 pairs of frames in two films the three cuts alone.
CUT = 0.3

STATE = np.dtype(
    [
        ("id", "i8"),
        ("value", "f8", 4),
        ("rate", "f8", 4),
        ("variance", "f8", (3, 4)),  # of the value, covariance, of the rate
        ("unseen", "f8"),  # seconds since the last detection
        ("missed", "i8"),  # detector runs since then
        ("hits", "i8"),  # detections in all
        ("score", "f8"),
        ("eyes", "f8", (2, 2)),  # in parts of the box, NaN where the detector gives none
        ("picture", "f4", (SIDE, SIDE)),
    ]
)
State = NDArray[Any]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]


class Tracker:
    def __init__(self, *, start_score: float = 0.5, patience: float = 1.0) -> None:
        self.start_score = start_score
        self.patience = patience
        self._state: State = np.empty(0, STATE)
        self._next_id = 1
        self._time: float | None = None
        self._step = 0.0
        self._shape: tuple[int, ...] = ()
        self._grid: NDArray[np.float32] | None = None
        self._samples = np.empty(0, int), np.empty(0, int)

    @property
    def track_ids(self) -> list[int]:
        """Of all tracks that have not ended, also those that are out of sight and not reported."""
        ids: list[int] = self._state["id"].tolist()
        return ids

    def update(self, time: float, detections: Sequence[Detection] | None, frame: Picture | None = None) -> list[Track]:
        measured = None if detections is None else _measurements(detections)
        frame = None if frame is None else as_frame(frame)
        if frame is not None and self._is_new_scene(frame):
            self._state = self._state[:0]
        self._predict(time)
        found = np.zeros(len(self._state), np.bool_) if frame is None else self._search(frame)
        detected = np.zeros(len(self._state), np.bool_)
        if measured is not None:
            detected = self._assign(*measured)
            found = np.pad(found, (0, len(detected) - len(found)))
            if frame is not None:
                self._state["picture"][detected] = _cut_out(frame, self._state[detected])
        return self._report(found, detected)

    def _predict(self, time: float) -> None:
        if self._time is not None:
            step = time - self._time
            self._step = step if step > 0 else self._step
        self._time = time
        if self._step > self.patience:
            self._state, self._step = self._state[:0], 0.0
        state, step = self._state, self._step
        if not len(state):
            return
        state["value"] += step * state["rate"]
        spread = (ACCELERATION * _scale(state)) ** 2
        value, both, rate = state["variance"].transpose(1, 0, 2)
        value += step * (2 * both + step * (rate + spread * (step / 3)))
        both += step * (rate + spread * (step / 2))
        rate += step * spread
        state["unseen"] += step
        staying = (state["unseen"] <= self.patience) | (state["missed"] == 0)
        if self._shape:
            centre, half = state["value"][:, :2], np.exp(state["value"][:, 2:]) / 2
            staying &= ((centre + half > 0) & (centre - half < self._shape[1::-1])).all(1)
        if not staying.all():
            self._state = state[staying]

    def _search(self, frame: Picture) -> Mask:
        """Moves tracks to where their pictures are found near the predictions; which were found, `[N]`."""
        state = self._state
        offset = np.zeros((len(state), 4))
        if not len(state):
            return np.zeros(0, np.bool_)
        side = _side(state)[:, None]
        met = np.empty((len(state), 3), np.float32)
        squares = np.hstack([state["value"][:, :2], side])
        _C.match_templates(rows(frame), squares, np.ascontiguousarray(state["picture"]), REACH, FLAT, met)
        likely = met[:, 2]
        found = likely >= ALIKE
        offset[found, :2] = met[found, :2] * (side[found] / SIDE)
        if len(state) > 1:  # two pictures in one place: the less alike face is behind the other
            places = state["value"] + offset
            found &= ~(_near(places, places) & (likely[:, None] < likely)).any(1)
        self._correct(found, offset[found], SEARCHED)
        return found

    def _assign(self, boxes: Floats, scores: Floats, eyes: Floats) -> Mask:
        """Corrects the tracks that were detected and starts new ones; which have a detection, `[N]`."""
        chosen = np.full(len(self._state), -1)
        for step in (scores >= self.start_score, scores < self.start_score):
            free, offered = np.flatnonzero(chosen < 0), np.flatnonzero(step)
            for track, detection in _pairs(self._state[free], boxes[offered]).items():
                chosen[free[track]] = offered[detection]
        matched = chosen >= 0
        chosen = chosen[matched]
        self._correct(matched, boxes[chosen] - self._state["value"][matched], MEASURED)
        self._state["missed"] += 1

        twin = _near(self._state["value"][matched], boxes).any(0)
        fresh = np.setdiff1d(np.flatnonzero((scores >= self.start_score) & ~twin), chosen)
        twin = np.triu(_near(boxes[fresh], boxes[fresh]), 1).any(0)
        fresh = fresh[~twin]
        new = np.zeros(len(fresh), STATE)
        new["id"] = np.arange(len(fresh)) + self._next_id
        self._next_id += len(fresh)
        new["value"] = boxes[fresh]
        new["variance"][:, 0] = (MEASURED * _scale(new)) ** 2
        new["variance"][:, 2] = (SPEED * _scale(new)) ** 2
        self._state = np.concatenate([self._state, new])

        detected = np.append(matched, np.ones(len(fresh), np.bool_))
        chosen = np.append(chosen, fresh)
        state = self._state[detected]
        state["unseen"] = state["missed"] = 0
        state["hits"] += 1
        state["score"] = scores[chosen]
        state["eyes"] = eyes[chosen]
        self._state[detected] = state
        return detected

    def _correct(self, which: Mask, innovation: Floats, deviation: Floats) -> None:
        """Kalman's correction of some tracks by what was measured less what was predicted `[n, 4]`."""
        state = self._state[which]
        value, both, rate = state["variance"].transpose(1, 0, 2)
        total = value + (deviation * _scale(state)) ** 2
        state["value"] += value / total * innovation
        state["rate"] += both / total * innovation
        rate -= both / total * both
        both -= value / total * both
        value -= value / total * value
        self._state[which] = state

    def _report(self, found: Mask, detected: Mask) -> list[Track]:
        known = found & (self._state["hits"] >= CONFIRMED) & (self._state["missed"] <= MISSED)
        shown = (self._state["missed"] == 0) | known
        state = self._state[shown]
        half = np.exp(state["value"][:, 2:]) / 2
        low, high = state["value"][:, :2] - half, state["value"][:, :2] + half
        eyes = low[:, None] + state["eyes"] * (2 * half)[:, None]
        blind = np.isnan(eyes[:, 0, 0])
        columns = (state["id"], low[:, 0], low[:, 1], high[:, 0], high[:, 1], state["score"], blind, detected[shown])
        return [
            Track(track_id, Detection((x1, y1, x2, y2), score, None if is_blind else pair), was_detected)
            for pair, (track_id, x1, y1, x2, y2, score, is_blind, was_detected) in zip(
                eyes, zip(*(column.tolist() for column in columns), strict=True), strict=True
            )
        ]

    def _is_new_scene(self, frame: Picture) -> bool:
        before, other_size = self._grid, frame.shape != self._shape
        if other_size:
            self._shape = frame.shape
            down, across = (((np.arange(GRID) + 0.5) * size / GRID).astype(int) for size in frame.shape[:2])
            self._samples = down.repeat(GRID), np.tile(across, GRID)
        down, across = self._samples
        grid = frame[down, across, 1].astype(np.float32)
        grid -= grid.mean()
        self._grid = grid
        if before is None or other_size:
            return True
        power = float(np.sqrt((before @ before) * (grid @ grid)))
        return power > 0 and float(before @ grid) < CUT * power


def _measurements(detections: Sequence[Detection]) -> tuple[Floats, Floats, Floats]:
    """Centre and logarithms of width and height `[N, 4]`, scores `[N]`, and eyes in parts of the box `[N, 2, 2]`, NaN for none."""
    rows = np.array([(*detection.box, detection.score) for detection in detections], np.float64).reshape(-1, 5)
    low, high = rows[:, :2], rows[:, 2:4]
    eyes = np.full((len(rows), 2, 2), np.nan)
    for index, detection in enumerate(detections):
        if detection.eyes is not None:
            eyes[index] = (detection.eyes - low[index]) / (high[index] - low[index])
    return np.hstack([(low + high) / 2, np.log(high - low)]), rows[:, 4], eyes


def _scale(state: State) -> Floats:
    """What one unit of `MEASURED`, `SPEED` … is of each component, `[N, 4]`: a face width, or 1 of a logarithm."""
    scale = np.ones((len(state), 4))
    scale[:, :2] = np.exp(state["value"][:, 2:3])
    return scale


def _side(state: State) -> Floats:
    """Side of the square of a face's picture in the frame, pixels `[N]`: the root of its box's area."""
    side: Floats = np.exp(state["value"][:, 2:].mean(1))
    return side


def _cut_out(frame: Picture, state: State) -> NDArray[np.float32]:
    """The faces' pictures, green alone: `[N, SIDE, SIDE]`."""
    transforms = np.zeros((len(state), 2, 3), np.float32)
    transforms[:, 0, 0] = transforms[:, 1, 1] = scale = _side(state) / SIDE
    transforms[:, :, 2] = state["value"][:, :2] - 0.5 - (scale * (SIDE / 2 - 0.5))[:, None]
    pictures: NDArray[np.float32] = face_crop(frame, transforms, (SIDE, SIDE), 0, 1)[:, 1]
    return pictures


def _pairs(state: State, boxes: Floats) -> dict[int, int]:
    """Track → detection, the likeliest first and each at most once."""
    scale = _scale(state)
    variance = state["variance"][:, 0] + (MEASURED * scale) ** 2
    distance = ((boxes - state["value"][:, None]) ** 2 / variance[:, None]).sum(-1)
    # The logarithm of the likelihood: without the determinant a track that might be anywhere takes everyone's detection.
    cost = distance + np.log(variance / scale**2).sum(-1)[:, None]
    allowed = (distance <= GATE) | _near(state["value"], boxes)
    pairs: dict[int, int] = {}
    for flat in np.argsort(np.where(allowed, cost, inf), axis=None, kind="stable")[: allowed.sum()].tolist():
        track, detection = divmod(flat, len(boxes))
        if track not in pairs and detection not in pairs.values():
            pairs[track] = detection
    return pairs


def _near(faces: Floats, others: Floats) -> Mask:
    """Which centres `[N, 4]` and `[M, 4]` lie too near for two faces: `[N, M]`."""
    limit = (NEAR * np.exp(faces[:, 2]))[:, None, None]
    return np.asarray((np.abs(faces[:, None, :2] - others[:, :2]) < limit).all(-1))
