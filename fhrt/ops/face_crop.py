"""Normalised network input cut out of a camera frame."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import as_numpy, call_native, check_affine, check_out, check_rank, check_real, check_size, dtype_of, is_cupy, is_torch

LARGEST_SIDE = 1 << 15
_FLOAT32 = np.dtype(np.float32)


def face_crop(frame: Any, transforms: Any, size: tuple[int, int], mean: ArrayLike, std: ArrayLike) -> Any:
    """Cut N faces out of a frame in one go.

    frame: ``[H, W, C]`` uint8, C from 1 to 4; NumPy, torch or CuPy. transforms: ``[N, 2, 3]`` float32 of the same kind, crop pixel to
    frame pixel, pixel centres at integers. size: (h, w) of a crop. mean, std: grey levels, one or one per channel. Returns
    ``[N, C, h, w]`` float32 of the frame's kind, (value − mean) / std, channel order kept. Bilinear; where the crop is smaller than its
    piece of the frame, each output pixel is the mean of ⌈shrink⌉² samples over its area. Outside the frame its border is replicated.
    Raises BadInputError.
    """
    per_channel = _check(frame, transforms, size, mean, std)
    shape = (transforms.shape[0], frame.shape[2], *size)
    if is_torch(frame):
        from fhrt.ops.torch import face_crop as torch_op

        return torch_op(frame, transforms, size, *per_channel)
    if is_cupy(frame):
        from fhrt.ops import cupy, device

        return device.face_crop(cupy.ARRAYS, frame, transforms, size, *per_channel)
    return _native(frame, transforms, _C.empty(shape, _FLOAT32), *per_channel)


def face_crop_out(frame: Any, transforms: Any, out: Any, mean: ArrayLike, std: ArrayLike, *, stream: int | None = None) -> Any:
    """`face_crop` into ``out`` ``[N, C, h, w]`` float32, contiguous, which is returned; ``stream`` as in `stn_sample_out`."""
    check_rank("face_crop", "out", out, "N, C, h, w")
    size = tuple(out.shape[2:])
    per_channel = _check(frame, transforms, size, mean, std)
    check_out("face_crop", out, frame, (transforms.shape[0], frame.shape[2], *size), "float32")
    if is_torch(frame):
        from fhrt.ops.torch import face_crop as torch_op

        return torch_op(frame, transforms, size, *per_channel, out, stream)
    if is_cupy(frame):
        from fhrt.ops import cupy, device

        return device.face_crop(cupy.ARRAYS, frame, transforms, size, *per_channel, "float32", out, stream)
    return _native(frame, transforms, out, *per_channel)


def _check(
    frame: Any, transforms: Any, size: tuple[int, ...], mean: ArrayLike, std: ArrayLike
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Mean and std, one per channel."""
    check_rank("face_crop", "frame", frame, "H, W, C")
    if dtype_of(frame) != "uint8":
        raise BadInputError(f"face_crop: frame must be uint8, not {frame.dtype}")
    if 0 in frame.shape or frame.shape[2] > 4:
        raise BadInputError(f"face_crop: frame must be [H, W, 1 to 4], not {list(frame.shape)}")
    check_affine("face_crop", "transforms", transforms)
    if dtype_of(transforms) != "float32":
        raise BadInputError(f"face_crop: transforms must be float32, not {transforms.dtype}")
    check_size("face_crop", size, LARGEST_SIDE)
    return _per_channel(mean, frame.shape[2]), _per_channel(std, frame.shape[2])


def _per_channel(value: ArrayLike, channels: int) -> NDArray[np.float32]:
    if isinstance(value, (int, float)):
        check_real("face_crop", "mean and std", value, -1e30, 1e30)
        return _uniform(value, channels)
    try:
        return np.ascontiguousarray(np.broadcast_to(np.asarray(value, np.float32), (channels,)))
    except (ValueError, TypeError) as error:
        raise BadInputError(f"face_crop: mean and std must be one number or {channels}") from error


@lru_cache(maxsize=16)
def _uniform(value: float, channels: int) -> NDArray[np.float32]:
    return np.full(channels, value, np.float32)


def _native(
    frame: Any, transforms: Any, out: NDArray[np.float32], mean: NDArray[np.float32], std: NDArray[np.float32]
) -> NDArray[np.float32]:
    frame, transforms = np.asarray(frame), as_numpy("face_crop", "transforms", transforms, "float32")
    height, width, channels = frame.shape
    row, pixel, channel = frame.strides
    # An axis of length 1 may have any stride.
    together = (channels == 1 or channel == 1) and (width == 1 or pixel == channels) and (height == 1 or row >= channels * width)
    frame = frame if together else np.ascontiguousarray(frame)
    call_native("face_crop", _C.face_crop, frame, np.ascontiguousarray(transforms), mean, std, out)
    return out
