"""A container's quota of processor time, as cgroups of both versions write it down, is seen by every pool of threads."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fhrt.machine import _quota

V1 = "4:memory:/a\n3:cpu,cpuacct:/docker/x\n"


@pytest.mark.parametrize(
    ("group", "files", "quota"),
    [
        ("0::/\n", {"cpu.max": "150000 100000"}, 1.5),
        ("0::/\n", {"cpu.max": "max 100000"}, None),
        ("0::/pod/box\n", {"pod/box/cpu.max": "max 100000", "pod/cpu.max": "400000 100000", "cpu.max": "800000 100000"}, 4.0),
        ("0::/of/the/host\n", {"cpu.max": "50000 100000"}, 0.5),
        (V1, {"cpu,cpuacct/docker/x/cpu.cfs_quota_us": "200000", "cpu,cpuacct/docker/x/cpu.cfs_period_us": "100000"}, 2.0),
        (V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"}, 1.0),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ("nonsense", {"cpu.max": "5"}, None),
    ],
)
def test_quota(tmp_path: Path, group: str, files: dict[str, str], quota: float | None) -> None:
    for name, text in {"proc/self/cgroup": group, **{f"sys/fs/cgroup/{name}": text for name, text in files.items()}}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert _quota(tmp_path) == quota


def test_every_pool_keeps_to_it(tmp_path: Path) -> None:
    program = """
import os
os.sched_getaffinity = lambda _: set(range(8))
import fhrt.machine as machine
machine._quota = lambda: 2.5
assert machine.usable_cores() == 3 and machine.cores() == 8
from fhrt import ops
from fhrt.runtime.ort import _session_options
from fhrt.stream.pipeline import _workers
assert (ops.get_num_threads(), _session_options(None).intra_op_num_threads, _workers()) == (3, 3, 2)
assert _session_options(7).intra_op_num_threads == 7
try:
    import fhrt.runtime.openvino as backend
    from fhrt.runtime.bundle import SHIPPED, open_bundle
    settings = backend._Graph(open_bundle(SHIPPED / "lite"), None)._settings
    assert settings[backend.openvino.properties.inference_num_threads] == 3
except ImportError:
    pass
machine._quota = lambda: None
assert _session_options(None).intra_op_num_threads == 0
"""
    subprocess.run(
        [sys.executable, "-c", program], check=True, cwd=tmp_path, env={k: v for k, v in os.environ.items() if k != "FHRT_NUM_THREADS"}
    )
