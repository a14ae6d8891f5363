"""The files compiled once per instruction set: each keeps to itself, and each gives the same results."""

import ctypes
import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fhrt import _C
from fhrt.ops import torch as torch_ops
from fhrt.ops.ssim import gaussian_weights

ROOT = Path(__file__).parent.parent.parent
SOURCES = sorted((ROOT / "csrc").glob("*/*_simd.cpp"))
ISAS = ("base", "avx2", "avx512")


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_nothing_leaks_out_of_an_instruction_sets_namespace(source: Path, tmp_path: Path) -> None:
    """The linker keeps one copy of an inline function: one with AVX-512 in it must not be there to be kept."""
    if shutil.which("g++") is None or shutil.which("nm") is None:
        pytest.skip("g++ and binutils are not installed: apt-get install g++")
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-DFHRT_ISA=avx512", "-mavx2", "-mfma", "-mbmi2"]
    flags += [f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "cd")]
    subprocess.run(["g++", *flags, "-c", str(source), "-o", str(tmp_path / "simd.o")], check=True)
    listed = subprocess.run(
        ["nm", "-C", "--defined-only", "--extern-only", str(tmp_path / "simd.o")], check=True, capture_output=True, text=True
    )
    names = [line.split(maxsplit=2)[2] for line in listed.stdout.splitlines() if line]
    assert names
    assert all("fhrt::avx512::" in name for name in names), names


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="not Linux")
@pytest.mark.parametrize("isa", ISAS)
def test_every_instruction_set_passes_the_ops_tests(isa: str) -> None:
    environment = {**os.environ, "FHRT_ISA": isa}
    # -P: the installed package, not the sources beside this test.
    python = [sys.executable, "-P"]
    named = subprocess.run([*python, "-c", "from fhrt import _C; print(_C.isa())"], env=environment, capture_output=True, text=True)
    assert named.returncode == 0, named.stderr
    if named.stdout.strip() != isa:
        pytest.skip(f"this machine has no {isa}: it runs {named.stdout.strip()}")
    files = [
        str(ROOT / "tests" / name)
        for name in (
            "ops/test_ops.py",
            "ops/test_native.py",
            "ops/test_neighbour_embedding.py",
            "ops/test_yuv.py",
            "faces/test_follow_ops.py",
        )
    ]
    done = subprocess.run([*python, "-m", "pytest", "-o", "addopts=", "-q", "-x", *files], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.fixture(scope="session")
def kernels(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if shutil.which("g++") is None:
        pytest.skip("g++ is not installed: apt-get install g++")
    library = tmp_path_factory.mktemp("simd") / "simd.so"
    flags = ["-std=c++17", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", "-shared", "-fPIC", "-DFHRT_ISA=base"]
    subprocess.run(["g++", *flags, "-o", str(library), str(Path(__file__).parent / "simd.cpp"), *map(str, SOURCES)], check=True)
    loaded = ctypes.CDLL(str(library))
    loaded.ssim.restype = ctypes.c_double
    loaded.ssim_doubles.restype = ctypes.c_int64
    return loaded


def pointers(*tensors: torch.Tensor) -> list[ctypes.c_void_p]:
    return [ctypes.c_void_p(tensor.data_ptr()) for tensor in tensors]


def int64s(*values: int) -> ctypes.Array:
    return (ctypes.c_int64 * len(values))(*values)


@pytest.mark.parametrize("channels", [1, 3, 7, 16])
@pytest.mark.parametrize("shift", [-9.0, -0.9, 0.0, 0.9, 9.0])
def test_stn_sample_takes_nothing_from_memory_that_it_did_not_write(kernels: ctypes.CDLL, channels: int, shift: float) -> None:
    """Fresh memory is often zero by chance; here all scratch is NaN."""
    torch.manual_seed(0)
    x, theta = torch.randn(1, channels, 40, 33), torch.tensor([[[0.317, 0.113, 0.2071], [-0.109, 0.293, shift + 0.0137]]])
    grad = torch.randn(1, channels, 30, 20)
    out, grad_x, grad_theta = torch.empty_like(grad), torch.empty_like(x), torch.empty_like(theta)
    scratch = torch.full((2 * 40 * 33 * 16,), float("nan"))
    kernels.stn(*pointers(x, theta, grad, out, grad_x, grad_theta, scratch), int64s(channels, 40, 33, 30, 20))
    leaves = [x.requires_grad_(), theta.requires_grad_()]
    expected = torch_ops.stn_sample_twin(*leaves, 30, 20, False, "zeros", 1)
    torch.testing.assert_close(out, expected.detach(), atol=1e-4, rtol=1e-4)
    for ours, wanted in zip((grad_x, grad_theta), torch.autograd.grad(expected, leaves, grad), strict=True):
        torch.testing.assert_close(ours, wanted, atol=1e-2, rtol=1e-3)


@pytest.mark.parametrize("window", [11, 7])
@pytest.mark.parametrize("same", [False, True])
def test_ssim_takes_nothing_from_memory_that_it_did_not_write(kernels: ctypes.CDLL, window: int, same: bool) -> None:
    torch.manual_seed(0)
    a, b = torch.rand(1, 1, 29, 31) * 255, torch.rand(1, 1, 29, 31) * 255
    weights, grad_a = torch.tensor(gaussian_weights(window, 1.5), dtype=torch.float64), torch.empty_like(a)
    scratch = torch.full((kernels.ssim_doubles(window),), float("nan"), dtype=torch.float64)
    total = kernels.ssim(*pointers(a, b, weights, grad_a, scratch), int64s(29, 31, window, same))
    leaf = a.double().requires_grad_()
    expected = torch_ops.ssim_map(leaf, b.double(), weights.tolist(), same, 6.5025, 58.5225)
    assert total == pytest.approx(float(expected.sum()), rel=1e-9)
    torch.testing.assert_close(grad_a.double(), torch.autograd.grad(expected.mean(), leaf)[0], atol=1e-7, rtol=1e-3)


def test_the_build_compiles_what_the_dispatch_names() -> None:
    """setup.py's list of instruction sets and csrc/isa.cpp's are the same."""
    spec = importlib.util.find_spec("fhrt._C")
    assert spec is not None
    assert _C.isa() in ISAS
    text = (ROOT / "setup.py").read_text()
    assert all(f'"{isa}"' in text for isa in ISAS)
