"""What a check found, on one page of Markdown: the steps, then every figure beside its aim."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any


def counted(text: str) -> str:
    """Pytest's closing count in a log, if there is one: skips must be seen."""
    found = re.findall(r"^=*\s*(\d+ (?:passed|skipped|deselected)[^=\n]*?)(?: in [\d.:]+s?.*)?\s*=*$", text, re.MULTILINE)
    return str(found[-1]) if found else ""


def page(results: dict[str, Any]) -> str:
    """Of what `benchmarks.check.run` gathered."""
    parts = [f"# {results['title']}", "  \n".join(f"{name}: {value}" for name, value in results["facts"].items())]
    steps = results["steps"]
    bad = [step["name"] for step in steps if step["result"] == "failed"]
    missed = [step["name"] for step in steps if step["result"] == "aims missed"]
    told = f"**{'Failed: ' + ', '.join(bad) if bad else 'Nothing failed'}**, of {len(steps)} steps"
    parts.append(told + (f"; aims missed: {', '.join(missed)}." if missed else "."))
    parts.append(_table(("step", "result", "s", ""), [[s["name"], s["result"], f"{s['seconds']:.0f}", s["why"]] for s in steps]))
    for name, report in results["reports"].items():
        make = TABLES.get(report.get("benchmark", ""))
        if make is not None:
            parts += [f"## {name}", make(report)]
    return "\n\n".join(parts) + "\n"


def _kernels(report: dict[str, Any]) -> str:
    rows = []
    for row in report["rows"]:
        compiled = row.get("times_faster_than_compiled")
        rows.append([
            row["op"], row["shape"], _microseconds(row["native_ms"]), f"{row['times_faster']:.1f}", f"{row['required']:g}",
            "" if compiled is None else f"{compiled:.1f}", f"{row['gb_per_s']:.0f}", f"{row['share_of_copy']:.0%}",
            "" if row["reached"] else "**missed**",
        ])  # fmt: skip
    heads = ("op", "shape", "µs", "times faster", "aim", "than compiled", "GB/s", "of copying", "")
    return f"Copying: {report['copy_gb_per_s']:.0f} GB/s.\n\n" + _table(heads, rows)


AIMS = {("csrip", 1): 1.2, ("csrip", 32): 0.35, ("mtun", 1): 1.0, ("mtun", 32): 0.15}
"""On a device, ms per face of a system in a batch of that many."""
COMPILED, FRAME = 1.5, 3.0
"""On a device: how many times faster than torch.compile one face is; ms of a frame at p99."""


def _model(report: dict[str, Any]) -> str:
    """Milliseconds per face of one model: fhrt's engines, then what one would use otherwise; and per frame. On a device with the aims."""
    rows, frames = [], []
    name, on_device = report["conditions"]["model"], report["conditions"]["device"] != "cpu"
    for row in report["rows"]:
        peers = row.get("peers", {})
        times = row["engine_ms_per_face"]
        aim = AIMS.get((name, row["batch"])) if on_device else None
        compiled = 1 / row["ratio_to_peers"]["compile"] if "compile" in row.get("ratio_to_peers", {}) else None
        slow = (aim is not None and times["median"] > aim) or (
            on_device and row["batch"] == 1 and compiled is not None and compiled < COMPILED
        )
        rows.append([
            str(row["batch"]), f"{row['backend']} {row['precision']}", *(f"{times[part]:.3f}" for part in ("median", "p95", "p99")),
            "" if aim is None else f"{aim:g}", _median(row.get("session_ms_per_face", "")), *(_median(peers[each]) for each in peers),
            "" if compiled is None else f"{compiled:.1f}", _median(row["hallucinate_ms_per_face"]), "**missed**" if slow else "",
        ])  # fmt: skip
    for row in report.get("frame", []):
        aim = (f"{FRAME:g} at p99", "**missed**" if row["ms"]["p99"] > FRAME else "") if on_device else ("", "")
        frames.append([row["frame"], str(row["faces"]), *(f"{row['ms'][part]:.2f}" for part in ("p50", "p95", "p99")), *aim])
    names = list(report["rows"][0].get("peers", {})) if report["rows"] else []
    heads = ("batch", "engine", "p50", "p95", "p99", "aim", "session, CPU", *names, "times compile's speed", "uint8 to uint8", "")
    told = f"{name}, {report['conditions']['weights']} weights, ms per face. Aims: {COMPILED:g} times torch.compile's speed for one face;"
    told += " C-SRIP's paper took 30 ms for one face, 15 in a batch (a Titan Xp)."
    parts = [told, _table(heads, rows)]
    if frames:
        parts.append(_table(("1080p frame is on", "boxes", "p50, ms", "p95", "p99", "aim", ""), frames))
    return "\n\n".join(parts)


def _training(report: dict[str, Any]) -> str:
    heads = ("recipe", "batch", "graph", "faces/s", "step alone", "data alone", "GFLOP/face", "TFLOP/s", "of the peak", "bound by")
    rows = [
        [
            f"{row['recipe']} {row['precision']}", str(row["batch"]), "yes" if row["captured"] else "no",
            *(f"{row[each]:.0f}" for each in ("faces_per_s", "step_faces_per_s", "data_faces_per_s")),
            f"{row['gflop_per_face']:.1f}", f"{row['tflops']:.2f}", f"{row['share_of_peak']:.0%}", row["bound_by"],
        ]
        for row in report["rows"]
    ]  # fmt: skip
    return _table(heads, rows)


def _trt(report: dict[str, Any]) -> str:
    """TensorRT's engines: built, near enough to ONNX Runtime, how fast, found again."""
    rows = []
    for row in report["rows"]:
        if "error" in row:
            rows.append([row["model"], row["precision"], "", "", "", "", f"**{row['error']}**"])
            continue
        rows += [
            [
                row["model"], row["precision"], str(each["batch"]), f"{each['parity_db']:.1f}", _median(each["ms_per_face"]),
                f"{row['build_s']:.0f} / {row['open_s']:.1f}",
                "" if each["parity_db"] >= row["aim_db"] else f"**under {row['aim_db']:.0f} dB**",
            ]
            for each in row["batches"]
        ]  # fmt: skip
    return _table(("model", "precision", "batch", "dB", "ms per face", "built / found again, s", ""), rows)


TABLES: dict[str, Callable[[dict[str, Any]], str]] = {"kernels": _kernels, "model": _model, "throughput": _training, "tensorrt": _trt}
"""A report's ``benchmark`` → its table."""


def _median(times: dict[str, float] | str) -> str:
    """A reason instead of times stays what it is."""
    return times if isinstance(times, str) else f"{times['median']:.3f}"


def _microseconds(times: dict[str, float]) -> str:
    return f"{1000 * times['median']:.0f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in line) + " |" for line in lines)
