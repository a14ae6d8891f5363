"""Normalised network input cut out of a camera frame."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import as_float32, check_affine, check_finite, check_rank


def face_crop(frame: NDArray[np.uint8], transforms: NDArray[np.float32], size: tuple[int, int], mean: ArrayLike, std: ArrayLike) -> Any:
    """Cut N faces out of a frame in one go.

    frame: ``[H, W, C]`` uint8, C from 1 to 4 (a CPU torch tensor will do). transforms: ``[N, 2, 3]`` float32, crop pixel to frame pixel,
    pixel centres at integers. size: (h, w) of a crop. mean, std: grey levels, one or one per channel. Returns ``[N, C, h, w]`` float32,
    (value − mean) / std, channel order kept. Bilinear; where the crop is smaller than its piece of the frame, each output pixel is the
    mean of ⌈shrink⌉² samples over its area. Outside the frame its border is replicated. Raises BadInputError.
    """
    frame = np.asarray(frame)
    if frame.dtype != np.uint8:
        raise BadInputError(f"face_crop: frame must be uint8, not {frame.dtype}")
    check_rank("face_crop", "frame", frame, "H, W, C")
    if frame.size == 0 or frame.shape[2] > 4:
        raise BadInputError(f"face_crop: frame must be [H, W, 1 to 4], not {list(frame.shape)}")
    transforms = as_float32("face_crop", "transforms", transforms)
    check_affine("face_crop", "transforms", transforms)
    check_finite("face_crop", "transforms", transforms)
    h, w = size
    if h < 1 or w < 1:
        raise BadInputError(f"face_crop: size must be positive, not {h}×{w}")
    channels = frame.shape[2]
    row, pixel, channel = frame.strides
    if (channels > 1 and channel != 1) or pixel != channels or row < channels * frame.shape[1]:
        frame = frame.copy(order="C")
    try:
        per_channel = [np.broadcast_to(np.asarray(v, np.float32), (channels,)) for v in (mean, std)]
    except ValueError as error:
        raise BadInputError(f"face_crop: mean and std must be one number or {channels}") from error
    if not (per_channel[1] > 0).all():
        raise BadInputError("face_crop: std must be positive")
    return _C.face_crop(frame, transforms, h, w, *(np.ascontiguousarray(v) for v in per_channel))
