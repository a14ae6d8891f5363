"""The CUDA kernels' own source, run on the CPU by the host shim, against torch: values and gradients."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from crops import resampled, resampled_nv12
from numpy.typing import NDArray
from torch import Tensor

from fhrt import ops
from fhrt.ops.ssim import gaussian_window
from fhrt.ops.torch import ssim_map

HERE = Path(__file__).parent
DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3, torch.bfloat16: 2e-2}


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """All kernels, compiled by the C++ compiler for the host shim."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: apt-get install g++")
    library = tmp_path_factory.mktemp("kernels") / "kernels.so"
    # Device code reads vectors through pointers of another type, which nvcc allows.
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", "-fno-strict-aliasing", "-shared", "-fPIC"]
    sources = [HERE / "kernels.cpp", *sorted((HERE.parent.parent / "csrc").glob("*/*.cu"))]
    command = [compiler, *flags, "-DFHRT_HOST_SHIM", f"-I{HERE}", "-o", library, "-x", "c++", *sources]
    subprocess.run(list(map(str, command)), check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.stn_partials.restype = ctypes.c_int64
    for name, result, argument in (
        ("half_to_float", ctypes.c_float, ctypes.c_uint16),
        ("float_to_half", ctypes.c_uint16, ctypes.c_float),
        ("bfloat16_to_float", ctypes.c_float, ctypes.c_uint16),
        ("float_to_bfloat16", ctypes.c_uint16, ctypes.c_float),
    ):
        getattr(loaded, name).restype = result
        getattr(loaded, name).argtypes = [argument]
    return loaded


def pointer(tensor: Tensor) -> ctypes.c_void_p:
    return ctypes.c_void_p(tensor.data_ptr())


def int64s(*values: int) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)


def thetas(count: int, rng: np.random.Generator) -> Tensor:
    """Similarities, one of them strongly shrinking, and one degenerate map that collapses everything to a line."""
    angle, scale = rng.uniform(-3, 3, count), rng.uniform(0.3, 1.5, count)
    maps = np.zeros((count, 2, 3))
    maps[:, 0, 0] = maps[:, 1, 1] = scale * np.cos(angle)
    maps[:, 1, 0], maps[:, 0, 1] = scale * np.sin(angle), -scale * np.sin(angle)
    maps[:, :, 2] = rng.uniform(-0.5, 0.5, (count, 2))
    if count > 2:
        maps[1] *= 3
        maps[2] = [[0.513, 0.513, 0.0917], [0.487, 0.487, -0.1134]]
    return torch.from_numpy(maps.astype(np.float32))


def reference(x: Tensor, theta: Tensor, size: tuple[int, int], align_corners: bool, border: bool, upsample: int) -> Tensor:
    x = F.interpolate(x, scale_factor=upsample, mode="nearest") if upsample > 1 else x
    grid = F.affine_grid(theta, [*x.shape[:2], *size], align_corners=align_corners)
    return F.grid_sample(x, grid, padding_mode="border" if border else "zeros", align_corners=align_corners)


SHAPES = [
    # batch, channels, height, width, output size
    (1, 1, 1, 1, (3, 3)),
    (1, 3, 16, 16, (32, 32)),
    (2, 67, 9, 13, (7, 5)),
    (33, 3, 5, 4, (6, 9)),
    (3, 512, 4, 4, (4, 4)),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("border", [False, True], ids=["zeros", "border"])
@pytest.mark.parametrize(("align_corners", "upsample"), [(False, 1), (True, 1), (False, 2)])
def test_stn_sample(kernels: ctypes.CDLL, dtype: torch.dtype, shape: tuple, border: bool, align_corners: bool, upsample: int) -> None:
    n, c, h, w, size = shape
    rng = np.random.default_rng(n * c + h)
    theta = thetas(n, rng)
    x = torch.from_numpy(rng.standard_normal((n, c, h, w)).astype(np.float32)).to(dtype)
    settings = int64s(n, c, h, w, *size, upsample, align_corners, border)
    expected = reference(x.float(), theta, size, align_corners, border, upsample)
    out = torch.full((n, c, *size), float("nan"), dtype=dtype)
    kernels.stn_sample(DTYPES[dtype], pointer(x), int64s(*x.stride()), pointer(theta), pointer(out), 0, settings)
    torch.testing.assert_close(out.float(), expected, atol=TOLERANCE[dtype] * 4, rtol=TOLERANCE[dtype])

    strided = x.transpose(2, 3).contiguous().transpose(2, 3)
    again = torch.full_like(out, float("nan"))
    kernels.stn_sample(DTYPES[dtype], pointer(strided), int64s(*strided.stride()), pointer(theta), pointer(again), 0, settings)
    assert torch.equal(again, out)

    if c % (16 // dtype.itemsize) == 0:
        last = x.contiguous(memory_format=torch.channels_last)
        again = torch.full_like(out, float("nan")).contiguous(memory_format=torch.channels_last)
        kernels.stn_sample(DTYPES[dtype], pointer(last), int64s(*last.stride()), pointer(theta), pointer(again), 1, settings)
        torch.testing.assert_close(again.float(), out.float(), atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("border", [False, True], ids=["zeros", "border"])
@pytest.mark.parametrize(("align_corners", "upsample"), [(False, 1), (True, 1), (False, 2)])
def test_stn_sample_backward(kernels: ctypes.CDLL, shape: tuple, border: bool, align_corners: bool, upsample: int) -> None:
    n, c, h, w, size = shape
    rng = np.random.default_rng(n + c + h)
    x = torch.from_numpy(rng.standard_normal((n, c, h, w)).astype(np.float32)).requires_grad_()
    theta = thetas(n, rng).requires_grad_()
    grad = torch.from_numpy(rng.standard_normal((n, c, *size)).astype(np.float32))
    # In float64: the reference's own rounding would otherwise move samples across pixel borders, where the slope jumps.
    x64, theta64 = x.detach().double().requires_grad_(), theta.detach().double().requires_grad_()
    expected = torch.autograd.grad(reference(x64, theta64, size, align_corners, border, upsample), (x64, theta64), grad.double())
    settings = int64s(n, c, h, w, *size, upsample, align_corners, border)
    kernels.stn_partials.argtypes = [ctypes.c_void_p]
    partials = torch.full((kernels.stn_partials(settings),), float("nan"))
    strided = grad.transpose(1, 3).contiguous().transpose(1, 3)
    results = []
    for each in (grad, strided):
        grad_x, grad_theta = torch.full_like(x, float("nan")), torch.full_like(theta, float("nan"))
        kernels.stn_sample_backward(
            0, pointer(each), int64s(*each.stride()), pointer(x), int64s(*x.stride()), pointer(theta), pointer(partials),
            pointer(grad_x), pointer(grad_theta), settings,
        )  # fmt: skip
        results.append((grad_x, grad_theta))
    torch.testing.assert_close(results[0][0].double(), expected[0], atol=1e-4, rtol=1e-4)
    scale = float(expected[1].abs().max()) + 1
    torch.testing.assert_close(results[0][1].double() / scale, expected[1] / scale, atol=2e-4, rtol=1e-3)
    assert torch.equal(results[0][0], results[1][0]) and torch.equal(results[0][1], results[1][1])


CELLS = [
    (1, 1, 1, 1, 2),
    (2, 3, 5, 7, 3),
    (33, 3, 8, 8, 4),
    (1, 67, 6, 16, 2),
    (2, 128, 4, 8, 2),
    (3, 5, 4, 24, 3),
    (1, 3, 3, 3, 5),
    (2, 4, 3, 5, 1),
]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("settings", CELLS, ids=str)
@pytest.mark.parametrize(("biased", "slope"), [(False, 1.0), (True, 0.2), (True, 0.0)])
def test_pixel_shuffle(kernels: ctypes.CDLL, dtype: torch.dtype, settings: tuple, biased: bool, slope: float) -> None:
    n, c, h, w, factor = settings
    torch.manual_seed(n)
    x = torch.randn(n, c * factor**2, h, w).to(dtype)
    bias = torch.randn(c * factor**2) if biased else None
    wide = x.float() + (0 if bias is None else bias[:, None, None])
    leaf = wide.clone().requires_grad_()
    expected = F.pixel_shuffle(F.leaky_relu(leaf, slope), factor)
    arguments = (None if bias is None else pointer(bias), ctypes.c_float(slope), int64s(*settings))
    for source in (x, x.contiguous(memory_format=torch.channels_last), torch.cat([x, x], 3)[..., :w]):
        out = torch.full(expected.shape, float("nan"), dtype=dtype)
        kernels.pixel_shuffle(DTYPES[dtype], pointer(source), int64s(*source.stride()), pointer(out), *arguments)
        assert torch.equal(out, expected.detach().to(dtype))
        grad = torch.randn(expected.shape).to(dtype).contiguous(memory_format=torch.channels_last)
        (wanted,) = torch.autograd.grad(expected, leaf, grad.float(), retain_graph=True)
        grad_x = torch.full_like(x, float("nan"))
        kernels.pixel_shuffle_backward(
            DTYPES[dtype], pointer(grad), int64s(*grad.stride()), pointer(source), int64s(*source.stride()), pointer(grad_x), *arguments
        )
        assert torch.equal(grad_x, wanted.to(dtype))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    "settings", [(1, 3, 1, 1, 1), (33, 3, 4, 8, 4), (2, 3, 5, 12, 2), (2, 3, 6, 8, 1), (3, 1, 5, 7, 3), (1, 4, 4, 4, 2)], ids=str
)
def test_to_image(kernels: ctypes.CDLL, dtype: torch.dtype, settings: tuple) -> None:
    n, c, h, w, factor = settings
    torch.manual_seed(n)
    x = (torch.randn(n, c * factor**2, h, w) * 0.8).to(dtype)
    x[0, 0, 0, 0] = float("inf")
    planes = F.pixel_shuffle(x.float(), factor)
    expected = ((planes + 1) * 127.5).clamp(0, 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    for source in (x, x.contiguous(memory_format=torch.channels_last), torch.cat([x, x], 3)[..., :w]):
        out = torch.full(expected.shape, 77, dtype=torch.uint8)
        bounds = (ctypes.c_float(-1), ctypes.c_float(1))
        kernels.to_image(DTYPES[dtype], pointer(source), int64s(*source.stride()), pointer(out), *bounds, int64s(*settings))
        assert torch.equal(out, expected)


def test_to_image_of_nan_is_black(kernels: ctypes.CDLL) -> None:
    x, out = torch.full((1, 3, 4, 4), float("nan")), torch.full((1, 4, 4, 3), 77, dtype=torch.uint8)
    kernels.to_image(0, pointer(x), int64s(*x.stride()), pointer(out), ctypes.c_float(0), ctypes.c_float(1), int64s(1, 3, 4, 4, 1))
    assert not out.any()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(1, 1, 11, 11), (2, 3, 16, 37), (33, 1, 12, 11), (1, 67, 13, 20), (1, 2, 50, 33)], ids=str)
@pytest.mark.parametrize(("window", "same", "upstream_is_map"), [(11, False, False), (11, True, True), (7, True, False), (3, False, True)])
def test_ssim(kernels: ctypes.CDLL, dtype: torch.dtype, shape: tuple, window: int, same: bool, upstream_is_map: bool) -> None:
    torch.manual_seed(shape[2])
    smooth = F.interpolate(torch.rand(*shape[:2], 4, 4), shape[2:], mode="bicubic") * 255
    a = smooth.clamp(0, 255).to(dtype)
    b = (smooth + torch.randn(shape) * 20).clamp(0, 255).to(dtype)
    weights = gaussian_window(window, 1.5)
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    a64, b64 = a.double().requires_grad_(), b.double()
    expected = ssim_map(a64, b64, weights, same, c1, c2)
    planes, size = shape[0] * shape[1], expected.shape[2:]
    upstream = torch.randn(expected.shape if upstream_is_map else (*shape[:2], 1, 1))
    seed = upstream if upstream_is_map else upstream.expand(expected.shape) / (size[0] * size[1])
    (gradient,) = torch.autograd.grad(expected, a64, seed.double())
    settings = int64s(*shape, window, same)
    kernels.ssim_scratch.restype = ctypes.c_int64
    arrays = [torch.full((count,), float("nan")) for count in (expected.numel(), planes, kernels.ssim_scratch(settings))]
    floats = torch.from_numpy(weights.astype(np.float32))
    results = []
    for each in (a, a.transpose(2, 3).contiguous().transpose(2, 3)):
        grad_a = torch.full(shape, float("nan"), dtype=dtype)
        kernels.ssim(
            DTYPES[dtype], pointer(each), int64s(*each.stride()), pointer(b), int64s(*b.stride()), *map(pointer, arrays), pointer(upstream),
            int(upstream_is_map), pointer(grad_a), pointer(floats), ctypes.c_float(c1), ctypes.c_float(c2), settings,
        )  # fmt: skip
        results.append((arrays[0].clone(), arrays[1].clone(), grad_a))
    # float32 moments: a flat, bright window in a tile of strong contrast keeps an error; in the mean it drowns.
    torch.testing.assert_close(results[0][0].view(expected.shape).double(), expected.detach(), atol=5e-4, rtol=0)
    means = expected.detach().mean((2, 3)).flatten()
    torch.testing.assert_close(results[0][1].double(), means, atol=1e-5, rtol=0)
    scale = float(gradient.abs().max())
    torch.testing.assert_close(results[0][2].double() / scale, gradient / scale, atol=TOLERANCE[dtype] * 5, rtol=TOLERANCE[dtype])
    assert all(torch.equal(first, second) for first, second in zip(*results, strict=True))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("count", "channels"), [(1, 3), (33, 3), (2, 1), (3, 4), (0, 3)])
def test_face_crop(kernels: ctypes.CDLL, dtype: torch.dtype, count: int, channels: int) -> None:
    rng = np.random.default_rng(count)
    whole = rng.integers(0, 256, (40, 61, channels), np.uint8)
    frame = whole[:, :57]  # rows are longer than the picture
    transforms = rng.normal(0, 1.5, (count, 2, 3)).astype(np.float32)
    transforms[1:2] *= 12  # of whose footprint not every pixel is read
    transforms[:, :, 2] = rng.uniform(-20, 70, (count, 2))
    ours = crops(kernels, dtype, transforms, channels, frame)
    expected = torch.from_numpy(resampled(frame, transforms, (7, 9)).clip(0, 255) / 127.5 - 1).float()
    torch.testing.assert_close(ours.float(), expected, atol=TOLERANCE[dtype] * 4, rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(40, 58), (39, 57), (1, 1)])
def test_face_crop_of_nv12(kernels: ctypes.CDLL, dtype: torch.dtype, size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    luma = rng.integers(0, 256, (size[0], size[1] + 6, 1), np.uint8)[:, : size[1]]
    chroma = rng.integers(0, 256, ((size[0] + 1) // 2, (size[1] + 9) // 2, 2), np.uint8)[:, : (size[1] + 1) // 2]
    transforms = rng.normal(0, 1.5, (5, 2, 3)).astype(np.float32)
    transforms[:, :, 2] = rng.uniform(-20, 70, (5, 2))
    frame = ops.Nv12(luma[..., 0], chroma, "bt601")
    ours = crops(kernels, dtype, transforms, 3, luma, chroma, frame.to_rgb)
    expected = resampled_nv12(luma, chroma, frame.to_rgb, transforms, (7, 9))
    expected = torch.from_numpy(expected.clip(0, 255) / 127.5 - 1).float()
    torch.testing.assert_close(ours.float(), expected, atol=TOLERANCE[dtype] * 4, rtol=TOLERANCE[dtype])


def crops(
    kernels: ctypes.CDLL,
    dtype: torch.dtype,
    transforms: NDArray[np.float32],
    channels: int,
    frame: NDArray[np.uint8],
    chroma: NDArray[np.uint8] | None = None,
    to_rgb: tuple[float, ...] = (),
) -> torch.Tensor:
    out = torch.full((len(transforms), channels, 7, 9), float("nan"), dtype=dtype)
    planes = [(*plane.shape, plane.strides[0]) if plane is not None else (0, 0, 0, 0) for plane in (frame, chroma)]
    kernels.face_crop(
        ctypes.c_void_p(frame.ctypes.data), None if chroma is None else ctypes.c_void_p(chroma.ctypes.data),
        (ctypes.c_float * 6)(*to_rgb), ctypes.c_void_p(transforms.ctypes.data), pointer(out), DTYPES[dtype],
        ctypes.c_float(127.5), ctypes.c_float(127.5), int64s(len(transforms), 7, 9, *planes[0], *planes[1]),
    )  # fmt: skip
    return out


def test_far_and_non_finite_positions_read_nothing(kernels: ctypes.CDLL) -> None:
    x, out = torch.ones(3, 1, 4, 4), torch.full((3, 1, 4, 4), 7.0)
    theta = torch.tensor([[[1e30, 0, 1e30], [0, 1, 0]], [[float("nan"), 0, 0], [0, 1, 0]], [[1, 0, float("inf")], [0, 1, 0]]])
    kernels.stn_sample(0, pointer(x), int64s(*x.stride()), pointer(theta), pointer(out), 0, int64s(3, 1, 4, 4, 4, 4, 1, 0, 0))
    assert torch.equal(out, torch.zeros_like(out))


def test_half_types_convert_as_torch_does(kernels: ctypes.CDLL) -> None:
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    for dtype, widen in ((torch.float16, kernels.half_to_float), (torch.bfloat16, kernels.bfloat16_to_float)):
        ours = torch.tensor([widen(bits) for bits in range(65536)])
        torch.testing.assert_close(ours, every.view(dtype).float(), atol=0, rtol=0, equal_nan=True)
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 2**32, 50_000, np.uint64).astype(np.uint32)
    edges = np.array([0, -0.0, 65504, 65519.99, 65520, 6e-8, 2.98e-8, 2.99e-8, 1e-4], np.float32)
    values = torch.from_numpy(np.concatenate([bits.view(np.float32), edges]))
    for dtype, narrow in ((torch.float16, kernels.float_to_half), (torch.bfloat16, kernels.float_to_bfloat16)):
        ours = torch.tensor([narrow(value) for value in values.tolist()], dtype=torch.int32).to(torch.uint16).view(dtype)
        torch.testing.assert_close(ours, values.to(dtype), atol=0, rtol=0, equal_nan=True)
