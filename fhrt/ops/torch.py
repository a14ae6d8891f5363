"""The ops as torch operators: `torch.ops.fhrt.*` with fake and autograd, and their twins in plain torch.

A CPU float32 tensor goes through the native module, a CUDA tensor through its kernels where the build has them; anything else through
the twin. Every backward pass computes again what it needs, so nothing but the inputs is kept. Imported only when a torch tensor comes in.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from fhrt import _C
from fhrt.ops import device


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


def _on_device(x: Tensor) -> bool:
    """Whether the CUDA kernels take this tensor."""
    return x.is_cuda and hasattr(_C, "cuda") and str(x.dtype).removeprefix("torch.") in device.DTYPES


def stn_sample_twin(x: Tensor, theta: Tensor, h: int, w: int, align_corners: bool, padding: str, upsample: int) -> Tensor:
    """The same in plain torch: affine_grid, then grid_sample."""
    if upsample > 1:
        x = F.interpolate(x, scale_factor=upsample, mode="nearest")
    grid = F.affine_grid(theta, [x.shape[0], x.shape[1], h, w], align_corners=align_corners)
    return F.grid_sample(x, grid.to(x.dtype), mode="bilinear", padding_mode=padding, align_corners=align_corners)


def _native(*tensors: Tensor) -> bool:
    return all(tensor.device.type == "cpu" and tensor.dtype == torch.float32 for tensor in tensors)


@torch.library.custom_op("fhrt::stn_sample", mutates_args=())
def stn_sample(x: Tensor, theta: Tensor, h: int, w: int, align_corners: bool, padding: str, upsample: int) -> Tensor:
    if _on_device(x):
        return device.stn_sample(ARRAYS, x, theta, h, w, align_corners, padding, upsample)
    if not _native(x, theta):
        return stn_sample_twin(x, theta, h, w, align_corners, padding, upsample)
    source, maps = (tensor.detach().contiguous().numpy() for tensor in (x, theta))
    return torch.from_numpy(_C.stn_sample(source, maps, h, w, align_corners, padding == "border", upsample))


@stn_sample.register_fake
def _(x: Tensor, theta: Tensor, h: int, w: int, align_corners: bool, padding: str, upsample: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1], h, w))


def _stn_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:2])
    ctx.settings = inputs[2:]


@torch.library.custom_op("fhrt::stn_sample_backward", mutates_args=())
def stn_sample_backward(
    gradient: Tensor, x: Tensor, theta: Tensor, align_corners: bool, padding: str, upsample: int
) -> tuple[Tensor, Tensor]:
    """Gradients to x and theta of a CUDA tensor; elsewhere the twin is differentiated instead."""
    return device.stn_sample_backward(ARRAYS, gradient, x, theta, align_corners, padding, upsample, (True, True))


@stn_sample_backward.register_fake
def _(gradient: Tensor, x: Tensor, theta: Tensor, align_corners: bool, padding: str, upsample: int) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), theta.new_empty(theta.shape)


def _stn_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    if _on_device(gradient):
        return (*stn_sample_backward(gradient, *ctx.saved_tensors, *ctx.settings[2:]), None, None, None, None, None)
    x, theta = (tensor.detach().requires_grad_() for tensor in ctx.saved_tensors)
    with torch.enable_grad():
        out = stn_sample_twin(x, theta, *ctx.settings)
    return (*torch.autograd.grad(out, (x, theta), gradient), None, None, None, None, None)


stn_sample.register_autograd(_stn_backward, setup_context=_stn_context)


@torch.library.custom_op("fhrt::pixel_shuffle", mutates_args=())
def pixel_shuffle(x: Tensor, factor: int) -> Tensor:
    if _on_device(x):
        return device.pixel_shuffle(ARRAYS, x, factor, None, 1.0)
    if not _native(x):
        return F.pixel_shuffle(x, factor).clone()
    return torch.from_numpy(_C.pixel_shuffle(x.detach().contiguous().numpy(), factor, None, 1.0))


@pixel_shuffle.register_fake
def _(x: Tensor, factor: int) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1] // factor**2, x.shape[2] * factor, x.shape[3] * factor))


def _shuffle_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.factor = inputs[1]


def _shuffle_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    return F.pixel_unshuffle(gradient, ctx.factor), None


pixel_shuffle.register_autograd(_shuffle_backward, setup_context=_shuffle_context)


def pixel_shuffle_fused_twin(x: Tensor, factor: int, bias: Tensor | None, negative_slope: float) -> Tensor:
    """The same in plain torch: add, LeakyReLU, shuffle."""
    x = x if bias is None else x + bias[:, None, None]
    return F.pixel_shuffle(F.leaky_relu(x, negative_slope), factor)


@torch.library.custom_op("fhrt::pixel_shuffle_fused", mutates_args=())
def pixel_shuffle_fused(x: Tensor, factor: int, bias: Tensor | None, negative_slope: float) -> Tensor:
    if _on_device(x):
        return device.pixel_shuffle(ARRAYS, x, factor, None if bias is None else bias.float(), negative_slope)
    if not _native(x, *([] if bias is None else [bias])):
        return pixel_shuffle_fused_twin(x, factor, bias, negative_slope).clone()
    offsets = None if bias is None else bias.detach().contiguous().numpy()
    return torch.from_numpy(_C.pixel_shuffle(x.detach().contiguous().numpy(), factor, offsets, negative_slope))


@pixel_shuffle_fused.register_fake
def _(x: Tensor, factor: int, bias: Tensor | None, negative_slope: float) -> Tensor:
    return x.new_empty((x.shape[0], x.shape[1] // factor**2, x.shape[2] * factor, x.shape[3] * factor))


def _fused_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    x, ctx.factor, bias, ctx.negative_slope = inputs
    ctx.save_for_backward(x, bias)


@torch.library.custom_op("fhrt::pixel_shuffle_fused_backward", mutates_args=())
def pixel_shuffle_fused_backward(gradient: Tensor, x: Tensor, factor: int, bias: Tensor | None, negative_slope: float) -> Tensor:
    """Gradient to x."""
    if _on_device(gradient):
        return device.pixel_shuffle_backward(ARRAYS, gradient, x, factor, None if bias is None else bias.float(), negative_slope)
    before = x if bias is None else x + bias[:, None, None]
    return F.pixel_unshuffle(gradient, factor) * torch.where(before > 0, 1.0, negative_slope).to(gradient.dtype)


@pixel_shuffle_fused_backward.register_fake
def _(gradient: Tensor, x: Tensor, factor: int, bias: Tensor | None, negative_slope: float) -> Tensor:
    return x.new_empty(x.shape)


def _fused_backward(ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    x, bias = ctx.saved_tensors
    to_x = pixel_shuffle_fused_backward(gradient, x, ctx.factor, bias, ctx.negative_slope)
    return to_x, None, None if bias is None else to_x.sum((0, 2, 3)), None


pixel_shuffle_fused.register_autograd(_fused_backward, setup_context=_fused_context)


def to_image_twin(x: Tensor, factor: int, low: float, high: float) -> Tensor:
    """The same in plain torch."""
    levels = ((F.pixel_shuffle(x, factor).float() - low) * (255.0 / (high - low))).nan_to_num(0.0, 255.0, 0.0)
    return levels.clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()


@torch.library.custom_op("fhrt::to_image", mutates_args=())
def to_image(x: Tensor, factor: int, low: float, high: float) -> Tensor:
    if _on_device(x):
        return device.to_image(ARRAYS, x, factor, low, high)
    if not _native(x):
        return to_image_twin(x, factor, low, high)
    return torch.from_numpy(_C.to_image(x.detach().contiguous().numpy(), factor, low, high))


@to_image.register_fake
def _(x: Tensor, factor: int, low: float, high: float) -> Tensor:
    shape = (x.shape[0], x.shape[2] * factor, x.shape[3] * factor, x.shape[1] // factor**2)
    return x.new_empty(shape, dtype=torch.uint8)


@lru_cache(maxsize=32)
def _band(length: int, weights: tuple[float, ...], same: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    """The Toeplitz matrix [out, length] of a 1-D filter: two dense products beat a depth-wise convolution on every device."""
    window = len(weights)
    pad = window // 2 if same else 0
    padded = torch.zeros(length + 2 * pad - window + 1, length + 2 * pad, dtype=torch.float64)
    for row in range(len(padded)):
        padded[row, row : row + window] = torch.tensor(weights, dtype=torch.float64)
    return padded[:, pad : pad + length].to(device, dtype).contiguous()


def ssim_map(a: Tensor, b: Tensor, weights: NDArray[Any], same: bool, c1: float, c2: float) -> Tensor:
    """SSIM map [N, C, h, w] of [N, C, H, W] tensors, differentiable; half types are computed in float32."""
    dtype = a.dtype
    if dtype in (torch.float16, torch.bfloat16):
        a, b = a.float(), b.float()
    rows, columns = (_band(size, tuple(weights.tolist()), same, a.dtype, a.device) for size in a.shape[2:])
    mean_a, mean_b, aa, bb, ab = (rows @ moment @ columns.T for moment in (a, b, a * a, b * b, a * b))
    covariance = ab - mean_a * mean_b
    variances = aa - mean_a * mean_a + bb - mean_b * mean_b
    values = (2 * mean_a * mean_b + c1) * (2 * covariance + c2) / ((mean_a**2 + mean_b**2 + c1) * (variances + c2))
    return values.to(dtype)
