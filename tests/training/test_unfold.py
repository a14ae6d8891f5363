"""A bundle's network back as it was trained: it computes the same, and training goes on with it."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from fhrt import models
from fhrt.errors import UnknownModelError, WeightsError
from fhrt.export import export
from fhrt.export.rewrite import rewrite
from fhrt.models.layers import UpsampleConv2d
from fhrt.models.lite import ResidualBlock
from fhrt.runtime import load
from fhrt.runtime.bundle import read_card
from training import checkpoint, loop
from training.loop import Trainer
from training.recipe import Losses, Mix, Recipe
from training.unfold import TRAINED, bundle_weights, unfold


class Everything(nn.Module):
    """One of each layer that export folds, and of some that it leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.zeros(1, 6, 1, 1))
        self.first = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 1))
        self.middle = nn.Sequential(ResidualBlock(6), nn.PReLU(6))
        self.up = nn.Sequential(
            UpsampleConv2d(6, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), UpsampleConv2d(5, 4, 5), nn.BatchNorm2d(4), nn.ReLU(),
            nn.ConvTranspose2d(4, 3, 4, 2, 1), nn.BatchNorm2d(3), nn.ReLU(), UpsampleConv2d(3, 2, 5),
        )  # fmt: skip
        self.last = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.up(self.middle(self.first(x) + self.place))
        return self.last(x.movedim(1, 3))

    def fold(self) -> None:
        block = self.middle[0]
        block.first, block.second = block.first.fold(), block.second.fold()


def trained() -> Everything:
    torch.manual_seed(1)
    network = Everything()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        for norm in network.modules():
            if isinstance(norm, nn.BatchNorm2d):
                norm.running_mean.normal_()
                norm.running_var.uniform_(0.5, 2)
    return network.eval()


def test_what_export_folds_is_taken_apart_again() -> None:
    network, x = trained(), torch.randn(8, 3, 6, 5)
    folded = rewrite(network)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in folded.modules()) == 1
    again = unfold(Everything(), folded.state_dict(), torch.randn(8, 3, 6, 5))
    assert again.training
    with torch.no_grad():
        torch.testing.assert_close(again.eval()(x), network(x), atol=1e-4, rtol=1e-4)
    assert set(again.state_dict()) == set(network.state_dict())
    weight = again.first[1].weight
    torch.testing.assert_close(weight.pow(2).mean((1, 2, 3)).sqrt(), torch.full((6,), TRAINED))
    again.train()(x).sum().backward()
    assert all(parameter.grad is not None for parameter in again.parameters())


def test_weights_of_another_network_are_refused() -> None:
    weights = rewrite(trained()).state_dict()
    del weights["last.bias"]
    with pytest.raises(WeightsError, match=r"another network: 'last\.bias'"):
        unfold(Everything(), weights, torch.zeros(2, 3, 4, 4))
    weights = rewrite(trained()).state_dict() | {"place": torch.zeros(6, 1, 1)}
    with pytest.raises(WeightsError, match=r"place is \[6, 1, 1\], not \[1, 6, 1, 1\]"):
        unfold(Everything(), weights, torch.zeros(2, 3, 4, 4))


@pytest.mark.parametrize("name", ["lite", "urdgn"])
def test_training_begins_where_a_shipped_bundle_ended(name: str, archive: Path, tmp_path: Path) -> None:
    mix = Mix(unaligned=1) if name == "lite" else Mix(aligned=1)
    trainer = Trainer(Recipe(model=name, mix=mix, losses=Losses(mse=1), batch=2, steps=1), archive, tmp_path)
    assert trainer.start_from(Path(name)) == len(trainer.average)
    lr = np.random.default_rng(0).uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)
    with torch.no_grad():
        sr = trainer.model.eval()(torch.from_numpy(lr)).sr.numpy()
    np.testing.assert_allclose(sr, load(name, backend="onnxruntime", precision="fp32").run(lr).sr, atol=1e-3)
    trainer.model.train()
    trainer.save()
    again = Trainer(trainer.recipe, archive, tmp_path)
    again.resume()
    assert again.start == trainer.start == read_card(Path(models.__file__).parents[1] / "weights" / name).training


def test_a_packed_bundle_is_begun_with_and_its_card_says_so(archive: Path, tmp_path: Path) -> None:
    small = {"width": 16, "blocks": 2, "detail": 8, "stem": 8, "localisation": 8}
    recipe = Recipe(model="lite", hparams=small, mix=Mix(unaligned=1), losses=Losses(mse=1), batch=2, steps=1, validate_every=1)
    Trainer(recipe, archive, tmp_path / "a").fit()
    bundle = export("lite", tmp_path / "a" / "best.safetensors", tmp_path / "bundle", packed=True)
    trainer = Trainer(recipe, archive, tmp_path / "b")
    trainer.start_from(bundle)
    trainer.fit()
    card = read_card(export("lite", tmp_path / "b" / "best.safetensors", tmp_path / "again"))
    assert card.training.endswith(f"begun with a bundle's weights: {read_card(bundle).training}")


@pytest.mark.parametrize("name", ["lite", "srgan"])
def test_a_bundle_of_weights_that_are_equal_is_begun_with(name: str, archive: Path, tmp_path: Path) -> None:
    """A network that was hardly trained: of equal numbers a graph has one, of biases of 0 none, and a PReLU's have no name there."""
    small = {"width": 16, "blocks": 2, "detail": 8, "stem": 8, "localisation": 8} if name == "lite" else {}
    recipe = Recipe(model=name, hparams=small, mix=Mix(aligned=1), losses=Losses(mse=1), batch=2, steps=1)
    torch.manual_seed(1)
    network = models.create(name, **small)
    checkpoint.save(tmp_path / "best.safetensors", network.state_dict(), {"model": name, "hparams": small})
    bundle = export(name, tmp_path / "best.safetensors", tmp_path / "bundle")
    trainer = Trainer(recipe, archive, tmp_path / "run")
    assert trainer.start_from(bundle) == len(trainer.average)
    lr = torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        torch.testing.assert_close(trainer.model.eval()(lr).sr, network.eval()(lr).sr, atol=5e-3, rtol=0)


def test_a_bundle_that_lacks_a_number_is_named(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = Recipe(model="lite", mix=Mix(unaligned=1), losses=Losses(mse=1), batch=2, steps=1)
    trainer = Trainer(recipe, archive, tmp_path)
    weights = {key: value for key, value in bundle_weights("lite").items() if key != "up.weight"}
    monkeypatch.setattr(loop, "bundle_weights", lambda bundle: weights)
    with pytest.raises(WeightsError, match=r"^lite: these are weights of another network: 'up\.weight'"):
        trainer.start_from(Path("lite"))


def test_another_systems_bundle_and_none_are_refused(archive: Path, tmp_path: Path) -> None:
    trainer = Trainer(Recipe(model="lite", mix=Mix(unaligned=1), losses=Losses(mse=1), batch=2, steps=1), archive, tmp_path)
    with pytest.raises(WeightsError, match="urdgn is a bundle of urdgn, not of lite"):
        trainer.start_from(Path("urdgn"))
    with pytest.raises(UnknownModelError, match="no-such"):
        trainer.start_from(tmp_path / "no-such")


def test_a_bundles_numbers_are_the_networks() -> None:
    weights = bundle_weights("lite")
    assert weights["up.weight"].dtype == torch.float32 and {"position", "up.weight", "trunk.0.first.weight"} <= set(weights)
