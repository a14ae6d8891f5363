"""Scores face detectors on the photographs of the frames archive: what they find, by size, and how long they take."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.faces.detect import Detection, Detector, create_detector
from fhrt.metrics import Matches, match_all
from fhrt.protocols.archive import spread
from fhrt.protocols.frames import walk_frames

FRAMES = ((640, 480), (1920, 1080))
"""Frame sizes (width, height) that detectors are timed at besides the photographs' own."""
TIMED = 10  # photographs that are resized to each
SHOWN = 4  # photographs that the report shows, from all over the half with the most faces


@dataclass(frozen=True)
class Shown:
    """What a detector made of one photograph. picture: uint8 [H, W, 3] BGR. faces: [N, 4], x1, y1, x2, y2."""

    key: str
    picture: NDArray[np.uint8]
    faces: NDArray[np.float64]
    detections: list[Detection]


@dataclass(frozen=True)
class DetectorScore:
    """One detector's work. ms: median milliseconds per picture, "photograph" or "WIDTH×HEIGHT" → time."""

    name: str
    matches: Matches
    ms: dict[str, float]
    shown: list[Shown]


def create_detectors(names: Sequence[str]) -> dict[str, Detector]:
    """Detectors as `fhrt.faces.detect.create_detector` knows them, by the name or the file's name. Raises BadInputError."""
    detectors: dict[str, Detector] = {}
    for name in names:
        known = Path(name).stem if Path(name).is_file() else name
        if known in detectors:
            raise BadInputError(f'two detectors are called "{known}"')
        detectors[known] = create_detector(name)
    return detectors


def score_detectors(
    detectors: Mapping[str, Detector],
    data: Path,
    split: str = "test",
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[DetectorScore]:
    """All detectors on the same photographs, the first ``limit`` where that is given; ``progress(done, total)`` counts photographs.

    They take turns on every photograph, so that their times compare. Raises BadInputError for an archive that `walk_frames` refuses, before
    any detector starts.
    """
    photographs = list(walk_frames(data, split))[:limit]
    if not detectors or not photographs:
        raise BadInputError("there is no detector to score" if photographs else "there is no photograph to score detectors on")
    total = len(photographs) + min(TIMED, len(photographs)) * len(FRAMES)
    found: dict[str, list[list[Detection]]] = {name: [] for name in detectors}
    ms: dict[str, dict[str, list[float]]] = {name: {} for name in detectors}

    def look(picture: NDArray[np.uint8], what: str) -> dict[str, list[Detection]]:
        detections = {}
        for name, detector in detectors.items():
            began = time.perf_counter()
            detections[name] = detector.detect(picture)
            ms[name].setdefault(what, []).append(1000 * (time.perf_counter() - began))
        if progress is not None:
            progress(sum(map(len, next(iter(ms.values())).values())), total)
        return detections

    for detector in detectors.values():
        detector.detect(photographs[0][1])  # the first time takes longer
    for _, picture, _ in photographs:
        for name, detections in look(picture, "photograph").items():
            found[name].append(detections)
    for size in FRAMES:
        for index in spread(len(photographs), TIMED):
            look(np.asarray(cv2.resize(photographs[index][1], size), np.uint8), f"{size[0]}×{size[1]}")

    faces = [boxes for _, _, boxes in photographs]
    crowded = sorted(range(len(faces)), key=lambda index: -len(faces[index]))[: -(-len(faces) // 2)]
    return [
        DetectorScore(
            name,
            match_all([([one.box for one in each], [one.score for one in each]) for each in found[name]], faces),
            {what: float(np.median(times)) for what, times in ms[name].items()},
            [Shown(*photographs[crowded[at]], found[name][crowded[at]]) for at in spread(len(crowded), SHOWN)],
        )
        for name in detectors
    ]
