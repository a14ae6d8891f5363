"""Made-up films whose truth is known: upright faces of the archive in motion, as a camera would see them."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.protocols.archive import LOOSE, MARGIN, TIGHT
from fhrt.protocols.camera import READ_NOISE, SHOT_NOISE
from fhrt.protocols.pipeline import tight_boxes
from fhrt.resample import to_uint8

FPS = 25
FINER = 4  # faces are drawn on a grid this much finer than the frame's and averaged, as a sensor's pixels do
SPEED = (0.3, 5.0)  # face widths per second


@dataclass(frozen=True)
class Scene:
    """`frames` [T] BGR uint8; `to_frame` [T, M, 2, 3]: pixel of the 128×128 face to frame pixel; `boxes` [T, M, 4] tight faces;
    `visible` [T, M]: its middle is inside the frame, not behind a pillar or a face.
    """

    frames: list[NDArray[np.uint8]]
    to_frame: NDArray[np.float64]
    boxes: NDArray[np.float64]
    visible: NDArray[np.bool_]


def film(
    faces: NDArray[np.uint8],
    background: NDArray[np.uint8],
    length: int,
    sides: tuple[float, float],
    rng: np.random.Generator,
    *,
    pillars: int = 0,
    noise: float = 0,
    crf: int | None = None,
) -> Scene:
    """`length` frames in which loose faces `[M, 192, 192, 3]` RGB, their canonical squares `sides` pixels wide, move over `background`.

    `pillars`: columns of the background that stand before the faces. `noise`: of the sensor, 1 for the `camera` protocol's strongest.
    `crf`: quality of an H.264 encoding of the whole film; None: none.
    """
    height, width = background.shape[:2]
    transforms = _paths(len(faces), length, (width, height), sides, rng)
    columns = np.zeros((height, width, 1), np.float32)
    for x in rng.uniform(0.15, 0.85, pillars) * width:
        columns[:, int(x) : int(x + 1.5 * sides[1])] = 1
    frames = []
    for at in range(length):
        canvas = background.astype(np.float32)
        for face, transform in zip(faces, transforms[at], strict=True):
            _draw(canvas, face, transform)
        frames.append(canvas + columns * (background - canvas))
    # The middle of the canonical square: pixel 63.5 of the 128×128 face.
    centre = np.rint(transforms @ [63.5, 63.5, 1]).astype(int)
    inside = ((centre >= 0) & (centre < [width, height])).all(-1)
    cx, cy = np.clip(centre, 0, [width - 1, height - 1]).transpose(2, 0, 1)
    visible = inside & (columns[cy, cx, 0] == 0) & ~_covered(centre, transforms[..., 0, 0] * TIGHT)
    pictures = [_sensor(frame, noise, rng) for frame in frames]
    return Scene(pictures if crf is None else _h264(pictures, crf), transforms, tight_boxes(transforms), visible)


def backdrop(size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.uint8]:
    """A background `[height, width, 3]` of blotches of all sizes, `size` being (width, height)."""
    octaves = [rng.normal(0, 1, (3 * 2**level, 4 * 2**level, 3)).astype(np.float32) for level in range(6)]
    mixed = sum(cv2.resize(one, size, interpolation=cv2.INTER_CUBIC) * 0.7**level for level, one in enumerate(octaves))
    return to_uint8(110 + 35 * np.asarray(mixed))


def _paths(count: int, length: int, size: tuple[int, int], sides: tuple[float, float], rng: np.random.Generator) -> NDArray[np.float64]:
    """Straight walks with a sway, and slow growth; upright transforms `[T, M, 2, 3]` of the 128×128 face."""
    t = np.arange(length)[:, None] / FPS
    side = np.exp(rng.uniform(*np.log(sides), count) + rng.uniform(-0.15, 0.15, count) * t)
    angle, speed = rng.uniform(0, 2 * np.pi, count), np.exp(rng.uniform(*np.log(SPEED), count))
    walk = np.stack([np.cos(angle), 0.4 * np.sin(angle)], -1) * speed[:, None] * side[0][:, None]
    sway = 0.25 * np.sin(2 * np.pi * (rng.uniform(0.5, 2, (count, 2)) * t[..., None] + rng.random((count, 2))))
    middle = rng.uniform(0.08, 0.92, (count, 2)) * size + walk * (t - t.mean())[..., None] + sway * side[..., None]
    transforms = np.zeros((length, count, 2, 3))
    scale = side / TIGHT
    transforms[..., 0, 0] = transforms[..., 1, 1] = scale
    transforms[..., 2] = middle - 0.5 - scale[..., None] * (TIGHT / 2 - 0.5)
    return transforms


def _covered(centre: NDArray[np.int_], side: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Faces `[T, M]` whose centre lies under a later one, which is drawn on top."""
    distance = np.linalg.norm(centre[:, :, None] - centre[:, None], axis=-1)
    return (np.triu(distance < 0.75 * side[:, None], 1)).any(-1)


def _draw(canvas: NDArray[np.float32], face: NDArray[np.uint8], transform: NDArray[np.float64]) -> None:
    """Draws a loose RGB face into a BGR canvas, faded towards its corners."""
    height, width = canvas.shape[:2]
    scale = transform[0, 0]
    corners = transform @ np.array([[-MARGIN, TIGHT + MARGIN], [-MARGIN, TIGHT + MARGIN], [1, 1]])
    x1, y1 = np.clip(np.floor(corners[:, 0]), 0, [width, height]).astype(int).tolist()
    x2, y2 = np.clip(np.ceil(corners[:, 1]) + 1, 0, [width, height]).astype(int).tolist()
    if x1 >= x2 or y1 >= y2:
        return
    # Fine pixel f lies at (f + 0.5) / FINER - 0.5 of the frame.
    offset = (transform[:, 2] - scale * MARGIN - [x1, y1] + 0.5) * FINER - 0.5
    matrix = np.column_stack([np.eye(2) * scale * FINER, offset])
    fine = ((x2 - x1) * FINER, (y2 - y1) * FINER)
    ramp = (np.arange(LOOSE) + 0.5) / LOOSE * 2 - 1
    mask = np.clip((1 - np.hypot(ramp[:, None] * 0.9, ramp * 1.05)) * 6, 0, 1).astype(np.float32)
    layers = [cv2.warpAffine(np.ascontiguousarray(part, dtype=np.float32), matrix, fine) for part in (face[..., ::-1], mask)]
    drawn, weight = (cv2.resize(layer, (x2 - x1, y2 - y1), interpolation=cv2.INTER_AREA) for layer in layers)
    below = canvas[y1:y2, x1:x2]
    below += weight[..., None] * (drawn - below)


def _sensor(frame: NDArray[np.float32], noise: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Optics of half a pixel's blur, then shot and read noise."""
    frame = np.maximum(cv2.GaussianBlur(frame, (0, 0), 0.5), 0)
    deviation = np.sqrt(frame * SHOT_NOISE + READ_NOISE**2) * np.float32(noise)
    return to_uint8(frame + deviation * rng.standard_normal(frame.shape, np.float32))


def _h264(frames: list[NDArray[np.uint8]], crf: int) -> list[NDArray[np.uint8]]:
    encoder = av.CodecContext.create("libx264", "w")
    encoder.height, encoder.width = frames[0].shape[:2]
    encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, FPS)
    # One thread: with several, the slices and so the pictures would depend on the machine.
    encoder.options = {"preset": "veryfast", "crf": str(crf), "tune": "zerolatency", "threads": "1"}
    packets = [packet for frame in frames for packet in encoder.encode(av.VideoFrame.from_ndarray(frame, format="bgr24"))]
    decoder = av.CodecContext.create("h264", "r")
    decoded = [frame for packet in [*packets, *encoder.encode(None), None] for frame in decoder.decode(packet)]
    return [frame.to_ndarray(format="bgr24") for frame in decoded]
