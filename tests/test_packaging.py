"""What a built package carries."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def build(where: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The package's files, without the native module, below ``where``."""
    command = [sys.executable, "setup.py", "-q", "build_py", "--build-lib", str(where)]
    return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)


def bundles(where: Path) -> set[str]:
    return {card.parent.name for card in (where / "fhrt" / "weights").glob("*/card.json")}


def test_all_bundles_or_the_chosen_ones(tmp_path: Path) -> None:
    shipped = {card.parent.name for card in (ROOT / "fhrt" / "weights").glob("*/card.json")}
    assert "lite" in shipped
    for name, environment, wanted in (
        ("all", {}, shipped),
        ("one", {"FHRT_WEIGHTS": "lite"}, {"lite"}),
        ("none", {"FHRT_WEIGHTS": ""}, set()),
    ):
        done = build(tmp_path / name, **environment)
        assert done.returncode == 0, done.stderr
        assert bundles(tmp_path / name) == wanted
        assert all(
            (tmp_path / name / "fhrt" / "weights" / bundle / "probe.safetensors").is_file() for bundle in (*wanted, "detectors/tiny")
        )
        assert (tmp_path / name / "fhrt" / "weights" / "README.md").is_file()  # the weights' licence
        assert (tmp_path / name / "fhrt" / "assets" / "crowd.png").is_file()


def test_a_build_carries_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    assert build(tmp_path).returncode == 0 and len(bundles(tmp_path)) > 1
    assert build(tmp_path, FHRT_WEIGHTS="lite").returncode == 0
    assert bundles(tmp_path) == {"lite"}


def test_a_bundle_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = build(tmp_path, FHRT_WEIGHTS="lite;light")
    assert done.returncode != 0 and "light" in done.stderr


COMPILER = """#!{python}
import os, sys
with open({calls!r}, "a") as calls:
    calls.write("x")
if "-o" in sys.argv:
    out = sys.argv[sys.argv.index("-o") + 1]
    os.makedirs(os.path.dirname(out), exist_ok=True)
    open(out, "w").close()
"""


def test_the_native_module_is_built_again_when_something_changed_only(tmp_path: Path) -> None:
    """With a compiler that only counts; no nvcc."""
    source, tools, calls = tmp_path / "source", tmp_path / "tools", tmp_path / "calls"
    shutil.copytree(ROOT / "csrc", source / "csrc")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    (source / "fhrt").mkdir()
    (source / "fhrt" / "__init__.py").touch()
    tools.mkdir()
    (tools / "g++").write_text(COMPILER.format(python=sys.executable, calls=str(calls)))
    (tools / "g++").chmod(0o755)
    environment = {"PATH": str(tools), "CC": str(tools / "g++"), "CXX": str(tools / "g++")}

    def compiled(**more: str) -> int:
        calls.write_text("")
        command = [sys.executable, "setup.py", "-q", "build_ext"]
        done = subprocess.run(command, cwd=source, env=environment | more, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return calls.stat().st_size

    first = compiled()
    assert first > 20 and compiled() == 0
    header = source / "csrc" / "parallel.h"
    times = header.stat()
    header.write_text(header.read_text() + "\n")
    os.utime(header, ns=(times.st_atime_ns, times.st_mtime_ns))  # as cp -p and tar leave it
    assert compiled() == first and compiled() == 0
    assert compiled(LDFLAGS="-lm") == first
    (source / "csrc" / "pool.cpp").unlink()
    assert compiled() == first - 1
    next((source / "build").glob("lib*/fhrt/_C*")).touch()  # another one, by whatever made it
    assert compiled() == first - 1
