"""A picture of a source, with the times that belong to it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.faces.inputs import most_pixels, reorient
from fhrt.ops import yuv_to_bgr

if TYPE_CHECKING:
    import av


# What FFmpeg calls the pictures of nearly all cameras, and their colours (AVColorSpace, AVColorRange). What says nothing is taken for
# BT.601, as FFmpeg does.
PLANAR = ("yuv420p", "yuvj420p")
MATRICES: dict[int, Literal["bt709", "bt601"]] = {1: "bt709", 2: "bt601", 5: "bt601", 6: "bt601"}
FULL_RANGE = 2
OBLONG = 4.0  # a pixel's longer side over its shorter one, beyond which what a stream says of them is damaged


class Frame:
    """One picture.

    source: the source's name. number: 0, 1, … of the pictures that the reader accepted; a gap is a frame that the policy dropped.
    time: presentation time in seconds, growing within a source: a file's own, else since the source's first frame.
    arrival: `time.monotonic()` when it came in. capture: Unix time on the camera's clock, None where the camera does not send it. aspect:
    the width of a pixel of `picture` over its height.
    """

    __slots__ = ("_aspect", "_picture", "arrival", "capture", "number", "source", "time")

    def __init__(
        self,
        source: str,
        number: int,
        time: float,
        arrival: float,
        capture: float | None,
        picture: av.VideoFrame | NDArray[np.uint8],
        aspect: float = 1.0,
    ) -> None:
        self.source, self.number, self.time, self.arrival, self.capture = source, number, time, arrival, capture
        self._picture, self._aspect = picture, aspect

    def __repr__(self) -> str:
        return f"Frame({self.source!r}, number={self.number}, time={self.time:.3f})"

    @property
    def image(self) -> NDArray[np.uint8]:
        """BGR uint8 `[H, W, 3]`, upright, of square pixels. Converted when first asked for: a dropped frame costs no conversion."""
        picture = self._picture
        if not isinstance(picture, np.ndarray):
            picture = self._picture = _to_bgr(picture, self._aspect)
        return picture

    def age(self) -> float:
        """Seconds since the frame came in."""
        return time.monotonic() - self.arrival

    def latency(self) -> float | None:
        """Seconds since the camera took the picture, as far as its clock and this machine's agree; None where it sends no clock."""
        return None if self.capture is None else time.time() - self.capture


def _to_bgr(picture: av.VideoFrame, aspect: float) -> NDArray[np.uint8]:
    matrix = MATRICES.get(picture.colorspace)
    if picture.format.name in PLANAR and matrix is not None:
        full_range = picture.format.name == "yuvj420p" or picture.color_range == FULL_RANGE
        luma, cb, cr = map(_pixels, picture.planes)
        image = yuv_to_bgr(luma, cb, cr, matrix, full_range)
    else:  # one thread: there may be many cameras
        image = np.asarray(picture.to_ndarray(format="bgr24", threads=1), np.uint8)
    return _upright(_square(image, aspect), picture)


def _square(image: NDArray[np.uint8], aspect: float) -> NDArray[np.uint8]:
    """Its shorter side longer, until a pixel `aspect` times as wide as high is square: faces are known in that shape only."""
    height, width = image.shape[:2]
    size = (round(width * aspect), height) if aspect > 1 else (width, round(height / aspect))
    if abs(aspect - 1) < 0.01 or not 1 / OBLONG <= aspect <= OBLONG or size[0] * size[1] > most_pixels():
        return image
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_CUBIC), np.uint8)


def _upright(image: NDArray[np.uint8], picture: av.VideoFrame) -> NDArray[np.uint8]:
    """Turned and mirrored as the picture's display matrix says, (a b u, c d v, x y w) in int32."""
    data: Any = picture.side_data.get("DISPLAYMATRIX")
    if data is None:
        return image
    a, b, _, c, d = np.frombuffer(data, np.int32)[:5].tolist()
    return reorient(image, (a, b, c, d))


def _pixels(plane: av.video.plane.VideoPlane) -> NDArray[np.uint8]:
    """[height, width], without the bytes that fill up its rows; the plane's own memory."""
    rows = np.frombuffer(memoryview(plane), np.uint8)[: plane.height * plane.line_size].reshape(plane.height, plane.line_size)
    return rows[:, : plane.width]
