"""Faces followed from frame to frame: one identity for each, and its box where the detector did not look.

A Kalman filter per face (constant velocity; centre and logarithms of width and height) predicts where it is; an assignment
in two steps by detector score says which detection is which face (ByteTrack: Zhang et al., 2022); and a search for the
face's own picture around the prediction corrects the frames between detections. Tiny faces move by more than their width
between detections, so boxes are compared by Mahalanobis distance and not by overlap.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from math import inf, isfinite, nan

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.faces.detect import Detection
from fhrt.faces.inputs import Picture, as_frame

UNKNOWN = (nan,) * 4  # eyes that the detector does not give


@dataclass(frozen=True)
class Track:
    """A face in this frame."""

    track_id: int
    detection: Detection
    """Its box in this frame; score and eyes (moved along) are those of the last detection."""
    detected: bool
    """Whether the detector found it in this frame; else the box is predicted, or found by the face's picture."""


class Tracker:
    """Follows faces through the frames of one camera.

    `start_score`: detections from this score on start tracks, those below only continue them. `patience`: seconds after
    its last detection that a track ends which the detector has missed since; a gap between frames that is longer ends all.
    The same calls give the same tracks. Raises `BadInputError`.
    """

    def __init__(self, *, start_score: float = 0.5, patience: float = 1.0) -> None:
        if not 0 <= start_score <= 1:
            raise BadInputError(f"start_score must lie between 0 and 1, not be {start_score}")
        if not 0 < patience < inf:
            raise BadInputError(f"patience must be seconds above 0, not {patience}")
        self.start_score = start_score
        self.patience = patience
        self._native = _C.Tracker(start_score, patience)

    def copy(self) -> Tracker:
        """Goes its own way from here."""
        twin = copy(self)
        twin._native = self._native.copy()
        return twin

    @property
    def track_ids(self) -> list[int]:
        """Of all tracks that have not ended, also those that are out of sight and not reported."""
        return self._native.ids()

    def update(self, time: float, detections: Sequence[Detection] | None, frame: Picture | None = None) -> list[Track]:
        """The faces of the next frame, in the order of their ids.

        A face that the detector missed is reported on only where its picture is found.

        `time`: presentation time in seconds; one that does not go on (a clock set back) counts as the usual step.
        `detections`: the detector's, in any order; None where it did not run. `frame` uint8 `[H, W, 3]`: corrects
        predictions, and ends all tracks where the scene or the size changes; without it neither. Raises `BadInputError`.
        """
        if not isfinite(time):
            raise BadInputError(f"a frame's time must be finite seconds, not {time}")
        measured = None if detections is None else [_flat(one) for one in detections]
        frame = None if frame is None else as_frame(frame)
        try:
            tracks = self._native.update(time, measured, frame)
        except (TypeError, ValueError) as error:
            raise BadInputError(str(error).partition("\n")[0]) from error
        return [Track(track_id, Detection(box, score, eyes), detected) for track_id, box, score, eyes, detected in tracks]


def _flat(detection: Detection) -> tuple[float, ...]:
    return *detection.box, detection.score, *(UNKNOWN if detection.eyes is None else detection.eyes.ravel().tolist())
