"""A whole frame's time, from uint8 to SR faces on the host, where the boxes are given."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np

from benchmarks import timing
from fhrt.faces.detect import Detection
from fhrt.hallucinator import Hallucinator, assemble, crop_faces
from fhrt.results import Face
from fhrt.runtime.device import beside

FULL_HD = (1080, 1920)
FRAME_FACES = 16
AIM = 3.0  # on a GPU: ms of a frame at p99


def frame_rows(hallucinator: Hallucinator, runs: int, warmup: int) -> list[dict[str, Any]]:
    """From a 1080p frame of uint8 with 16 boxes to 16 SR faces on the host: p50, p95 and p99 in milliseconds, the ways taking turns.

    A row per way: the frame on the host; with an engine on a device also a frame that is there, and crops that are cut out on the host
    and go up in its place, each with what it is to reach (``aim``) and whether it did.
    """
    (height, width), engine = FULL_HD, hallucinator.engine
    rng = np.random.default_rng(0)
    frame = cv2.resize(rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8), (width, height), interpolation=cv2.INTER_CUBIC)
    corners = rng.uniform(0, [width - 40, height - 48], (FRAME_FACES, 2))
    boxes = np.hstack([corners, corners + np.array([24, 30])])
    detections = [Detection(tuple(box)) for box in boxes.tolist()]

    def cropped_here() -> list[Face]:
        batch, transforms = crop_faces(frame, detections, engine.card, "bgr")
        batch = beside(batch, there)
        return assemble(detections, batch, transforms, engine.run(batch), "bgr")

    ways = {"host": lambda: hallucinator.run(frame, boxes).faces}
    there = frame if engine.array_library is None else engine.array_library.up(frame)
    if engine.array_library is not None:
        ways |= {"device": lambda: hallucinator.run(there, boxes).faces, "host, cropped there": cropped_here}
    times = timing.interleave({name: lambda way=way: [face.sr for face in way()] for name, way in ways.items()}, runs=runs, warmup=warmup)
    what = {"backend": engine.backend, "precision": engine.precision, "faces": FRAME_FACES, "size": [width, height], "runs": runs}
    rows = []
    for name, each in times.items():
        row: dict[str, Any] = {**what, "frame": name, "ms": {f"p{part}": float(np.percentile(each, part)) for part in (50, 95, 99)}}
        rows.append(row if engine.array_library is None else row | {"aim": AIM, "reached": row["ms"]["p99"] <= AIM})
    return rows
