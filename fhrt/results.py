"""What a run returns: faces, the frame with them pasted in, and pictures to look at."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Generic, TypeVar, overload

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.faces.align import compose
from fhrt.faces.inputs import Color, Picture, swap_channels
from fhrt.faces.paste import paste_faces
from fhrt.files import write_bytes
from fhrt.systems import COMPONENTS

# Colours and sizes of the drawings (BGR, pixels).
BACKGROUND = (26, 23, 22)
PANEL = (44, 39, 37)
TEXT = (232, 228, 226)
MUTED = (160, 150, 146)
ACCENT = (80, 200, 255)
PAD = 16
CAPTION = 26
ARROW = 28
COMPONENT_COLORS = ((233, 180, 86), (66, 228, 240), (167, 121, 204), (115, 158, 0))  # told apart by colour-blind people, too
HEAT = 0.75  # how much of a face's pixel the peak of a heatmap covers
FRAME_WIDTH, FRAME_HEIGHT = 1280, 4096


T = TypeVar("T")


class Later(Generic[T]):
    """A field that may be given as a function without arguments, which is called once, when the field is first read."""

    def __init__(self, *default: T) -> None:
        self._default = default

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = f"_{name}"

    @overload
    def __get__(self, holder: None, owner: type) -> T: ...
    @overload
    def __get__(self, holder: object, owner: type) -> T: ...
    def __get__(self, holder: Any, owner: type) -> T:
        if holder is None:
            if not self._default:
                raise AttributeError("a field without a default")
            return self._default[0]
        value = holder.__dict__[self._name]
        if callable(value):
            value = holder.__dict__[self._name] = value()
        return value

    def __set__(self, holder: Any, value: T | Callable[[], T]) -> None:
        holder.__dict__[self._name] = value


@dataclass
class Face:
    """One hallucinated face. What an engine on a device made comes to the host when it is first read, all of a frame at once."""

    box: tuple[float, float, float, float]
    """x1, y1, x2, y2 of the tight face in the frame, pixels."""
    score: float
    lr: Later[Picture] = Later()
    """What the network saw, rounded to uint8 `[h, w, 3]`, in the frame's channel order. It saw fractions: of its rounding it makes
    pictures that differ by a few grey levels, in INT8 by more in places."""
    sr: Later[Picture] = Later()
    """What it made: uint8 `[H, W, 3]`, upright."""
    transform: Later[NDArray[np.float32]] = Later()
    """`[2, 3]`, SR pixel to frame pixel, pixel centres at integers."""
    track_id: int | None = None
    heatmaps: Later[NDArray[np.float32] | None] = Later(None)
    """`[K, h, w]` facial components, where the model has them."""
    quality: float | None = None
    """0 to 1, how good a crop it was made from (`fhrt.faces.fuse.crop_quality`); in streams."""
    sr_2x: Later[Picture | None] = Later(None)
    """The network's picture at twice the size of `lr`, uint8 `[2h, 2w, 3]`, where it makes one (C-SRIP); in streams, unlike `sr`, of this
    frame alone."""
    sr_4x: Later[Picture | None] = Later(None)
    """The same at four times the size of `lr`, uint8 `[4h, 4w, 3]`."""

    @property
    def width(self) -> float:
        return self.box[2] - self.box[0]

    def at_scale(self, scale: int) -> Face:
        """This face with the network's picture at `scale` times the size of `lr` for its `sr`, and with that one's `transform`.

        Raises `BadInputError` where the network makes no such picture.
        """
        own = self.sr.shape[0] // self.lr.shape[0]
        pictures = {2: self.sr_2x, 4: self.sr_4x, own: self.sr}
        picture = pictures.get(scale) if isinstance(scale, (int, np.integer)) else None
        if picture is None:
            there = ", ".join(str(one) for one, each in sorted(pictures.items()) if each is not None)
            raise BadInputError(f"there is no picture of the face at {scale} times what the network saw; there are: {there}")
        if scale == own:
            return self
        # C-SRIP learns them from HR faces of which every step-th pixel was kept, from step / 2 on.
        step = own / scale
        place = compose(self.transform, np.array([[step, 0, step / 2], [0, step, step / 2]])).astype(np.float32)
        return replace(self, sr=picture, transform=place)


@dataclass
class Result:
    """The faces of one frame."""

    frame: Later[Picture] = Later()
    """uint8 `[H, W, 3]` in the channel order `color`; of NV12, or from a device, made when it is first read."""
    faces: list[Face]  # type: ignore[misc]  # mypy takes a descriptor for a default
    timings: dict[str, float]  # type: ignore[misc]
    """Milliseconds per stage: detect, crop, model, assemble, total."""
    color: Color = "bgr"
    skipped: int = 0
    """Faces that were found but left alone because they are wider than `max_face`."""
    source: str = ""
    """In streams: the camera's name, without passwords."""
    number: int = 0
    """In streams: the frame's number, 0, 1, …; a gap is a frame that was dropped."""
    time: float = 0.0
    """In streams: the frame's presentation time, seconds."""
    track_ids: list[int] = field(default_factory=list)
    """In streams: every track of this source that has not ended, also those without a face in this frame."""
    latency: float | None = None
    """In streams: seconds from the frame's coming in until it was yielded."""

    def at_scale(self, scale: int) -> Result:
        """This result with the network's pictures at `scale` times the size of what it saw for its SR faces, to be pasted, drawn and saved.

        C-SRIP makes 2, 4 and 8 times as large ones, the other systems 8. Raises `BadInputError` where there are none.
        """
        return replace(self, faces=[face.at_scale(scale) for face in self.faces])

    def paste(self, scale: int = 4) -> Picture:
        """The frame enlarged `scale` times (bicubic) with the SR faces in place; uint8, channels as in `frame`. Raises `BadInputError`."""
        if not isinstance(scale, (int, np.integer)) or scale < 1:
            raise BadInputError(f"scale must be a whole number from 1 on, not {scale!r}")
        try:
            return paste_faces(self.frame, [(face.sr, face.transform) for face in self.faces], int(scale))
        except (cv2.error, MemoryError) as error:
            height, width = self.frame.shape[:2]
            raise BadInputError(f"a picture of {width * scale}x{height * scale} pixels cannot be made: too large") from error

    def plot(self, max_faces: int = 24, *, heatmaps: bool = False) -> Picture:
        """The frame with numbered boxes and, below it, LR → SR of its `max_faces` largest faces.

        `heatmaps`: beside each SR face, drawn over it, where the network has found the facial components, in a colour for each (MTUN).
        uint8 `[H, W, 3]`, channels as in `frame`. Raises `BadInputError`, also where a face has no heatmaps.
        """
        if not isinstance(max_faces, (int, np.integer)) or max_faces < 0:
            raise BadInputError(f"max_faces must be a whole number from 0 on, not {max_faces!r}")
        shown = sorted(self.faces, key=lambda face: -face.width)[:max_faces]
        zoom = zoom_to_show(self.frame)
        frame = paste_faces(self._bgr(self.frame), [], zoom)
        for face in self.faces:
            if not any(face is one for one in shown):
                draw_box(frame, face.box, zoom, "")
        for number, face in enumerate(shown, 1):
            draw_box(frame, face.box, zoom, str(number))
        captions = [f"{number}   {face.width:.0f} px   {face.score:.2f}" for number, face in enumerate(shown, 1)]
        tiles: list[tuple[Picture, ...]] = [(self._bgr(face.lr), self._bgr(face.sr)) for face in shown]
        if heatmaps:
            tiles = [(*tile, draw_heatmaps(tile[1], face.heatmaps)) for tile, face in zip(tiles, shown, strict=True)]
        strip = draw_pairs(tiles, captions, frame.shape[1] + 2 * PAD)
        title = f"{len(self.faces)} face{'' if len(self.faces) == 1 else 's'}"
        if self.skipped:
            title += f"   {self.skipped} larger left alone"
        if "total" in self.timings:
            title += f"   {self.timings['total']:.0f} ms"
        lines = CAPTION * (2 if heatmaps else 1)
        canvas = np.full((PAD + frame.shape[0] + PAD + lines + strip.shape[0], strip.shape[1], 3), BACKGROUND, np.uint8)
        left = (canvas.shape[1] - frame.shape[1]) // 2
        canvas[PAD : PAD + frame.shape[0], left : left + frame.shape[1]] = frame
        draw_text(canvas, title, (PAD, frame.shape[0] + 2 * PAD + 14), TEXT, 0.55)
        if heatmaps:
            draw_legend(canvas, (PAD, frame.shape[0] + 2 * PAD + 14 + CAPTION))
        canvas[canvas.shape[0] - strip.shape[0] :] = strip
        return self._bgr(canvas)

    def save(self, path: str | Path, *, heatmaps: bool = False) -> Path:
        """Writes `plot()` to a picture file, whole or not at all. Raises `BadInputError`."""
        return write_picture(path, self._bgr(self.plot(heatmaps=heatmaps)))

    def _bgr(self, picture: Picture) -> Picture:
        return picture if self.color == "bgr" else swap_channels(picture)


def draw_pairs(faces: Sequence[tuple[Picture, ...]], captions: Sequence[str], width: int) -> Picture:
    """Tiles of LR → SR and what else is given of a face, as many in a row as `width` pixels hold (at least one); BGR uint8.

    `faces`: of each its LR face, and pictures of one size.
    """
    if not faces:
        return np.full((PAD, width, 3), BACKGROUND, np.uint8)
    side_h, side_w = faces[0][1].shape[:2]
    made = len(faces[0]) - 1
    tile_w, tile_h = PAD + side_w + ARROW + made * (side_w + PAD), side_h + PAD + CAPTION
    columns = min(max((width - PAD) // (tile_w + PAD), 1), len(faces))
    rows = -(-len(faces) // columns)
    sheet = np.full((PAD + rows * (tile_h + PAD), max(width, PAD + columns * (tile_w + PAD)), 3), BACKGROUND, np.uint8)
    for index, ((lr, *pictures), caption) in enumerate(zip(faces, captions, strict=True)):
        row, column = divmod(index, columns)
        y, x = PAD + row * (tile_h + PAD), PAD + column * (tile_w + PAD)
        tile = sheet[y : y + tile_h, x : x + tile_w]
        tile[:] = PANEL
        # Nearest: each pixel that the network was given stays visible.
        tile[PAD : PAD + side_h, PAD : PAD + side_w] = cv2.resize(lr, (side_w, side_h), interpolation=cv2.INTER_NEAREST)
        start = PAD + side_w
        middle = PAD + side_h // 2
        cv2.arrowedLine(tile, (start + 6, middle), (start + ARROW - 7, middle), MUTED, 1, cv2.LINE_AA, tipLength=0.35)
        for number, picture in enumerate(pictures):
            left = start + ARROW + number * (side_w + PAD)
            tile[PAD : PAD + side_h, left : left + side_w] = picture
        draw_text(tile, caption, (PAD, tile_h - 9), MUTED, 0.42)
    return sheet


def draw_heatmaps(sr: Picture, heatmaps: NDArray[np.float32] | None) -> Picture:
    """An SR face, BGR uint8 `[H, W, 3]`, with each facial component where its heatmap of `[K, h, w]` is high; 1 is a peak, 0 nothing.

    A new array. Raises `BadInputError` where there are no heatmaps.
    """
    if heatmaps is None:
        raise BadInputError("this model makes no heatmaps of facial components: MTUN does")
    drawn = sr.astype(np.float32)
    for color, heat in zip(COMPONENT_COLORS, heatmaps, strict=True):
        weight = HEAT * cv2.resize(heat.astype(np.float32), sr.shape[1::-1], interpolation=cv2.INTER_LINEAR).clip(0, 1)[:, :, None]
        drawn += weight * (np.array(color, np.float32) - drawn)
    return np.rint(drawn).astype(np.uint8)


def draw_legend(picture: Picture, origin: tuple[int, int]) -> None:
    """Which component has which colour, in one line of `picture`, BGR uint8; origin: its lower left, pixels."""
    x, y = origin
    for name, color in zip(COMPONENTS, COMPONENT_COLORS, strict=True):
        cv2.rectangle(picture, (x, y - 10), (x + 11, y + 1), color, cv2.FILLED)
        draw_text(picture, name, (x + 18, y), TEXT, 0.45)
        size, _ = cv2.getTextSize(name, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
        x += 18 + size[0] + PAD


def write_picture(path: str | Path, picture_bgr: Picture) -> Path:
    """Encodes by the file name's ending and writes whole or not at all. Raises `BadInputError`."""
    path = Path(path)
    try:
        done, data = cv2.imencode(path.suffix, picture_bgr)
    except cv2.error as error:
        raise BadInputError(f'cannot write {path}: "{path.suffix}" is not a picture format; use .png, .jpg or .webp') from error
    if not done:
        height, width = picture_bgr.shape[:2]
        raise BadInputError(f"cannot write {path}: {width}x{height} pixels are more than {path.suffix} takes, perhaps; use .png")
    return write_bytes(path, data.tobytes())


def zoom_to_show(frame: Picture) -> int:
    """How many times a frame is enlarged before its boxes are drawn: a small one to about `FRAME_WIDTH`, a thin one less."""
    height, width = frame.shape[:2]
    return max(1, min(round(FRAME_WIDTH / width), FRAME_HEIGHT // height))


def draw_box(frame: Picture, box: tuple[float, float, float, float], zoom: int, label: str) -> None:
    """A labelled box, in pixels of the frame before it was enlarged `zoom` times; draws on `frame`, BGR uint8."""
    x1, y1, x2, y2 = (round(value * zoom) for value in box)
    thickness = max(1, round(frame.shape[1] / 900))
    cv2.rectangle(frame, (x1, y1), (x2, y2), ACCENT, thickness, cv2.LINE_AA)
    if label:
        size, _ = cv2.getTextSize(label, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
        top = max(y1 - size[1] - 6, 0)
        cv2.rectangle(frame, (x1, top), (x1 + size[0] + 6, top + size[1] + 6), ACCENT, cv2.FILLED)
        draw_text(frame, label, (x1 + 3, top + size[1] + 3), BACKGROUND, 0.45)


def draw_text(picture: Picture, text: str, origin: tuple[int, int], color: tuple[int, int, int], size: float) -> None:
    """One line in `picture`, BGR uint8; origin: its lower left, pixels."""
    cv2.putText(picture, text, origin, cv2.FONT_HERSHEY_SIMPLEX, size, color, 1, cv2.LINE_AA)
