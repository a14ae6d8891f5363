"""Steps one after another under one deadline: a failure hides nothing, and what is known so far is on the disk after every step.

Standard library only: it also runs where nothing else does, and says why.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks import summary

REPORT = "{report}"
"""In a command: the JSON file that the step writes."""
SECONDS = "{seconds}"
"""In a command: how many seconds it is to work by itself, `Step.asked` or what is left of them."""

_FAILURES = (
    r"^(?:FAILED|ERROR) .+",  # pytest's summary
    r"^E  .+",
    r"^.*\berror: .+",  # compilers
    r"^========= (?:Invalid|Error|Race reported|Program hit|Fatal).+",  # compute-sanitizer
    r"^\w*(?:Error|Exception|Exit)\b.*: .+",  # the last line of a traceback
)


@dataclass(frozen=True)
class Step:
    """seconds: at most. needs: names of steps without which it makes no sense. without: why it is left out, where it is. asked: of the
    seconds, how many `SECONDS` stands for; the others are for its start and its end. kept: whether its seconds are kept for it, whatever
    the steps before it take.
    """

    name: str
    command: Sequence[str]
    seconds: float
    needs: Sequence[str] = ()
    without: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    asked: float = 0.0
    kept: bool = False


def run(
    steps: Sequence[Step], out: Path, title: str, facts: dict[str, Any], limit: float, told: Callable[[dict[str, Any]], None] | None = None
) -> bool:
    """Whether no step failed; ``out`` gets summary.md, results.json (also the steps' own reports) and log.txt.

    limit: seconds for all steps together; what no time is left for counts as failed. told: gets the results after every step. A step that
    writes its report and ends with 1 has measured what is too slow: it is told, and fails nothing.
    """
    out.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + limit
    results: dict[str, Any] = {"title": title, "facts": facts, "steps": [], "reports": {}}
    with (out / "log.txt").open("w", encoding="utf-8") as log, tempfile.TemporaryDirectory() as folder:
        for number, step in enumerate(steps):
            print(f"== {step.name}", flush=True)
            kept = sum(later.seconds for later in steps[number + 1 :] if later.kept and not later.without)
            done = _left_out(step, results["steps"]) or _run(step, log, Path(folder), deadline - kept)
            if (report := Path(folder) / f"{step.name}.json").is_file():
                results["reports"][step.name] = json.loads(report.read_text(encoding="utf-8"))
            results["steps"].append(done)
            print(f"   {done['result']} {done['why']}".rstrip(), flush=True)
            _write(out / "results.json", json.dumps(results, indent=1) + "\n")
            _write(out / "summary.md", summary.page(results))
            if told is not None:
                told(results)
    return not any(step["result"] == "failed" for step in results["steps"])


def _left_out(step: Step, before: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    failed = [each["name"] for each in before if each["name"] in step.needs and each["result"] not in ("passed", "aims missed")]
    why = step.without or (f"needs {failed[0]}, which did not pass" if failed else "")
    return {"name": step.name, "result": "left out", "why": why, "seconds": 0.0} if why else None


def _run(step: Step, log: Any, folder: Path, deadline: float) -> dict[str, Any]:
    """Its result; its output goes to the log. What it started ends with it."""
    began = time.monotonic()
    seconds = min(step.seconds, deadline - began)
    if seconds < 1:
        return {"name": step.name, "result": "failed", "why": "no time was left", "seconds": 0.0}
    report = str(folder / f"{step.name}.json")
    asked = f"{max(1.0, step.asked - (step.seconds - seconds)):.0f}"
    command = [part.replace(REPORT, report).replace(SECONDS, asked) for part in step.command]
    log.write(f"\n===== {step.name}: {' '.join(command)}\n")
    log.flush()
    own = folder / f"{step.name}.log"
    with own.open("wb") as output:
        try:
            process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                env=os.environ | dict(step.environment),
            )  # fmt: skip
            code = _finish(process, seconds)
        except OSError as error:
            code, _ = 127, output.write(str(error).encode())
    text = own.read_text(encoding="utf-8", errors="replace")
    log.write(text)
    log.flush()
    took = round(time.monotonic() - began, 1)
    if code == 0:
        return {"name": step.name, "result": "passed", "why": summary.counted(text), "seconds": took}
    if code == 1 and Path(report).is_file():
        return {"name": step.name, "result": "aims missed", "why": "see its table", "seconds": took}
    late = f"ended after {seconds:.0f} s; " if code is None else ""
    return {"name": step.name, "result": "failed", "why": late + first_failure(text), "seconds": took}


def _finish(process: subprocess.Popen[bytes], seconds: float) -> int | None:
    """Its exit code; None where it had to be ended."""
    try:
        return process.wait(seconds)
    except subprocess.TimeoutExpired:
        return None
    finally:
        if process.poll() is None:
            for sign in (signal.SIGTERM, signal.SIGKILL):
                os.killpg(process.pid, sign)
                try:
                    process.wait(2)
                    break
                except subprocess.TimeoutExpired:
                    continue


def first_failure(text: str) -> str:
    """The line of a log that says what went wrong first; the last one that is not empty where none is known to."""
    for pattern in _FAILURES:
        found = re.search(pattern, text, re.MULTILINE)
        if found:
            return found[0].strip()[:300]
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


def _write(path: Path, text: str) -> None:
    temporary = path.with_suffix(".partial")
    temporary.write_text(text, encoding="utf-8")
    os.replace(temporary, path)
