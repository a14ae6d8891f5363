"""The one place where frames, picture files and boxes from outside are checked."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, TypeAlias

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.ops import Nv12, face_crop, to_image, yuv_to_bgr
from fhrt.ops.arrays import dtype_of, is_cupy, is_torch
from fhrt.runtime.device import Download, flip, library_of

Color = Literal["bgr", "rgb"]
Picture = NDArray[np.uint8]
Frame: TypeAlias = Any
"""A `Picture`, the same on a CUDA device (CuPy's or torch's), or `Nv12` in either place."""


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
                f"the PIL image has more than 8 bits per channel (mode {source.mode}); pass the path of its file, or mode RGB"
            )
        from PIL import ImageOps

        try:
            frame = np.array(ImageOps.exif_transpose(source).convert("RGB"))
        except (OSError, ValueError) as error:
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
    """A picture file's bytes as BGR uint8 `[H, W, 3]`; `name` is what its errors call it. Raises `BadInputError`."""
    if not data:
        raise BadInputError(f"{name} is empty")
    if _is_cut_short(data):  # the decoders would return a picture with a grey lower part
        raise BadInputError(f"{name} is truncated")
    try:
        frame = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error as error:  # e.g. more pixels than OpenCV accepts
        raise BadInputError(f"{name} cannot be decoded: {' '.join(str(error.err).split())}") from error
    if frame is None:
        raise BadInputError(f"{name} is not a picture, or it is damaged")
    return frame.astype(np.uint8, copy=False)


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
    if data.startswith(b"\xff\xd8"):
        return not _jpeg_ends(data)
    if data.startswith(b"\x89PNG"):
        return b"IEND" not in data
    if data.startswith(b"RIFF"):  # WebP: the header holds the length
        return len(data) < 8 + int.from_bytes(data[4:8], "little")
    return False


_JPEG_MARKER = re.compile(rb"\xff[^\x00\x01\xd0-\xd7\xff]")  # with what follows it a segment; the others stand among a scan's bytes


def _jpeg_ends(data: bytes) -> bool:
    """Whether the picture itself has an end: its pieces may hold others' ends, and phones put films behind it."""
    at = 2
    while found := _JPEG_MARKER.search(data, at):
        at = found.end()
        if data[at - 1] == 0xD9:
            return True
        at += int.from_bytes(data[at : at + 2], "big")
    return False
