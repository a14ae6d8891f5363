"""NV12, the frame that hardware decoders give."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.ops.arrays import check_kind, check_rank, dtype_of

# Shares of red and blue in the luma: ITU-R BT.709-6, item 3.2; ITU-R BT.601-7, table 3.
LUMA_SHARES = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}


@dataclass(frozen=True, eq=False)
class Nv12:
    """A frame of 8-bit 4:2:0 planes, in place of an interleaved one.

    luma: ``[H, W]`` uint8. chroma: ``[⌈H/2⌉, ⌈W/2⌉, 2]`` uint8, Cb before Cr, sited on even columns and between rows, as H.264 and HEVC
    have it by default. NumPy, torch or CuPy, both alike; rows may be longer than the picture. matrix: that of the stream, BT.709 for HD
    cameras. full_range: levels 0 to 255 instead of 16 to 235 (luma) and 240 (chroma). Raises BadInputError.
    """

    luma: Any
    chroma: Any
    matrix: Literal["bt709", "bt601"] = "bt709"
    full_range: bool = False

    def __post_init__(self) -> None:
        check_rank("Nv12", "luma", self.luma, "H, W")
        check_rank("Nv12", "chroma", self.chroma, "⌈H/2⌉, ⌈W/2⌉, 2")
        for name, plane in (("luma", self.luma), ("chroma", self.chroma)):
            if dtype_of(plane) != "uint8":
                raise BadInputError(f"Nv12: {name} must be uint8, not {plane.dtype}")
        check_kind("Nv12", "chroma", self.chroma, "luma", self.luma)
        height, width = self.luma.shape
        if height == 0 or tuple(self.chroma.shape) != ((height + 1) // 2, (width + 1) // 2, 2):
            raise BadInputError(f"Nv12: chroma must be [⌈H/2⌉, ⌈W/2⌉, 2] of luma {[height, width]}, not {list(self.chroma.shape)}")
        if not isinstance(self.matrix, str) or self.matrix not in LUMA_SHARES:
            given = repr(self.matrix) if isinstance(self.matrix, str) else type(self.matrix).__name__
            raise BadInputError(f"Nv12: matrix must be {' or '.join(LUMA_SHARES)}, not {given}")
        if not isinstance(self.full_range, (bool, np.bool_)):
            raise BadInputError(f"Nv12: full_range must be True or False, not {type(self.full_range).__name__}")

    @classmethod
    def stacked(cls, frame: Any, matrix: Literal["bt709", "bt601"] = "bt709", full_range: bool = False) -> Nv12:
        """A view of ``[3H/2, W]`` uint8, H and W even: the luma's rows, below them the chroma's, as PyAV and OpenCV hold NV12."""
        check_rank("Nv12", "frame", frame, "3H/2, W")
        rows, width = frame.shape
        if rows % 3 or rows == 0 or width % 2:
            raise BadInputError(f"Nv12: frame must be [3H/2, W] with even H and W, not {[rows, width]}")
        height = rows // 3 * 2
        return cls(frame[:height], frame[height:].reshape(height // 2, width // 2, 2), matrix, full_range)

    @property
    def to_rgb(self) -> tuple[float, float, float, float, float, float]:
        """See `to_rgb` below."""
        return to_rgb(self.matrix, self.full_range)


def to_rgb(matrix: str, full_range: bool) -> tuple[float, float, float, float, float, float]:
    """luma, black, red_v, green_u, green_v, blue_u of the native code's YuvToRgb."""
    red, blue = LUMA_SHARES[matrix]
    green = 1 - red - blue
    luma, chroma, black = (1.0, 1.0, 0.0) if full_range else (255 / 219, 255 / 224, 16.0)
    red_v, blue_u = 2 * (1 - red) * chroma, 2 * (1 - blue) * chroma
    return luma, black, red_v, -blue * blue_u / green, -red * red_v / green, blue_u


class Planes(NamedTuple):
    """A frame, interleaved or NV12, as the native code takes it: [H, W, C] or luma [H, W, 1], chroma and `Nv12.to_rgb`."""

    frame: Any
    chroma: Any = None
    to_rgb: tuple[float, ...] | None = None

    @property
    def channels(self) -> int:
        """Of a crop."""
        return int(self.frame.shape[2]) if self.chroma is None else 3


def rows(plane: Any) -> NDArray[np.uint8]:
    """The plane with the pixels of each row side by side: as it is, or copied."""
    plane = np.asarray(plane)
    height, width, channels = plane.shape
    row, pixel, channel = plane.strides
    # An axis of length 1 may have any stride.
    together = (channels == 1 or channel == 1) and (width == 1 or pixel == channels) and (height == 1 or row >= channels * width)
    return plane if together else np.ascontiguousarray(plane)
