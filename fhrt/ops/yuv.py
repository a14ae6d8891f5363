"""Pictures of the planes that software decoders give."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.nv12 import LUMA_SHARES, to_rgb


def yuv_to_bgr(
    luma: NDArray[np.uint8],
    cb: NDArray[np.uint8],
    cr: NDArray[np.uint8],
    matrix: Literal["bt709", "bt601"] = "bt709",
    full_range: bool = False,
) -> NDArray[np.uint8]:
    """Planar 8-bit 4:2:0 to BGR: luma ``[H, W]``, cb and cr ``[⌈H/2⌉, ⌈W/2⌉]`` → ``[H, W, 3]``, all uint8 and NumPy.

    Each chroma pixel counts for the 2×2 luma pixels that it lies among, as FFmpeg converts by default. Rows may be longer than the picture.
    matrix, full_range: as `fhrt.ops.Nv12`. On the caller's thread; the picture's memory is used again when nobody has it any more, which
    saves most of the time that a large one takes. Raises BadInputError.
    """
    if matrix not in LUMA_SHARES:
        raise BadInputError(f"yuv_to_bgr: matrix must be {' or '.join(LUMA_SHARES)}, not {matrix!r}")
    luma, cb, cr = planes = [np.asarray(plane) for plane in (luma, cb, cr)]
    if any(plane.dtype != np.uint8 or plane.ndim != 2 or 0 in plane.shape for plane in planes):
        raise BadInputError("yuv_to_bgr: luma, cb and cr must be uint8 [H, W] with pixels")
    height, width = luma.shape
    half = ((height + 1) // 2, (width + 1) // 2)
    if cb.shape != half or cr.shape != half:
        found = f"{list(cb.shape)} and {list(cr.shape)}"
        raise BadInputError(f"yuv_to_bgr: cb and cr must be {list(half)} of luma {[height, width]}, not {found}")
    if cb.strides != cr.strides or any(plane.strides[1] != 1 or plane.strides[0] < plane.shape[1] for plane in planes):
        luma, cb, cr = map(np.ascontiguousarray, planes)
    out = _C.empty([height, width, 3], np.dtype(np.uint8))
    _C.yuv_to_bgr(luma, cb, cr, to_rgb(matrix, full_range), out)
    return out
