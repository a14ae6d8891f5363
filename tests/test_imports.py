"""`import fhrt` stays light, and torch stays where docs/architecture.md puts it."""

import ast
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent / "fhrt"
NEEDS_TORCH = ("models/", "export/", "ops/torch.py")


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
