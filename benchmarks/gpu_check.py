"""The steps of `benchmarks/gpu_check.sh`: what a CUDA device has to settle, or the same on the CPU to see that nothing is mistyped."""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from benchmarks.check import REPORT, Step, run

ROOT = Path(__file__).resolve().parent.parent
LIMIT = 530.0  # seconds: under nine minutes, so that it fits into a job of ten with its start
PATIENCE = 8  # times as long may a rehearsal's steps take: its lines count, on a machine with other work
SYSTEMS = ("lite", "urdgn", "tdn", "tdae", "mtun", "csrip")
TRAINED = ("mtun", "tdn", "lite")  # recipes whose throughput is looked at
KERNEL_TESTS = "tests/ops/test_gpu.py"
# Under the sanitizers every access is followed: the largest pictures, and what is not about our kernels, are left to the plain run.
SANITIZED = "not 1080 and not capture and not compile"
NEEDED = {"torch": "torch", "pybind11": "pybind11", "onnx": "onnx", "onnxruntime": "onnxruntime", "cv2": "opencv-python-headless"}


def gpu_tests() -> list[Path]:
    """The test files with tests marked ``gpu``, the kernels' first."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]
    names = sorted(path.relative_to(ROOT) for path in files if path.name != Path(__file__).name)
    return sorted(names, key=lambda path: path.as_posix() != KERNEL_TESTS)


def environment(rehearse: bool) -> dict[str, str]:
    """Of every step. A rehearsal wants no speed, and threads that wait for cores that others have would take it minutes."""
    wide = {"COLUMNS": "200"}  # or pytest cuts off why
    return wide | ({"OMP_NUM_THREADS": "1", "FHRT_TEST_DEVICE": "cpu"} if rehearse else {"FHRT_REQUIRE_GPU": "1"})


def steps(rehearse: bool, scratch: Path, data: Path | None) -> Iterator[Step]:
    """In the order of their worth, should the time run out. scratch: for what is built and trained. data: of the face archive, or none."""
    for step in _steps(rehearse, scratch, data):
        yield replace(step, seconds=step.seconds * (PATIENCE if rehearse else 1))


def _steps(rehearse: bool, scratch: Path, data: Path | None) -> Iterator[Step]:
    python, device = sys.executable, "cpu" if rehearse else "cuda"
    few, one = rehearse, ("--threads", "1") if rehearse else ()
    built: Sequence[str] = () if rehearse and find_spec("fhrt._C") else ("build",)
    yield _build(rehearse, scratch)

    pytest = (python, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-q", "-rfEs")
    for path in gpu_tests():
        name = path.stem.removeprefix("test_")
        smaller = ("-k", SANITIZED) if few and path.as_posix() == KERNEL_TESTS else ()
        yield Step(f"tests-{name}", (*pytest, "-m", "gpu", str(path), *smaller), 150, built)

    sanitizer = shutil.which("compute-sanitizer")
    for tool in ("memcheck", "racecheck"):
        checked = (sanitizer or "", "--tool", tool, "--kernel-name", "kns=fhrt", "--error-exitcode", "86")
        checked += ("--report-api-errors", "no") if tool == "memcheck" else ()
        command = (*checked, *pytest, "-m", "gpu", KERNEL_TESTS, "-k", SANITIZED)
        without = "the CPU has no such tool" if rehearse else "" if sanitizer else "compute-sanitizer is not on the PATH"
        yield Step(tool, command, 120, ("build", f"tests-{Path(KERNEL_TESTS).stem.removeprefix('test_')}"), without)

    yield _benchmark(
        built, "kernels", "kernels", "--device", device, *one, "--runs", "3" if few else "30", "--warmup", "1" if few else "3", seconds=150
    )
    for recipe in TRAINED[-1:] if few else TRAINED:
        options = ("--device", device, "--seconds", "1" if few else "5", *(() if data is None else ("--data", str(data))))
        for precision in ("--bf16",) if few else ("--no-bf16", "--bf16"):
            command = (python, "-m", "training", "throughput", recipe, precision, *options, "--json", REPORT)
            yield Step(f"training-{recipe}{precision[1:]}", command, 60, built)
    for name in SYSTEMS[:1] if few else SYSTEMS:
        backends = ("--backend", "torch", "--precision", "fp32" if few else "fp16")
        peers = ("--peer", "eager") if few else ("--peer", "eager", "--peer", "compile", "--peer", "onnxruntime-cuda")
        runs = (
            (*one, "--batch", "1", "--runs", "2", "--warmup", "1")
            if few
            else ("--runs", "60", "--warmup", "5", "--batch", "1", "--batch", "32")
        )
        yield _benchmark(built, f"model-{name}", "model", name, *backends, *peers, "--device", device, *runs, seconds=90)


def _build(rehearse: bool, scratch: Path) -> Step:
    """For the device that is here; in a rehearsal beside the checkout, so that the module in use stays as it is."""
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    if rehearse and find_spec("fhrt._C"):
        command += ["--build-lib", str(scratch / "lib"), "--build-temp", str(scratch / "build")]
    else:
        command += ["--inplace"]
    cuda = {"FHRT_FORCE_CUDA": "1", "FHRT_CUDA_ARCHS": "90" if rehearse else _architecture()}
    if rehearse and shutil.which("nvcc") is None:
        cuda = {"FHRT_NO_CUDA": "1"}
    return Step("build", command, 240, environment=cuda)


def _benchmark(needs: Sequence[str], name: str, *arguments: str, seconds: float) -> Step:
    return Step(name, (sys.executable, "-m", "benchmarks", *arguments, "--json", REPORT), seconds, needs)


def _smi(*fields: str) -> list[str]:
    """Of the first device; empty where there is none."""
    try:
        command = ["nvidia-smi", f"--query-gpu={','.join(fields)}", "--format=csv,noheader"]
        lines = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        return []
    return [part.strip() for part in lines[0].split(",")] if lines else []


def _architecture() -> str:
    capability = _smi("compute_cap")
    return capability[0].replace(".", "") if capability else "90"


def facts(needed: Mapping[str, str]) -> dict[str, object]:
    """What the results hold for, and which packages are missing of those that are ``needed``: module → package."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, object] = {
        "device": ", ".join(_smi("name", "driver_version", "memory.total")) or "none",
        "python": platform.python_version(),
    }
    for package in ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "numpy", "cupy-cuda13x"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        found["missing"] = ", ".join(missing)
    return found


def main() -> int:
    """0: all passed; 1: not."""
    parser = argparse.ArgumentParser(prog="benchmarks/gpu_check.sh", description="Settle what needs a CUDA device; see CONTRIBUTING.md.")
    parser.add_argument("out", type=Path, help="folder that receives summary.md, results.json and log.txt")
    parser.add_argument("--rehearse", action="store_true", help="the same on the CPU, each step short")
    parser.add_argument(
        "--only", action="append", metavar="PREFIX", help="of the steps' names; repeatable; the build is left out unless named"
    )
    parser.add_argument("--data", type=Path, help="folder of the face archive; noise instead of faces where left out")
    parser.add_argument(
        "--limit", type=float, help=f"seconds for everything; {LIMIT:.0f} where left out, {PATIENCE} times that to rehearse"
    )
    parser.add_argument("--scratch", type=Path, required=True, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    wanted = list(steps(arguments.rehearse, arguments.scratch, arguments.data))
    if arguments.only:
        wanted = [step for step in wanted if step.name.startswith(tuple(arguments.only))]
        if not wanted:
            parser.error(f"no step is named so; there are: {', '.join(step.name for step in steps(True, Path(), None))}")
    os.chdir(ROOT)
    os.environ.update(environment(arguments.rehearse))
    title = "GPU check" + (", rehearsed on the CPU" if arguments.rehearse else "")
    limit = arguments.limit or LIMIT * (PATIENCE if arguments.rehearse else 1)
    return 0 if run(wanted, arguments.out.resolve(), title, facts(NEEDED), limit) else 1


if __name__ == "__main__":
    sys.exit(main())
