"""Normalised network input cut out of a camera frame."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops.arrays import (
    as_numpy,
    call_native,
    check_affine,
    check_kind,
    check_out,
    check_rank,
    check_real,
    check_size,
    dtype_of,
    is_cupy,
    is_torch,
)
from fhrt.ops.nv12 import Nv12, Planes, rows

LARGEST_SIDE = 1 << 15
_FLOAT32 = np.dtype(np.float32)


def face_crop(frame: Any, transforms: Any, size: tuple[int, int], mean: ArrayLike, std: ArrayLike) -> Any:
    """Cut N faces out of a frame in one go.

    frame: ``[H, W, C]`` uint8, C from 1 to 4, or `Nv12`; NumPy, torch or CuPy. transforms: ``[N, 2, 3]`` float32 of the same kind, crop
    pixel to frame pixel, pixel centres at integers. size: (h, w) of a crop. mean, std: grey levels, one or one per channel. Returns
    ``[N, C, h, w]`` float32 of the frame's kind, (value − mean) / std, channel order kept; of NV12, RGB. Bicubic (Keys, 1981, a = −0.5) and
    antialiased, as the networks' training faces are: along an axis of the frame that the crop shrinks s times the kernel is s times as
    wide, up to 8 times at every pixel, beyond at every ⌈s / 8⌉th. Overshoot is clamped to 0 to 255. Outside the frame its border is
    replicated. Raises BadInputError.
    """
    planes, per_channel = _check(frame, transforms, size, mean, std)
    if is_torch(planes.frame):
        from fhrt.ops.torch import face_crop as torch_op

        return torch_op(planes, transforms, size, *per_channel)
    if is_cupy(planes.frame):
        from fhrt.ops import cupy, device

        return device.face_crop(cupy.ARRAYS, planes, transforms, size, *per_channel)
    return _native(planes, transforms, _C.empty((len(transforms), planes.channels, *size), _FLOAT32), *per_channel)


def face_crop_out(frame: Any, transforms: Any, out: Any, mean: ArrayLike, std: ArrayLike, *, stream: int | None = None) -> Any:
    """`face_crop` into ``out`` ``[N, C, h, w]`` float32, contiguous, which is returned; ``stream`` as in `stn_sample_out`."""
    check_rank("face_crop", "out", out, "N, C, h, w")
    size = tuple(out.shape[2:])
    planes, per_channel = _check(frame, transforms, size, mean, std)
    check_out("face_crop", out, planes.frame, (transforms.shape[0], planes.channels, *size), "float32")
    if is_torch(planes.frame):
        from fhrt.ops.torch import face_crop as torch_op

        return torch_op(planes, transforms, size, *per_channel, out, stream)
    if is_cupy(planes.frame):
        from fhrt.ops import cupy, device

        return device.face_crop(cupy.ARRAYS, planes, transforms, size, *per_channel, "float32", out, stream)
    return _native(planes, transforms, out, *per_channel)


def _check(
    frame: Any, transforms: Any, size: tuple[int, ...], mean: ArrayLike, std: ArrayLike
) -> tuple[Planes, tuple[NDArray[np.float32], NDArray[np.float32]]]:
    """The frame's planes; mean and std, one per channel."""
    if isinstance(frame, Nv12):
        planes = Planes(frame.luma[:, :, None], frame.chroma, frame.to_rgb)
    else:
        check_rank("face_crop", "frame", frame, "H, W, C")
        if dtype_of(frame) != "uint8":
            raise BadInputError(f"face_crop: frame must be uint8, not {frame.dtype}")
        if 0 in frame.shape or frame.shape[2] > 4:
            raise BadInputError(f"face_crop: frame must be [H, W, 1 to 4], not {list(frame.shape)}")
        planes = Planes(frame)
    check_affine("face_crop", "transforms", transforms)
    check_kind("face_crop", "transforms", transforms, "the frame", planes.frame)
    if dtype_of(transforms) != "float32":
        raise BadInputError(f"face_crop: transforms must be float32, not {transforms.dtype}")
    check_size("face_crop", size, LARGEST_SIDE)
    return planes, (_per_channel(mean, planes.channels), _per_channel(std, planes.channels))


def _per_channel(value: ArrayLike, channels: int) -> NDArray[np.float32]:
    if isinstance(value, (int, float)):
        check_real("face_crop", "mean and std", value, -1e30, 1e30)
        return _uniform(value, channels)
    try:
        values = np.broadcast_to(np.asarray(value, np.float32), (channels,))
    except (ValueError, TypeError) as error:
        raise BadInputError(f"face_crop: mean and std must be one number or {channels}") from error
    for each in values:
        check_real("face_crop", "mean and std", each, -1e30, 1e30)
    return np.ascontiguousarray(values)


@lru_cache(maxsize=16)
def _uniform(value: float, channels: int) -> NDArray[np.float32]:
    return np.full(channels, value, np.float32)


def _native(
    planes: Planes, transforms: Any, out: NDArray[np.float32], mean: NDArray[np.float32], std: NDArray[np.float32]
) -> NDArray[np.float32]:
    transforms = np.ascontiguousarray(as_numpy("face_crop", "transforms", transforms, "float32"))
    chroma = None if planes.chroma is None else rows(planes.chroma)
    call_native("face_crop", _C.face_crop, rows(planes.frame), chroma, planes.to_rgb, transforms, mean, std, out)
    return out
