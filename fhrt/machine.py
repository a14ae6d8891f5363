"""What a figure was measured on: no result without its condition."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from functools import lru_cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path


def describe(packages: Iterable[str]) -> dict[str, object]:
    """Processor, usable cores, system, versions of Python and of these packages (None: not installed), and the time (UTC)."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def _cpu_model() -> str:
    lines = _text(Path("/proc/cpuinfo")).splitlines()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "") or platform.processor()


@lru_cache(maxsize=1)
def processor() -> str:
    """What tells this processor from others: family, model, and the features that it and the system have."""
    told = _text(Path("/sys/devices/system/cpu/modalias")), _text(Path("/sys/devices/system/cpu/cpu0/regs/identification/midr_el1"))
    return " ".join(filter(None, map(str.strip, told))) or _cpu_model()  # reading /proc/cpuinfo may take 20 ms


@lru_cache(maxsize=1)
def gpus() -> str:
    """NVIDIA's devices and their driver, as its kernel module names them; "" where there are none."""
    told = [*sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")), Path("/proc/driver/nvidia/version")]
    texts = (_text(path) for path in told)
    return "; ".join(line.strip() for text in texts for line in text.splitlines() if line.startswith(("Model:", "NVRM version:")))


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
