"""The check of a machine: what fails is told, hides nothing else and ends in time; and the GPU check's own lines, rehearsed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import check, gpu_check, summary
from benchmarks.check import REPORT, SECONDS, Step

ROOT = Path(__file__).parent.parent.parent


def python(code: str) -> tuple[str, ...]:
    return (sys.executable, "-c", code)


def write(report: dict[str, object], code: int) -> tuple[str, ...]:
    return (sys.executable, "-c", f"import sys; open(sys.argv[1], 'w').write({json.dumps(report)!r}); sys.exit({code})", REPORT)


KERNEL = {
    "op": "stn_sample", "shape": "1×3", "native_ms": {"median": 0.01, "p95": 0.02}, "times_faster": 2.0, "required": 5, "gb_per_s": 1.0,
    "share_of_copy": 0.5, "reached": False,
}  # fmt: skip


def test_a_failure_hides_nothing(tmp_path: Path) -> None:
    steps = [
        Step("good", python("print('3 passed, 1 skipped in 0.1s')"), 20),
        Step("bad", python("print('fine'); print('FAILED tests/test_a.py::b - why'); raise SystemExit(1)"), 20),
        Step("after", python("print(1)"), 20, needs=("bad",)),
        Step("beside", python("import os; assert os.environ['MINE'] == 'yes'"), 20, environment={"MINE": "yes"}),
        Step("slow", write({"benchmark": "kernels", "copy_gb_per_s": 10.0, "rows": [KERNEL]}, 1), 20),
        Step("not there", ("/no/such/program",), 20),
        Step("unwanted", python("raise SystemExit(1)"), 20, without="there is no such device"),
    ]
    assert not check.run(steps, tmp_path, "A check", {"device": "none"}, 60)
    found = json.loads((tmp_path / "results.json").read_text())
    results = {step["name"]: (step["result"], step["why"]) for step in found["steps"]}
    assert results["good"] == ("passed", "3 passed, 1 skipped")
    assert results["bad"] == ("failed", "FAILED tests/test_a.py::b - why")
    assert results["after"] == ("left out", "needs bad, which did not pass")
    assert results["beside"] == ("passed", "")
    assert results["slow"][0] == "aims missed"
    assert results["not there"][0] == "failed" and "/no/such/program" in results["not there"][1]
    assert results["unwanted"] == ("left out", "there is no such device")
    page = (tmp_path / "summary.md").read_text()
    assert "**Failed: bad, not there**, of 7 steps; aims missed: slow." in page
    assert "| stn_sample | 1×3 | 10 | 2.0 | 5 |" in page and "**missed**" in page
    assert "FAILED tests/test_a.py::b" in (tmp_path / "log.txt").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "results.json", "summary.md"]


def test_nothing_outlasts_its_time(tmp_path: Path) -> None:
    """A step is ended with what it started; when all time is gone, the rest fails at once."""
    child = "import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    steps = [Step("endless", python(child), 2), Step("longer", python("import time; time.sleep(600)"), 600), Step("late", python(""), 5)]
    assert not check.run(steps, tmp_path, "A check", {}, 5)
    results = json.loads((tmp_path / "results.json").read_text())["steps"]
    assert [step["result"] for step in results] == ["failed"] * 3
    assert results[0]["why"] == "ended after 2 s; begun" and results[2]["why"] == "no time was left"
    assert sum(step["seconds"] for step in results) < 20


def test_time_is_kept_for_what_must_follow(tmp_path: Path) -> None:
    """A step is told how long it may work: less than it asked for where less is left beside what is kept."""
    steps = [
        Step("long", ("sh", "-c", f"echo {SECONDS} passed in 1s"), 500, asked=480),
        Step("short", ("sh", "-c", f"echo {SECONDS} passed in 1s"), 20, asked=10),
        Step("saved", ("true",), 40, kept=True),
        Step("unwanted", ("true",), 1000, kept=True, without="there is no such device"),
    ]
    told: list[int] = []
    assert check.run(steps, tmp_path, "A check", {}, 200, lambda results: told.append(len(results["steps"])))
    results = json.loads((tmp_path / "results.json").read_text())["steps"]
    asked = [int(step["why"].split()[0]) for step in results[:2]]
    assert 100 < asked[0] <= 140 and asked[1] == 10  # 200 - 40 kept - 20 for its start and end
    assert told == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("E   assert 1\n= short test summary info =\nFAILED a.py::b - assert 1\n1 failed", "FAILED a.py::b - assert 1"),
        ("a.cu(3): error: no such thing\nmake: stop", "a.cu(3): error: no such thing"),
        ("x\n========= Invalid __global__ read of size 4 bytes\n=========     at f", "========= Invalid __global__ read of size 4 bytes"),
        (
            "Traceback (most recent call last):\n  File x\nRuntimeError: CUDA error: out of memory\n",
            "RuntimeError: CUDA error: out of memory",
        ),
        ("only this\n\n", "only this"),
        ("", "it said nothing"),
    ],
)
def test_the_first_line_that_says_what_failed(text: str, line: str) -> None:
    assert check.first_failure(text) == line


def model_report(device: str, milliseconds: float) -> dict[str, object]:
    times = dict.fromkeys(("median", "p95", "p99"), milliseconds)
    row = {
        "batch": 1, "backend": "torch", "precision": "fp16", "engine_ms_per_face": times, "hallucinate_ms_per_face": times,
        "peers": {"compile": {**times, "median": 1.2}, "onnxruntime-cuda": "it is not there"},
        "ratio_to_peers": {"compile": milliseconds / 1.2},
    }  # fmt: skip
    frames = [{"frame": "device", "faces": 16, "ms": {"p50": 1, "p95": 2, "p99": 4 * milliseconds}}]
    return {"benchmark": "model", "conditions": {"model": "mtun", "weights": "random", "device": device}, "rows": [row], "frame": frames}


@pytest.mark.parametrize(
    ("device", "milliseconds", "aim", "end", "frame"),
    [
        ("cuda", 0.6, "1", "2.0 | 0.600 |  |", "2.40 | 3 at p99 |  |"),
        ("cuda", 0.9, "1", "1.3 | 0.900 | **missed** |", "3.60 | 3 at p99 | **missed** |"),
        ("cpu", 0.9, "", "1.3 | 0.900 |  |", "3.60 |  |  |"),
    ],
    ids=["reached", "missed", "the CPU has no such aims"],
)
def test_a_models_figures_stand_beside_their_aims(device: str, milliseconds: float, aim: str, end: str, frame: str) -> None:
    page = summary.TABLES["model"](model_report(device, milliseconds))
    times = " | ".join([f"{milliseconds:.3f}"] * 3)
    assert f"| 1 | torch fp16 | {times} | {aim} |  | 1.200 | it is not there | {end}" in page
    assert f"| device | 16 | 1.00 | 2.00 | {frame}" in page


def test_pytests_own_count_is_told() -> None:
    assert summary.counted("....\nSKIPPED [2] x\n5 passed, 2 skipped, 1 warning in 3.21s\n") == "5 passed, 2 skipped, 1 warning"
    assert summary.counted("nothing of the kind\n") == ""


def test_every_gpu_test_is_a_step() -> None:
    marked = {path.stem.removeprefix("test_") for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu\n" in path.read_text()}
    names = {step.name for step in gpu_check.steps(True, Path("scratch"), None)}
    assert marked and {f"tests-{name}" for name in marked} <= names
    assert {"build", "kernels", "memcheck", "racecheck"} <= names


@pytest.mark.slow
def test_the_gpu_check_rehearsed(tmp_path: Path) -> None:
    """The script itself on the CPU, without compiling: no step fails, and its tables have figures."""
    steps = ("tests", "kernels", "training", "model", "memcheck")
    only = [word for step in steps for word in ("--only", step)]
    command = ["bash", str(ROOT / "benchmarks" / "gpu_check.sh"), "--rehearse", *only, str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=os.environ | {"PYTHON": sys.executable})
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "Nothing failed" in page
    for words in ("| stn_sample |", "| lite bf16 | 32 |", "| 1 | torch fp32 |"):
        assert words in page
