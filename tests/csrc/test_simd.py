"""The files compiled once per instruction set: each keeps to itself, and each gives the same results."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fhrt import _C

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
    files = [str(ROOT / "tests" / "ops" / name) for name in ("test_ops.py", "test_native.py")]
    done = subprocess.run([*python, "-m", "pytest", "-o", "addopts=", "-q", "-x", *files], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]


def test_the_build_compiles_what_the_dispatch_names() -> None:
    """setup.py's list of instruction sets and csrc/isa.cpp's are the same."""
    spec = importlib.util.find_spec("fhrt._C")
    assert spec is not None
    assert _C.isa() in ISAS
    text = (ROOT / "setup.py").read_text()
    assert all(f'"{isa}"' in text for isa in ISAS)
