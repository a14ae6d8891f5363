"""Composes the crowd picture that ``fhrt demo`` ships: drawn people whose faces a network made, so that it shows no real person.

Each face is a network's output for the average of several LR faces, shrunk to a camera's size, slightly turned, and blended onto
a drawn head. The picture is then blurred, given sensor noise and compressed like a camera's.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.protocols.archive import read_faces
from fhrt.protocols.pairs import make_pairs
from fhrt.resample import to_uint8
from fhrt.results import write_picture
from fhrt.runtime import Engine

WIDTH, HEIGHT = 720, 440
DRAWN = 4  # everything is drawn this much larger and reduced at the end, which smooths all edges
BLENDED = 3  # LR faces per average
ROWS = ((150, 15.0, 11), (245, 19.0, 9), (350, 24.0, 7))  # y of the faces' centres, tight face's width in pixels, people

Canvas = NDArray[np.float32]


def invented_faces(engine: Engine, data: Path, count: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """``[count, 128, 128, 3]`` uint8 RGB faces of nobody."""
    faces = read_faces(data, "train", 4000)
    chosen = faces[rng.choice(len(faces), (count, BLENDED), replace=False).ravel()]
    lr = make_pairs(chosen, "aligned", rng).lr.astype(np.float32).reshape(count, BLENDED, 3, 16, 16).mean(axis=1)
    return to_uint8((engine.run(lr / 127.5 - 1).sr + 1) * 127.5).transpose(0, 2, 3, 1)


def compose(faces: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """The picture ``[440, 720, 3]`` uint8 BGR with as many people as ``ROWS`` asks for."""
    canvas = _stand(rng)
    faces_left = iter(faces)
    for y, width, people in ROWS:
        pitch = WIDTH / people
        for place in range(people):
            x = (place + 0.5) * pitch + rng.uniform(-0.12, 0.12) * pitch
            _person(canvas, next(faces_left), x, y + rng.uniform(-6, 6), width * rng.uniform(0.92, 1.12), rng)
    small = cv2.resize(canvas, (WIDTH, HEIGHT), interpolation=cv2.INTER_AREA)
    noisy = to_uint8(cv2.GaussianBlur(small, (0, 0), 0.4) + rng.normal(0, 2.0, small.shape).astype(np.float32))
    coded = cv2.imencode(".jpg", noisy[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 92])[1]
    return np.asarray(cv2.imdecode(coded, cv2.IMREAD_COLOR))


def _stand(rng: np.random.Generator) -> Canvas:
    """An evening sky above the steps of a stand."""
    height, width = HEIGHT * DRAWN, WIDTH * DRAWN
    fade = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    canvas = np.ascontiguousarray(np.broadcast_to((1 - fade) * (96, 112, 140) + fade * (58, 56, 66), (height, width, 3)), np.float32)
    for y, _, _ in ROWS:
        top = (y + 24) * DRAWN
        cv2.rectangle(canvas, (0, top), (width, top + 14 * DRAWN), (78, 76, 84), cv2.FILLED)
    return cv2.GaussianBlur(canvas + rng.normal(0, 2, canvas.shape).astype(np.float32), (0, 0), 6)


def _person(canvas: Canvas, face: NDArray[np.uint8], x: float, y: float, width: float, rng: np.random.Generator) -> None:
    """Shoulders, neck, hair and the face, whose tight square is ``width`` pixels of the final picture wide."""
    size, angle = width * DRAWN, float(rng.uniform(-18, 18))
    turn = cv2.getRotationMatrix2D((0, 0), angle, 1.0)[:, :2]

    def at(right: float, down: float) -> tuple[int, int]:
        offset = turn @ (right * size, down * size)
        return int(x * DRAWN + offset[0]), int(y * DRAWN + offset[1])

    def oval(centre: tuple[int, int], radii: tuple[float, float], colour: tuple[float, ...], tilt: float = 0.0) -> None:
        axes = (int(radii[0] * size), int(radii[1] * size))
        cv2.ellipse(canvas, centre, axes, -tilt, 0, 360, colour, cv2.FILLED, cv2.LINE_AA)

    skin = np.median(face[70:100, 40:88].reshape(-1, 3), axis=0)
    hair = tuple(float(v) for v in np.percentile(face[:14].reshape(-1, 3), 15, axis=0) * 0.8)
    cloth = tuple(float(v) for v in rng.uniform(25, 190, 3))
    body = (int(x * DRAWN), int((y + 1.55 * width) * DRAWN))
    oval(body, (1.15, 0.85), cloth)
    cv2.rectangle(canvas, (body[0] - int(1.15 * size), body[1]), (body[0] + int(1.15 * size), body[1] + int(1.4 * size)), cloth, -1)
    oval(at(0, 0.62), (0.24, 0.38), tuple(float(v) * 0.82 for v in skin), angle)
    oval(at(0, -0.12), (0.54, 0.66), hair, angle)

    # The face itself, inside a soft oval that leaves out the corners of its square.
    grid = (np.arange(128, dtype=np.float32) + 0.5) / 128 - 0.5
    radius = np.hypot(grid[None, :] / 0.44, (grid[:, None] - 0.02) / 0.53)
    mask = np.clip((1.0 - radius) / 0.16, 0, 1)
    scale = size / 128
    reach = int(0.8 * size)  # half the side of a window that holds the turned square
    left, top = int(x * DRAWN) - reach, int(y * DRAWN) - reach
    window = canvas[max(top, 0) : top + 2 * reach, max(left, 0) : left + 2 * reach]
    matrix = np.concatenate([turn * scale, [[x * DRAWN - max(left, 0)], [y * DRAWN - max(top, 0)]]], axis=1)
    matrix[:, 2] -= matrix[:, :2] @ (63.5, 63.5)
    shape = window.shape[1::-1]
    warped = cv2.warpAffine(face.astype(np.float32), matrix, shape, flags=cv2.INTER_AREA)
    alpha = cv2.warpAffine(mask.astype(np.float32), matrix, shape)[..., None]
    window[:] = window * (1 - alpha) + warped * alpha


def write_crowd(engine: Engine, data: Path, path: Path, seed: int = 0) -> Path:
    """Invent the faces, compose the picture and write it."""
    rng = np.random.default_rng(seed)
    return write_picture(path, compose(invented_faces(engine, data, sum(row[2] for row in ROWS), rng), rng))
