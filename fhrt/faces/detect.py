"""What a detector is, and those of others: OpenCV's Haar cascade (ships with OpenCV) and YuNet (needs its ONNX file)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2
import cv2.data
import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.faces.align import EYE_DISTANCE, EYES_IN_BOX, SIDE_PER_BOX
from fhrt.faces.inputs import Picture

Box = tuple[float, float, float, float]

# Where the canonical eyes fall in the box of haarcascade_frontalface_alt2: medians over 400 upright faces shrunk to an
# eye distance of 9 pixels (394 to 400 of them are found at 7, 9 and 14): eye distance 0.372 of the box's side (0.347 at
# 7 pixels, 0.391 at 14; standard deviation 0.02), eyes' mid-point at 0.504 of its width (0.013) and 0.397 of its height
# (0.017).
HAAR_EYE_DISTANCE = 0.372
HAAR_EYES = (0.504, 0.397)

# The cascade's last-stage sum on 150 crowd photographs (303 true faces, 117 false alarms, IoU 0.4): from 55.0 on lie 95 %
# of the true faces (median 56.1) and 48 % of the false alarms (median 55.0); from 55.5 on, 80 % and 18 %. It is mapped
# linearly so that 54, below which nothing was found, is 0 and 57 is 1; faces are kept from 55 on.
HAAR_WEIGHT_RANGE = (54.0, 57.0)
HAAR_MIN_WEIGHT = 55.0

# Height over width of a tight face box: the median over 8,125 hand-drawn boxes of at least 8 pixels.
BOX_ASPECT = 1.26


@dataclass(frozen=True)
class Detection:
    """A face found in a frame. Coordinates are in pixels, (0, 0) being the outer corner of the first pixel."""

    box: Box
    """x1, y1, x2, y2 of the tight face: forehead to chin, cheek to cheek."""
    score: float = 1.0
    """Confidence, 0 to 1."""
    eyes: NDArray[np.float64] | None = None
    """Eye centres `[2, 2]` (x, y), first the one that is on the left of an upright picture."""

    @property
    def width(self) -> float:
        return self.box[2] - self.box[0]


class Detector(Protocol):
    def detect(self, frame_bgr: Picture) -> list[Detection]:
        """Faces of a BGR uint8 frame `[H, W, 3]`, best first."""
        ...


class HaarDetector:
    """Viola-Jones cascade on a frame enlarged twice, so that faces from 16 pixels are found.

    Upright frontal faces only.
    """

    ENLARGE = 2
    MIN_FACE = 16

    def __init__(self) -> None:
        self._cascade = cv2.CascadeClassifier(cv2.data.haarcascades + "haarcascade_frontalface_alt2.xml")

    def detect(self, frame_bgr: Picture) -> list[Detection]:
        grey = cv2.cvtColor(frame_bgr, cv2.COLOR_BGR2GRAY)
        grey = cv2.resize(grey, None, fx=self.ENLARGE, fy=self.ENLARGE, interpolation=cv2.INTER_CUBIC)
        smallest = self.MIN_FACE * self.ENLARGE
        found, _, weights = self._cascade.detectMultiScale3(
            grey, scaleFactor=1.1, minNeighbors=3, minSize=(smallest, smallest), outputRejectLevels=True
        )
        low, high = HAAR_WEIGHT_RANGE
        detections = []
        for (x, y, side, _), weight in zip(np.asarray(found) / self.ENLARGE, np.ravel(weights).tolist(), strict=True):
            if weight >= HAAR_MIN_WEIGHT:
                detections.append(Detection(_tight_box(x, y, side), min((weight - low) / (high - low), 1.0)))
        return sorted(detections, key=lambda detection: (-detection.score, detection.box))


class YuNetDetector:
    """YuNet through `cv2.FaceDetectorYN`: five landmarks, turned and tilted faces; needs the published ONNX file."""

    def __init__(self, model_path: str | Path, score_threshold: float = 0.6) -> None:
        try:
            self._net = cv2.FaceDetectorYN.create(str(model_path), "", (320, 320), score_threshold)
        except cv2.error as error:
            raise BadInputError(f"{model_path} is not a YuNet ONNX file") from error

    def detect(self, frame_bgr: Picture) -> list[Detection]:
        self._net.setInputSize((frame_bgr.shape[1], frame_bgr.shape[0]))
        _, rows = self._net.detect(frame_bgr)
        detections = []
        for row in [] if rows is None else np.asarray(rows, np.float64):
            x, y, width, height = row[:4].tolist()
            # The person's right eye comes first, which is the left one in an upright picture.
            detections.append(Detection((x, y, x + width, y + height), float(row[14]), row[4:8].reshape(2, 2)))
        return sorted(detections, key=lambda detection: (-detection.score, detection.box))


def create_detector(name: str | Path, threads: int | None = None) -> Detector:
    """`"auto"`: fhrt's own; `"haar"`: the Haar cascade; a bundle folder: that detector; a path of an ONNX file: YuNet.

    `threads`: CPU threads of fhrt's own. Raises `BadInputError`, and for a bundle the errors of `fhrt.runtime.load_frames`.
    """
    from fhrt.faces.centres import SHIPPED, CentreDetector  # it needs what is above, and a runtime that "haar" does not

    if name == "haar":
        return HaarDetector()
    if name == "auto" or Path(name).is_dir():
        return CentreDetector(SHIPPED if name == "auto" else name, threads=threads)
    if Path(name).is_file():
        return YuNetDetector(name)
    raise BadInputError(f'unknown detector "{name}": use "auto", "haar", a bundle folder or the path of a YuNet ONNX file')


def _tight_box(x: float, y: float, side: float) -> Box:
    """The tight face box whose canonical square has its eyes where a Haar box has them."""
    square = side * HAAR_EYE_DISTANCE / EYE_DISTANCE
    width = square / SIDE_PER_BOX / BOX_ASPECT**0.5
    height = width * BOX_ASPECT
    left = x + HAAR_EYES[0] * side - EYES_IN_BOX[0] * width
    top = y + HAAR_EYES[1] * side - EYES_IN_BOX[1] * height
    return float(left), float(top), float(left + width), float(top + height)
