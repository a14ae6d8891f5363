"""Every kernel compiles for every supported device, and keeps its values in registers."""

import re
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = sorted((Path(__file__).parent.parent.parent / "csrc").glob("*/*.cu"))
TARGETS = (75, 80, 86, 89, 90, 120)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_kernels_compile_without_spills(source: Path, tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("nvcc is not installed: the kernels were not compiled for CUDA")
    codes = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in TARGETS]
    codes.append(f"-gencode=arch=compute_{TARGETS[-1]},code=compute_{TARGETS[-1]}")  # PTX, for devices yet to come
    command = [nvcc, "-std=c++17", "-O3", "-Xptxas", "-v", *codes, "-c", str(source), "-o", str(tmp_path / "kernels.o")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    frames = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", done.stderr)
    assert len(frames) >= len(TARGETS)
    assert all(frame == ("0", "0", "0") for frame in frames), done.stderr
