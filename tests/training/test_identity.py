"""The identity networks learn who is who, and judge C-SRIP's pictures without learning from them."""

import csv
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from typer.testing import CliRunner

from fhrt.errors import BadInputError, WeightsError
from fhrt.export.recognition import export_recognition
from fhrt.metrics import Recognition
from fhrt.models.recognition import shrink
from fhrt.models.squeezenet import SIGMAS, SqueezeNet, residual_image
from fhrt.protocols.pairs import gaussian_lr
from training import __main__ as training_cli
from training import checkpoint, identity
from training.data import make_batch
from training.device import held
from training.faces import FaceSet, People, read_people
from training.identity import RECOGNITION, RESIDUALS, IdentityPrior, at_scale, load_network, train_identity, verification
from training.loop import Trainer
from training.recipe import load_recipe
from training.throughput import made_up


def write_index(path: Path, people: dict[str, int], split: str = "train") -> None:
    with (path / "index.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["key", "split", "identity"])
        writer.writerows((key, split, person) for key, person in people.items())


@pytest.fixture
def prior(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    for scale in (2, 4, 8):
        hparams = {"classes": 3, "size": 24 * scale}
        about = {"model": "squeezenet", "view": f"identity-{scale}x", "hparams": hparams}
        checkpoint.save(tmp_path / "prior" / f"identity-{scale}x.safetensors", SqueezeNet(**hparams).state_dict(), about)
    return tmp_path / "prior"


def test_people_are_numbered_over_the_whole_split(tmp_path: Path) -> None:
    write_index(tmp_path, {"a": 70, "b": -1, "c": 9, "d": 70})
    people = read_people(tmp_path, "train", ["d", "b"])
    assert people.identity.tolist() == [1, -1] and people.count == 2
    with pytest.raises(BadInputError, match="lacks 1 of 2 faces, first z"):
        read_people(tmp_path, "train", ["a", "z"])
    with pytest.raises(BadInputError, match="first a"):
        read_people(tmp_path, "val", ["a"])
    (tmp_path / "index.csv").write_text("key,split\na,train\n")
    with pytest.raises(BadInputError, match="cannot be read"):
        read_people(tmp_path, "train", ["a"])


def two_people() -> FaceSet:
    """Forty faces of two people: one with stripes, one with dots, lit at random."""
    rng = np.random.default_rng(0)
    faces = np.full((40, 192, 192, 3), 128, np.float32)
    for x in range(0, 192, 24):  # as wide as a pixel of the smallest scale, or decimation would pass them by
        faces[::2, :, x : x + 4] += 60
    for x in range(12, 192, 24):
        for face in faces[1::2]:
            cv2.circle(face, (x, x), 6, (200, 200, 200), -1)
    faces += rng.uniform(-20, 20, (40, 1, 1, 1)) + rng.normal(0, 2, faces.shape)
    return FaceSet(np.clip(faces, 0, 255).astype(np.uint8), people=People(np.arange(40) % 2, 2))


def test_it_learns_to_tell_people_apart(tmp_path: Path) -> None:
    accuracy = train_identity(two_people(), RESIDUALS[2], tmp_path, epochs=8, batch=2)
    assert accuracy == 1.0
    _, about = checkpoint.load(tmp_path / "identity-2x.safetensors")
    assert about["hparams"] == {"classes": 2, "size": 48} and about["accuracy"] == 1.0


def test_what_cannot_be_learnt(tmp_path: Path, faces: NDArray[np.uint8]) -> None:
    with pytest.raises(BadInputError, match="fewer than two"):
        train_identity(FaceSet(faces), RESIDUALS[2], tmp_path)
    network = SqueezeNet(2, 96)
    for people in (None, People(np.arange(12), 12), People(np.zeros(12, np.int64), 1)):
        with pytest.raises(BadInputError):
            verification(network, FaceSet(faces, people=people))


def test_the_recognition_network_from_training_to_similarity(tmp_path: Path) -> None:
    """Trained, exported and opened by the metric, which gives what torch gives; and how well it tells pairs apart, counted pair by pair."""
    made = two_people()
    train_identity(made, RECOGNITION, tmp_path, epochs=6, batch=8)
    network = load_network(tmp_path, RECOGNITION)
    judge = Recognition(export_recognition(network, tmp_path / "graph") / "model.onnx")
    faces = made.pictures[:6, 32:160, 32:160]
    with torch.no_grad():
        planes = torch.from_numpy(faces.transpose(0, 3, 1, 2).astype(np.float32) / 127.5 - 1)
        wanted = network.eval().embedding(shrink(planes)).numpy()
    np.testing.assert_allclose(judge.embed(faces), wanted, atol=2e-3)  # fp16 weights
    np.testing.assert_allclose(judge.similarity(faces, faces), 1, atol=1e-5)
    alike = [
        judge.similarity(made.pictures[[a], 32:160, 32:160], made.pictures[[b], 32:160, 32:160])[0] for a in range(12) for b in range(a)
    ]
    same = np.array([a % 2 == b % 2 for a in range(12) for b in range(a)])
    counted = np.mean(np.array(alike)[same][:, None] > np.array(alike)[~same])
    dozen = FaceSet(made.pictures[:12], people=People(np.arange(12) % 2, 2))
    assert counted > 0.5 and verification(network, dozen) == pytest.approx(counted, abs=0.01)
    with pytest.raises(BadInputError, match="exists"):
        export_recognition(network, tmp_path / "graph")
    for bad in (faces[:, :64], faces.astype(np.float32), faces[0]):
        with pytest.raises(BadInputError):
            judge.embed(bad)
    with pytest.raises(BadInputError, match="6 and 5"):
        judge.similarity(faces, faces[:5])
    with pytest.raises(WeightsError, match="training recognition"):
        Recognition(tmp_path / "nowhere.onnx")
    (tmp_path / "torn.onnx").write_bytes(b"no graph")
    with pytest.raises(WeightsError, match=r"torn\.onnx"):
        Recognition(tmp_path / "torn.onnx")


def test_the_prior_is_frozen_and_its_gradient_reaches_the_pictures(prior: Path) -> None:
    judge = IdentityPrior(prior).train()
    assert not judge.training and not any(parameter.requires_grad for parameter in judge.parameters())
    pictures = {scale: (torch.rand(2, 3, 24 * scale, 24 * scale) * 2 - 1).requires_grad_() for scale in (2, 4, 8)}
    loss = judge(pictures, torch.tensor([1, -1]))
    gradients = torch.autograd.grad(loss, list(pictures.values()))
    assert all(gradient[0].abs().sum() > 0 and gradient[1].abs().sum() == 0 for gradient in gradients)
    assert judge(pictures, torch.tensor([-1, -1])) == 0


@pytest.mark.parametrize("scale", [2, 4, 8])
def test_the_identity_networks_see_what_the_targets_are(scale: int, faces: NDArray[np.uint8]) -> None:
    """Residuals of the pictures that C-SRIP is to make, which are reduced as its LR faces are."""
    hr = np.ascontiguousarray(faces[:2].transpose(0, 3, 1, 2), dtype=np.float32)
    target = torch.from_numpy(gaussian_lr(hr, 8 // scale) if scale < 8 else hr).float() / 127.5 - 1
    seen = at_scale(torch.from_numpy(hr) / 127.5 - 1, scale)
    assert seen.shape == (2, 3, 24 * scale, 24 * scale)
    torch.testing.assert_close(seen, residual_image(target, SIGMAS[scale]), atol=1.1 / 127.5, rtol=0)  # which are rounded


def test_a_prior_that_does_not_fit(prior: Path) -> None:
    hparams = {"classes": 4, "size": 96}
    path = prior / "identity-4x.safetensors"
    checkpoint.save(path, SqueezeNet(**hparams).state_dict(), {"model": "squeezenet", "view": "identity-4x", "hparams": hparams})
    with pytest.raises(WeightsError, match="different faces"):
        IdentityPrior(prior)
    checkpoint.save(path, SqueezeNet(**hparams).state_dict(), {"model": "squeezenet", "view": "identity-2x", "hparams": hparams})
    with pytest.raises(WeightsError, match="not the network identity-4x"):
        IdentityPrior(prior)
    path.unlink()
    with pytest.raises(WeightsError, match="identity-4x"):
        IdentityPrior(prior)


def test_csrip_with_its_identity_term(prior: Path, archive: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    for shard in archive.glob("*.tar"):
        (data / shard.name).write_bytes(shard.read_bytes())
    keys = [f"train-{shard:02d}_{number:05d}" for shard, count in ((0, 5), (1, 7)) for number in range(count)]
    write_index(data, {key: index % 3 for index, key in enumerate(keys)})
    settings = load_recipe("csrip").model_copy(update={"hparams": {"width": 16}, "batch": 2, "steps": 1})
    trainer = Trainer(settings, data, tmp_path / "run", identity=prior)
    frozen = [parameter.clone() for parameter in trainer.objective.module.identity.parameters()]
    terms = trainer.train_step(make_batch(trainer.faces, settings.mix, 2, np.random.default_rng(0)))
    assert set(terms) == {"ssim_2x", "ssim_4x", "ssim", "identity"} and terms["identity"] > 0
    assert all(torch.equal(a, b) for a, b in zip(frozen, trainer.objective.module.identity.parameters(), strict=True))


def test_faces_are_moved_on_a_device_as_in_memory() -> None:
    """The same numbers, bit for bit. The device here is the CPU."""
    pictures = np.random.default_rng(0).integers(0, 256, (9, 192, 192, 3), np.uint8)
    rows = np.array([8, 0, 3, 3, 5])
    shift = np.array([[6, -6], [-6, 6], [0, 0], [1, -3], [-2, 5]])
    mirrored = np.array([True, False, True, False, True])
    expected = identity._augmented(pictures[rows], shift, mirrored)
    given = identity._augmented_there(held(FaceSet(pictures), torch.device("cpu")), rows, shift, mirrored)
    assert torch.equal(given, expected)


def test_a_graph_that_is_there_is_told_before_the_training(tmp_path: Path) -> None:
    (tmp_path / "graph").mkdir()
    done = CliRunner().invoke(training_cli.app, ["recognition", "--data", str(tmp_path), "--out", str(tmp_path)])
    assert done.exit_code == 2 and "graph exists already: remove it" in done.output.replace("\n", "")


def test_people_that_are_made_up_for_a_throughput_are_known_to_any_network(prior: Path) -> None:
    people = made_up(4).people
    assert people is not None
    assert IdentityPrior(prior)({2: torch.rand(4, 3, 48, 48)}, torch.from_numpy(people.identity)).isfinite()
