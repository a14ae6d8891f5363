"""`import fhrt` stays light, torch stays in its rooms, and imports point the way docs/architecture.md says."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "fhrt"
# What each room may import of fhrt, beside itself and errors: the table of docs/architecture.md.
ARROWS = {
    "resample": set(),
    "machine": set(),
    "files": set(),
    "systems": set(),
    "ops": {"_C", "machine"},
    "runtime": {"ops", "_C", "machine", "files", "systems"},
    "faces": {"ops", "runtime", "resample", "_C"},
    "metrics": {"ops"},
    "bench": {"runtime"},
    "doctor": {"_C", "runtime", "faces", "machine"},
    "protocols": {"hallucinator", "faces", "metrics", "runtime", "ops", "resample", "machine", "files"},
    "video": {"faces", "ops", "files", "machine"},
    # `Hallucinator.stream` alone points back, inside the method: users find it there, and pictures need no cameras.
    "hallucinator": {"faces", "runtime", "ops", "results", "stream"},
    "results": {"faces", "runtime", "ops", "files", "systems"},
    "stream": {"video", "hallucinator", "results", "faces", "runtime", "ops", "files", "machine"},
    "models": {"ops", "resample", "systems"},
    "export": {"models", "runtime", "faces", "ops", "protocols", "metrics", "resample", "systems"},
}


def imported_rooms(path: Path) -> set[str]:
    """The rooms of fhrt that a file imports, also inside functions."""
    rooms: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module == "fhrt":
            rooms |= {alias.name for alias in node.names}
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        rooms |= {name.split(".")[1] for name in names if name.startswith("fhrt.")}
    return rooms


@pytest.mark.parametrize("room", ARROWS)
def test_imports_point_one_way(room: str) -> None:
    files = sorted((ROOT / room).rglob("*.py")) or [ROOT / f"{room}.py"]
    for path in files:
        assert imported_rooms(path) <= ARROWS[room] | {room, "errors"}, path.name


NEEDS_TORCH = ("models/", "export/", "ops/torch.py", "runtime/torch_")


def test_torch_is_imported_only_where_it_belongs() -> None:
    for path in ROOT.rglob("*.py"):
        place = path.relative_to(ROOT).as_posix()
        if place.startswith(NEEDS_TORCH):
            continue
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0] == "torch" or name.startswith(("fhrt.models", "fhrt.export")) for name in names), place


def test_importing_is_quick_and_leaves_torch_out(tmp_path: Path) -> None:
    code = (
        "import sys, time; t = time.perf_counter(); import fhrt; t = time.perf_counter() - t\n"
        "assert not {'torch', 'cv2', 'onnxruntime'} & set(sys.modules)\n"
        "import fhrt.hallucinator; assert 'torch' not in sys.modules; print(t)"
    )
    # In an empty folder: beside the sources, `-c` would import those instead of the installed package.
    options = {"check": True, "capture_output": True, "text": True, "cwd": tmp_path}
    times = [float(subprocess.run([sys.executable, "-c", code], **options).stdout) for _ in range(3)]
    assert min(times) < 0.5
