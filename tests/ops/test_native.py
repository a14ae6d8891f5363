"""The CPU kernels in every layout and dtype: forward, backward and into the caller's arrays, against plain torch in float64."""

import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fhrt import _C, ops
from fhrt.errors import BadInputError
from fhrt.ops import torch as torch_ops
from fhrt.ops.ssim import gaussian_window

TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
HALVES = [torch.float32, torch.float16, torch.bfloat16]
SHAPES = [(1, 1, 1, 1), (1, 3, 16, 16), (2, 28, 16, 16), (3, 67, 9, 13), (33, 4, 5, 4), (1, 512, 4, 4), (2, 17, 40, 33)]
LAYOUTS = {
    "contiguous": lambda x: x.contiguous(),
    "channels last": lambda x: x.contiguous(memory_format=torch.channels_last),
    "transposed": lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
    "every other": lambda x: torch.stack([x, x], -1).flatten(3)[..., ::2],
}


@pytest.fixture(autouse=True)
def same_numbers_each_time() -> None:
    """A gradient to theta jumps where a position meets a pixel's edge, and float32 may fall on the other side of it."""
    torch.manual_seed(0)


def thetas(count: int) -> Tensor:
    """Similarities, and one map that leaves the picture altogether."""
    generator = torch.Generator().manual_seed(count)
    angle, scale = torch.rand(count, generator=generator) * 2 - 1, torch.rand(count, generator=generator) + 0.3
    cos, sin, shift = scale * angle.cos(), scale * angle.sin(), torch.rand(2, count, generator=generator) - 0.5
    maps = torch.stack([torch.stack([cos, -sin, shift[0]], 1), torch.stack([sin, cos, shift[1]], 1)], 1)
    if count > 1:
        maps[1, :, 2] = 5
    return maps


def close(ours: Tensor, wanted: Tensor, dtype: torch.dtype, factor: float = 1) -> None:
    scale = max(1.0, float(wanted.abs().max()) if wanted.numel() else 1.0)
    torch.testing.assert_close(ours.double(), wanted.double(), rtol=0, atol=TOLERANCE[dtype] * scale * factor)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("padding", "align_corners", "upsample"), [("zeros", False, 1), ("border", True, 1), ("border", False, 2)])
def test_stn_sample(shape: tuple, dtype: torch.dtype, padding: str, align_corners: bool, upsample: int) -> None:
    x, theta = torch.randn(shape).to(dtype), thetas(shape[0])
    options: dict[str, Any] = {"padding": padding, "align_corners": align_corners, "upsample": upsample}
    for size in ((5, 7), (32, 32)):
        leaves = [x.double().requires_grad_(), theta.double().requires_grad_()]
        expected = torch_ops.stn_sample_twin(*leaves, *size, align_corners, padding, upsample)
        gradient = torch.randn(expected.shape).to(dtype)
        wanted = torch.autograd.grad(expected, leaves, gradient.double())
        for layout in LAYOUTS.values():
            inputs = [layout(x).requires_grad_(), theta.clone().requires_grad_()]
            ours = ops.stn_sample(*inputs, size, **options)
            close(ours, expected, dtype, 4)
            for mine, each in zip(torch.autograd.grad(ours, inputs, layout(gradient)), wanted, strict=True):
                close(mine, each, dtype, 8)
            (only,) = torch.autograd.grad(ops.stn_sample(inputs[0].detach(), inputs[1], size, **options), inputs[1], gradient)
            close(only, wanted[1], dtype, 8)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_stn_sample_takes_a_half_theta_as_float32(dtype: torch.dtype) -> None:
    x, half = torch.randn(2, 16, 12, 12).to(dtype), thetas(2).to(dtype)
    gradients = []
    for theta in (half, half.float()):
        theta.requires_grad_()
        out = ops.stn_sample(x, theta, upsample=2)
        out.backward(torch.ones_like(out))
        assert theta.grad is not None and theta.grad.dtype == theta.dtype
        gradients.append((out.detach(), theta.grad.float()))
    assert torch.equal(gradients[0][0], gradients[1][0])
    torch.testing.assert_close(gradients[0][1], gradients[1][1].to(dtype).float(), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(("factor", "width"), [(1, 5), (2, 16), (2, 3), (3, 7), (4, 33), (5, 2)])
def test_pixel_shuffle(dtype: torch.dtype, factor: int, width: int) -> None:
    x, bias = torch.randn(2, 3 * factor**2, 4, width).to(dtype), torch.randn(3 * factor**2).to(dtype)
    leaves = [x.double().requires_grad_(), bias.double().requires_grad_()]
    expected = torch_ops.pixel_shuffle_fused_twin(leaves[0], factor, leaves[1], 0.2)
    gradient = torch.randn(expected.shape).to(dtype)
    wanted = torch.autograd.grad(expected, leaves, gradient.double())
    for layout in LAYOUTS.values():
        inputs = [layout(x).requires_grad_(), bias.clone().requires_grad_()]
        ours = ops.pixel_shuffle(inputs[0], factor, bias=inputs[1], negative_slope=0.2)
        close(ours, expected, dtype)
        for mine, each in zip(torch.autograd.grad(ours, inputs, layout(gradient)), wanted, strict=True):
            close(mine, each, dtype, 4)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize(
    ("channels", "factor", "size"), [(3, 4, (32, 32)), (3, 1, (128, 100)), (1, 2, (3, 5)), (4, 3, (2, 2)), (2, 7, (9, 1))]
)
def test_to_image(dtype: torch.dtype, channels: int, factor: int, size: tuple[int, int]) -> None:
    x = torch.randn(2, channels * factor**2, *size).to(dtype)
    expected = torch_ops.to_image_twin(x, factor, -1.0, 1.0)
    for layout in LAYOUTS.values():
        assert torch.equal(ops.to_image(layout(x), factor), expected)


@pytest.mark.parametrize("dtype", [torch.float64, *HALVES], ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 11, 11), (2, 3, 37, 52), (1, 2, 130, 140)], ids=str)
@pytest.mark.parametrize(("window", "same"), [(11, False), (11, True), (7, True), (3, False)])
def test_ssim(dtype: torch.dtype, shape: tuple, window: int, same: bool) -> None:
    a = torch.rand(shape, dtype=torch.float64).mul(255)
    b = (a + 20 * torch.randn_like(a)).clamp(0, 255).to(dtype)
    a = a.to(dtype)
    weights, padding = gaussian_window(window, 1.5), "same" if same else "valid"
    leaves = [a.double().requires_grad_(), b.double().requires_grad_()]
    expected = torch_ops.ssim_map(*leaves, weights.tolist(), same, 6.5025, 58.5225)
    upstream = torch.rand_like(expected).to(dtype)
    options: dict[str, Any] = {"window": window, "padding": padding}
    # A mean's gradient to one of 10⁴ pixels is too small for float16, so the seed is large.
    for reduction, seed in (("map", upstream.double()), ("none", torch.full(shape[:1], 1e4, dtype=torch.float64))):
        inputs = [LAYOUTS["transposed"](a).requires_grad_(), b.clone().requires_grad_()]
        ours = ops.ssim(*inputs, reduction=reduction, **options)
        reference = expected if reduction == "map" else expected.mean((1, 2, 3))
        close(ours, reference, dtype)
        wanted = torch.autograd.grad(reference, leaves, seed, retain_graph=True)
        for mine, each in zip(torch.autograd.grad(ours, inputs, seed.to(dtype)), wanted, strict=True):
            close(mine / each.abs().max(), each / each.abs().max(), dtype, 4)


def test_stn_sample_reads_nothing_that_was_not_written() -> None:
    """Fresh memory is often zero by chance; here it is full of NaN."""
    theta = torch.tensor([[[0.3, 0.0, 0.2], [0.0, 0.3, shift]] for shift in (-9.0, -0.9, 0.0, 0.9, 9.0)])
    for shape in ((5, 17, 40, 33), (5, 3, 40, 33), (5, 40, 9, 9)):
        x = torch.randn(shape)
        expected = ops.stn_sample(x, theta, (30, 20))
        for _ in range(20):
            poison = [torch.full((x[0].numel() * 2,), float("nan")) for _ in range(4)]
            del poison
            assert torch.equal(ops.stn_sample(x, theta, (30, 20)), expected)


def test_ssim_of_two_dtypes_is_computed_in_the_wider() -> None:
    a, b = torch.rand(1, 3, 16, 16, dtype=torch.float64).mul(255), torch.rand(1, 3, 16, 16).mul(255)
    inputs = [a.requires_grad_(), b.requires_grad_()]
    ours = ops.ssim(*inputs)
    wanted = ops.ssim(a, b.double())
    torch.testing.assert_close(ours, wanted)
    for mine, each in zip(torch.autograd.grad(ours, inputs), torch.autograd.grad(wanted, inputs), strict=True):
        torch.testing.assert_close(mine, each)


def test_outputs_of_the_callers_own() -> None:
    x, theta = np.random.default_rng(0).standard_normal((2, 12, 8, 9)).astype(np.float32), thetas(2).numpy()
    frame = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    cases = {
        "stn_sample": (lambda out: ops.stn_sample_out(x, theta, out), ops.stn_sample(x, theta, (7, 5))),
        "pixel_shuffle": (lambda out: ops.pixel_shuffle_out(x, out, 2, negative_slope=0.1), ops.pixel_shuffle(x, 2, negative_slope=0.1)),
        "to_image": (lambda out: ops.to_image_out(x, out, 2), ops.to_image(x, 2)),
        "ssim": (lambda out: ops.ssim_out(x, x * 0.5, out, window=3), ops.ssim(x, x * 0.5, window=3, reduction="map")),
        "face_crop": (lambda out: ops.face_crop_out(frame, theta, out, 10.0, 2.0), ops.face_crop(frame, theta, (6, 4), 10.0, 2.0)),
    }
    for name, (call, expected) in cases.items():
        out = np.empty_like(expected)
        assert call(out) is out
        np.testing.assert_array_equal(out, expected)
        frozen = np.empty_like(expected)
        frozen.setflags(write=False)
        for wrong in (frozen, out[:1], out.astype(np.complex64), torch.from_numpy(out), None):
            with pytest.raises(BadInputError, match=name):
                call(wrong)
        tensor = torch.zeros(expected.shape, dtype=torch.from_numpy(expected).dtype)
        with pytest.raises(BadInputError, match=name):
            call(tensor)
    means = np.empty((2, 12))
    np.testing.assert_allclose(ops.ssim_out(x, x * 0.5, means, window=3), ops.ssim(x, x * 0.5, window=3, reduction="map").mean((2, 3)))


def test_outputs_of_the_callers_own_as_tensors() -> None:
    x, theta = torch.randn(2, 12, 8, 9), thetas(2)
    out = torch.empty(2, 12, 7, 5)
    assert ops.stn_sample_out(x, theta, out) is out
    assert torch.equal(out, ops.stn_sample(x, theta, (7, 5)))
    assert torch.equal(ops.pixel_shuffle_out(x, torch.empty(2, 3, 16, 18), 2), F.pixel_shuffle(x, 2))
    assert torch.equal(ops.to_image_out(x, torch.empty(2, 16, 18, 3, dtype=torch.uint8), 2), ops.to_image(x, 2))
    with pytest.raises(BadInputError, match="differentiable"):
        ops.stn_sample_out(x.requires_grad_(), theta, out)
    with torch.no_grad():
        ops.stn_sample_out(x, theta, out)


def test_an_output_over_its_own_input_is_refused() -> None:
    memory = np.zeros(4096, np.float32)
    x, theta = memory[:768].reshape(1, 3, 16, 16), np.zeros((1, 2, 3), np.float32)
    for start in (0, 5, 767):
        out = memory[start : start + 768].reshape(1, 3, 16, 16)
        with pytest.raises(BadInputError, match="overlaps"):
            ops.stn_sample_out(x, theta, out)
    ops.stn_sample_out(x, theta, memory[768:1536].reshape(1, 3, 16, 16))
    with pytest.raises(BadInputError, match="overlaps"):
        ops.pixel_shuffle_out(memory[:64].reshape(1, 4, 4, 4), memory[63:127].reshape(1, 1, 8, 8), 2)


def test_pooled_memory_belongs_to_one_array_at_a_time() -> None:
    dtype = np.dtype(np.float32)
    first, second = (_C.empty((64, 1024), dtype) for _ in range(2))
    first[...], second[...] = 1, 2
    assert not np.shares_memory(first, second)
    view, place = first[3:4], first.ctypes.data
    del first
    third = _C.empty((64, 1024), dtype)
    third[...] = 3
    assert third.ctypes.data != place  # the view still holds the block
    np.testing.assert_array_equal(view, 1)
    del view
    assert _C.empty((64, 1024), dtype).ctypes.data == place
    assert _C.empty((0, 5), dtype).shape == (0, 5)
    for impossible in ((-1,), (2**40, 2**40)):
        with pytest.raises(ValueError, match="empty"):
            _C.empty(impossible, dtype)


def test_a_crop_at_the_very_end_of_the_frames_memory() -> None:
    """The kernel reads eight bytes at a time, but never one beyond the frame."""
    for channels in (1, 2, 3, 4):
        memory = np.full(9 * 7 * channels + 64, 255, np.uint8)
        frame = memory[: 9 * 7 * channels].reshape(9, 7, channels)
        frame[...] = np.arange(9 * 7 * channels).reshape(9, 7, channels) % 200
        crop = ops.face_crop(frame, np.float32([[[1, 0, 0], [0, 1, 0]]]), (9, 7), 0.0, 1.0)
        np.testing.assert_array_equal(crop[0].transpose(1, 2, 0), frame)
        for size in ((1, 7), (9, 1), (1, 1)):
            small = frame[: size[0], : size[1]]
            crop = ops.face_crop(small, np.float32([[[1, 0, -1], [0, 1, -1]]]), (4, 9), 0.0, 1.0)
            rows, columns = (np.clip(np.arange(count) - 1, 0, limit - 1) for count, limit in zip((4, 9), size, strict=True))
            np.testing.assert_array_equal(crop[0].transpose(1, 2, 0), small[rows][:, columns])


def test_crops_near_the_end_read_nothing_beyond_it() -> None:
    """In memory whose next page may not be read."""
    code = (
        "import ctypes, mmap, numpy as np; from fhrt import ops\n"
        "libc = ctypes.CDLL(None, use_errno=True); page = mmap.PAGESIZE; memory = mmap.mmap(-1, 2 * page)\n"
        "start = ctypes.addressof(ctypes.c_char.from_buffer(memory))\n"
        "assert libc.mprotect(ctypes.c_void_p(start + page), page, 0) == 0\n"
        "bytes_ = np.frombuffer(memory, np.uint8, page)\n"
        "for channels in (1, 2, 3, 4):\n"
        "    for side in (3, 9, 20):\n"
        "        frame = bytes_[page - side * side * channels :].reshape(side, side, channels)\n"
        "        for scale in (0.4, 1.0, 1.7, 9.0, 50.0):\n"
        "            for shift in (-3.0, 0.0, 0.5 * side, side - 4.2):\n"
        "                for turn in (0.1, 0.0):\n"
        "                    ops.face_crop(frame, np.float32([[[scale, turn, shift], [-turn, scale, shift]]]), (9, 17), 0.0, 1.0)"
    )
    subprocess.run([sys.executable, "-P", "-c", code], check=True, timeout=60)


def test_frames_that_floats_cannot_address() -> None:
    with pytest.raises(BadInputError, match="frame too large"):
        ops.face_crop(np.zeros((1, 2**24 + 1, 1), np.uint8), np.zeros((1, 2, 3), np.float32), (2, 2), 0.0, 1.0)


def test_under_torch_compile_and_export() -> None:
    """Whoever looks on sees the operators themselves, in one graph."""
    x, theta, b = torch.randn(2, 12, 16, 16, requires_grad=True), thetas(2), torch.rand(2, 3, 32, 32)

    def work(x: Tensor) -> Tensor:
        upright = ops.pixel_shuffle(ops.stn_sample(x * 2, theta), 2, negative_slope=0.1)
        return 1 - ops.ssim(upright, b, data_range=2.0)

    compiled = torch.compile(work, backend="aot_eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), work(x))
    (ours,), (wanted,) = (torch.autograd.grad(each(x), x) for each in (compiled, work))
    torch.testing.assert_close(ours, wanted)
    exported = torch.export.export(torch.nn.Sequential(Work()), (x.detach(),))
    assert "fhrt.stn_sample" in str(exported.graph)


class Work(torch.nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return ops.stn_sample(x, torch.eye(2, 3).expand(x.shape[0], 2, 3))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no CPU affinity")
@pytest.mark.parametrize(("setting", "expected"), [("", 1), ("3", 3), ("0", 1), ("nonsense", 1)])
def test_threads_by_default(setting: str, expected: int) -> None:
    """As many as the cores that the process may use, or as FHRT_NUM_THREADS says."""
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); from fhrt import ops; print(ops.get_num_threads())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | {"FHRT_NUM_THREADS": setting}, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == expected
