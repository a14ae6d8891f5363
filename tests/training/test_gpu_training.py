"""Training on a real device: a captured step is the step, faces are held there, NaN is found, a run goes on where it stopped.

FHRT_TEST_DEVICE=cpu rehearses what asks for nothing of CUDA's own.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from devices import DEVICE, need_device

from training import checkpoint
from training.data import FromMemory, make_batch
from training.device import OnDevice
from training.loop import DivergedError, Trainer
from training.recipe import Losses, Mix, Recipe
from training.throughput import made_up, measure

pytestmark = pytest.mark.gpu
SMALL = {"width": 16, "blocks": 2, "detail": 8, "stem": 4, "localisation": 8}


@pytest.fixture(autouse=True)
def gpu() -> None:
    need_device()


def recipe(**changes: object) -> Recipe:
    settings: dict[str, object] = {
        "model": "lite", "hparams": SMALL, "mix": Mix(aligned=0.5, unaligned=0.5), "losses": Losses(l1=1, ssim=0.1, theta=1),
        "lr": 3e-3, "batch": 8, "steps": 12, "warmup": 5, "validate_every": 100, "localise_steps": 2,
    }  # fmt: skip
    return Recipe.model_validate(settings | changes)


ADVERSARIAL = {"losses": Losses(mse=1, adversarial=0.01, theta=0.1), "optimiser": "rmsprop"}

FROZEN = {"model": "mtun", "hparams": {"width": 4, "stacks": 1}, "losses": Losses(mse=1, corners=0.05), "freeze_norms": 0.5}


@pytest.mark.parametrize("changes", [{}, ADVERSARIAL, {"bf16": True}, FROZEN], ids=["adamw", "rmsprop, critic", "bf16", "frozen norms"])
def test_a_captured_step_is_the_step(changes: dict[str, object], tmp_path: Path) -> None:
    """Losses fall alike; not to the last bit, for a graph's convolutions may be others and dropout draws other numbers."""
    trained = []
    for captured in (False, True):
        trainer = Trainer(recipe(**changes), made_up(), tmp_path / str(captured), DEVICE, captured=captured)
        trained.append(trainer.fit())
        if DEVICE != "cpu":
            assert (trainer.captured is not None) == captured
            assert not captured or len(trainer.captured.graphs) == 1, "two steps of localisation are too few to capture"
            assert isinstance(trainer.source, OnDevice)
    eager, graph = (np.array(losses) for losses in trained)
    assert len(eager) == len(graph) == 12 and np.isfinite(graph).all()
    np.testing.assert_allclose(graph, eager, rtol=0.1 if "losses" in changes else 0.02)


def test_batches_of_the_device_are_those_of_the_memory() -> None:
    faces, mix = made_up(), Mix(aligned=0.4, unaligned=0.3, noisy=0.3, jitter=0.1)
    source = OnDevice(faces, torch.device(DEVICE))
    given = source.finish(source.prepare(mix, 10, np.random.default_rng(0)))
    expected = FromMemory(faces).prepare(mix, 10, np.random.default_rng(0))
    assert given.lr.device.type == DEVICE
    torch.testing.assert_close(given.hr.cpu(), expected.hr, rtol=0, atol=1e-6)
    difference = (given.lr.cpu() - expected.lr).abs() * 127.5
    assert difference.max() < 1.01 and (difference > 0.01).float().mean() < 0.005


def test_nan_takes_the_run_back(tmp_path: Path) -> None:
    """Also inside the captured step, and in what the discriminator is given."""
    trainer = Trainer(recipe(**ADVERSARIAL, localise_steps=0), made_up(), tmp_path, DEVICE, check_every=20)
    batch = make_batch(trainer.faces, trainer.recipe.mix, 8, np.random.default_rng(0))
    for _ in range(6):
        trainer.train_step(batch)
    trainer.check()
    before = trainer._copied()
    trainer.train_step(batch)
    nan = {"hr": batch.hr * float("nan")} if DEVICE == "cpu" else {"lr": batch.lr * float("nan")}  # the CPU's sampler refuses the latter
    trainer.train_step(batch._replace(**nan))
    trainer.train_step(batch)
    with pytest.raises(DivergedError, match="is nan at step 7"):
        trainer.check()
    assert trainer.step == 6
    assert all(torch.equal(trainer._state()[key], value) for key, value in before.items())
    tensors, about = checkpoint.load(tmp_path / "last.safetensors")
    assert about["step"] == 6 and all(value.isfinite().all() for value in tensors.values() if value.is_floating_point())


def test_a_run_goes_on(tmp_path: Path) -> None:
    first = Trainer(recipe(steps=6), made_up(), tmp_path, DEVICE)
    first.fit()
    second = Trainer(recipe(steps=12), made_up(), tmp_path, DEVICE)
    second.resume()
    assert second.step == 6 and len(second.fit()) == 6


def test_throughput_of_a_captured_recipe(tmp_path: Path) -> None:
    row = measure(recipe(), made_up(), tmp_path, 0.2, device=DEVICE)
    assert row["faces_per_s"] > 0 and row["gflop_per_face"] > 0 and 0 < row["share_of_peak"] < 1
    assert row["captured"] == row["faces_on_device"] == (DEVICE != "cpu")
