"""Scores the whole pipeline: known faces set into photographs, found, cropped, hallucinated, and compared with what they were made from.

The same with perfect boxes, and with perfect eyes (from which the crop is perfect, its angle too), says what the detector costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.faces.align import EYE_DISTANCE, EYES_IN_BOX, EYES_IN_SQUARE, SIDE_PER_BOX
from fhrt.faces.detect import BOX_ASPECT, Detection, Detector
from fhrt.faces.paste import feather_mask
from fhrt.hallucinator import Hallucinator
from fhrt.metrics import match, psnr
from fhrt.protocols.archive import LOOSE, MARGIN, TIGHT, read_faces, spread, tight
from fhrt.protocols.frames import walk_frames
from fhrt.resample import resize, to_uint8

SIZES = (12, 16, 24, 32)
"""Sides of the canonical square in the frame, pixels."""
SEED = 2018
ANGLE = 10.0  # degrees; the Haar cascade finds upright faces only
PER_FRAME = 8  # faces set into one photograph, at most
TRIES = 40  # places looked at for each
SHOWN = 8  # faces that the report shows, of the smallest size from 16 pixels on

EYES, BOXES, BICUBIC = "perfect eyes", "perfect boxes", "bicubic"
"""What the detectors are compared with; bicubic is the frame, enlarged, told the true place."""


@dataclass(frozen=True)
class Scene:
    """A photograph with faces set into it. frame: uint8 [H, W, 3] BGR. jobs [M]: which. to_frame [M, 2, 3]: pixel of the 128×128 face to
    frame pixel, pixel centres at integers.
    """

    frame: NDArray[np.uint8]
    jobs: list[int]
    to_frame: NDArray[np.float64]


@dataclass(frozen=True)
class PipelineScore:
    """size [M]: of each face. psnr: how its pixels were come by → dB [M], NaN where the face was not found; first `EYES`, `BOXES` and
    `BICUBIC`, then the detectors. shown: the same → pictures uint8 [K, 128, 128, 3] RGB of the faces ``shown_faces`` [K], black where
    there is none; and "HR".
    """

    size: NDArray[np.int64]
    psnr: dict[str, NDArray[np.float64]]
    shown_faces: NDArray[np.int64]
    shown: dict[str, NDArray[np.uint8]]

    @property
    def detectors(self) -> list[str]:
        return [name for name in self.psnr if name not in (EYES, BOXES, BICUBIC)]


class _Told:
    """A detector that is told what there is to find."""

    def __init__(self) -> None:
        self.detections: list[Detection] = []

    def detect(self, frame_bgr: NDArray[np.uint8]) -> list[Detection]:
        return self.detections


def score_pipeline(
    hallucinator: Hallucinator,
    detectors: Mapping[str, Detector],
    data: Path,
    frames: Path,
    sizes: Sequence[int] = SIZES,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> PipelineScore:
    """Every detector on the same test faces in each of the sizes, in the same places of the test photographs.

    ``limit``: so many faces, from all over the archive.

    The faces are turned by up to ±10 degrees and lie anywhere between the pixels. A face is found by a detection that overlaps its box by
    half of their union. Its SR picture is sampled (bicubic; its border replicated) where ``Face.transform`` says that the 128×128 HR pixels
    lie, and PSNR taken over all of these. ``hallucinator``: its detector is replaced meanwhile, its ``max_face`` should leave no size out.
    ``progress(done, total)`` counts faces. Raises BadInputError for bad archives and sizes, and where the photographs have no room.
    """
    if not detectors or {EYES, BOXES, BICUBIC} & detectors.keys():
        raise BadInputError(f"there must be a detector, none called {EYES}, {BOXES} or {BICUBIC}: {', '.join(detectors) or 'none'}")
    if not sizes or min(sizes) < 4 or max(sizes) > TIGHT or len(set(sizes)) < len(sizes):
        raise BadInputError(f"sizes must be from 4 to {TIGHT} pixels, each once: {', '.join(map(str, sizes)) or 'none'}")
    faces = read_faces(data, "test")
    faces = faces[spread(len(faces), limit or len(faces))]
    photographs = [(picture, boxes) for _, picture, boxes in walk_frames(frames, "test")]
    size = np.repeat(np.array(sizes, np.int64), len(faces))
    told = {EYES: _Told(), BOXES: _Told()}
    scores = {name: np.full(len(size), np.nan) for name in (EYES, BOXES, BICUBIC, *detectors)}
    least = min((side for side in sizes if side >= 16), default=max(sizes))
    shown = np.flatnonzero(size == least)[spread(len(faces), SHOWN)]
    pictures = {name: np.zeros((len(shown), TIGHT, TIGHT, 3), np.uint8) for name in (*scores, "HR")}

    def note(name: str, job: int, picture: NDArray[np.uint8]) -> None:
        hr = tight(faces[job % len(faces)])
        if name != "HR":
            scores[name][job] = psnr(picture, hr)[0]
        if job in shown:
            pictures[name][np.searchsorted(shown, job)] = picture

    own, done = hallucinator.detector, 0
    try:
        for scene in compose(faces, size, photographs, np.random.default_rng(SEED)):
            truth = tight_boxes(scene.to_frame)
            told[EYES].detections = [
                Detection(tuple(box), eyes=eyes) for box, eyes in zip(truth.tolist(), true_eyes(scene.to_frame), strict=True)
            ]
            told[BOXES].detections = [Detection(tuple(box)) for box in truth.tolist()]
            for job, transform in zip(scene.jobs, scene.to_frame, strict=True):
                note("HR", job, tight(faces[job % len(faces)]))
                note(BICUBIC, job, _sample(scene.frame, transform)[..., ::-1])
            for name, detector in {**told, **detectors}.items():
                hallucinator.detector = detector
                result = hallucinator.run(scene.frame if hallucinator.color == "bgr" else scene.frame[..., ::-1])
                found = match([face.box for face in result.faces], [face.score for face in result.faces], truth)
                for face, place in zip(result.faces, found.tolist(), strict=True):
                    if place >= 0:
                        picture = back_on_truth(face.sr, face.transform, scene.to_frame[place])
                        note(name, scene.jobs[place], picture if hallucinator.color == "rgb" else picture[..., ::-1])
            done += len(scene.jobs)
            if progress is not None:
                progress(done, len(size))
    finally:
        hallucinator.detector = own
    return PipelineScore(size, scores, shown, pictures)


def compose(
    faces: NDArray[np.uint8],
    size: NDArray[np.int64],
    photographs: Sequence[tuple[NDArray[np.uint8], NDArray[np.float64]]],
    rng: np.random.Generator,
) -> Iterator[Scene]:
    """Sets loose faces ``[N, 192, 192, 3]`` RGB into photographs, pictures BGR with the boxes of their own faces, which stay uncovered.

    Job j is face j modulo N with a canonical square of ``size[j]`` pixels. Raises BadInputError where no photograph has room for one.
    """
    job = at = without_room = 0
    while job < len(size):
        picture, own = photographs[at % len(photographs)]
        frame, taken = picture.copy(), [tuple(box) for box in own.tolist()]
        jobs: list[int] = []
        transforms: list[NDArray[np.float64]] = []
        while job < len(size) and len(jobs) < PER_FRAME:
            transform = _place(int(size[job]), (frame.shape[1], frame.shape[0]), taken, rng)
            if transform is None:
                break
            draw_face(frame, faces[job % len(faces)], transform)
            taken.append(_around(transform))
            jobs.append(job)
            transforms.append(transform)
            job += 1
        if jobs:
            yield Scene(frame, jobs, np.stack(transforms))
        at, without_room = at + 1, 0 if jobs else without_room + 1
        if without_room == len(photographs):
            raise BadInputError(f"no photograph has room for a face of {size[job]} pixels beside its own")


def draw_face(frame: NDArray[np.uint8], face: NDArray[np.uint8], to_frame: NDArray[np.float64]) -> None:
    """Draws a loose RGB face ``[192, 192, 3]`` into a BGR frame, by a similarity ``[2, 3]`` from its central 128×128 pixels to the frame's.

    Reduced with antialiasing (bicubic, as in the ``aligned`` protocol); feathered in the margin around the central 128×128, and so that
    these are the face's own.
    """
    x1, y1, x2, y2 = _around(to_frame)
    x1, y1 = max(math.floor(x1), 0), max(math.floor(y1), 0)
    x2, y2 = min(math.ceil(x2), frame.shape[1]), min(math.ceil(y2), frame.shape[0])
    # Onto a grid at least as fine as the face's, on which nothing aliases; then down to the frame's.
    finer = math.ceil(1 / np.hypot(to_frame[0, 0], to_frame[1, 0]) - 1e-6)
    linear = to_frame[:, :2] * finer
    # Fine pixel f lies at (f + 0.5) / finer - 0.5 of the frame, pixel 0 of the loose face at -MARGIN of the tight one.
    offset = (to_frame @ [-MARGIN, -MARGIN, 1] - [x1, y1] + 0.5) * finer - 0.5
    matrix, fine = np.column_stack([linear, offset]), ((x2 - x1) * finer, (y2 - y1) * finer)
    drawn = cv2.warpAffine(face[..., ::-1].astype(np.float32), matrix, fine, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
    weight = cv2.warpAffine(feather_mask(LOOSE, LOOSE), matrix, fine)
    layers = np.concatenate([drawn.transpose(2, 0, 1), weight[None]])
    *channels, mask = np.clip(resize(layers, (y2 - y1, x2 - x1)), 0, 255)
    below = frame[y1:y2, x1:x2]
    below[:] = to_uint8(below + np.clip(mask, 0, 1)[..., None] * (np.stack(channels, -1) - below))


def tight_boxes(to_frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tight boxes ``[..., 4]`` whose canonical squares have the middle and the side of the faces set by similarities ``[..., 2, 3]``."""
    side = np.hypot(to_frame[..., 0, 0], to_frame[..., 1, 0]) * TIGHT
    middle = to_frame @ [(TIGHT - 1) / 2, (TIGHT - 1) / 2, 1] + 0.5
    size = np.stack([side, BOX_ASPECT * side], -1) / SIDE_PER_BOX / BOX_ASPECT**0.5
    left_top = middle + side[..., None] * (np.array(EYES_IN_SQUARE) - 0.5) - size * EYES_IN_BOX
    return np.concatenate([left_top, left_top + size], -1)


def back_on_truth(sr: NDArray[np.uint8], transform: NDArray[np.float32], to_frame: NDArray[np.float64]) -> NDArray[np.uint8]:
    """An SR face sampled where the pixels of the true face are: ``[128, 128, 3]``.

    transform ``[2, 3]``: SR pixel to frame pixel. to_frame ``[2, 3]``: pixel of the 128×128 face to frame pixel.
    """
    to_sr = np.linalg.inv(np.vstack([transform, [0, 0, 1]]).astype(np.float64))
    return _sample(sr, (to_sr @ np.vstack([to_frame, [0, 0, 1]]))[:2])


def _sample(picture: NDArray[np.uint8], transform: NDArray[np.float64]) -> NDArray[np.uint8]:
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    return np.asarray(cv2.warpAffine(picture, transform, (TIGHT, TIGHT), flags=flags, borderMode=cv2.BORDER_REPLICATE), np.uint8)


def true_eyes(to_frame: NDArray[np.float64]) -> NDArray[np.float64]:
    """Eye centres ``[M, 2, 2]`` of a frontal face, in the frame; (0, 0) is the corner of its first pixel."""
    x, y = np.array(EYES_IN_SQUARE) * TIGHT - 0.5
    reach = EYE_DISTANCE * TIGHT / 2
    return np.stack([to_frame @ [x - reach, y, 1], to_frame @ [x + reach, y, 1]], 1) + 0.5


def _around(to_frame: NDArray[np.float64]) -> tuple[float, float, float, float]:
    """The box around a loose face, x1, y1, x2, y2."""
    low, high = -MARGIN - 0.5, TIGHT + MARGIN - 0.5
    corners = np.array([to_frame @ [x, y, 1] for x in (low, high) for y in (low, high)]) + 0.5
    return (*corners.min(0).tolist(), *corners.max(0).tolist())


def _place(side: int, frame: tuple[int, int], taken: Sequence[tuple[float, ...]], rng: np.random.Generator) -> NDArray[np.float64] | None:
    """A random similarity inside the frame (width, height) that leaves the taken boxes uncovered; None where none was found."""
    angle = np.deg2rad(rng.uniform(-ANGLE, ANGLE))
    linear = side / TIGHT * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    reach = _around(np.column_stack([linear, [0, 0]]))
    low, room = -np.array(reach[:2]), np.array(frame) - np.subtract(reach[2:], reach[:2])
    boxes = np.array(taken, np.float64).reshape(-1, 4)
    if (room <= 0).any():
        return None
    for _ in range(TRIES):
        transform = np.column_stack([linear, low + rng.random(2) * room])
        x1, y1, x2, y2 = _around(transform)
        if not ((boxes[:, 0] < x2) & (boxes[:, 2] > x1) & (boxes[:, 1] < y2) & (boxes[:, 3] > y1)).any():
            return transform
    return None
