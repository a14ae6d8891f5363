"""What fhrt.ops.device hands to the CUDA kernels: the very bindings, over the host shim, with CPU tensors in the part of CUDA's."""

import importlib.util
import shutil
import subprocess
import sysconfig
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import numpy as np
import pybind11
import pytest
import torch
import torch.nn.functional as F

from fhrt import _C
from fhrt.errors import BackendError, BadInputError
from fhrt.ops import Nv12, device, face_crop
from fhrt.ops import torch as torch_ops
from fhrt.ops.nv12 import Planes
from fhrt.ops.ssim import gaussian_window

ROOT = Path(__file__).parent.parent.parent
DTYPES = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 6e-2}


class HostArrays(torch_ops.TorchArrays):
    def stream(self, like: torch.Tensor) -> int:
        return 0

    def on_device(self, like: torch.Tensor) -> nullcontext:
        return nullcontext()


ARRAYS = HostArrays()


@pytest.fixture(scope="session")
def cuda_on_host(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("g++ is not installed: apt-get install g++")
    library = tmp_path_factory.mktemp("cuda") / f"cuda_on_host{sysconfig.get_config_var('EXT_SUFFIX')}"
    folders = [pybind11.get_include(), sysconfig.get_path("include"), ROOT / "tests" / "csrc"]
    flags = ["-std=c++17", "-O1", "-shared", "-fPIC", "-fno-strict-aliasing", "-fvisibility=hidden", "-DFHRT_HOST_SHIM", "-DFHRT_CUDA"]
    sources = [ROOT / "tests/csrc/cuda_on_host.cpp", ROOT / "csrc/bindings_cuda.cpp", *sorted((ROOT / "csrc").glob("*/*.cu"))]
    command = [compiler, *flags, *(f"-I{folder}" for folder in folders), "-o", library, "-x", "c++", *sources]
    subprocess.run(list(map(str, command)), check=True)
    spec = importlib.util.spec_from_file_location("cuda_on_host", library)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def kernels(cuda_on_host: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """CPU tensors pass for CUDA ones from here on."""
    monkeypatch.setattr(_C, "cuda", cuda_on_host.cuda, raising=False)
    monkeypatch.setattr(torch_ops, "ARRAYS", ARRAYS)
    monkeypatch.setattr(torch_ops, "_on_device", lambda x: str(x.dtype).removeprefix("torch.") in device.DTYPES)


def thetas(count: int) -> torch.Tensor:
    torch.manual_seed(count)
    return torch.eye(2, 3).repeat(count, 1, 1) + torch.randn(count, 2, 3) * 0.3


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_stn_sample(kernels: None, dtype: torch.dtype, memory_format: torch.memory_format) -> None:
    x = torch.randn(3, 16, 6, 5).to(dtype).contiguous(memory_format=memory_format).requires_grad_()
    theta = thetas(3).requires_grad_()
    out = torch_ops.stn_sample(x, theta, 7, 9, False, "border", 2)
    assert out.dtype == dtype and out.is_contiguous(memory_format=memory_format)
    x64, theta64 = x.detach().double().requires_grad_(), theta.detach().double().requires_grad_()
    wanted = torch_ops.stn_sample_twin(x64, theta64, 7, 9, False, "border", 2)
    torch.testing.assert_close(out.double(), wanted, atol=DTYPES[dtype], rtol=DTYPES[dtype])
    gradient = torch.randn_like(out)
    ours = torch.autograd.grad(out, (x, theta), gradient)
    theirs = torch.autograd.grad(wanted, (x64, theta64), gradient.double())
    for mine, each in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), each, atol=DTYPES[dtype] * float(each.abs().max()), rtol=DTYPES[dtype])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_shuffles_and_pictures(kernels: None, dtype: torch.dtype) -> None:
    x, bias = torch.randn(2, 12, 4, 8).to(dtype).requires_grad_(), torch.randn(12).to(dtype).requires_grad_()
    assert torch.equal(torch_ops.pixel_shuffle(x, 2), F.pixel_shuffle(x, 2))
    out = torch_ops.pixel_shuffle_fused(x, 2, bias, 0.1)
    wanted = torch_ops.pixel_shuffle_fused_twin(x.double(), 2, bias.double(), 0.1)  # gradients flow back through double()
    torch.testing.assert_close(out.double(), wanted, atol=DTYPES[dtype], rtol=DTYPES[dtype])
    gradient = torch.randn_like(out)
    ours, theirs = (torch.autograd.grad(each, (x, bias), gradient.to(each.dtype)) for each in (out, wanted))
    for mine, each in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.double(), each.double(), atol=DTYPES[dtype] * 20, rtol=DTYPES[dtype])
    expected = torch_ops.to_image_twin(x.detach(), 2, -1.0, 1.0)
    assert torch.equal(torch_ops.to_image(x.detach(), 2, -1.0, 1.0), expected)


@pytest.mark.parametrize("want_map", [False, True])
def test_ssim(kernels: None, want_map: bool) -> None:
    torch.manual_seed(0)
    a = torch.rand(2, 3, 20, 17) * 255
    b = (a + torch.randn_like(a) * 10).transpose(2, 3).contiguous().transpose(2, 3)
    settings = (gaussian_window(11, 1.5), False, 6.5025, 58.5225)
    out = device.ssim(ARRAYS, a, b, *settings, want_map)
    a64 = a.double().requires_grad_()
    wanted = torch_ops.ssim_map(a64, b.double(), *settings)
    wanted = wanted if want_map else wanted.mean((2, 3))
    torch.testing.assert_close(out.double(), wanted, atol=1e-5, rtol=0)
    upstream = torch.randn_like(out)
    ours = device.ssim_backward(ARRAYS, upstream, a, b, *settings, want_map)
    (theirs,) = torch.autograd.grad(wanted, a64, upstream.double())
    torch.testing.assert_close(ours.double(), theirs, atol=1e-4 * float(theirs.abs().max()), rtol=1e-3)


def test_face_crop(kernels: None) -> None:
    frame = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    transforms = np.array([[[1.5, 0.2, 3], [-0.2, 1.5, 9]], [[0.5, 0, 20], [0, 0.5, 2]]], np.float32)
    settings = ((8, 6), (100, 110, 120), (50, 60, 70))
    expected = face_crop(frame, transforms, *settings)
    for picture in (torch.from_numpy(frame), torch.from_numpy(frame).transpose(0, 1).contiguous().transpose(0, 1)):
        ours = device.face_crop(ARRAYS, Planes(picture), torch.from_numpy(transforms), *settings)
        np.testing.assert_allclose(ours.numpy(), expected, atol=1e-5)
    luma, chroma = frame[..., :1], np.ascontiguousarray(frame[::2, ::2, 1:])
    nv12 = Nv12(luma[..., 0], chroma)
    expected = face_crop(nv12, transforms, *settings)
    planes = Planes(torch.from_numpy(luma), torch.from_numpy(chroma), nv12.to_rgb)
    out = torch.empty(2, 3, 8, 6)
    assert device.face_crop(ARRAYS, planes, torch.from_numpy(transforms), *settings, "float32", out) is out
    np.testing.assert_allclose(out.numpy(), expected, atol=1e-5)
    with pytest.raises(BadInputError, match="overlaps"):
        memory = torch.zeros(1200, dtype=torch.uint8)
        shared = Planes(planes.frame, memory[:600].reshape(15, 20, 2), nv12.to_rgb)
        device.face_crop(
            ARRAYS, shared, torch.from_numpy(transforms), *settings, "float32", memory[:1152].view(torch.float32).reshape(2, 3, 8, 6)
        )


def test_bad_input(kernels: None) -> None:
    x, theta = torch.rand(2, 3, 12, 12), thetas(2)
    window = gaussian_window(13, 2.0)
    for call in (
        lambda: device.stn_sample(ARRAYS, x.double(), theta, 4, 4, False, "zeros", 1),
        lambda: device.stn_sample(ARRAYS, x, theta.half(), 4, 4, False, "zeros", 1),
        lambda: device.stn_sample(ARRAYS, x, theta.to("meta"), 4, 4, False, "zeros", 1),
        lambda: device.ssim(ARRAYS, x, x.half(), gaussian_window(11, 1.5), False, 1.0, 1.0, False),
        lambda: device.ssim(ARRAYS, x, x, window, True, 1.0, 1.0, False),
    ):
        with pytest.raises(BadInputError):
            call()


@pytest.mark.skipif(hasattr(_C, "cuda"), reason="this build has CUDA")
def test_a_build_without_cuda_says_so() -> None:
    with pytest.raises(BackendError, match="nvcc"):
        device.to_image(ARRAYS, torch.rand(1, 3, 4, 4), 1, -1, 1)


def test_outputs_of_the_callers_own(kernels: None) -> None:
    x, theta = torch.randn(2, 12, 8, 9), torch.eye(2, 3).repeat(2, 1, 1)
    expected = device.stn_sample(ARRAYS, x, theta, 7, 5, False, "zeros", 1)
    out = torch.empty(2, 12, 7, 5)
    assert device.stn_sample(ARRAYS, x, theta, 7, 5, False, "zeros", 1, out, 0) is out
    assert torch.equal(out, expected)
    assert torch.equal(device.pixel_shuffle(ARRAYS, x, 2, None, 1.0, torch.empty(2, 3, 16, 18), 0), F.pixel_shuffle(x, 2))
    image = torch.empty(2, 16, 18, 3, dtype=torch.uint8)
    assert torch.equal(device.to_image(ARRAYS, x, 2, -1.0, 1.0, image, 0), device.to_image(ARRAYS, x, 2, -1.0, 1.0))
    memory = torch.zeros(4000)
    for wrong, words in (
        (torch.empty(2, 12, 5, 7).transpose(2, 3), "contiguous"),
        (memory[100:940].view(2, 12, 7, 5), "overlaps"),
    ):
        with pytest.raises(BadInputError, match=words):
            device.stn_sample(ARRAYS, memory[:1728].view(2, 12, 8, 9), theta, 7, 5, False, "zeros", 1, wrong)
