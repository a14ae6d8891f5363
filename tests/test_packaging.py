"""What a built package carries."""

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
        assert (tmp_path / name / "fhrt" / "weights" / "README.md").is_file()  # the weights' licence
        assert (tmp_path / name / "fhrt" / "assets" / "crowd.png").is_file()


def test_a_build_carries_nothing_of_an_earlier_one(tmp_path: Path) -> None:
    assert build(tmp_path).returncode == 0 and len(bundles(tmp_path)) > 1
    assert build(tmp_path, FHRT_WEIGHTS="lite").returncode == 0
    assert bundles(tmp_path) == {"lite"}


def test_a_bundle_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    done = build(tmp_path, FHRT_WEIGHTS="lite;light")
    assert done.returncode != 0 and "light" in done.stderr
