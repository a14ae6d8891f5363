"""The one place where frames, picture files and boxes from outside are checked."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.faces.headers import Jpeg, Turn, read_header
from fhrt.ops import Nv12, face_crop, to_image, yuv_to_bgr
from fhrt.ops.arrays import dtype_of, is_cupy, is_torch
from fhrt.runtime.device import Download, flip, library_of

Color = Literal["bgr", "rgb"]
Picture = NDArray[np.uint8]
Frame: TypeAlias = Any
"""A `Picture`, the same on a CUDA device (CuPy's or torch's), or `Nv12` in either place."""

MOST_PIXELS = 1 << 28  # 768 MB as BGR: more than the largest phones' pictures (200 million)
JPEG_END = b"\xff\xd9"
FILLING = bytes(random.Random(0).randrange(255) for _ in range(4096))  # any bytes that are no marker


def swap_channels(picture: Any) -> Any:
    """BGR to RGB and back: uint8 `[..., 3]`, contiguous, also on a device."""
    if library_of(picture) is not None:
        return flip(picture, -1)
    rows = picture.reshape(-1, picture.shape[-2], 3)
    return np.asarray(cv2.cvtColor(rows, cv2.COLOR_BGR2RGB), np.uint8).reshape(picture.shape) if rows.size else picture.copy()


def as_frame(source: Any, color: Color = "bgr") -> Picture:
    """A frame as uint8 `[H, W, 3]` in the channel order `color`.

    `source`: an ndarray `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]` (alpha is dropped) that is already in that
    order, a path of a picture file, or a PIL image; these two are turned as their EXIF orientation says. Raises `BadInputError`.
    """
    if isinstance(source, (str, Path)):
        frame = read_picture(Path(source))
        return frame if color == "bgr" else swap_channels(frame)
    if hasattr(source, "convert") and hasattr(source, "getbands"):  # a PIL image: so Pillow is there
        if source.mode[0] in "IF":  # Pillow would clip them to 255
            raise BadInputError(
                f"the PIL image has more than 8 bits per channel (mode {source.mode}); scale it to 0..255 and pass mode RGB, or for 16 "
                "bits the path of its file"
            )
        width, height = source.size
        check_pixels(width, height, "the PIL image")
        from PIL import ImageOps

        try:
            frame = np.array(ImageOps.exif_transpose(source).convert("RGB"))
        except Exception as error:  # of a damaged file, whatever its decoder comes upon
            raise BadInputError(f"the PIL image cannot be decoded: {error}") from error
        return _check_array(frame if color == "rgb" else swap_channels(frame))
    if isinstance(source, np.ndarray):
        return _check_array(source)
    raise BadInputError(f"a frame must be an ndarray, a path or a PIL image, not {type(source).__name__}")


def as_frame_there(source: Any, color: Color = "bgr") -> Frame:
    """As `as_frame`; `Nv12`, and arrays `[H, W, 3]` on a CUDA device, stay where they are. Raises `BadInputError`."""
    if isinstance(source, Nv12) or is_torch(source):
        source = each_plane(source, lambda plane: plane.numpy() if is_torch(plane) and plane.device.type == "cpu" else plane)
    if isinstance(source, Nv12):
        return source
    if library_of(source) is None:
        return as_frame(source, color)
    if dtype_of(source) != "uint8" or source.ndim != 3 or source.shape[2] != 3 or 0 in source.shape:
        raise BadInputError(f"a frame on a device must be uint8 [H, W, 3], not {dtype_of(source)} {list(source.shape)}")
    return source


def each_plane(frame: Frame, call: Callable[[Any], Any]) -> Frame:
    """The frame with `call` applied to its array, or to both of `Nv12`."""
    return replace(frame, luma=call(frame.luma), chroma=call(frame.chroma)) if isinstance(frame, Nv12) else call(frame)


def frame_size(frame: Frame) -> tuple[int, int]:
    """(height, width)."""
    height, width = (frame.luma if isinstance(frame, Nv12) else frame).shape[:2]
    return int(height), int(width)


def as_picture(frame: Frame, color: Color) -> Picture:
    """The frame on the host, uint8 `[H, W, 3]` in the channel order `color`.

    `Nv12` becomes what crops are made of, by the same code: a tenth of a second of one core at 1080p.
    """
    frame = each_plane(frame, lambda plane: Download(plane)()[0])
    if not isinstance(frame, Nv12):
        return np.asarray(frame, np.uint8)
    unmoved = np.eye(2, 3, dtype=np.float32)[None]
    rgb: Picture = to_image(face_crop(frame, unmoved, frame_size(frame), 0, 1), low=0, high=255)[0]
    return rgb if color == "rgb" else swap_channels(rgb)


def as_detector_input(frame: Frame, color: Color) -> Picture:
    """What a detector gets: the frame on the host, BGR.

    Of `Nv12` each chroma pixel counts for the 2×2 luma pixels that it lies among, in a twentieth of the time of `as_picture`.
    """
    if isinstance(frame, Nv12):
        luma, chroma = (Download(plane)()[0] for plane in (frame.luma, frame.chroma))
        return yuv_to_bgr(luma, chroma[..., 0], chroma[..., 1], frame.matrix, bool(frame.full_range))
    picture = as_picture(frame, color)
    return picture if color == "bgr" else swap_channels(picture)


def read_picture(path: Path) -> Picture:
    """Reads a picture file as BGR uint8 `[H, W, 3]`.

    Raises `BadInputError` that names the file when it is unreadable or cut short.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a null byte in the path
        raise BadInputError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    return decode_picture(data, str(path))


def decode_picture(data: bytes, name: str) -> Picture:
    """A picture file's bytes as BGR uint8 `[H, W, 3]`, upright; `name` is what its errors call it. Raises `BadInputError`.

    Of a GIF, a TIFF or an animation, the first picture.
    """
    if not data:
        raise BadInputError(f"{name} is empty")
    header = read_header(data)
    if header.precise:
        raise BadInputError(f"{name} holds floating-point numbers, or more than 16 bits; scale them to 0..255 and pass a uint8 array")
    if header.size is not None:
        check_pixels(*header.size, name)
    if header.jpeg.end is None if header.jpeg is not None else _is_cut_short(data):
        raise BadInputError(f"{name} is truncated")
    jpeg = header.jpeg
    frame = _decoded(data if jpeg is None or jpeg.closed else data[: jpeg.end] + JPEG_END, name, header.turned)
    if jpeg is not None and _has_grey_end(data, jpeg, frame, name):  # as decoders make it of what is missing
        raise BadInputError(f"{name} is truncated")
    return reorient(frame, header.turn)


def _decoded(data: bytes, name: str, turned: bool = False) -> Picture:
    """As it is stored, or as OpenCV turns it. Raises `BadInputError`."""
    flags = cv2.IMREAD_COLOR | (0 if turned else cv2.IMREAD_IGNORE_ORIENTATION)
    try:
        frame = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:  # e.g. more pixels than OpenCV accepts
        raise BadInputError(f"{name} cannot be decoded: {' '.join(str(error.err).split())}") from error
    if frame is None:
        raise BadInputError(f"{name} is not a picture, or it is damaged")
    return frame.astype(np.uint8, copy=False)


def reorient(image: Picture, turn: Turn) -> Picture:
    """The picture turned and mirrored to the nearest quarter; `turn` as in `fhrt.faces.headers`, of any length."""
    a, b, c, d = turn
    if abs(a) + abs(d) < abs(b) + abs(c):
        image, a, d = np.asarray(cv2.transpose(image), np.uint8), c, b
    if a < 0 or d < 0:
        image = np.asarray(cv2.flip(image, -1 if a < 0 and d < 0 else int(a < 0)), np.uint8)
    return image


def most_pixels() -> int:
    """Of a picture or a frame: ``FHRT_MAX_PIXELS``, or `MOST_PIXELS`."""
    text = os.environ.get("FHRT_MAX_PIXELS", "")
    return int(text) if text.isdecimal() and int(text) else MOST_PIXELS


def check_pixels(width: int, height: int, name: str) -> None:
    """Raises `BadInputError` for more pixels than there may be, before there is memory for them."""
    if width * height > (most := most_pixels()):
        raise BadInputError(f"{name} says that it has {width}x{height} pixels, more than {most}; FHRT_MAX_PIXELS sets another limit")


def _has_grey_end(data: bytes, jpeg: Jpeg, frame: Picture, name: str) -> bool:
    """Whether a JPEG's last scan ends before its picture does, of which decoders make grey.

    Then bytes that are put behind the scan become a part of the picture; else nothing reads them.
    """
    if jpeg.arithmetic:  # which may leave zeros out at a scan's end
        return False
    if jpeg.plain:  # where pixels are missing the last ones are grey: mostly they are not, and nothing more need be decoded
        b, g, r = frame[-8:, -8:].reshape(-1, 3).astype(np.float64).T
        if np.abs(0.114 * b + 0.587 * g + 0.299 * r - 128).max() > 3:
            return False
    return not np.array_equal(frame, _decoded(data[: jpeg.end] + FILLING + JPEG_END, name))


def on_host(values: Any) -> Any:
    """Torch's and CuPy's arrays as NumPy takes them, without their gradient and from their device; anything else as it is."""
    if is_torch(values):
        return values.detach().cpu()
    return values.get() if is_cupy(values) else values


def as_boxes(boxes: Any, frame: Frame) -> NDArray[np.float64]:
    """Tight face boxes `[N, 4]` (x1, y1, x2, y2; pixels), float64.

    Raises `BadInputError` that names the first bad box.
    """
    try:
        array = np.asarray(on_host(boxes), np.float64)
    except (TypeError, ValueError) as error:
        raise BadInputError("boxes must be numbers of shape [N, 4] (x1, y1, x2, y2)") from error
    if array.size == 0:
        return np.empty((0, 4))
    if array.ndim != 2 or array.shape[1] != 4:
        raise BadInputError(f"boxes must have shape [N, 4] (x1, y1, x2, y2), not {list(array.shape)}")
    height, width = frame_size(frame)
    for index, (x1, y1, x2, y2) in enumerate(array.tolist()):
        name = f"box {index} ({x1:g}, {y1:g}, {x2:g}, {y2:g})"
        if not np.isfinite(array[index]).all():
            raise BadInputError(f"{name} holds NaN or infinity")
        if x2 <= x1 or y2 <= y1:
            raise BadInputError(f"{name} is inverted: x1 < x2 and y1 < y2 are needed")
        if x2 - x1 < 2 or y2 - y1 < 2:
            raise BadInputError(f"{name} is smaller than 2 pixels")
        if x2 <= 0 or y2 <= 0 or x1 >= width or y1 >= height:
            raise BadInputError(f"{name} lies outside the {width}x{height} frame")
    return array


def _check_array(frame: NDArray[Any]) -> Picture:
    if np.issubdtype(frame.dtype, np.floating) and not np.isfinite(frame).all():
        raise BadInputError("the frame holds NaN or infinity; pass uint8 values 0..255")
    if frame.dtype != np.uint8:
        raise BadInputError(f"the frame is {frame.dtype}; pass uint8 values 0..255")
    if frame.ndim not in (2, 3):
        raise BadInputError(f"a frame must have shape [H, W] or [H, W, C], not {list(frame.shape)}")
    if frame.size == 0:
        raise BadInputError(f"the frame is empty: shape {list(frame.shape)}")
    if frame.ndim == 2:
        frame = frame[:, :, None]
    channels = frame.shape[2]
    if channels not in (1, 3, 4):
        raise BadInputError(f"a frame must have 1, 3 or 4 channels, not {channels}")
    return np.ascontiguousarray(np.repeat(frame, 3, axis=2) if channels == 1 else frame[:, :, :3])


def _is_cut_short(data: bytes) -> bool:
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if data.startswith(b"RIFF"):  # WebP: the header holds the length
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return False
