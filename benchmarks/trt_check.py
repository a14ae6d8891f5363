"""The steps of `benchmarks/trt_check.sh`: TensorRT's engines of every system, one after another."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.check import REPORT, Step, run
from benchmarks.gpu_check import LIMIT, ROOT, SYSTEMS, facts

WEIGHTS = ROOT / "fhrt" / "weights"


def steps(python: str, torch_python: str, scratch: Path, rehearse: bool) -> Iterator[Step]:
    """python: the one with TensorRT; torch_python: the one that makes bundles of systems without weights."""
    # The interpreter with TensorRT may have a home and libraries of its own, which another must not see.
    clean = ("env", "-u", "PYTHONHOME", "-u", "LD_LIBRARY_PATH", f"PYTHONPATH={os.environ.get('TORCH_PYTHONPATH', str(ROOT))}")
    look = "import tensorrt, cupy, onnxruntime; print(tensorrt.__version__, cupy.__version__, onnxruntime.__version__)"
    native = "import fhrt._C as C; assert hasattr(C, 'cuda'), 'fhrt._C was built without CUDA'"
    yield Step("import", (python, "-c", look), 60)
    yield Step("native", (python, "-c", native if not rehearse else "import fhrt._C"), 60)
    yield Step(
        "device", (python, "-c", "import cupy; print(cupy.cuda.runtime.getDeviceCount())"), 60, without="rehearsed" if rehearse else ""
    )
    for name in ("lite", "tdn") if rehearse else SYSTEMS:
        shipped, made = WEIGHTS / name, scratch / "bundles" / name
        if not shipped.is_dir():
            command = (*clean, torch_python, "-m", "benchmarks", "random-bundle", name, "--out", str(made.parent))
            yield Step(f"bundle-{name}", command, 90)
        needs = ("import", "native") if shipped.is_dir() else ("import", "native", f"bundle-{name}")
        options = ("--rehearse", "--runs", "2", "--batch", "1") if rehearse else ("--runs", "60")
        command = (python, "-m", "benchmarks", "engines", str(shipped if shipped.is_dir() else made), *options, "--json", REPORT)
        yield Step(f"engines-{name}", command, 300, needs)


def main() -> int:
    """0: all passed; 1: not."""
    parser = argparse.ArgumentParser(prog="benchmarks/trt_check.sh", description="Settle what needs TensorRT; see CONTRIBUTING.md.")
    parser.add_argument("out", type=Path, help="folder that receives summary.md, results.json and log.txt")
    parser.add_argument("--rehearse", action="store_true", help="ONNX Runtime on the CPU in place of TensorRT")
    parser.add_argument("--only", action="append", metavar="PREFIX", help="of the steps' names; repeatable")
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds for everything")
    parser.add_argument("--scratch", type=Path, required=True, help=argparse.SUPPRESS)
    parser.add_argument("--torch-python", default="python3", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    wanted = list(steps(sys.executable, arguments.torch_python, arguments.scratch, arguments.rehearse))
    if arguments.only:
        wanted = [step for step in wanted if step.name.startswith(tuple(arguments.only))]
    os.chdir(ROOT)
    title = "TensorRT check" + (", rehearsed on the CPU" if arguments.rehearse else "")
    return (
        0
        if run(wanted, arguments.out.resolve(), title, facts({"tensorrt": "tensorrt", "cupy": "cupy", "onnx": "onnx"}), arguments.limit)
        else 1
    )


if __name__ == "__main__":
    sys.exit(main())
