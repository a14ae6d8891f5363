"""What each CUDA kernel takes of a device, as the compiler says: registers, shared memory, stack and spills. Needs nvcc, no device."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from fhrt.errors import BackendError

SOURCES = sorted((Path(__file__).parent.parent / "csrc").glob("*/*.cu"))
TARGETS = (75, 80, 86, 89, 90, 120)
_ENTRY = re.compile(
    r"Compiling entry function '(?P<kernel>\w+)' for 'sm_(?P<target>\d+)'.*?"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads.*?"
    r"Used (?P<registers>\d+) registers(?:[^\n]*?(?P<shared>\d+) bytes smem)?",
    re.DOTALL,
)

Row = dict[str, str | int]


def measure(source: Path) -> list[Row]:
    """A row per kernel and target of a .cu file, compiled as `setup.py` does. Raises BackendError without nvcc, or where it fails."""
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        raise BackendError("nvcc (the CUDA toolkit) is not on the PATH")
    codes = [f"-gencode=arch=compute_{target},code=sm_{target}" for target in TARGETS]
    codes.append(f"-gencode=arch=compute_{TARGETS[-1]},code=compute_{TARGETS[-1]}")  # PTX, for devices yet to come
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-std=c++17", "-O3", "-Xptxas", "-v", *codes, "-c", str(source), "-o", f"{folder}/kernels.o"]
        done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BackendError(f"nvcc cannot compile {source.name}: {done.stderr}")
    return [
        {"op": source.stem, "kernel": _name(entry["kernel"]), "target": int(entry["target"])}
        | {key: int(entry[key] or 0) for key in ("registers", "shared", "stack", "stores", "loads")}
        for entry in _ENTRY.finditer(done.stderr)
    ]


def _name(symbol: str) -> str:
    """``ssim_forward<Half>`` of the mangled name, where binutils' c++filt is there to read it."""
    reader = shutil.which("c++filt")
    if reader is None:
        return symbol
    told = subprocess.run([reader, symbol], capture_output=True, text=True, check=True).stdout.strip()
    return re.sub(r"^void |\(anonymous namespace\)::|fhrt::|\((?!anonymous).*\)$", "", told)
