"""Frames of ever new sizes take no more memory than those of the largest size."""

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import numpy as np, psutil
from fhrt.faces.centres import CentreDetector
from itertools import product
engine = CentreDetector(backend={!r}, threads=1).engine
used = lambda: psutil.Process().memory_info().rss >> 20
for _ in range(3):
    engine.run(np.zeros((480, 480, 3), np.uint8))
before = used()
sizes = list(product(range(16, 16 + 20 * 20, 20), range(16, 16 + 30 * 15, 15)))
for rows, columns in sizes:
    engine.run(np.zeros((rows, columns, 3), np.uint8))
print(len(sizes), used() - before)
"""


@pytest.mark.parametrize("backend", ["openvino", "onnxruntime"])
def test_six_hundred_sizes(backend: str, tmp_path: Path) -> None:
    if backend == "openvino":
        pytest.importorskip("openvino", reason="without OpenVINO")
    program = [sys.executable, "-c", PROGRAM.format(backend)]
    sizes, megabytes = map(int, subprocess.run(program, check=True, capture_output=True, text=True, cwd=tmp_path).stdout.split())
    assert sizes == 600 and megabytes < 250  # what is kept for each was 800
