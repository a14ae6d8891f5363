"""The report on a GPU machine: what fails is told, hides nothing else and ends in time; its own steps, rehearsed on the CPU."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from benchmarks import __main__ as benchmarks_cli
from benchmarks import models
from tools import gpu_report
from tools.gpu_report import REPORT, Step
from training import __main__ as training_cli

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
        Step("beside", python("print(1)"), 20, needs=("good",)),
        Step("slow", write({"benchmark": "kernels", "conditions": {}, "rows": [KERNEL]}, 1), 20),
        Step("not there", ("/no/such/program",), 20),
        Step("unwanted", python("raise SystemExit(1)"), 20, without="there is no such device"),
    ]
    assert not gpu_report.run(steps, tmp_path, "A check", {"device": "none"}, 60)
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
    assert "| stn_sample | 1×3 | median 0.01, p95 0.02 | 2 | 5 |  | 0.5 | **no** |" in page
    assert "FAILED tests/test_a.py::b" in (tmp_path / "log.txt").read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["log.txt", "results.json", "summary.md"]


def test_nothing_outlasts_its_time(tmp_path: Path) -> None:
    """A step is ended with what it started; when all time is gone, the rest fails at once."""
    child = "import subprocess, sys; print('begun', flush=True); subprocess.run([sys.executable, '-c', 'import time; time.sleep(600)'])"
    steps = [Step("endless", python(child), 2), Step("longer", python("import time; time.sleep(600)"), 600), Step("late", python(""), 5)]
    assert not gpu_report.run(steps, tmp_path, "A check", {}, 5)
    results = json.loads((tmp_path / "results.json").read_text())["steps"]
    assert [step["result"] for step in results] == ["failed"] * 3
    assert results[0]["why"] == "ended after 2 s; begun" and results[2]["why"] == "no time was left"
    assert sum(step["seconds"] for step in results) < 20


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
    assert gpu_report.first_failure(text) == line


@pytest.mark.parametrize(
    ("system", "batch", "milliseconds", "aims"),
    [
        ("mtun", 1, 0.6, {"aim": 1.0, "times_compile": 2.0, "aim_times": 1.5, "reached": True}),
        ("mtun", 1, 0.9, {"aim": 1.0, "times_compile": 1.2 / 0.9, "aim_times": 1.5, "reached": False}),
        ("mtun", 32, 0.2, {"aim": 0.15, "times_compile": 6.0, "aim_times": None, "reached": False}),
        ("lite", 32, 1.0, {"aim": None, "times_compile": 1.2, "aim_times": None, "reached": True}),
    ],
    ids=["reached", "hardly faster than torch.compile", "too slow", "without an aim"],
)
def test_a_models_figures_stand_beside_their_aims(system: str, batch: int, milliseconds: float, aims: dict[str, object]) -> None:
    times = dict.fromkeys(("median", "p95", "p99"), milliseconds)
    row = {
        "batch": batch, "backend": "torch", "precision": "fp16", "engine_ms_per_face": times,
        "peers": {"compile": {"median": 1.2}, "onnxruntime-cuda": "it is not there"}, "ratio_to_peers": {"compile": milliseconds / 1.2},
        "within_limit": True,
    }  # fmt: skip
    assert models.aims(system, row) == pytest.approx(aims)
    frame = {"frame": "device", "faces": 16, "ms": {"p50": 1.0, "p99": 2.0}, "aim": 3.0, "reached": True}
    report = {"benchmark": "model", "conditions": {}, "rows": [row | aims], "frame": [frame]}
    page = gpu_report.page({"title": "A check", "facts": {}, "steps": [], "reports": {"model": report}})
    aim, times_aim = (f"{aims[name]:g}" if aims[name] else "" for name in ("aim", "aim_times"))
    reached = "yes" if aims["reached"] else "**no**"
    found = f"| fp16 | {batch} | median {milliseconds:g}, p95 {milliseconds:g}, p99 {milliseconds:g} | {aim} | compile median 1.2, "
    found += f"onnxruntime-cuda it is not there | {aims['times_compile']:.4g} | {times_aim} | {reached} | yes |"
    assert found in page
    assert "| device | 16 | p50 1, p99 2 | 3 | yes |" in page


def test_pytests_own_count_is_told() -> None:
    assert gpu_report.counted("....\nSKIPPED [2] x\n5 passed, 2 skipped, 1 warning in 3.21s\n") == "5 passed, 2 skipped, 1 warning"
    assert gpu_report.counted("nothing of the kind\n") == ""


def test_every_gpu_test_is_a_step() -> None:
    marked = {path.stem.removeprefix("test_") for path in (ROOT / "tests").rglob("test_*.py") if "mark.gpu\n" in path.read_text()}
    names = {step.name for step in gpu_report.gpu_steps(True)}
    assert marked and {f"tests-{name}" for name in marked} <= names
    assert {"native", "kernels", "memcheck", "racecheck"} <= names


@pytest.mark.parametrize("rehearse", [False, True], ids=["real", "rehearsed"])
@pytest.mark.parametrize("check", gpu_report.STEPS)
def test_every_command_is_understood(check: str, rehearse: bool) -> None:
    """By the command lines that it calls, options and their types, without their work."""
    steps = list(gpu_report.STEPS[check](rehearse))
    assert len({step.name for step in steps}) == len(steps)
    groups = {name: typer.main.get_command(cli.app) for name, cli in (("benchmarks", benchmarks_cli), ("training", training_cli))}
    understood = 0
    for step in steps:
        assert {name for name in step.needs} <= {each.name for each in steps}
        if (words := list(step.command[2:]))[0] in groups:
            command = groups[words[0]].commands[words[1]]  # type: ignore[attr-defined]
            command.make_context(words[1], [word.replace(REPORT, "report.json") for word in words[2:]])  # raises where it is mistyped
            understood += 1
        tests = [word for word in step.command if word.startswith("tests/")]
        assert all((ROOT / path).exists() for path in tests)
    assert understood >= (1 if rehearse else 6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("check", "figures"),
    [("gpu", ("| stn_sample |", "| lite | bf16 | 32 |", "| fp32 | 1 | median ")), ("trt", ("| lite | fp32, cut | batch 1,",))],
    ids=["gpu", "trt"],
)
def test_a_check_rehearsed(check: str, figures: tuple[str, ...], tmp_path: Path) -> None:
    """The tool itself on the CPU: no step fails, and its tables have figures."""
    command = [sys.executable, str(ROOT / "tools" / "gpu_report.py"), check, "--rehearse", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    page = (tmp_path / "out" / "summary.md").read_text()
    assert "Nothing failed" in page
    for text in figures:
        assert text in page


def test_a_mistyped_step_is_refused(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "tools" / "gpu_report.py"), "gpu", "--only", "kernel-times", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and "no step is named so; there are: native, tests-gpu, " in done.stderr
