"""The detector's bundle: torch's maps out of bytes, an INT8 form near them, and checkpoints of others refused."""

import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import write_frames
from norms import shake_norms
from typer.testing import CliRunner

from fhrt.cli import app
from fhrt.errors import BadInputError, WeightsError
from fhrt.export import export_detector, quantise
from fhrt.models.detector import Detector
from fhrt.runtime import load_frames
from training import checkpoint


@pytest.fixture(scope="module")
def network() -> Detector:
    torch.manual_seed(0)
    model = Detector().eval()
    shake_norms(model)
    return model


@pytest.fixture(scope="module")
def bundle(network: Detector, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("detector")
    checkpoint.save(folder / "best.safetensors", network.state_dict(), {"model": "detector", "step": 3, "data": "noise"})
    return export_detector(folder / "best.safetensors", folder / "made")


@pytest.mark.parametrize("size", [(64, 96), (41, 53), (1, 1)], ids=str)
def test_bytes_become_torchs_maps(network: Detector, bundle: Path, size: tuple[int, int]) -> None:
    engine = load_frames(bundle, backend="onnxruntime")
    frame = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    rows, columns = (-length % 16 for length in size)
    padded = np.pad(frame[..., ::-1], ((0, rows), (0, columns), (0, 0))).transpose(2, 0, 1)[None]
    with torch.no_grad():
        maps = network(torch.from_numpy(padded.astype(np.float32) / 255))
    heat, geometry = engine.run(frame)
    np.testing.assert_allclose(heat, maps.heat.sigmoid().numpy(), atol=5e-3)  # fp16 weights
    np.testing.assert_allclose(geometry, maps.geometry.numpy(), atol=2e-2 * float(maps.geometry.abs().max()))
    assert engine.card.training == "noise, 3 steps" and engine.card.gflops == pytest.approx(5.16, abs=0.1)


def test_the_int8_form_is_near(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    module = import_module("fhrt.export.quantise")  # its function has the same name
    monkeypatch.setattr(module, "HELD_BACK", 2)
    monkeypatch.setattr(module, "FEWEST", 3)
    frames = [np.random.default_rng(seed).integers(0, 256, (48, 64, 3), np.uint8) for seed in range(5)]
    write_frames(tmp_path, "train", [(frame, [[10.0, 10.0, 12.0, 15.0]]) for frame in frames])
    made = quantise(bundle, tmp_path, tmp_path / "int8")
    fp32, int8 = (load_frames(made, backend="onnxruntime", precision=form) for form in ("fp32", "int8"))
    assert int8.precision == "int8" and int8.card.int8 is not None and int8.card.int8.faces == 2
    assert set(int8.card.int8.loss) == set(int8.card.int8.saturating) == {"average precision"}
    for one, other in zip(fp32.run(frames[0]), int8.run(frames[0]), strict=True):
        error = np.abs(one - other)
        assert error.max() > 0 and error.mean() < 0.1 * np.abs(one).mean()
    with pytest.raises(BadInputError, match="already"):
        quantise(made, tmp_path, tmp_path / "again")


def test_models_says_what_a_detector_takes(bundle: Path, tmp_path: Path) -> None:
    runner = CliRunner(env={"COLUMNS": "200", "FHRT_MODELS": str(tmp_path)})
    card = json.loads((bundle / "card.json").read_text())
    own = Path(shutil.copytree(bundle, tmp_path / "mine"))
    (own / "card.json").write_text(json.dumps(card | {"name": "mine"}))
    (line,) = (line for line in runner.invoke(app, ["models"]).stdout.splitlines() if "mine" in line.split())
    assert "frames in pieces of 16×16" in line


def test_other_checkpoints_are_refused(tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "other.safetensors", {"weight": torch.zeros(3)}, {})
    with pytest.raises(WeightsError, match="not a checkpoint of the detector"):
        export_detector(tmp_path / "other.safetensors", tmp_path / "made")
    assert not (tmp_path / "made").exists()
