"""Frame in, faces out: detect, crop, super-resolve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fhrt.runtime
from fhrt.errors import BadInputError
from fhrt.faces.align import CROP_MARGIN, STRAIGHTENED_MARGIN, crop_transforms, face_transform
from fhrt.faces.detect import Detection, Detector, create_detector
from fhrt.faces.inputs import Color, Picture, as_boxes, as_frame, swap_channels
from fhrt.ops import face_crop, to_image
from fhrt.results import Face, Result
from fhrt.runtime import Card, Output

if TYPE_CHECKING:
    from fhrt.stream import Stream
    from fhrt.stream.sinks import Sink

UNSEEN = np.full((2, 2), np.nan)  # eyes that a detector does not give


class Hallucinator:
    """A model, a detector and what lies between.

    `model`: a shipped model's name or a bundle folder. `backend`, `device`, `precision`, `threads`, `plan`: as `fhrt.runtime.load`.
    `detector`: "auto" (fhrt's own), "haar", a detector's bundle folder, the path of a YuNet ONNX file, or an object with
    `detect(frame_bgr)`. `max_face`: faces whose box is wider (pixels) are left alone. `color`: channel order of the arrays that come in and
    go out, "bgr" (as OpenCV) or "rgb". Raises the errors of `fhrt.errors`.
    """

    def __init__(
        self,
        model: str | Path = "lite",
        *,
        backend: str = "auto",
        device: str = "auto",
        precision: str = "auto",
        detector: str | Path | Detector = "auto",
        max_face: float = 48,
        color: Color = "bgr",
        threads: int | None = None,
        plan: fhrt.runtime.PlanMode = "auto",
    ) -> None:
        if color not in ("bgr", "rgb"):
            raise BadInputError(f'color must be "bgr" or "rgb", not {color!r}')
        if not max_face > 0:
            raise BadInputError(f"max_face must be above 0, not {max_face}")
        self.color: Color = color
        self.max_face = max_face
        self.detector = create_detector(detector, threads) if isinstance(detector, (str, Path)) else detector
        self.engine = fhrt.runtime.load(model, backend=backend, device=device, precision=precision, threads=threads, plan=plan)

    def run(self, frame: Any, boxes: ArrayLike | None = None) -> Result:
        """Finds the faces of a frame and hallucinates those up to `max_face` pixels wide.

        `frame`: uint8 `[H, W, 3]` (or grey, or with alpha), a path or a PIL image. `boxes` `[N, 4]`: tight face boxes
        x1, y1, x2, y2 (forehead to chin, cheek to cheek) instead of the detector's. Raises `BadInputError`.
        """
        start = perf_counter()
        frame = as_frame(frame, self.color)
        if boxes is None:
            detections = self.detector.detect(frame if self.color == "bgr" else swap_channels(frame))
        else:
            detections = [Detection(tuple(box)) for box in as_boxes(boxes, frame).tolist()]
        small = [detection for detection in detections if detection.width <= self.max_face]
        detected = perf_counter()

        timings = {"detect": detected - start, "crop": 0.0, "model": 0.0, "assemble": 0.0}
        faces: list[Face] = []
        if small:
            batch, transforms = crop_faces(frame, small, self.engine.card, self.color)
            cropped = perf_counter()
            output = self.engine.run(batch)
            ran = perf_counter()
            faces = assemble(small, batch, transforms, output, self.color)
            timings |= {"crop": cropped - detected, "model": ran - cropped, "assemble": perf_counter() - ran}
        timings["total"] = perf_counter() - start
        milliseconds = {stage: seconds * 1000 for stage, seconds in timings.items()}
        return Result(frame, faces, milliseconds, self.color, skipped=len(detections) - len(small))

    def stream(
        self,
        sources: Iterable[str | int | Path] | str | int | Path,
        *,
        policy: str | None = None,
        sinks: Sequence[Sink] = (),
        detect_every: int = 5,
        fuse: int = 4,
        max_wait: float = 0.005,
    ) -> Stream:
        """The results of cameras and videos, frame by frame, for as long as they go on: `for result in hallucinator.stream("rtsp://…")`.

        `sources`: what `fhrt.video.find_sources` takes, or a list of cameras (`.yaml`). `policy`: ``latest``, ``all`` or
        ``budget=SECONDS``; by default ``latest`` for cameras, ``all`` for files. `sinks`: get every result, too, each in a thread of its
        own. `detect_every`: frames from one run of the detector to the next; faces are tracked between. `fuse`: frames of a track whose
        crops make one LR face, and over which its SR faces are averaged; 1: none. `max_wait`: seconds that a face may wait for others to
        share a batch. See `fhrt.stream.Stream`. Raises
        `BadInputError`, `BackendError` and `MissingExtraError` (PyAV before 18).
        """
        from fhrt.stream import Stream

        return Stream(self, sources, policy=policy, sinks=sinks, detect_every=detect_every, fuse=fuse, max_wait=max_wait)

    def hallucinate(self, lr: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """LR faces uint8 `[N, h, w, 3]` to SR faces uint8 `[N, H, W, 3]`, in the channel order `color`.

        Raises `BadInputError`.
        """
        height, width = self.engine.card.input_size
        lr = np.asarray(lr)
        if lr.dtype != np.uint8:
            raise BadInputError(f"LR faces must be uint8 values 0..255, not {lr.dtype}")
        if lr.ndim != 4 or lr.shape[1:] != (height, width, 3):
            raise BadInputError(f"LR faces must have shape [N, {height}, {width}, 3], not {list(lr.shape)}")
        if len(lr) == 0:
            return np.empty((0, *self.engine.card.output_size, 3), np.uint8)
        rgb = lr if self.color == "rgb" else lr[..., ::-1]
        batch = np.ascontiguousarray(rgb.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - np.float32(1)
        return _pictures(self.engine.run(batch).sr, self.color)


def crop_faces(
    frame: Picture, detections: Sequence[Detection], card: Card, color: Color, finer: int = 1
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the network of a card sees of a frame `[H, W, 3]`, with `finer` times its rows and columns.

    Returns `[N, 3, h, w]` float32 RGB in [-1, 1], and the transforms `[N, 2, 3]` from its pixels to the frame's. N is at least 1.
    """
    height, width = card.input_size
    finer_size = (finer * height, finer * width)
    margin = CROP_MARGIN.get(card.input_size, STRAIGHTENED_MARGIN if "theta" in card.outputs else 1.0)
    boxes = np.array([one.box for one in detections])
    eyes = np.array([UNSEEN if one.eyes is None else one.eyes for one in detections])
    transforms = crop_transforms(boxes, finer_size, eyes=eyes, margin=margin)
    batch = face_crop(frame, transforms, finer_size, 127.5, 127.5)
    return (np.ascontiguousarray(batch[:, ::-1]) if color == "bgr" else batch), transforms


def assemble(
    detections: Sequence[Detection], batch: NDArray[np.float32], transforms: NDArray[np.float32], output: Output, color: Color
) -> list[Face]:
    """The faces that a network made of `batch` `[N, 3, h, w]`, with `transforms` `[N, 2, 3]` from its pixels to the frame's."""
    lr, sr = _pictures(batch, color), _pictures(output.sr, color)
    to_frame = face_transform(transforms, output.theta, lr.shape[1:3], sr.shape[1:3])
    return [
        Face(
            box=detection.box,
            score=detection.score,
            lr=lr[index],
            sr=sr[index],
            transform=to_frame[index],
            heatmaps=None if output.heatmaps is None else output.heatmaps[index],
        )
        for index, detection in enumerate(detections)
    ]


def _pictures(tensor: NDArray[np.float32], color: Color) -> NDArray[np.uint8]:
    """Network tensor RGB `[N, 3, h, w]` in [-1, 1] to uint8 `[N, h, w, 3]` in the channel order `color`."""
    pictures: NDArray[np.uint8] = to_image(tensor if color == "rgb" else tensor[:, ::-1])
    return pictures
