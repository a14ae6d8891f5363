"""What a figure was measured on, no result without its condition; and how many threads there is room for."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable
from datetime import datetime, timezone
from functools import cache, lru_cache
from importlib.metadata import PackageNotFoundError, version
from math import ceil
from pathlib import Path, PurePosixPath


def describe(packages: Iterable[str]) -> dict[str, object]:
    """Processor, usable cores, system, versions of Python and of these packages (None: not installed), and the time (UTC)."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in packages},
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }


def usable_cores() -> int:
    """How many threads may compute at the same time: the cores that the process may use, or fewer where its container has a quota."""
    quota = _quota()
    return cores() if quota is None else max(1, min(cores(), ceil(quota)))


def cores() -> int:
    """The cores that the process may use, for whatever part of the time."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@cache
def _quota(root: Path = Path("/")) -> float | None:
    """Cores' worth of time that cgroups (v2, or v1) leave the process, the least of its own group and those around it; None: any."""
    found = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers not in ("", "cpu") and "cpu" not in controllers.split(","):
            continue
        # Within a container the path may be the host's, of which only the top is there.
        group = PurePosixPath("/" + path.lstrip("/"))
        for place in (controllers, "cpu") if controllers else ("",):
            for each in (group, *group.parents):
                folder = root / "sys/fs/cgroup" / place / str(each).lstrip("/")
                pair = (_text(folder / "cpu.max") or f"{_text(folder / 'cpu.cfs_quota_us')} {_text(folder / 'cpu.cfs_period_us')}").split()
                if len(pair) == 2 and all(map(str.isdecimal, pair)) and int(pair[1]):  # not "max", or -1
                    found.append(int(pair[0]) / int(pair[1]))
    return min(found, default=None)


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
