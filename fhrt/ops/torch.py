"""The ops as torch operators: `torch.ops.fhrt.*` with fake and autograd, and their twins in plain torch.

A CPU tensor goes through the native module, a CUDA tensor through its kernels where the build has them; other dtypes and devices
through the twin. Every backward pass computes again what it needs, so nothing but the inputs is kept. Imported only when a torch tensor
comes in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, library

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.ops import device
from fhrt.ops.arrays import call_native
from fhrt.ops.nv12 import Planes, rows


class TorchArrays:
    """Torch's tensors as `fhrt.ops.device` sees them."""

    def dtype(self, array: Tensor) -> str:
        return str(array.dtype).removeprefix("torch.")

    def pointer(self, array: Tensor) -> int:
        return array.data_ptr()

    def strides(self, array: Tensor) -> Sequence[int]:
        return array.stride()

    def contiguous(self, array: Tensor) -> Tensor:
        return array.contiguous()

    def empty(self, shape: Sequence[int], dtype: str, like: Tensor, channels_last: bool = False) -> Tensor:
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        return torch.empty(tuple(shape), dtype=getattr(torch, dtype), device=like.device, memory_format=memory_format)

    def stream(self, like: Tensor) -> int:
        return int(torch.cuda.current_stream(like.device).cuda_stream)

    def on_device(self, like: Tensor) -> AbstractContextManager[Any]:
        return torch.cuda.device(like.device)

    def same_device(self, *arrays: Tensor) -> bool:
        return len({array.device for array in arrays}) == 1


ARRAYS = TorchArrays()


HALF_AND_SINGLE = (torch.float32, torch.float16, torch.bfloat16)


def _on_device(x: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether the CUDA kernels take this tensor."""
    return x.is_cuda and hasattr(_C, "cuda") and x.dtype in (dtypes or HALF_AND_SINGLE)


def _native(x: Tensor, *dtypes: torch.dtype) -> bool:
    """Whether the native CPU code takes this tensor."""
    return x.device.type == "cpu" and x.dtype in (dtypes or HALF_AND_SINGLE)


def _array(tensor: Tensor) -> NDArray[Any]:
    """A CPU tensor's memory for the native module, which takes bfloat16 as uint16."""
    tensor = tensor.detach()
    return (tensor.view(torch.uint16) if tensor.dtype == torch.bfloat16 else tensor).numpy()


def _float(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.detach().float().contiguous()


def _refuse_gradients(op: str, *tensors: Tensor | None) -> None:
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors):
        raise BadInputError(f"{op}: writing into out is not differentiable; call {op} without _out, or under torch.no_grad()")


def _differentiate(twin: Callable[..., Tensor], inputs: Sequence[Tensor], gradient: Tensor) -> tuple[Tensor, ...]:
    """Gradients of a twin; outside a custom op, within which torch records nothing."""
    leaves = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        return torch.autograd.grad(twin(*leaves), leaves, gradient)


class Operator:
    """A torch operator, and a shorter way to it.

    Torch takes a tenth of a millisecond to dispatch an operator written in Python, forward and backward, which is more than a small one
    takes. So plain tensors outside of any tracing or transform go straight to the function; all else goes through ``torch.ops``.
    """

    def __init__(self, name: str, function: Callable[..., Any]) -> None:
        self.function = function
        self.registered = library.custom_op(name, mutates_args=())(function)
        self.register_fake = self.registered.register_fake
        self.backward: Callable[..., tuple[Any, ...]] | None = None
        self.setup_context: Callable[..., None] | None = None

    def register_autograd(self, backward: Callable[..., tuple[Any, ...]], *, setup_context: Callable[..., None]) -> None:
        self.registered.register_autograd(backward, setup_context=setup_context)
        self.backward, self.setup_context = backward, setup_context

    def __call__(self, *inputs: Any) -> Any:
        if not _plain(inputs):
            return self.registered(*inputs)
        if self.backward is None or not torch.is_grad_enabled() or not any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
            return self.function(*inputs)
        return _Direct.apply(*inputs, self)


class _Direct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Any) -> Any:
        *inputs, operator = inputs  # type: ignore[assignment]
        output = operator.function(*inputs)
        operator.setup_context(ctx, tuple(inputs), output)
        ctx.operator = operator
        return output

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Any) -> Any:
        return (*ctx.operator.backward(ctx, *gradients), None)


def operator(name: str) -> Callable[[Callable[..., Any]], Operator]:
    return lambda function: Operator(name, function)


def _plain(inputs: Sequence[Any]) -> bool:
    """Whether nobody looks on: no compiler, no tracer, no mode, no transform, no subclass."""
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return False
    if torch._C._len_torch_dispatch_stack() or torch._C._len_torch_function_stack() or torch._C._are_functorch_transforms_active():
        return False
    return all(type(x) in (Tensor, torch.nn.Parameter) for x in inputs if isinstance(x, Tensor))


# -- stn_sample -------------------------------------------------------------------------------------------------------


def single(theta: Tensor) -> Tensor:
    """A theta that autocast made a half type, as float32: bfloat16 cannot name a pixel, and affine_grid's gradient in it is NaN."""
    return theta.float() if theta.dtype in (torch.float16, torch.bfloat16) else theta


def stn_sample_twin(x: Tensor, theta: Tensor, h: int, w: int, align_corners: bool, padding: str, upsample: int) -> Tensor:
    """The same in plain torch: affine_grid, then grid_sample."""
    if upsample > 1:
        x = F.interpolate(x, scale_factor=upsample, mode="nearest")
    grid = F.affine_grid(theta, [x.shape[0], x.shape[1], h, w], align_corners=align_corners)
    return F.grid_sample(x, grid.to(x.dtype), mode="bilinear", padding_mode=padding, align_corners=align_corners)


def _stays_last(x: Tensor) -> bool:
    """Whether the output is channels-last: x is, and its channels make whole pieces of 16 bytes. The same for a fake tensor."""
    last = x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()
    return bool(last and x.shape[1] * x.element_size() % 16 == 0)


def _sampled(x: Tensor, h: int, w: int) -> Tensor:
    memory_format = torch.channels_last if _stays_last(x) else torch.contiguous_format
    return torch.empty((x.shape[0], x.shape[1], h, w), dtype=x.dtype, device=x.device, memory_format=memory_format)


@operator("fhrt::stn_sample")
def stn_sample(x: Tensor, theta: Tensor, h: int, w: int, align_corners: bool, padding: str, upsample: int) -> Tensor:
    if _on_device(x):
        last = _stays_last(x)
        x = x.clone() if last and x.data_ptr() % 16 else x
        return device.stn_sample(ARRAYS, x, theta, h, w, align_corners, padding, upsample, channels_last=last)
    if _native(x) and _native(theta, torch.float32):
        return _native_sample(x, theta, _sampled(x, h, w), align_corners, padding, upsample)
    out = _sampled(x, h, w)
    return out.copy_(stn_sample_twin(x, theta, h, w, align_corners, padding, upsample))


def _native_sample(x: Tensor, theta: Tensor, out: Tensor, align_corners: bool, padding: str, upsample: int) -> Tensor:
    arrays = (_array(tensor) for tensor in (x, theta.contiguous(), out))
    call_native("stn_sample", _C.stn_sample, *arrays, align_corners, padding == "border", upsample)
    return out


@stn_sample.register_fake
def _(x: Tensor, theta: Tensor, h: int, w: int, align_corners: bool, padding: str, upsample: int) -> Tensor:
    return _sampled(x, h, w)


def stn_sample_out(x: Tensor, theta: Tensor, out: Tensor, align_corners: bool, padding: str, upsample: int, stream: int | None) -> Tensor:
    _refuse_gradients("stn_sample", x, theta)
    h, w = out.shape[2:]
    if _on_device(x):
        return device.stn_sample(ARRAYS, x, theta, h, w, align_corners, padding, upsample, out, stream)
    if _native(x) and _native(theta, torch.float32) and out.device == x.device:
        return _native_sample(x, theta, out, align_corners, padding, upsample)
    return out.copy_(stn_sample_twin(x, theta, h, w, align_corners, padding, upsample))


@operator("fhrt::stn_sample_backward")
def stn_sample_backward(
    gradient: Tensor, x: Tensor, theta: Tensor, align_corners: bool, padding: str, upsample: int, to_x: bool, to_theta: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to x and theta; empty where not wanted."""
    none = x.new_empty(0)
    if _on_device(x):
        both = device.stn_sample_backward(ARRAYS, gradient, x, theta, align_corners, padding, upsample, (to_x, to_theta))
    else:
        both = (torch.empty(x.shape, dtype=x.dtype) if to_x else None, torch.empty(theta.shape) if to_theta else None)
        inputs = (_array(tensor) for tensor in (gradient, x, theta.contiguous()))
        outputs = (None if tensor is None else _array(tensor) for tensor in both)
        call_native("stn_sample", _C.stn_sample_backward, *inputs, *outputs, align_corners, padding == "border", upsample)
    return (both[0] if to_x else none), (both[1] if to_theta else none.clone())


@stn_sample_backward.register_fake
def _(
    gradient: Tensor, x: Tensor, theta: Tensor, align_corners: bool, padding: str, upsample: int, to_x: bool, to_theta: bool
) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape if to_x else 0), theta.new_empty(theta.shape) if to_theta else x.new_empty(0)


def _stn_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.settings = inputs[4:]


def _stn_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    wants, (x, theta) = ctx.needs_input_grad[:2], ctx.saved_tensors
    if _on_device(x) or (_native(x) and _native(theta, torch.float32)):
        both = stn_sample_backward(gradient, x, theta, *ctx.settings, *wants)
    else:
        both = _differentiate(lambda x, theta: stn_sample_twin(x, theta, *gradient.shape[2:], *ctx.settings), (x, theta), gradient)
    return (*(each if wanted else None for each, wanted in zip(both, wants, strict=True)), None, None, None, None, None)


stn_sample.register_autograd(_stn_backward, setup_context=_stn_context)


# -- pixel_shuffle ----------------------------------------------------------------------------------------------------


def _shuffled_shape(x: Tensor, factor: int) -> tuple[int, ...]:
    return (x.shape[0], x.shape[1] // factor**2, x.shape[2] * factor, x.shape[3] * factor)


def _shuffle(x: Tensor, out: Tensor, factor: int, bias: Tensor | None, negative_slope: float) -> Tensor:
    offsets = _float(bias)
    call_native(
        "pixel_shuffle",
        _C.pixel_shuffle,
        _array(x),
        _array(out),
        factor,
        None if offsets is None else _array(offsets),
        negative_slope,
    )
    return out


@operator("fhrt::pixel_shuffle")
def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    if _on_device(x):
        return device.pixel_shuffle(ARRAYS, x, factor, None, 1.0)
    if _native(x):
        return _shuffle(x, torch.empty(_shuffled_shape(x, factor), dtype=x.dtype), factor, None, 1.0)
    return F.pixel_shuffle(x, factor).clone(memory_format=torch.contiguous_format)


@pixel_shuffle.register_fake
def _(x: Tensor, factor: int) -> Tensor:
    return x.new_empty(_shuffled_shape(x, factor))


def _shuffle_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.factor = inputs[1]


def _shuffle_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    return F.pixel_unshuffle(gradient, ctx.factor), None


pixel_shuffle.register_autograd(_shuffle_backward, setup_context=_shuffle_context)


def pixel_shuffle_fused_twin(x: Tensor, factor: int, bias: Tensor | None, negative_slope: float) -> Tensor:
    """The same in plain torch: add, LeakyReLU, shuffle."""
    x = x if bias is None else x + bias[:, None, None]
    return F.pixel_shuffle(F.leaky_relu(x, negative_slope), factor)


@operator("fhrt::pixel_shuffle_fused")
def pixel_shuffle_fused(x: Tensor, factor: int, bias: Tensor | None, negative_slope: float) -> Tensor:
    if _on_device(x):
        return device.pixel_shuffle(ARRAYS, x, factor, _float(bias), negative_slope)
    if _native(x):
        return _shuffle(x, torch.empty(_shuffled_shape(x, factor), dtype=x.dtype), factor, bias, negative_slope)
    return pixel_shuffle_fused_twin(x, factor, bias, negative_slope).clone(memory_format=torch.contiguous_format)


@pixel_shuffle_fused.register_fake
def _(x: Tensor, factor: int, bias: Tensor | None, negative_slope: float) -> Tensor:
    return x.new_empty(_shuffled_shape(x, factor))


def pixel_shuffle_out(x: Tensor, out: Tensor, factor: int, bias: Tensor | None, negative_slope: float, stream: int | None) -> Tensor:
    _refuse_gradients("pixel_shuffle", x, bias)
    if _on_device(x):
        return device.pixel_shuffle(ARRAYS, x, factor, _float(bias), negative_slope, out, stream)
    if _native(x) and out.device == x.device:
        return _shuffle(x, out, factor, bias, negative_slope)
    return out.copy_(pixel_shuffle_fused_twin(x, factor, bias, negative_slope))


@operator("fhrt::pixel_shuffle_fused_backward")
def pixel_shuffle_fused_backward(gradient: Tensor, x: Tensor, factor: int, bias: Tensor | None, negative_slope: float) -> Tensor:
    """Gradient to x."""
    if _on_device(gradient):
        return device.pixel_shuffle_backward(ARRAYS, gradient, x, factor, _float(bias), negative_slope)
    if _native(x):
        to_x, offsets = torch.empty(x.shape, dtype=x.dtype), _float(bias)
        arrays = (_array(tensor) for tensor in (gradient, x, to_x))
        last = (factor, None if offsets is None else _array(offsets), negative_slope)
        call_native("pixel_shuffle", _C.pixel_shuffle_backward, *arrays, *last)
        return to_x
    before = x if bias is None else x + bias[:, None, None]
    slopes = torch.where(before > 0, 1.0, negative_slope).to(gradient.dtype)
    return (F.pixel_unshuffle(gradient, factor) * slopes).contiguous()


@pixel_shuffle_fused_backward.register_fake
def _(gradient: Tensor, x: Tensor, factor: int, bias: Tensor | None, negative_slope: float) -> Tensor:
    return x.new_empty(x.shape)


def _fused_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.factor, bias, ctx.negative_slope = inputs
    ctx.save_for_backward(x, bias)


def _fused_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    x, bias = ctx.saved_tensors
    to_x = pixel_shuffle_fused_backward(gradient, x, ctx.factor, bias, ctx.negative_slope)
    return to_x, None, None if bias is None else to_x.sum((0, 2, 3)).to(bias.dtype), None


pixel_shuffle_fused.register_autograd(_fused_backward, setup_context=_fused_context)


# -- to_image ---------------------------------------------------------------------------------------------------------


def to_image_twin(x: Tensor, factor: int, low: float, high: float) -> Tensor:
    """The same in plain torch."""
    levels = ((F.pixel_shuffle(x, factor).float() - low) * (255.0 / (high - low))).nan_to_num(0.0, 255.0, 0.0)
    return levels.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


def _image_shape(x: Tensor, factor: int) -> tuple[int, ...]:
    return (x.shape[0], x.shape[2] * factor, x.shape[3] * factor, x.shape[1] // factor**2)


@operator("fhrt::to_image")
def to_image(x: Tensor, factor: int, low: float, high: float) -> Tensor:
    if _on_device(x):
        return device.to_image(ARRAYS, x, factor, low, high)
    if _native(x):
        out = torch.empty(_image_shape(x, factor), dtype=torch.uint8)
        call_native("to_image", _C.to_image, _array(x), _array(out), factor, low, high)
        return out
    return to_image_twin(x, factor, low, high)


@to_image.register_fake
def _(x: Tensor, factor: int, low: float, high: float) -> Tensor:
    return x.new_empty(_image_shape(x, factor), dtype=torch.uint8)


def to_image_out(x: Tensor, out: Tensor, factor: int, low: float, high: float, stream: int | None) -> Tensor:
    if _on_device(x):
        return device.to_image(ARRAYS, x, factor, low, high, out, stream)
    if _native(x) and out.device == x.device:
        call_native("to_image", _C.to_image, _array(x), _array(out), factor, low, high)
        return out
    return out.copy_(to_image_twin(x, factor, low, high))


# -- face_crop --------------------------------------------------------------------------------------------------------


def face_crop(
    planes: Planes,
    transforms: Tensor,
    size: tuple[int, ...],
    mean: NDArray[Any],
    std: NDArray[Any],
    out: Tensor | None = None,
    stream: int | None = None,
) -> Tensor:
    """See `fhrt.ops.face_crop`; no gradient: a frame is bytes."""
    frame, chroma = planes.frame, planes.chroma
    if frame.is_cuda:
        return device.face_crop(ARRAYS, planes, transforms, size, mean, std, "float32", out, stream)
    places = {str(tensor.device) for tensor in (frame, chroma, transforms) if tensor is not None}
    if places != {"cpu"}:
        raise BadInputError(f"face_crop: frame and transforms must be on the CPU or one GPU, not on {' and '.join(sorted(places))}")
    out = torch.empty((len(transforms), planes.channels, *size)) if out is None else out
    chroma = None if chroma is None else rows(_array(chroma))
    maps = _array(transforms.contiguous())
    call_native("face_crop", _C.face_crop, rows(_array(frame)), chroma, planes.to_rgb, maps, mean, std, _array(out))
    return out


# -- ssim -------------------------------------------------------------------------------------------------------------

SSIM_DTYPES = (torch.float64, *HALF_AND_SINGLE)


def _ssim_on_device(a: Tensor, weights: Sequence[float]) -> bool:
    return _on_device(a) and len(weights) <= device.MAX_SSIM_WINDOW


def _ssim_native(a: Tensor, b: Tensor) -> bool:
    return _native(a, *SSIM_DTYPES) and b.dtype == a.dtype and b.device == a.device


def _ssim_twin(a: Tensor, b: Tensor, weights: Sequence[float], same: bool, c1: float, c2: float, want_map: bool) -> Tensor:
    values = ssim_map(a, b, weights, same, c1, c2)
    return values if want_map else values.mean((2, 3))


def _ssim_shape(a: Tensor, window: int, same: bool, want_map: bool) -> tuple[int, ...]:
    shrink = 0 if same else window - 1
    return (*a.shape[:2], a.shape[2] - shrink, a.shape[3] - shrink) if want_map else tuple(a.shape[:2])


def _planes(tensor: Tensor) -> NDArray[Any]:
    return _array(tensor.contiguous().flatten(0, 1))


def _native_ssim(a: Tensor, b: Tensor, out: Tensor, weights: Sequence[float], same: bool, c1: float, c2: float) -> Tensor:
    """Into ``out`` float64, the map [N, C, h, w] or the means [N, C]."""
    values = _array(out.view(-1, *out.shape[2:]))
    outputs = (values, np.empty(len(values))) if out.ndim == 4 else (None, values)
    call_native("ssim", _C.ssim, _planes(a), _planes(b), np.asarray(weights), *outputs, same, c1, c2)
    return out


@operator("fhrt::ssim")
def ssim(a: Tensor, b: Tensor, weights: Sequence[float], same: bool, c1: float, c2: float, want_map: bool) -> Tensor:
    """The map ``[N, C, h, w]`` or the mean of each plane ``[N, C]``, in a's dtype."""
    if _ssim_on_device(a, weights):
        return device.ssim(ARRAYS, a, b, np.asarray(weights), same, c1, c2, want_map).to(a.dtype)
    if _ssim_native(a, b):
        out = torch.empty(_ssim_shape(a, len(weights), same, want_map), dtype=torch.float64)
        return _native_ssim(a, b, out, weights, same, c1, c2).to(a.dtype)
    return _ssim_twin(a, b, weights, same, c1, c2, want_map).clone()


@ssim.register_fake
def _(a: Tensor, b: Tensor, weights: Sequence[float], same: bool, c1: float, c2: float, want_map: bool) -> Tensor:
    return a.new_empty(_ssim_shape(a, len(weights), same, want_map))


def ssim_out(
    a: Tensor, b: Tensor, out: Tensor, weights: NDArray[np.float64], same: bool, c1: float, c2: float, stream: int | None
) -> Tensor:
    _refuse_gradients("ssim", a, b)
    want_map = out.ndim == 4
    if _ssim_on_device(a, weights.tolist()):
        return device.ssim(ARRAYS, a, b, weights, same, c1, c2, want_map, out, stream)
    if _ssim_native(a, b) and out.device == a.device and out.is_contiguous():
        return _native_ssim(a, b, out, weights.tolist(), same, c1, c2)
    return out.copy_(ssim(a, b, weights.tolist(), same, c1, c2, want_map))


@operator("fhrt::ssim_backward")
def ssim_backward(
    gradient: Tensor, a: Tensor, b: Tensor, weights: Sequence[float], same: bool, c1: float, c2: float, to_a: bool, to_b: bool
) -> tuple[Tensor, Tensor]:
    """Gradients to a and b; empty where not wanted. ``gradient``: of the map or of the means."""
    is_map, none = gradient.ndim == 4, a.new_empty(0)
    both: Sequence[Tensor | None]
    if _ssim_on_device(a, weights):
        window, given = np.asarray(weights), gradient.float().contiguous()
        both = [
            device.ssim_backward(ARRAYS, given, *pair, window, same, c1, c2, is_map) if wanted else None
            for pair, wanted in (((a, b), to_a), ((b, a), to_b))
        ]
    else:
        both = [torch.empty(a.shape, dtype=a.dtype) if wanted else None for wanted in (to_a, to_b)]
        outputs = (None if tensor is None else _array(tensor.flatten(0, 1)) for tensor in both)
        given = gradient.double().contiguous().flatten(0, 1)
        call_native("ssim", _C.ssim_backward, _planes(a), _planes(b), np.asarray(weights), _array(given), *outputs, same, c1, c2)
    return (both[0] if to_a and both[0] is not None else none), (both[1] if to_b and both[1] is not None else none.clone())


@ssim_backward.register_fake
def _(
    gradient: Tensor, a: Tensor, b: Tensor, weights: Sequence[float], same: bool, c1: float, c2: float, to_a: bool, to_b: bool
) -> tuple[Tensor, Tensor]:
    return a.new_empty(a.shape if to_a else 0), a.new_empty(a.shape if to_b else 0)


def _ssim_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.settings = inputs[2:6]


def _ssim_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    wants, (a, b) = ctx.needs_input_grad[:2], ctx.saved_tensors
    if _ssim_on_device(a, ctx.settings[0]) or _ssim_native(a, b):
        both = ssim_backward(gradient, a, b, *ctx.settings, *wants)
    else:
        weights, same, c1, c2 = ctx.settings
        both = _differentiate(lambda a, b: _ssim_twin(a, b, weights, same, c1, c2, gradient.ndim == 4), (a, b), gradient)
    return (*(each if wanted else None for each, wanted in zip(both, wants, strict=True)), None, None, None, None, None)


ssim.register_autograd(_ssim_backward, setup_context=_ssim_context)


@lru_cache(maxsize=32)
def _band(length: int, weights: tuple[float, ...], same: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The Toeplitz matrix [out, length] of a 1-D filter: two dense products beat a depth-wise convolution on every device."""
    window = len(weights)
    pad = window // 2 if same else 0
    padded = torch.zeros(length + 2 * pad - window + 1, length + 2 * pad, dtype=torch.float64)
    for row in range(len(padded)):
        padded[row, row : row + window] = torch.tensor(weights, dtype=torch.float64)
    return padded[:, pad : pad + length].to(device, dtype).contiguous()


def ssim_map(a: Tensor, b: Tensor, weights: Sequence[float], same: bool, c1: float, c2: float) -> Tensor:
    """The SSIM map in plain torch, in a's dtype; computed in the wider of both, at least float32."""
    dtype, wide = a.dtype, torch.promote_types(torch.promote_types(a.dtype, b.dtype), torch.float32)
    a, b = a.to(wide), b.to(wide)
    rows, columns = (_band(size, tuple(weights), same, a.dtype, a.device) for size in a.shape[2:])
    mean_a, mean_b, aa, bb, ab = (rows @ moment @ columns.T for moment in (a, b, a * a, b * b, a * b))
    covariance = ab - mean_a * mean_b
    variances = aa - mean_a * mean_a + bb - mean_b * mean_b
    values = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))
    return values.to(dtype)
