"""Tracks and fused faces against the truth of made-up scenes, and tracks between the detections of a film."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

import fhrt.runtime
from benchmarks import timing
from benchmarks.scenes import FPS, Scene, backdrop, film
from fhrt.faces.align import UNMOVED, crop_transforms, face_transform
from fhrt.faces.detect import BOX_ASPECT, Box, Detection, HaarDetector
from fhrt.faces.fuse import Fusion
from fhrt.faces.steady import Steadying
from fhrt.faces.track import Track, Tracker
from fhrt.metrics import psnr
from fhrt.ops import face_crop, to_image
from fhrt.protocols.archive import read_faces, tight

SIZE = (640, 480)
SIDES = (14.0, 40.0)  # canonical squares, pixels
JITTER = 0.05  # standard deviation of a simulated detector's centre (face widths) and size (logarithm)
CAMERAS: dict[str, dict[str, Any]] = {"clean": {}, "noise": {"noise": 1.0}, "film": {"noise": 0.5, "crf": 27}}
SHOWN = range(24, 28)  # frames whose SR faces are compared
NEAR, ALIKE = 0.5, 1.6  # a track is at a face within this many widths, its width within this factor

Row = dict[str, Any]


def tracks(data: Path, every: Sequence[int], scenes: int) -> list[Row]:
    """A row per detection interval, with and without the frames: identities against the truth, averaged over scenes of 20 faces."""
    faces = read_faces(data, "test", 20 * scenes)
    made = []
    for seed in range(scenes):
        rng = np.random.default_rng([1, seed])
        scene = film(faces[20 * seed :][:20], backdrop(SIZE, rng), 75, SIDES, rng, pillars=2, **CAMERAS["film"])
        made.append((scene, list(detect(scene, rng))))
    rows = []
    for interval in every:
        for pictures in (False, True):
            scores = []
            for scene, found in made:
                tracker = Tracker()
                reported = [
                    tracker.update(at / FPS, found[at] if at % interval == 0 else None, frame if pictures else None)
                    for at, frame in enumerate(scene.frames)
                ]
                scores.append(identities(scene, reported))
            mean = {name: float(np.mean([score[name] for score in scores])) for name in scores[0]}
            rows.append({"every": interval, "pictures": pictures, **mean})
    return rows


def detect(scene: Scene, rng: np.random.Generator, missed: float = 0.15, false_alarms: float = 0.3) -> Iterator[list[Detection]]:
    """A detector's faces of each frame: jittery boxes, some missed, and false ones of lower scores."""
    for boxes, visible in zip(scene.boxes, scene.visible, strict=True):
        seen = boxes[visible & (rng.random(len(boxes)) >= missed)]
        scores = np.clip(rng.normal(0.7, 0.2, len(seen)), 0.05, 1)
        detections = [Detection(_jittered(box, rng), score) for box, score in zip(seen, scores.tolist(), strict=True)]
        for _ in range(rng.poisson(false_alarms)):
            centre, half = rng.random(2) * SIZE, rng.uniform(5, 15) * np.array([1, BOX_ASPECT])
            detections.append(Detection(_box(centre, half), rng.uniform(0.05, 0.65)))
        yield detections


def identities(scene: Scene, reported: list[list[Track]]) -> dict[str, float]:
    """IDF1 (Ristani et al., 2016), share of faces covered, precision, switches and gaps, and the centre's mean error in face widths."""
    ids = sorted({track.track_id for tracks in reported for track in tracks})
    together = np.zeros((scene.visible.shape[1], len(ids)))
    last: dict[int, int] = {}
    covered_before: set[int] = set()
    switches = gaps = 0
    errors: list[float] = []
    for boxes, visible, tracks in zip(scene.boxes, scene.visible, reported, strict=True):
        there = np.flatnonzero(visible)
        distance, near = _compare(boxes[there], [track.detection.box for track in tracks])
        covered = set()
        for row, column in zip(*linear_sum_assignment(np.where(near, distance, 1e3)), strict=True):
            if near[row, column]:
                face, track_id = int(there[row]), tracks[column].track_id
                together[face, ids.index(track_id)] += 1
                switches += last.setdefault(face, track_id) != track_id
                last[face] = track_id
                covered.add(face)
                errors.append(float(distance[row, column]))
        gaps += len((covered_before & set(there.tolist())) - covered)
        covered_before = covered
    same = together[linear_sum_assignment(-together)].sum()
    truths, outputs = int(scene.visible.sum()), sum(map(len, reported))
    return {
        "idf1": 2 * same / (truths + outputs),
        "coverage": len(errors) / truths,
        "precision": len(errors) / outputs,
        "switches": switches,
        "gaps": gaps,
        "error": float(np.mean(errors)),
    }


def between(video: Path, every: int) -> list[Row]:
    """Of the faces (score from 0.5 on, up to 64 pixels) that the Haar cascade finds in the frames between every `every`-th: which share has
    a track that saw none of these detections, and the centre's median error in widths. Slow: the cascade sees every frame.
    """
    detector, trackers = HaarDetector(), (Tracker(), Tracker())
    errors: tuple[list[float], list[float]] = ([], [])
    ids: tuple[set[int], set[int]] = (set(), set())
    frames = total = 0
    with av.open(str(video)) as container:
        for frame in container.decode(video=0):
            picture = frame.to_ndarray(format="bgr24")
            detections = [one for one in detector.detect(picture) if one.width <= 64]
            shown = detections if frames % every == 0 else None
            held_out = [one.box for one in detections if one.score >= 0.5] if shown is None else []
            for pictures, tracker in enumerate(trackers):
                tracks = tracker.update(frame.time or 0.0, shown, picture if pictures else None)
                ids[pictures].update(track.track_id for track in tracks)
                distance, near = _compare(np.array(held_out).reshape(-1, 4), [track.detection.box for track in tracks])
                errors[pictures].extend(float(row[is_near].min()) for row, is_near in zip(distance, near, strict=True) if is_near.any())
            frames, total = frames + 1, total + len(held_out)
    rows = []
    for pictures in (False, True):
        off = errors[pictures]
        row = {"video": video.name, "frames": frames, "every": every, "pictures": pictures, "tracks": len(ids[pictures]), "held_out": total}
        rows.append(row | {"covered": len(off) / max(total, 1), "error": float(np.median(off)) if off else None})
    return rows


def fusion(data: Path, lengths: Sequence[int], scenes: int, model: str = "lite") -> list[Row]:
    """A row per camera, kind of boxes, k, and k of `Steadying`: mean PSNR of the SR faces as they are and moved to the truth's place, and
    their flicker.

    Boxes are the truth's, a detector's in every frame (`JITTER`), or a `Tracker`'s that sees the detector's every fifth frame. Flicker:
    root of the variance over the frames `SHOWN`, grey levels. best_of_frames: mean of each track's best PSNR
    of them; at k = 1 that is the best single frame.
    """
    engine = fhrt.runtime.load(model)
    faces = read_faces(data, "test", 400 + 18 * scenes)[400:]
    rows = []
    for camera, damage in CAMERAS.items():
        made = []
        for seed in range(scenes):
            rng = np.random.default_rng([2, seed])
            scene = film(faces[18 * seed :][:18], backdrop(SIZE, rng), SHOWN.stop, SIDES, rng, **damage)
            made.append((scene, np.flatnonzero(scene.visible.all(0)), tight(faces[18 * seed :][:18])))
        for kind in ("true", "detected", "tracked"):
            boxed = [_boxes(scene, kept, kind) for scene, kept, _ in made]
            for k, steady in [(length, steady) for length in lengths for steady in sorted({1, length})]:
                scores = [_fused(engine, *each, boxes, k, steady) for each, boxes in zip(made, boxed, strict=True)]
                means = {name: float(np.concatenate([score[name] for score in scores]).mean()) for name in scores[0]}
                rows.append({"camera": camera, "boxes": kind, "k": k, "steady": steady, **means})
    return rows


def speed(data: Path, runs: int, warmup: int) -> Row:
    """Milliseconds per frame of 30 faces, OpenCV on one thread: prediction, detection, each with the frame, and the crops' fusion."""
    rng = np.random.default_rng(3)
    scene = film(read_faces(data, "test", 30), backdrop((1920, 1080), rng), 2, SIDES, rng)
    detections = [Detection(_box((box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2)) for box in scene.boxes[0]]
    trackers = [Tracker(patience=1e6) for _ in range(4)]
    for tracker in trackers:
        tracker.update(0, detections, scene.frames[0])
    crops = _crops(scene.frames[0], scene.boxes[0])
    fused = Fusion()
    clock = iter(range(10**9))

    def update(number: int, found: list[Detection] | None, frame: NDArray[np.uint8] | None) -> None:
        trackers[number].update(next(clock) * 1e-6, found, frame)

    candidates = {
        "predict": lambda: update(0, None, None),
        "detect": lambda: update(1, detections, None),
        "predict_with_frame": lambda: update(2, None, scene.frames[0]),
        "detect_with_frame": lambda: update(3, detections, scene.frames[0]),
        "fuse": lambda: fused.update(range(len(crops[0])), *crops, np.ones(len(crops[0]))),
    }
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        times = timing.interleave(candidates, runs=runs, warmup=warmup, warm=0.02)
    finally:
        cv2.setNumThreads(threads)
    return {"faces": len(detections), **{f"{name}_ms": timing.summary(values) for name, values in times.items()}}


def _compare(boxes: NDArray[np.float64], others: Sequence[Box]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Distance of centres in widths `[N, M]`, and which are near and of about the same size."""
    other = np.array(others).reshape(-1, 4)
    width, other_width = boxes[:, 2] - boxes[:, 0], other[:, 2] - other[:, 0]
    centre, other_centre = (boxes[:, :2] + boxes[:, 2:]) / 2, (other[:, :2] + other[:, 2:]) / 2
    distance = np.linalg.norm(centre[:, None] - other_centre, axis=-1) / width[:, None]
    return distance, (distance < NEAR) & (np.abs(np.log(other_width / width[:, None])) < np.log(ALIKE))


def _jittered(box: NDArray[np.float64], rng: np.random.Generator) -> Box:
    half = (box[2:] - box[:2]) / 2
    centre = (box[:2] + box[2:]) / 2 + rng.normal(0, JITTER, 2) * 2 * half[0]
    return _box(centre, half * np.exp(rng.normal(0, JITTER)))


def _box(centre: NDArray[np.float64], half: NDArray[np.float64]) -> Box:
    x1, y1, x2, y2 = (*(centre - half).tolist(), *(centre + half).tolist())
    return x1, y1, x2, y2


def _boxes(scene: Scene, kept: NDArray[np.int_], kind: str) -> NDArray[np.float64]:
    """`[T, N, 4]`."""
    truth = scene.boxes[:, kept]
    if kind == "true":
        return truth
    rng = np.random.default_rng(4)
    detected = np.array([[_jittered(box, rng) for box in boxes] for boxes in truth])
    if kind == "detected":
        return detected
    tracker, tracked = Tracker(), detected.copy()
    for at, frame in enumerate(scene.frames):
        found = [Detection(_box((box[:2] + box[2:]) / 2, (box[2:] - box[:2]) / 2)) for box in detected[at]]
        boxes = [track.detection.box for track in tracker.update(at / FPS, found if at % 5 == 0 else None, frame)]
        distance, near = _compare(truth[at], boxes)
        for face in np.flatnonzero(near.any(1)):
            tracked[at, face] = boxes[int(distance[face].argmin())]
    return tracked


def _crops(frame: NDArray[np.uint8], boxes: NDArray[np.float64]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """RGB crops `[N, 3, 32, 32]` float32 in [-1, 1], and their transforms."""
    transforms = crop_transforms(boxes, (32, 32))
    return np.ascontiguousarray(face_crop(frame, transforms, (32, 32), 127.5, 127.5)[:, ::-1]), transforms


def _fused(
    engine: fhrt.runtime.Engine,
    scene: Scene,
    kept: NDArray[np.int_],
    hr: NDArray[np.uint8],
    boxes: NDArray[np.float64],
    k: int,
    steady: int,
) -> dict[str, NDArray[np.float64]]:
    """PSNR, PSNR in place, flicker, flicker in place of each kept face; steady: k of Steadying."""
    fusing, steadying, ids = Fusion(k), Steadying(steady), range(len(kept))
    shown, placed = [], []
    for at in range(SHOWN.start - 2 * k, SHOWN.stop):
        fused = fusing.update(ids, *_crops(scene.frames[at], boxes[at]), np.ones(len(kept)))
        output = engine.run(fused.lr)
        to_lr = face_transform(UNMOVED, output.theta, (16, 16), (128, 128))
        pictures = to_image(steadying.update(ids, output.sr, to_lr, fused.back))
        if at not in SHOWN:
            continue
        truth = [cv2.invertAffineTransform(transform) for transform in scene.to_frame[at, kept]]
        shown.append(pictures)
        to_frame = face_transform(fused.transforms, output.theta, (16, 16), (128, 128))
        placed.append([_moved(*each) for each in zip(pictures, truth, to_frame, strict=True)])
    inner = (slice(None), slice(None), slice(12, -12), slice(12, -12))  # what moved in from outside does not count
    sr, in_place = np.stack(shown), np.stack(placed)[inner]
    single = np.stack([psnr(one, hr[kept]) for one in sr])
    return {
        "psnr": single.mean(0),
        "best_of_frames": single.max(0),
        "psnr_in_place": np.mean(
            [psnr(np.ascontiguousarray(one), np.ascontiguousarray(hr[kept, 12:-12, 12:-12])) for one in in_place], axis=0
        ),
        "flicker": np.sqrt(sr.var(0).mean((1, 2, 3))),
        "flicker_in_place": np.sqrt(in_place.var(0).mean((1, 2, 3))),
    }


def _moved(picture: NDArray[np.uint8], from_frame: NDArray[np.float64], to_frame: NDArray[np.float32]) -> NDArray[np.uint8]:
    """An SR face as the truth's pixels would show it, were it pasted into the frame."""
    matrix = np.vstack([from_frame, [0, 0, 1]]) @ np.vstack([to_frame, [0, 0, 1]])
    return cv2.warpAffine(picture, matrix[:2], picture.shape[1::-1], flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
