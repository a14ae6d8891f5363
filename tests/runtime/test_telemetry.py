"""No backend reports anything, or leaves anything in the home folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# Who asks for a host's address is told no, and written down. ONNX Runtime would ask from C++, behind Python's back: of it the files tell.
PROGRAM = """
import socket, sys, time
asked = []
def refuse(*arguments, **_):
    asked.append(arguments)
    raise OSError("no network")
socket.getaddrinfo = socket.create_connection = refuse
import numpy as np
{}
time.sleep(0.3)  # threads may ask
assert not asked, asked
assert "openvino_telemetry" not in sys.modules
"""
RUN = "import fhrt; fhrt.Hallucinator('lite', backend={0!r}).hallucinate(np.zeros((2, 16, 16, 3), np.uint8))"
WAYS = {
    **{backend: RUN.format(backend) for backend in ("onnxruntime", "openvino")},
    "detector": "import fhrt.faces.centres as c; c.CentreDetector().detect(np.zeros((96, 96, 3), np.uint8))",
    "doctor": "import fhrt.doctor; list(fhrt.doctor.examine())",
    "metric": "import fhrt, onnxruntime; onnxruntime.InferenceSession",
}


@pytest.mark.parametrize("way", WAYS)
def test_nothing_is_sent_or_written_unasked(way: str, tmp_path: Path) -> None:
    if way == "openvino":
        pytest.importorskip("openvino", reason="without OpenVINO")
    home = tmp_path / "home"
    home.mkdir()
    # CI, among others, keeps OpenVINO silent by itself.
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "TF_BUILD", "JENKINS_URL", "ORT_DISABLE_TELEMETRY")}
    kept = {name: value for name, value in kept.items() if not name.startswith("XDG_")}
    environment = kept | {"HOME": str(home), "FHRT_CACHE": str(tmp_path / "cache"), "FHRT_MODELS": str(tmp_path / "models")}
    program = [sys.executable, "-c", PROGRAM.format(WAYS[way])]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not list(home.rglob("*"))
