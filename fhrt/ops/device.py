"""The ops on a CUDA device: checks, outputs and the launch, the same for every library whose arrays live there.

A library is described by `Arrays`; `fhrt.ops.torch` holds torch's description. Nothing here waits for the device: work is put on the
library's current stream, on the arrays' own device.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.errors import BackendError, BadInputError
from fhrt.ops.nv12 import Planes

DTYPES = {"float32": 0, "float16": 1, "bfloat16": 2}
BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
MAX_SSIM_WINDOW = 11


class Arrays(Protocol):
    """What the kernels ask of a library's arrays. ``like`` is an array whose device the result shares."""

    def dtype(self, array: Any) -> str:
        """NumPy's name of the dtype, or "bfloat16"."""

    def pointer(self, array: Any) -> int: ...

    def strides(self, array: Any) -> Sequence[int]:
        """In elements."""

    def contiguous(self, array: Any) -> Any: ...

    def empty(self, shape: Sequence[int], dtype: str, like: Any, channels_last: bool = False) -> Any: ...

    def stream(self, like: Any) -> int:
        """The current cudaStream_t of the array's device."""

    def on_device(self, like: Any) -> AbstractContextManager[Any]:
        """Makes the array's device the current one."""

    def same_device(self, *arrays: Any) -> bool: ...


def _kernels(arrays: Arrays, op: str, *inputs: Any) -> Any:
    """The native kernels, after the checks that all ops share: a build with CUDA, one device, one of the three dtypes."""
    if not hasattr(_C, "cuda"):
        raise BackendError(f"{op}: fhrt was built without CUDA; install it again where nvcc is on the PATH")
    if not arrays.same_device(*inputs):
        raise BadInputError(f"{op}: the arrays lie on different devices")
    if arrays.dtype(inputs[0]) not in DTYPES:
        raise BadInputError(f"{op}: device arrays must be {', '.join(DTYPES)}, not {arrays.dtype(inputs[0])}")
    return _C.cuda


def _float32(arrays: Arrays, op: str, name: str, array: Any) -> Any:
    if arrays.dtype(array) != "float32":
        raise BadInputError(f"{op}: {name} must be float32, not {arrays.dtype(array)}")
    return arrays.contiguous(array)


def _output(arrays: Arrays, op: str, out: Any, shape: Sequence[int], dtype: str, *inputs: Any, channels_last: bool = False) -> Any:
    """A new array, or the caller's, whose shape and dtype are checked already: its device, layout and place are checked here."""
    if out is None:
        return arrays.empty(shape, dtype, inputs[0], channels_last)
    if not arrays.same_device(out, inputs[0]):
        raise BadInputError(f"{op}: out lies on another device")
    expected, wanted = 1, []
    for size in reversed(shape):
        wanted.append(expected)
        expected *= size
    if any(size > 1 and stride != want for size, stride, want in zip(shape, arrays.strides(out), reversed(wanted), strict=True)):
        raise BadInputError(f"{op}: out must be contiguous")
    first, last = _extent(arrays, out)
    for begin, end in (_extent(arrays, each) for each in inputs if each is not None):
        if first < end and begin < last:
            raise BadInputError(f"{op}: out overlaps an input")
    return out


def _extent(arrays: Arrays, array: Any) -> tuple[int, int]:
    """The addresses that an array can touch."""
    if 0 in array.shape:
        return 0, 0
    size = {"uint8": 1, "float64": 8}.get(arrays.dtype(array)) or BYTES[arrays.dtype(array)]
    reach = sum((length - 1) * stride for length, stride in zip(array.shape, arrays.strides(array), strict=True))
    first = arrays.pointer(array)
    return first, first + (reach + 1) * size


def _stream(arrays: Arrays, like: Any, stream: int | None) -> int:
    return arrays.stream(like) if stream is None else stream


def _packs(arrays: Arrays, x: Any) -> bool:
    """Whether x is channels-last in whole pieces of 16 bytes, so that the output can be so too."""
    wide = 16 // BYTES[arrays.dtype(x)]
    n, c, h, w = arrays.strides(x)
    return bool(c == 1 and x.shape[1] % wide == n % wide == h % wide == w % wide == 0 and arrays.pointer(x) % 16 == 0)


def stn_sample(
    arrays: Arrays,
    x: Any,
    theta: Any,
    h: int,
    w: int,
    align_corners: bool,
    padding: str,
    upsample: int,
    out: Any = None,
    stream: int | None = None,
    channels_last: bool | None = None,
) -> Any:
    """See `fhrt.ops.stn_sample`; also half types.

    channels_last: of a new output; allowed where x is so in aligned pieces of 16 bytes, and then the default.
    """
    kernels = _kernels(arrays, "stn_sample", x, theta)
    theta = _float32(arrays, "stn_sample", "theta", theta)
    dtype, packs = arrays.dtype(x), out is None and (_packs(arrays, x) if channels_last is None else channels_last)
    out = _output(arrays, "stn_sample", out, (x.shape[0], x.shape[1], h, w), dtype, x, theta, channels_last=packs)
    with arrays.on_device(x):
        kernels.stn_sample(
            DTYPES[dtype], arrays.pointer(x), arrays.strides(x), tuple(x.shape), arrays.pointer(theta), arrays.pointer(out), h, w,
            packs, align_corners, padding == "border", upsample, _stream(arrays, x, stream),
        )  # fmt: skip
    return out


def stn_sample_backward(
    arrays: Arrays, grad: Any, x: Any, theta: Any, align_corners: bool, padding: str, upsample: int, wants: tuple[bool, bool]
) -> tuple[Any, Any]:
    """Gradients to x and to theta, each only where wanted; the same bits on every run."""
    kernels = _kernels(arrays, "stn_sample", x, theta, grad)
    theta = _float32(arrays, "stn_sample", "theta", theta)
    (n, _, h, w), dtype = grad.shape, arrays.dtype(x)
    to_x = arrays.empty(x.shape, dtype, x) if wants[0] else None
    to_theta = arrays.empty((n, 2, 3), "float32", x) if wants[1] else None
    partials = arrays.empty((n, kernels.stn_theta_blocks(h, w), 6), "float32", x) if wants[1] else None
    outputs = (0 if each is None else arrays.pointer(each) for each in (partials, to_x, to_theta))
    with arrays.on_device(x):
        kernels.stn_sample_backward(
            DTYPES[dtype], arrays.pointer(grad), arrays.strides(grad), arrays.pointer(x), arrays.strides(x), tuple(x.shape),
            arrays.pointer(theta), *outputs, h, w, align_corners, padding == "border", upsample, arrays.stream(x),
        )  # fmt: skip
    return to_x, to_theta


def pixel_shuffle(arrays: Arrays, x: Any, factor: int, bias: Any, negative_slope: float, out: Any = None, stream: int | None = None) -> Any:
    """See `fhrt.ops.pixel_shuffle`; also half types, the bias in float32."""
    kernels = _kernels(arrays, "pixel_shuffle", *(each for each in (x, bias) if each is not None))
    bias = None if bias is None else _float32(arrays, "pixel_shuffle", "bias", bias)
    n, c, h, w = x.shape
    dtype = arrays.dtype(x)
    out = _output(arrays, "pixel_shuffle", out, (n, c // factor**2, h * factor, w * factor), dtype, x, bias)
    with arrays.on_device(x):
        kernels.pixel_shuffle(
            DTYPES[dtype], arrays.pointer(x), arrays.strides(x), tuple(x.shape), arrays.pointer(out), factor,
            0 if bias is None else arrays.pointer(bias), negative_slope, _stream(arrays, x, stream),
        )  # fmt: skip
    return out


def pixel_shuffle_backward(arrays: Arrays, grad: Any, x: Any, factor: int, bias: Any, negative_slope: float) -> Any:
    """Gradient to x; the bias's is its sum over all axes but the channels."""
    kernels = _kernels(arrays, "pixel_shuffle", *(each for each in (x, grad, bias) if each is not None))
    bias = None if bias is None else _float32(arrays, "pixel_shuffle", "bias", bias)
    dtype = arrays.dtype(x)
    to_x = arrays.empty(x.shape, dtype, x)
    with arrays.on_device(x):
        kernels.pixel_shuffle_backward(
            DTYPES[dtype], arrays.pointer(grad), arrays.strides(grad), arrays.pointer(x), arrays.strides(x), tuple(x.shape),
            arrays.pointer(to_x), factor, 0 if bias is None else arrays.pointer(bias), negative_slope, arrays.stream(x),
        )  # fmt: skip
    return to_x


def to_image(arrays: Arrays, x: Any, factor: int, low: float, high: float, out: Any = None, stream: int | None = None) -> Any:
    """See `fhrt.ops.to_image`; also half types."""
    kernels = _kernels(arrays, "to_image", x)
    n, c, h, w = x.shape
    out = _output(arrays, "to_image", out, (n, h * factor, w * factor, c // factor**2), "uint8", x)
    with arrays.on_device(x):
        kernels.to_image(
            DTYPES[arrays.dtype(x)], arrays.pointer(x), arrays.strides(x), tuple(x.shape), arrays.pointer(out), factor, low, high,
            _stream(arrays, x, stream),
        )  # fmt: skip
    return out


def ssim(
    arrays: Arrays,
    a: Any,
    b: Any,
    weights: NDArray[np.float64],
    same: bool,
    c1: float,
    c2: float,
    want_map: bool,
    out: Any = None,
    stream: int | None = None,
) -> Any:
    """The map ``[N, C, h, w]`` or the means ``[N, C]``, float32; half types are accumulated in float32."""
    kernels = _ssim_kernels(arrays, a, b, weights)
    (n, c, h, w), shrink = a.shape, 0 if same else len(weights) - 1
    taps = weights.tolist()
    out = _output(arrays, "ssim", out, (n, c, h - shrink, w - shrink) if want_map else (n, c), "float32", a, b)
    partials = None if want_map else arrays.empty((kernels.ssim_scratch(tuple(a.shape), taps, same),), "float32", a)
    outputs = (arrays.pointer(out), 0, 0) if partials is None else (0, arrays.pointer(out), arrays.pointer(partials))
    with arrays.on_device(a):
        kernels.ssim(*_ssim_inputs(arrays, a, b), *outputs, taps, same, c1, c2, _stream(arrays, a, stream))
    return out


def ssim_backward(
    arrays: Arrays, upstream: Any, a: Any, b: Any, weights: NDArray[np.float64], same: bool, c1: float, c2: float, is_map: bool
) -> Any:
    """Gradient to a. ``upstream``: of the map or of the means; exchange a and b for the gradient to b."""
    kernels = _ssim_kernels(arrays, a, b, weights)
    upstream = _float32(arrays, "ssim", "the gradient", upstream)
    to_a = arrays.empty(a.shape, arrays.dtype(a), a)
    with arrays.on_device(a):
        kernels.ssim_backward(
            *_ssim_inputs(arrays, a, b), arrays.pointer(upstream), is_map, arrays.pointer(to_a), weights.tolist(), same, c1, c2,
            arrays.stream(a),
        )  # fmt: skip
    return to_a


def _ssim_kernels(arrays: Arrays, a: Any, b: Any, weights: NDArray[np.float64]) -> Any:
    kernels = _kernels(arrays, "ssim", a, b)
    if arrays.dtype(a) != arrays.dtype(b):
        raise BadInputError(f"ssim: a is {arrays.dtype(a)} and b is {arrays.dtype(b)}")
    if len(weights) > MAX_SSIM_WINDOW:
        raise BadInputError(f"ssim: on a device the window is at most {MAX_SSIM_WINDOW} wide, not {len(weights)}")
    return kernels


def _ssim_inputs(arrays: Arrays, a: Any, b: Any) -> tuple[Any, ...]:
    return (DTYPES[arrays.dtype(a)], arrays.pointer(a), arrays.strides(a), arrays.pointer(b), arrays.strides(b), tuple(a.shape))


def _rows(arrays: Arrays, plane: Any) -> Any:
    """The plane [H, W, C] with the pixels of each row side by side: as it is, or copied."""
    height, width, channels = plane.shape
    row, pixel, channel = arrays.strides(plane)
    # An axis of length 1 may have any stride.
    together = (channels == 1 or channel == 1) and (width == 1 or pixel == channels) and (height == 1 or row >= channels * width)
    return plane if together else arrays.contiguous(plane)


def _plane(arrays: Arrays, rows: Any) -> tuple[int, int, int, int, int]:
    """Address, H, W, C and bytes from row to row."""
    height, width, channels = rows.shape
    return arrays.pointer(rows), height, width, channels, arrays.strides(rows)[0] if height > 1 else width * channels


def face_crop(
    arrays: Arrays,
    planes: Planes,
    transforms: Any,
    size: tuple[int, ...],
    mean: Sequence[float] | NDArray[np.float32],
    std: Sequence[float] | NDArray[np.float32],
    dtype: str = "float32",
    out: Any = None,
    stream: int | None = None,
) -> Any:
    """See `fhrt.ops.face_crop`; ``dtype`` of the result."""
    if not hasattr(_C, "cuda"):
        raise BackendError("face_crop: fhrt was built without CUDA; install it again where nvcc is on the PATH")
    if not min(std) > 0:
        raise BadInputError("face_crop: std must be positive")
    inputs = [each for each in (planes.frame, planes.chroma, transforms) if each is not None]
    if not arrays.same_device(*inputs):
        raise BadInputError("face_crop: the arrays lie on different devices")
    transforms = _float32(arrays, "face_crop", "transforms", transforms)
    out = _output(arrays, "face_crop", out, (len(transforms), planes.channels, *size), dtype, *inputs)
    frame, chroma = _rows(arrays, planes.frame), None if planes.chroma is None else _rows(arrays, planes.chroma)
    with arrays.on_device(frame):
        _C.cuda.face_crop(
            _plane(arrays, frame), None if chroma is None else _plane(arrays, chroma), planes.to_rgb, arrays.pointer(transforms),
            len(transforms), DTYPES[dtype], arrays.pointer(out), *size, [float(v) for v in mean], [float(v) for v in std],
            _stream(arrays, frame, stream),
        )  # fmt: skip
    return out
