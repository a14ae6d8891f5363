"""Check a machine with a GPU: steps one after another under one deadline, and a page that says what was found.

`nox -s gpu` and `nox -s trt` install fhrt and run it (docs/gpu.md). A failing step hides nothing, and what is known so far is on the disk
after every step. Standard library only: it also runs where packages are missing, and says so.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parent.parent
SYSTEMS = ("lite", "urdgn", "tdn", "tdae", "mtun", "csrip")
PACKAGES = ("torch", "onnxruntime", "onnxruntime-gpu", "tensorrt", "numpy", "cupy-cuda12x", "cupy-cuda13x")
KERNEL_TESTS = "tests/ops/test_gpu.py"
SANITIZED = "not 1080 and not capture and not compile"  # a sanitizer follows every access: no large images, only fhrt's kernels
PYTEST = (sys.executable, "-m", "pytest", "-o", "addopts=", "-p", "no:cacheprovider", "-q", "-rfEs")
REPORT = "{report}"  # in a command: the JSON file that the step writes
FAILURES = (
    r"^(?:FAILED|ERROR) .+",  # pytest's summary
    r"^E  .+",
    r"^.*\berror: .+",  # compilers
    r"^========= (?:Invalid|Error|Race reported|Program hit|Fatal).+",  # compute-sanitizer
    r"^\w*(?:Error|Exception|Exit)\b.*: .+",  # the last line of a traceback
)
COLUMNS = {
    "kernels": ("op", "shape", "native_ms", "times_faster", "required", "times_faster_than_compiled", "share_of_copy", "reached"),
    "model": ("precision", "batch", "engine_ms_per_face", "aim", "peers", "times_compile", "aim_times", "reached", "within_limit"),
    "frame": ("frame", "faces", "ms", "aim", "reached"),
    "throughput": ("recipe", "precision", "batch", "captured", "faces_per_s", "bound_by", "tflops", "share_of_peak"),
    "tensorrt": ("model", "precision", "batches", "aim_db", "build_s", "open_s", "error"),
}
"""Of a report's ``benchmark``, the fields of its rows that the page shows; "frame" is of a model's report, too."""


@dataclass(frozen=True)
class Step:
    """A command with at most so many seconds. needs: steps that must have passed; without: why it is left out, where it is."""

    name: str
    command: Sequence[str]
    seconds: float = 300
    needs: Sequence[str] = ()
    without: str = ""


def gpu_tests() -> list[str]:
    """The test files with tests marked ``gpu``, the kernels' first."""
    files = [path for path in (ROOT / "tests").rglob("test_*.py") if "pytest.mark.gpu\n" in path.read_text(encoding="utf-8")]
    return sorted((path.relative_to(ROOT).as_posix() for path in files), key=lambda name: (name != KERNEL_TESTS, name))


def gpu_steps(rehearse: bool) -> Iterator[Step]:
    """GPU tests, compute-sanitizer, and the times of kernels, training and models. rehearse: on the CPU, and little of each."""
    device = ("--device", "cpu" if rehearse else "cuda")
    few = ("--threads", "1", "--runs", "2", "--warmup", "1") if rehearse else ()
    yield _native(rehearse)
    for path in gpu_tests():
        smaller = ("-k", SANITIZED) if rehearse and path == KERNEL_TESTS else ()
        yield Step(f"tests-{Path(path).stem.removeprefix('test_')}", (*PYTEST, "-m", "gpu", path, *smaller), 600, ("native",))
    sanitizer = shutil.which("compute-sanitizer")
    for tool, more in (("memcheck", ("--report-api-errors", "no")), ("racecheck", ())):
        command = (sanitizer or "", "--tool", tool, *more, "--kernel-name", "kns=fhrt", "--error-exitcode", "86")
        without = "the CPU has no such tool" if rehearse else "" if sanitizer else "compute-sanitizer is not on the PATH"
        yield Step(tool, (*command, *PYTEST, "-m", "gpu", KERNEL_TESTS, "-k", SANITIZED), 600, ("native", "tests-gpu"), without)
    yield _timed("kernels", "benchmarks", "kernels", *device, *(few or ("--runs", "30", "--warmup", "3")))
    for name, precision in (("fp32", "--no-bf16"), ("bf16", "--bf16")):
        recipes, seconds = (("lite",), "0.2") if rehearse else (("lite", "mtun", "tdn"), "5")
        yield _timed(f"training-{name}", "training", "throughput", *recipes, precision, *device, "--seconds", seconds)
    peers = ("eager",) if rehearse else ("eager", "compile", "onnxruntime-cuda")
    rounds = few or ("--runs", "60", "--warmup", "5")
    how = ("--backend", "torch", "--precision", "fp32" if rehearse else "fp16", *(word for peer in peers for word in ("--peer", peer)))
    for name in SYSTEMS[:1] if rehearse else SYSTEMS:
        yield _timed(f"model-{name}", "benchmarks", "model", name, *how, *device, "--batch", "1", "--batch", "32", *rounds)


def trt_steps(rehearse: bool) -> Iterator[Step]:
    """TensorRT's tests and the engines of every system. rehearse: ONNX Runtime on the CPU in place of TensorRT, for one system."""
    look = "import cupy, tensorrt; print(cupy.cuda.runtime.getDeviceCount(), 'devices, TensorRT', tensorrt.__version__)"
    yield _native(rehearse)
    yield Step("tensorrt", (sys.executable, "-c", look), without="the CPU has none" if rehearse else "")
    needs = ("native",) if rehearse else ("native", "tensorrt")
    yield Step("tests-trt", (*PYTEST, "-m", "trt or gpu", "tests/runtime"), 900, needs)
    for name in SYSTEMS[:1] if rehearse else SYSTEMS:
        options = ("--rehearse", "--runs", "2", "--batch", "1") if rehearse else ("--runs", "60")
        yield _timed(f"engines-{name}", "benchmarks", "engines", name, *options, seconds=900, needs=needs)


STEPS = {"gpu": gpu_steps, "trt": trt_steps}


def _native(rehearse: bool) -> Step:
    code = "import fhrt._C as C" + ("" if rehearse else "; assert hasattr(C, 'cuda'), 'fhrt was built without CUDA: FHRT_FORCE_CUDA=1'")
    return Step("native", (sys.executable, "-c", code))


def _timed(name: str, module: str, *words: str, seconds: float = 300, needs: Sequence[str] = ("native",)) -> Step:
    return Step(name, (sys.executable, "-m", module, *words, "--json", REPORT), seconds, needs)


def facts() -> dict[str, str]:
    """What the results hold for."""
    try:
        command = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"]
        devices = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout.splitlines()
    except (OSError, subprocess.TimeoutExpired):
        devices = []
    found = {each.name: each.version for each in distributions()}
    return {"device": devices[0] if devices else "none"} | {name: found[name] for name in PACKAGES if name in found}


def run(steps: Sequence[Step], out: Path, title: str, about: dict[str, str], limit: float) -> bool:
    """Whether no step failed; ``out`` gets summary.md, results.json (with the steps' own reports) and log.txt.

    limit: seconds for all steps together; what no time is left for counts as failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + limit
    results: dict[str, Any] = {"title": title, "facts": about, "steps": [], "reports": {}}
    with (out / "log.txt").open("w", encoding="utf-8") as log, tempfile.TemporaryDirectory() as folder:
        for step in steps:
            print(f"== {step.name}", flush=True)
            report = Path(folder) / f"{step.name}.json"
            stopped = [each["name"] for each in results["steps"] if each["result"] in ("failed", "left out") and each["name"] in step.needs]
            why = step.without or (f"needs {stopped[0]}, which did not pass" if stopped else "")
            result, why, took = ("left out", why, 0.0) if why else _run(step, log, report, deadline)
            if report.is_file():
                results["reports"][step.name] = json.loads(report.read_text(encoding="utf-8"))
            results["steps"].append({"name": step.name, "result": result, "why": why, "seconds": took})
            print(f"   {result} {why}".rstrip(), flush=True)
            for name, text in (("results.json", json.dumps(results, indent=1) + "\n"), ("summary.md", page(results))):
                (out / f"{name}.partial").write_text(text, encoding="utf-8")
                os.replace(out / f"{name}.partial", out / name)
    return not any(step["result"] == "failed" for step in results["steps"])


def _run(step: Step, log: IO[str], report: Path, deadline: float) -> tuple[str, str, float]:
    """Result, reason and seconds. One that writes its report and ends with 1 has measured what misses its aim: it did not fail."""
    began = time.monotonic()
    seconds = min(step.seconds, deadline - began)
    if seconds < 1:
        return "failed", "no time was left", 0.0
    command = [part.replace(REPORT, str(report)) for part in step.command]
    own = report.with_suffix(".log")
    with own.open("wb") as output:
        try:
            code = _call(command, output, seconds)
        except OSError as error:
            code, _ = 127, output.write(str(error).encode())
    text, took = own.read_text(encoding="utf-8", errors="replace"), round(time.monotonic() - began, 1)
    log.write(f"\n===== {step.name}: {' '.join(command)}\n{text}")
    log.flush()
    if code == 0:
        return "passed", counted(text), took
    if code == 1 and report.is_file():
        return "aims missed", "see its table", took
    return "failed", (f"ended after {seconds:.0f} s; " if code is None else "") + first_failure(text), took


def _call(command: Sequence[str], output: IO[bytes], seconds: float) -> int | None:
    """Its exit code; None where it had to be ended, with all that it started."""
    options: Any = {"stdout": output, "stderr": subprocess.STDOUT, "stdin": subprocess.DEVNULL}
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True, **options)
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def first_failure(text: str) -> str:
    """The line of a log that says what went wrong first; the last one that is not empty where none is known to."""
    for pattern in FAILURES:
        if found := re.search(pattern, text, re.MULTILINE):
            return found[0].strip()[:300]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def counted(text: str) -> str:
    """Pytest's closing count in a log, if there is one: skips must be seen."""
    found = re.findall(r"^=*\s*(\d+ (?:passed|skipped|deselected)[^=\n]*?)(?: in [\d.:]+s?.*)?\s*=*$", text, re.MULTILINE)
    return str(found[-1]) if found else ""


def page(results: dict[str, Any]) -> str:
    """The steps, then every figure beside its aim, as Markdown."""
    parts = [f"# {results['title']}", "  \n".join(f"{name}: {value}" for name, value in results["facts"].items())]
    steps = results["steps"]
    bad, missed = (", ".join(step["name"] for step in steps if step["result"] == result) for result in ("failed", "aims missed"))
    parts.append(f"**{f'Failed: {bad}' if bad else 'Nothing failed'}**, of {len(steps)} steps; aims missed: {missed or 'none'}.")
    parts.append(_table(("name", "result", "seconds", "why"), steps))
    for name, report in results["reports"].items():
        parts += [f"## {name}", _table(COLUMNS[report["benchmark"]], report["rows"])]
        parts += [_table(COLUMNS["frame"], report["frame"])] if report.get("frame") else []
    return "\n\n".join(parts) + "\n"


def _table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> str:
    lines = [columns, ["---"] * len(columns), *([_cell(row.get(column)) for column in columns] for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_cell(each)}" for name, each in value.items())
    if isinstance(value, list):
        return "; ".join(map(_cell, value))
    value = {True: "yes", False: "**no**"}[value] if isinstance(value, bool) else value
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value).replace("|", "\\|")


def main() -> int:
    """0: nothing failed; 1: something did; 2: a mistyped command."""
    parser = argparse.ArgumentParser(prog="tools/gpu_report.py", description="Check a machine with a GPU; see docs/gpu.md.")
    parser.add_argument("check", choices=list(STEPS))
    parser.add_argument("out", type=Path, help="folder that receives summary.md, results.json and log.txt")
    parser.add_argument("--rehearse", action="store_true", help="the same on the CPU, each step short")
    parser.add_argument("--only", action="append", metavar="PREFIX", help="of the steps' names; repeatable")
    parser.add_argument("--limit", type=float, default=3600, help="seconds for everything; default 3600")
    given = parser.parse_args()
    steps = list(STEPS[given.check](given.rehearse))
    chosen = [step for step in steps if step.name.startswith(tuple(given.only or [""]))]
    if not chosen:
        parser.error(f"no step is named so; there are: {', '.join(step.name for step in steps)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ended from outside: the step ends too
    # A missing device fails a test instead of skipping it; a narrow terminal would cut off pytest's reasons.
    os.environ.update({"OMP_NUM_THREADS": "1", "FHRT_TEST_DEVICE": "cpu"} if given.rehearse else {"FHRT_REQUIRE_GPU": "1"}, COLUMNS="200")
    return 0 if run(chosen, given.out, f"{given.check} check" + ", rehearsed on the CPU" * given.rehearse, facts(), given.limit) else 1


if __name__ == "__main__":
    sys.exit(main())
