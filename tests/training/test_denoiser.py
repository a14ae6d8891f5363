"""MNCE's denoiser trained alone, as on a machine with a GPU, is what a dictionary takes later."""

from pathlib import Path

import torch
from typer.testing import CliRunner

from training import __main__ as training_cli
from training import checkpoint
from training.dictionary import build_mnce


def test_a_denoiser_alone_is_taken_by_a_dictionary(archive: Path, tmp_path: Path) -> None:
    arguments = ["dictionary", "denoiser", "--data", str(archive), "--out", str(tmp_path), "--steps", "2", "--batch", "3"]
    done = CliRunner().invoke(training_cli.app, arguments)
    assert done.exit_code == 0 and str(tmp_path / "denoiser.safetensors") in done.output.replace("\n", "")
    tensors, about = checkpoint.load(tmp_path / "denoiser.safetensors")
    assert about["step"] == 2 and about["data"] == "12 faces" and all(key.startswith("denoiser.layers.") for key in tensors)
    small = {"faces": 8, "neighbours": 3, "features": 3, "targets": 3, "side": 32, "layers": 1, "steps": 1}
    made = build_mnce(archive, tmp_path / "mnce", denoiser=tmp_path / "denoiser.safetensors", **small)
    taken = checkpoint.unpack("denoiser", checkpoint.load(made)[0])
    assert all(
        torch.equal(value.half(), taken[key]) for key, value in checkpoint.unpack("denoiser", tensors).items() if value.is_floating_point()
    )
