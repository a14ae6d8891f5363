"""Every kernel compiles for every supported device, and keeps its values in registers."""

import re
import shutil
from pathlib import Path

import pytest

from benchmarks.resources import SOURCES, TARGETS, measure


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_kernels_compile_without_spills(source: Path) -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("nvcc is not installed: the kernels were not compiled for CUDA")
    rows = measure(source)
    kernels = len(re.findall(r"__global__", source.read_text()))
    assert len({row["target"] for row in rows}) == len(TARGETS)
    assert len(rows) >= kernels * len(TARGETS)
    assert all(row["registers"] for row in rows)
    assert not [row for row in rows if row["stack"] or row["stores"] or row["loads"]]
