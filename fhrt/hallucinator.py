"""Frame in, faces out: detect, crop, super-resolve."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache, partial
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

import fhrt.runtime
from fhrt.errors import BadInputError
from fhrt.faces.align import CROP_MARGIN, DECIMATED, STRAIGHTENED_MARGIN, crop_transforms, decimations, face_transform
from fhrt.faces.detect import Detection, Detector, create_detector
from fhrt.faces.inputs import Color, Frame, as_boxes, as_detector_input, as_frame_there, as_picture, each_plane, on_host, swap_channels
from fhrt.ops import Nv12, face_crop, to_image
from fhrt.results import Face, Result
from fhrt.runtime import Card, Output
from fhrt.runtime.device import Download, beside, flip, library_of, send

if TYPE_CHECKING:
    from fhrt.stream import Stream
    from fhrt.stream.sinks import Sink

UNSEEN = np.full((2, 2), np.nan)  # eyes that a detector does not give


class Hallucinator:
    """A model, a detector and what lies between.

    `model`: an installed model's name in any spelling, or a bundle folder. `backend`, `device`, `precision`, `threads`, `plan`: as
    `fhrt.runtime.load`. `detector`: "auto" (fhrt's own), "haar", a detector's bundle folder, the path of a YuNet ONNX file, or an object
    whose `detect(frame_bgr)` returns a list of `fhrt.faces.detect.Detection`. `max_face`: faces whose box is wider (pixels) are left alone.
    `color`: channel order of the arrays that come in and go out, "bgr" (as OpenCV) or "rgb". Raises the errors of `fhrt.errors`.
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
        if not isinstance(max_face, (int, float, np.integer, np.floating)) or not max_face > 0:
            raise BadInputError(f"max_face must be a number above 0, not {max_face!r}")
        self.color: Color = color
        self.max_face = max_face
        if not isinstance(detector, (str, Path)) and not callable(getattr(detector, "detect", None)):
            raise BadInputError(f"a detector is a name, a path or an object with detect(frame_bgr), not {type(detector).__name__}")
        self.detector = create_detector(detector, threads) if isinstance(detector, (str, Path)) else detector
        self.engine = fhrt.runtime.load(model, backend=backend, device=device, precision=precision, threads=threads, plan=plan)

    def run(self, frame: Any, boxes: ArrayLike | None = None) -> Result:
        """Finds the faces of a frame and hallucinates those up to `max_face` pixels wide.

        `frame`: uint8 `[H, W, 3]` (or grey, or with alpha), a path or a PIL image; `fhrt.ops.Nv12`; with a model on a CUDA device also
        CuPy's and torch's uint8 `[H, W, 3]` there. `boxes` `[N, 4]`: tight face boxes x1, y1, x2, y2 (forehead to chin, cheek to cheek)
        instead of the detector's, for which a frame on a device comes to the host. Raises `BadInputError`.

        On a device everything is put on the frame's library's current stream (CuPy's or torch's) and this returns while it runs: what is
        read of a face waits for it, `timings` are those of handing it over, and the frame may be overwritten on that stream only.
        """
        start = perf_counter()
        frame = as_frame_there(frame, self.color)
        # Where the engine is; going up to a device it is on its way while the detector looks.
        there = each_plane(frame, partial(send, library=self.engine.array_library, what="the frame"))
        if boxes is None:
            detections = self.detector.detect(as_detector_input(frame, self.color))
        else:
            detections = [Detection(tuple(box)) for box in as_boxes(boxes, frame).tolist()]
        small = [detection for detection in detections if detection.width <= self.max_face]
        detected = perf_counter()

        timings = {"detect": detected - start, "crop": 0.0, "model": 0.0, "assemble": 0.0}
        faces: list[Face] = []
        if small:
            batch, transforms = crop_faces(there, small, self.engine.card, self.color)
            cropped = perf_counter()
            output = self.engine.run(batch)
            ran = perf_counter()
            faces = assemble(small, batch, transforms, output, self.color)
            timings |= {"crop": cropped - detected, "model": ran - cropped, "assemble": perf_counter() - ran}
        timings["total"] = perf_counter() - start
        milliseconds = {stage: seconds * 1000 for stage, seconds in timings.items()}
        picture = frame if isinstance(frame, np.ndarray) else partial(as_picture, frame, self.color)
        return Result(picture, faces, milliseconds, self.color, skipped=len(detections) - len(small))

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
        try:
            lr = np.asarray(on_host(lr))
        except ValueError as error:
            raise BadInputError(f"LR faces must have shape [N, {height}, {width}, 3], all alike") from error
        if lr.dtype != np.uint8:
            raise BadInputError(f"LR faces must be uint8 values 0..255, not {lr.dtype}")
        if lr.ndim != 4 or lr.shape[1:] != (height, width, 3):
            raise BadInputError(f"LR faces must have shape [N, {height}, {width}, 3], not {list(lr.shape)}")
        if len(lr) == 0:
            return np.empty((0, *self.engine.card.output_size, 3), np.uint8)
        rgb = lr if self.color == "rgb" else lr[..., ::-1]
        batch = np.ascontiguousarray(rgb.transpose(0, 3, 1, 2), np.float32) / np.float32(127.5) - np.float32(1)
        return as_pictures(self.engine.run(batch).sr, self.color)


def crop_faces(frame: Frame, detections: Sequence[Detection], card: Card, color: Color, finer: int = 1) -> tuple[Any, NDArray[np.float32]]:
    """What the network of a card sees of a frame, reduced as its training faces were, with `finer` times its rows and columns.

    Returns `[N, 3, h, w]` float32 RGB in [-1, 1] where the frame is, and the transforms `[N, 2, 3]` from its pixels to the frame's. What
    decimation made shows the frame half an SR pixel further right and down than its transform says, by which the SR face lies right. N is
    at least 1.
    """
    height, width = card.input_size
    margin = CROP_MARGIN.get(card.input_size, STRAIGHTENED_MARGIN if "theta" in card.outputs else 1.0)
    boxes = np.array([one.box for one in detections])
    eyes = np.array([UNSEEN if one.eyes is None else one.eyes for one in detections])
    nv12 = isinstance(frame, Nv12)
    plane = frame.luma if isinstance(frame, Nv12) else frame

    def cut(times: int) -> tuple[Any, NDArray[np.float32]]:
        size = (times * height, times * width)
        transforms = crop_transforms(boxes, size, eyes=eyes, margin=margin)
        return face_crop(frame, beside(transforms, plane), size, 127.5, 127.5), transforms

    factor = DECIMATED.get(card.input_size)
    if factor is None:
        batch, transforms = cut(finer)
    else:
        large, shown = cut(factor)
        rows = beside(decimations(factor * np.hypot(shown[:, 0, 0], shown[:, 1, 0]), height, factor, finer)[:, None], plane)
        batch = rows @ large @ rows.swapaxes(2, 3)
        transforms = crop_transforms(boxes, (finer * height, finer * width), eyes=eyes, margin=margin)
    return (flip(batch, 1) if color == "bgr" and not nv12 else batch), transforms


def assemble(detections: Sequence[Detection], batch: Any, transforms: NDArray[np.float32], output: Output, color: Color) -> list[Face]:
    """The faces that a network made of `batch` `[N, 3, h, w]`, with `transforms` `[N, 2, 3]` from its pixels to the frame's.

    Of arrays on a device they hold what fetches theirs, all together, when one is first read.
    """
    coarser = (None if each is None else as_pictures(each, color) for each in (output.sr_2x, output.sr_4x))
    made = (as_pictures(batch, color), as_pictures(output.sr, color), output.theta, output.heatmaps, *coarser)
    if library_of(output.sr) is None:
        return _faces(detections, transforms, *made)
    download = Download(*made)
    faces = cache(lambda: _faces(detections, transforms, *download()))

    def later(detection: Detection, index: int) -> Face:
        names = ("lr", "sr", "transform", "heatmaps", "sr_2x", "sr_4x")
        made: dict[str, Any] = {name: lambda name=name: getattr(faces()[index], name) for name in names}
        return Face(detection.box, detection.score, **made)

    return list(map(later, detections, range(len(detections))))


def _faces(
    detections: Sequence[Detection],
    transforms: NDArray[np.float32],
    lr: NDArray[np.uint8],
    sr: NDArray[np.uint8],
    theta: NDArray[np.float32] | None,
    *others: NDArray[Any] | None,
) -> list[Face]:
    to_frame = face_transform(transforms, theta, lr.shape[1:3], sr.shape[1:3])
    return make_faces(detections, lr, sr, to_frame, *others)


def make_faces(
    detections: Sequence[Detection],
    lr: NDArray[np.uint8],
    sr: NDArray[np.uint8],
    transforms: NDArray[np.float32],
    heatmaps: NDArray[np.float32] | None,
    sr_2x: NDArray[np.uint8] | None = None,
    sr_4x: NDArray[np.uint8] | None = None,
) -> list[Face]:
    """Faces of arrays with a row for each; transforms `[N, 2, 3]`: SR pixels to the frame's."""
    others = ([None] * len(detections) if each is None else each for each in (heatmaps, sr_2x, sr_4x))
    rows = zip(detections, lr, sr, transforms, *others, strict=False)
    return [
        Face(found.box, found.score, small, large, transform, heatmaps=heat, sr_2x=twice, sr_4x=four_times)
        for found, small, large, transform, heat, twice, four_times in rows
    ]


def as_pictures(tensor: Any, color: Color) -> Any:
    """Network tensor RGB `[N, 3, h, w]` in [-1, 1] to uint8 `[N, h, w, 3]` in the channel order `color`, where the tensor is."""
    if color == "bgr" and library_of(tensor) is None:
        return to_image(tensor[:, ::-1])  # read backwards, copied once
    pictures = to_image(tensor)
    return pictures if color == "rgb" else swap_channels(pictures)
