"""The training loop on a handful of made-up faces: it learns, resumes exactly, refuses NaN and keeps its promises on disk."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from fhrt.errors import BadInputError, WeightsError
from fhrt.export import export
from fhrt.models import create
from training import __main__ as training_cli
from training import checkpoint, device, loop, losses, objective
from training.data import Batches, make_batch
from training.device import OnDevice
from training.faces import load_faces
from training.loop import DivergedError, Trainer
from training.recipe import Losses, Mix, Recipe, load_recipe, recipe_names

ROOT = Path(__file__).parent.parent.parent
SMALL = {"width": 16, "blocks": 2, "detail": 8, "stem": 4, "localisation": 8}


def recipe(**changes: object) -> Recipe:
    settings: dict[str, object] = {
        "model": "lite", "hparams": SMALL, "mix": Mix(aligned=0.5, unaligned=0.25, camera=0.25),
        "losses": Losses(l1=1, ssim=0.1, theta=1), "lr": 3e-3, "batch": 8, "steps": 40, "warmup": 5, "validate_every": 20,
    }  # fmt: skip
    return Recipe.model_validate(settings | changes)


def test_the_loss_falls(archive: Path, tmp_path: Path) -> None:
    trainer = Trainer(recipe(losses=Losses(l1=1, theta=1)), archive, tmp_path)
    batch = make_batch(trainer.faces, trainer.recipe.mix, 8, np.random.default_rng(0))
    losses = [trainer.train_step(batch)["l1"] for _ in range(40)]
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize("native", [True, False])
def test_bf16_only_where_the_cpu_has_it(
    native: bool, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(device, "_bf16_of_cpu", lambda: native)
    device.computes_bf16.cache_clear()
    try:
        for _ in range(2):
            trainer = Trainer(recipe(bf16=True, batch=2), archive, tmp_path / "run")
        batch = make_batch(trainer.faces, trainer.recipe.mix, 2, np.random.default_rng(0))
        dtypes = []
        trainer.model.trunk[0].first.register_forward_hook(lambda module, given, result: dtypes.append(result.dtype))
        trainer.train_step(batch)
        with device.in_bf16("cpu"):
            dtypes.append((torch.ones(2, 2) @ torch.ones(2, 2)).dtype)
    finally:
        device.computes_bf16.cache_clear()
    assert set(dtypes) == {torch.bfloat16 if native else torch.float32} and trainer.recipe.bf16 == native
    assert ["float32" in line for line in caplog.messages] == ([] if native else [True])


def test_a_dictionary_has_no_recipe(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="training dictionary mnce"):
        Trainer(recipe(model="mnce", hparams={}), archive, tmp_path)


@pytest.mark.parametrize(
    "changes", [{}, {"model": "mtun", "hparams": {"width": 8, "stacks": 1, "contracting": 8}}, {"model": "tdn", "hparams": {}}], ids=str
)
def test_the_localisation_learns_first_when_told(changes: dict[str, object], archive: Path, tmp_path: Path) -> None:
    trainer = Trainer(recipe(localise_steps=1, batch=2, **changes), archive, tmp_path)
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    batches = [make_batch(trainer.faces, trainer.recipe.mix, 2, np.random.default_rng(n)) for n in range(2)]
    assert set(trainer.train_step(batches[0])) == {"theta"}
    last = list(trainer.model.parameters())[-1]
    assert torch.equal(last, before[[name for name, _ in trainer.model.named_parameters()][-1]]), "the last layer makes pictures"
    assert set(trainer.train_step(batches[1])) == {"theta", "l1", "ssim"}


LOCALISED = [{}, {"model": "mtun", "hparams": {"width": 8, "stacks": 1}}, {"model": "tdn"}, {"model": "tdae", "stage": "decoder1"}]


@pytest.mark.parametrize("changes", LOCALISED, ids=str)
def test_the_corners_teach_the_localisation_alone_and_beside_the_picture(
    changes: dict[str, object], archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {"losses": Losses(mse=1, corners=0.05, theta=1)} | ({"hparams": {}} if changes else {}) | changes
    trainer = Trainer(recipe(localise_steps=1, batch=2, **changes), archive, tmp_path)
    looks = []
    monkeypatch.setattr(objective, "corner_loss", lambda *given: looks.append(given) or losses.corner_loss(*given))
    batch = make_batch(trainer.faces, trainer.recipe.mix, 2, np.random.default_rng(0))
    part = trainer.objective.module.part
    with torch.no_grad():
        theta = (part.eval().localise(batch.lr) if hasattr(part, "localise") else part.upright(batch.lr))[1]
    part.train()
    expected = 0.05 * float(losses.corner_loss(theta, batch.theta, 128))
    alone, joint = (trainer.train_step(batch) for _ in range(2))
    assert set(alone) == {"corners", "theta"} and set(joint) == {"corners", "theta", "mse"}
    twice = 1 if trainer.recipe.model == "mtun" else 2  # TDN and lite look twice, and each look is told; all begin as the identity
    assert len(looks) == 2 * twice and all(side == 128 for *_, side in looks)
    assert float(alone["corners"]) == pytest.approx(twice * expected, rel=1e-3)


@pytest.mark.parametrize("changes", [{"model": "urdgn", "hparams": {}}, {"losses": Losses(l1=1)}], ids=str)
def test_what_cannot_localise_is_not_told_to(changes: dict[str, object], archive: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="localise_steps needs a theta or corners loss and a network that localises"):
        Trainer(recipe(localise_steps=1, **changes), archive, tmp_path)


def norms_training(trainer: Trainer) -> dict[str, bool]:
    return {name: module.training for name, module in trainer.model.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}


def test_batch_norms_are_frozen_after_a_share_of_what_trains_them(archive: Path, tmp_path: Path) -> None:
    """Those of the localisation at half of the steps that it has alone, the others at half of the rest; also of a run that is resumed."""
    changes = {"model": "mtun", "hparams": {"width": 4, "stacks": 1}, "losses": Losses(mse=1, corners=0.05), "mix": Mix(unaligned=1)}
    settings = recipe(**changes, batch=2, steps=6, localise_steps=2, freeze_norms=0.5, validate_every=100)
    trainer = Trainer(settings, archive, tmp_path)
    batch = make_batch(trainer.faces, settings.mix, 2, np.random.default_rng(0))
    localising = {name: name.startswith(("encoder", "upsample")) for name in norms_training(trainer)}
    assert 0 < sum(localising.values()) < len(localising)
    for step in range(6):
        trainer.train_step(batch)
        assert norms_training(trainer) == {name: step < (1 if early else 4) for name, early in localising.items()}, step
        if step == 3:
            statistics = {key: value.clone() for key, value in trainer.model.state_dict().items() if "running" in key}
            weight = trainer.model.align[1].weight.detach().clone()
            trainer.validate()  # in evaluation, from which it comes back
            trainer.save()
    assert all(torch.equal(trainer.model.state_dict()[key], value) for key, value in statistics.items())
    assert not torch.equal(trainer.model.align[1].weight, weight), "scale and shift are trained on"
    resumed = Trainer(settings, archive, tmp_path)
    resumed.resume()
    assert resumed.step == 4 and all(norms_training(resumed).values())
    resumed.train_step(batch)
    assert not any(norms_training(resumed).values())
    with pytest.raises(BadInputError, match="freeze_norms needs a network with batch norms; lite has none"):
        Trainer(recipe(freeze_norms=0.5), archive, tmp_path)


def rates(settings: Recipe, epoch: int, steps: list[int]) -> list[float]:
    return [loop.learning_rate(step, settings, epoch) for step in steps]


def test_the_learning_rate_follows_the_papers_schedules() -> None:
    tdn, csrip = load_recipe("tdn"), load_recipe("csrip")
    assert rates(tdn, 100, [0, 99, 100, 250, 5000]) == pytest.approx([1e-3, 1e-3, 0.99e-3, 0.99**2 * 1e-3, 0.99**50 * 1e-3])
    expected = [0.01 / 3 / 3**done for done in (0, 0, 1, 1, 2, 3, 4)]
    assert rates(csrip, 10, [0, 99, 100, 249, 250, 500, 800]) == pytest.approx(expected, rel=1e-3)
    assert rates(recipe(steps=105, lr=1, lr_floor=0.1), 1, [0, 4, 5, 55, 105]) == pytest.approx([0.2, 1, 1, 0.55, 0.1])


def test_epochs_are_of_the_faces_that_there_are(archive: Path, tmp_path: Path) -> None:
    """Twelve faces in batches of five: three steps. The optimiser of the discriminator follows, and so does the adversarial weight."""
    changes = {"schedule": "exponential", "decay": 0.5, "warmup": 0, "lr": 1e-3, "steps": 10, "optimiser": "adam", "clip": None}
    settings = recipe(**changes, batch=5, losses=Losses(mse=1, adversarial=0.01, adversarial_decay=0.6))
    trainer = Trainer(settings, archive, tmp_path)
    batch, seen = make_batch(trainer.faces, settings.mix, 5, np.random.default_rng(0)), []
    for trainer.step in (2, 3, 6):
        trainer.train_step(batch)
        rates = (each.param_groups[0]["lr"] for each in (trainer.optimiser, trainer.critic_optimiser))
        seen.append((*rates, round(float(trainer.objective.module.adversarial), 6)))
    assert seen == [(1e-3, 1e-3, 0.01), (5e-4, 5e-4, 0.006), (2.5e-4, 2.5e-4, 0.005)]


def test_the_papers_optimisers(archive: Path, tmp_path: Path) -> None:
    adam = Trainer(recipe(optimiser="adam"), archive, tmp_path / "adam").optimiser.optimizer
    assert type(adam) is torch.optim.Adam and adam.defaults["betas"] == (0.9, 0.999) and adam.defaults["weight_decay"] == 0
    rmsprop = Trainer(recipe(optimiser="rmsprop", alpha=0.99), archive, tmp_path / "rmsprop").optimiser.optimizer
    assert type(rmsprop) is torch.optim.RMSprop and rmsprop.defaults["alpha"] == 0.99


def test_a_gradient_that_is_not_clipped(archive: Path, tmp_path: Path) -> None:
    """The first step of RMSprop is as long for any gradient, but for one so short that its ε outweighs it."""
    norms = []
    for clip in (None, 1e-12):
        trainer = Trainer(recipe(optimiser="rmsprop", clip=clip, warmup=0), archive, tmp_path / str(clip))
        before = trainer.model.up.weight.detach().clone()
        trainer.train_step(make_batch(trainer.faces, trainer.recipe.mix, 8, np.random.default_rng(0)))
        norms.append(float((trainer.model.up.weight.detach() - before).norm()))
    assert norms[0] > 10 * norms[1] > 0


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"schedule": "exponential"}, "schedule exponential takes decay, not none"),
        ({"schedule": "steps", "decay": 0.5}, "schedule steps takes decay and decay_epochs, not decay"),
        ({"decay": 0.5}, "schedule cosine takes neither decay nor decay_epochs, not decay"),
        ({"schedule": "steps", "decay": 0.5, "decay_epochs": [10, 5]}, r"decay_epochs must rise, not \[10, 5\]"),
        ({"schedule": "exponential", "decay": 0.5, "lr_floor": 0.1}, "lr_floor is of the cosine schedule, not of exponential"),
        ({"alpha": 0.99}, "alpha is of rmsprop, not of adamw"),
        ({"schedule": "linear"}, "schedule: Input should be"),
        ({"decay": 1.5, "schedule": "exponential"}, "decay: Input should be less than or equal to 1"),
        ({"freeze_norms": 1.0}, "freeze_norms: Input should be less than 1"),
        ({"losses": {"corners": -1}}, "losses.corners: Input should be greater than or equal to 0"),
        ({"losses": {"ssim": float("nan")}}, "losses.ssim: Input should be a finite number"),
    ],
    ids=str,
)
def test_what_is_wrong_with_a_recipe_is_one_line(changes: dict[str, object], words: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(yaml.safe_dump({"model": "lite", "mix": {"aligned": 1.0}, "losses": {"l1": 1.0}} | changes))
    with pytest.raises(BadInputError, match=words) as raised:
        load_recipe(str(path))
    assert len(str(raised.value).splitlines()) == 1


def test_a_resumed_run_ends_with_the_same_weights(archive: Path, tmp_path: Path) -> None:
    whole = Trainer(recipe(steps=8), archive, tmp_path / "whole")
    whole.fit()
    first = Trainer(recipe(steps=8), archive, tmp_path / "halves")
    batches = iter(Batches(first.source, first.recipe.mix, 8, 0))
    for _ in range(4):
        first.train_step(next(batches))
    first.save()
    second = Trainer(recipe(steps=8), archive, tmp_path / "halves")
    second.resume()
    assert second.step == 4
    second.fit()
    for key, value in whole.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[key], value, rtol=1e-5, atol=1e-7)


def test_averaged_weights_of_a_run_that_never_validated(archive: Path, tmp_path: Path) -> None:
    """They are what a validation would have kept, and export takes them."""
    trainer = Trainer(recipe(steps=3), archive, tmp_path)
    trainer.fit()
    assert not (tmp_path / "best.safetensors").exists()
    arguments = ["average", str(tmp_path / "last.safetensors"), "--out", str(tmp_path / "average.safetensors")]
    assert CliRunner().invoke(training_cli.app, arguments).exit_code == 0
    tensors, about = checkpoint.load(tmp_path / "average.safetensors")
    trainer.validate()
    best, described = checkpoint.load(tmp_path / "best.safetensors")
    assert tensors.keys() == best.keys() and all(torch.equal(tensors[key], value) for key, value in best.items())
    assert about == {key: value for key, value in described.items() if key != "validation"}
    assert export("lite", tmp_path / "average.safetensors", tmp_path / "bundle").is_dir()
    with pytest.raises(WeightsError, match="no averaged weights"):
        checkpoint.average(tmp_path / "best.safetensors", tmp_path / "none.safetensors")


def test_best_weights_say_what_they_are(archive: Path, tmp_path: Path) -> None:
    Trainer(recipe(steps=20), archive, tmp_path).fit()
    tensors, about = checkpoint.load(tmp_path / "best.safetensors")
    assert about["model"] == "lite" and about["hparams"] == SMALL and about["step"] == 20
    assert "trunk.0.first.conv.weight" in tensors
    assert (tmp_path / "sheet-000020.png").stat().st_size > 1000
    assert not list(tmp_path.glob("*.partial"))


def test_a_run_can_start_from_the_weights_of_a_smaller_one(archive: Path, tmp_path: Path) -> None:
    small = Trainer(recipe(hparams=SMALL | {"localisation": 4}), archive, tmp_path / "small")
    small.step = 3
    small.validate()
    large = Trainer(recipe(), archive, tmp_path / "large")
    weights, _ = checkpoint.load(tmp_path / "small" / "best.safetensors")
    taken = large.start_from(tmp_path / "small" / "best.safetensors")
    assert 0 < taken < len(weights)
    assert torch.equal(large.model.state_dict()["up.weight"], weights["up.weight"])
    assert torch.equal(large.average["up.weight"], weights["up.weight"]) and large.step == 0
    assert large.earlier_steps == small.step + small.earlier_steps
    checkpoint.save(tmp_path / "other.safetensors", {"nothing": torch.zeros(1)}, {})
    with pytest.raises(WeightsError, match="no weight of lite"):
        large.start_from(tmp_path / "other.safetensors")


def test_nan_stops_before_the_weights_are_touched(archive: Path, tmp_path: Path) -> None:
    trainer = Trainer(recipe(), archive, tmp_path)
    batch = make_batch(trainer.faces, trainer.recipe.mix, 8, np.random.default_rng(0))
    before = checkpoint.plain_state(trainer.model)
    with pytest.raises(DivergedError, match="step 0"):
        trainer.train_step(batch._replace(hr=batch.hr * float("nan")))
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[key])


def test_a_gradient_that_is_nan_stops_before_the_weights_are_touched(archive: Path, tmp_path: Path) -> None:
    trainer = Trainer(recipe(), archive, tmp_path)
    batch = make_batch(trainer.faces, trainer.recipe.mix, 8, np.random.default_rng(0))
    before = checkpoint.plain_state(trainer.model)
    next(trainer.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
    with pytest.raises(DivergedError, match="the gradient is nan at step 0"):
        trainer.train_step(batch)
    for key, value in trainer.model.state_dict().items():
        assert torch.equal(value, before[key]) or "running" in key or "num_batches" in key


ADVERSARIAL = {"model": "lite", "mix": Mix(unaligned=1), "losses": Losses(mse=1, adversarial=0.01), "optimiser": "rmsprop", "batch": 2}


@pytest.mark.parametrize("changes", [{}, ADVERSARIAL], ids=["adamw", "rmsprop, critic"])
def test_looking_seldom_changes_nothing(changes: dict[str, object], archive: Path, tmp_path: Path) -> None:
    """Losses looked at every third step, as on a device, give the same weights as looked at before every update."""
    trainers, losses = [], []
    for every in (1, 3):
        trainers.append(Trainer(recipe(steps=7, **changes), archive, tmp_path / str(every), check_every=every))
        losses.append(trainers[-1].fit())
    assert losses[1] == pytest.approx(losses[0], rel=1e-6) and len(losses[1]) == trainers[1].step == 7
    each, seldom = trainers
    for key, value in each._state().items():
        assert torch.equal(seldom._state()[key], value), key


def test_a_discriminator_that_is_too_good_is_left_alone(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    for every in (1, 3):
        trainer = Trainer(recipe(**ADVERSARIAL), archive, tmp_path / str(every), check_every=every)
        batch = make_batch(trainer.faces, trainer.recipe.mix, 2, np.random.default_rng(0))
        monkeypatch.setattr(loop, "TOO_GOOD", 0.0)
        trainer.train_step(batch)
        before = checkpoint.plain_state(trainer.critic.module)
        trainer.train_step(batch)
        moved = [key for key, value in trainer.critic.module.state_dict().items() if not torch.equal(value, before[key])]
        assert moved
        before = trainer._copied()
        monkeypatch.setattr(loop, "TOO_GOOD", 1e9)
        trainer.train_step(batch)
        after = trainer._state()
        assert all(torch.equal(after[key], value) for key, value in before.items() if key.startswith("critic"))
        assert not torch.equal(after["model.up.weight"], before["model.up.weight"])
        kept.append(after)
    assert all(torch.equal(kept[1][key], value) for key, value in kept[0].items())


def test_nan_found_late_takes_the_run_back(archive: Path, tmp_path: Path) -> None:
    """The steps since the last look are undone, the optimisers' state and the average included, and saved."""
    trainer = Trainer(recipe(**ADVERSARIAL), archive, tmp_path, check_every=4)
    batches = [make_batch(trainer.faces, trainer.recipe.mix, 2, np.random.default_rng(n)) for n in range(4)]
    for batch in batches[:2]:
        trainer.train_step(batch)
    assert [set(terms) for terms in trainer.check()] == 2 * [{"mse", "adversarial"}]
    before = trainer._copied()
    trainer.train_step(batches[2])
    trainer.train_step(batches[3]._replace(hr=batches[3].hr * float("nan")))
    trainer.train_step(batches[3])
    with pytest.raises(DivergedError, match="the loss is nan at step 3"):
        trainer.check()
    assert trainer.step == 2
    assert all(torch.equal(trainer._state()[key], value) for key, value in before.items())
    resumed = Trainer(recipe(**ADVERSARIAL), archive, tmp_path, check_every=4)
    resumed.resume()
    assert resumed.step == 2
    assert all(torch.equal(resumed._state()[key], value) for key, value in before.items())
    with pytest.raises(DivergedError, match="the gradient is nan at step 2"):
        next(resumed.model.parameters()).register_hook(lambda gradient: gradient * float("nan"))
        resumed.train_step(batches[2])
        resumed.check()


@pytest.mark.parametrize(
    "mix", [Mix(aligned=0.3, unaligned=0.3, noisy=0.2, camera=0.2, jitter=0.1, shift=0.07), Mix(loose=1)], ids=["tight", "loose"]
)
def test_batches_of_a_device_are_those_of_the_memory(mix: Mix, archive: Path, tmp_path: Path) -> None:
    """The same faces, poses and damage; LR faces to a grey level, and that seldom. The device here is the CPU."""
    faces = load_faces(with_labels(archive, tmp_path / "data"), "train", tmp_path / "cache", landmarks=True, people=True)
    source = OnDevice(faces, torch.device("cpu"))
    for seed in range(3):
        expected = make_batch(faces, mix, 10, np.random.default_rng(seed))
        given = source.finish(source.prepare(mix, 10, np.random.default_rng(seed)))
        for name in ("theta", "points", "visible", "identity"):
            assert torch.equal(getattr(given, name), getattr(expected, name)), name
        torch.testing.assert_close(given.hr, expected.hr, rtol=0, atol=1e-6)
        difference = (given.lr - expected.lr).abs() * 127.5
        assert difference.max() < 1.01 and (difference > 0.01).float().mean() < 0.005


def with_labels(archive: Path, folder: Path) -> Path:
    """The archive with landmarks (every face has the same 68 points) and identities beside the shards."""
    shutil.copytree(archive, folder)
    keys = [f"train-{shard:02d}_{number:05d}" for shard, count in ((0, 5), (1, 7)) for number in range(count)]
    points = np.tile(np.random.default_rng(0).uniform(50, 140, (68, 2)), (12, 1, 1)).astype(np.float32)
    np.savez(folder / "landmarks.npz", key=keys, points=points, visible=np.ones((12, 68), bool))
    rows = (f"{key},train,{number % 3}" for number, key in enumerate(keys))
    (folder / "index.csv").write_text("\n".join(["key,split,identity", *rows]) + "\n")
    return folder


@pytest.mark.parametrize("name", [name for name in recipe_names() if "/" not in name or name.startswith("tdae/")])
def test_every_recipe_makes_a_step(name: str, archive: Path, tmp_path: Path) -> None:
    small = {"hparams": {"width": 16}} if name == "csrip" else {}  # the whole takes a minute and 4 GB
    settings = load_recipe(name).model_copy(update={"batch": 2, "localise_steps": 0, "steps": 1} | small)
    features = write_vgg(tmp_path / "vgg.safetensors") if settings.losses.feature else None
    trainer = Trainer(settings, with_labels(archive, tmp_path / "data"), tmp_path / "run", features=features)
    terms = trainer.train_step(make_batch(trainer.faces, settings.mix, 2, np.random.default_rng(0)))
    assert all(np.isfinite(value) for value in terms.values()) and trainer.step == 1
    assert ("feature" in terms) == bool(settings.losses.feature)


def write_vgg(path: Path) -> Path:
    """VGG-19's first convolutions as torchvision names them, with small random weights."""
    places = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256)}
    layers = {f"features.{place}": torch.nn.Conv2d(*channels, 3).state_dict() for place, channels in places.items()}
    save_file({f"{name}.{key}": value for name, state in layers.items() for key, value in state.items()}, path)
    return path


@pytest.mark.parametrize("name", [name for name in recipe_names() if load_recipe(name).losses.feature])
def test_a_recipe_with_a_feature_loss_wants_its_network(name: str, archive: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(training_cli.app, ["fit", name, "--data", str(archive), "--out", str(tmp_path / "run"), "--limit", "2"])
    assert done.exit_code == 2 and "recipe has a feature loss: give VGG-19's weights with --features FILE" in done.output
    assert len(done.output.strip().splitlines()) == 1


@pytest.mark.parametrize("name", [name for name in recipe_names() if "/" in name and not name.startswith("tdae/")])
def test_a_row_of_an_ablation_changes_what_it_says(name: str) -> None:
    row, whole = load_recipe(name), load_recipe(name.partition("/")[0])
    changed = {key for key in type(row).model_fields if getattr(row, key) != getattr(whole, key)}
    assert changed and changed <= {"hparams", "losses"}
    assert len(changed) == 1 or name.startswith("csrip/")  # whose table adds one thing after another
    create(row.model, **row.hparams | ({"width": 16} if row.model == "csrip" else {}))


def test_bad_recipes_and_checkpoints(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="lite"):
        load_recipe("no-such")
    bad = tmp_path / "bad.yaml"
    bad.write_text("model: lite\nmix: {aligned: 1}\nlosses: {l3: 1}\n")
    with pytest.raises(BadInputError, match="l3"):
        load_recipe(str(bad))
    bad.write_text("- not settings\n")
    with pytest.raises(BadInputError, match="no settings"):
        load_recipe(str(bad))
    bad.write_text("base: no-such\n")
    with pytest.raises(BadInputError, match="no-such"):
        load_recipe(str(bad))
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(b"\x10\x00\x00\x00\x00\x00\x00\x00{}")
    with pytest.raises(WeightsError, match="torn"):
        checkpoint.load(torn)


def test_heatmaps_are_learnt_from_landmarks(archive: Path, tmp_path: Path) -> None:
    settings = recipe(
        model="mtun",
        hparams={"width": 8, "contracting": 8, "heatmap_side": 16},
        mix=Mix(unaligned=1),
        losses=Losses(mse=1, heatmap=1, theta=0.1),
        batch=4,
        lr=1e-3,
    )
    with pytest.raises(BadInputError, match="landmarks"):
        Trainer(settings, archive, tmp_path / "without")
    data = with_labels(archive, tmp_path / "data")
    trainer = Trainer(settings, data, tmp_path / "run")
    batch = make_batch(trainer.faces, settings.mix, 4, np.random.default_rng(0))
    losses = [trainer.train_step(batch)["heatmap"] for _ in range(25)]
    assert losses[-1] < 0.8 * losses[0]


def test_a_mix_is_of_one_size() -> None:
    for shares in ({}, {"aligned": 0.5, "loose": 0.5}):
        with pytest.raises(ValueError, match="one size"):
            Mix(**shares)
    assert Mix(loose=1).shares() == {"loose": 1}


@pytest.mark.parametrize(("name", "stage"), [("tdae/decoder1", "decoder1"), ("tdae/encoder", "encoder"), ("tdae", "decoder2")])
def test_a_stage_changes_its_own_weights_only(name: str, stage: str, archive: Path, tmp_path: Path) -> None:
    settings = load_recipe(name).model_copy(update={"batch": 2, "steps": 1, "validate_every": 1})
    trainer = Trainer(settings, archive, tmp_path)
    before = checkpoint.plain_state(trainer.model)
    trainer.fit()
    changed = {key.split(".")[0] for key, value in trainer.model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {stage}
    assert (tmp_path / "best.safetensors").is_file()


def test_a_stage_that_is_not_there(archive: Path, tmp_path: Path) -> None:
    for changes in ({"stage": "decoder3", "model": "tdae", "hparams": {}}, {"stage": "trunk"}):
        with pytest.raises(BadInputError, match="no stage"):
            Trainer(recipe(**changes), archive, tmp_path)


def test_no_run_goes_on_with_another_recipes_checkpoint(archive: Path, tmp_path: Path) -> None:
    trainer = Trainer(recipe(), archive, tmp_path)
    with pytest.raises(WeightsError, match="last"):
        trainer.resume()
    trainer.save()
    for changes, words in (
        ({"hparams": SMALL | {"blocks": 4}}, "hparams"),
        ({"model": "urdgn", "hparams": {}}, "model"),
        ({"losses": Losses(l1=1, adversarial=0.1)}, "discriminator"),
    ):
        with pytest.raises(WeightsError, match=words):
            Trainer(recipe(**changes), archive, tmp_path).resume()


def test_stops_when_nothing_improves(archive: Path, tmp_path: Path) -> None:
    trainer = Trainer(recipe(validate_every=2, patience=3, steps=40, lr=1e-12), archive, tmp_path)
    trainer.best, trainer.best_step = 1e9, 1  # nothing will beat it
    trainer.fit()
    assert trainer.step == 7


def test_what_is_logged(archive: Path, tmp_path: Path) -> None:
    Trainer(recipe(steps=50, validate_every=50), archive, tmp_path).fit()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss/l1", "loss/ssim", "loss/theta", "validation/aligned_psnr"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss/l1")] == [50]


def test_bad_devices(archive: Path, tmp_path: Path) -> None:
    for arguments in ({"device": "tpu"}, {"device": "cuda:1", "devices": 2}, {"device": "cuda:x"}):
        with pytest.raises(BadInputError, match="device must be"):
            Trainer(recipe(), archive, tmp_path, **arguments)


@pytest.mark.parametrize("name", ["last", "best"])
def test_a_folder_that_holds_a_run_is_refused(name: str, archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    earlier = tmp_path / "runs" / "small" / f"{name}.safetensors"
    earlier.parent.mkdir(parents=True)
    earlier.write_bytes(b"a day's work")
    (tmp_path / "small.yaml").write_text(f"model: lite\nhparams: {SMALL}\nmix: {{unaligned: 1}}\nlosses: {{l1: 1}}\nbatch: 2\nsteps: 1\n")
    arguments = ["fit", "small.yaml", "--data", str(archive)]
    for options in ([], ["--out", "runs/small"]):
        done = CliRunner().invoke(training_cli.app, arguments + options)
        assert done.exit_code == 2 and "runs/small holds a run already: go on with it by --resume" in done.output
    assert earlier.read_bytes() == b"a day's work"
    assert CliRunner().invoke(training_cli.app, [*arguments, "--out", "runs/other"]).exit_code == 0


def test_a_run_that_has_a_best_can_be_resumed(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(recipe(steps=3, validate_every=1), archive, tmp_path)
    monkeypatch.setattr(trainer, "_stuck", lambda: trainer.step // (1 - trainer.step))  # ends without a word after the first step
    with pytest.raises(ZeroDivisionError):
        trainer.fit()
    again = Trainer(trainer.recipe, archive, tmp_path)
    again.resume()
    assert again.step == 1 and (tmp_path / "best.safetensors").is_file()


def test_a_folder_that_cannot_be_is_refused(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for out in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(BadInputError, match=f"cannot make the folder {out}: "):
            Trainer(recipe(), archive, out)


@pytest.mark.parametrize("command", [["identity", "--scale", "2"], ["recognition"], ["dictionary", "mnce"]])
def test_a_place_or_a_device_that_cannot_be_is_refused_before_the_work(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for options, words in ((["--out", str(tmp_path / "file" / "run")], "cannot make the folder"), (["--device", "foo"], "device must be")):
        # Without faces: they would be asked for next.
        arguments = [*command, "--data", str(tmp_path), "--out", str(tmp_path / "out"), *options]
        done = CliRunner().invoke(training_cli.app, arguments)
        assert done.exit_code == 2 and words in done.output and len(done.output.splitlines()) == 1


def test_options_that_would_do_nothing_are_refused(archive: Path, tmp_path: Path) -> None:
    for options, words in (
        (["--features", "/nope.pth"], "lite has no feature loss, for which /nope.pth is"),
        (["--identity", "/nope"], "lite has no identity loss, for which /nope is"),
        (["--resume", "--start", "lite"], "--resume goes on with a run and --start begins one: choose one of them"),
    ):
        done = CliRunner().invoke(training_cli.app, ["fit", "lite", "--data", str(archive), "--out", str(tmp_path / "run"), *options])
        assert done.exit_code == 2 and done.output.strip() == words
    assert not (tmp_path / "run").exists()


def test_two_processes_share_a_step(archive: Path, tmp_path: Path) -> None:
    """DDP on the CPU: as many steps, other batches in each process, one set of weights."""
    (tmp_path / "two.yaml").write_text(
        f"model: lite\nhparams: {SMALL}\nmix: {{unaligned: 1}}\nlosses: {{l1: 1, theta: 1}}\nbatch: 2\nsteps: 3\nlocalise_steps: 1\n"
        "validate_every: 3\n"
    )
    # Every process runs this file again. The checkout comes last on the path, so that `fhrt` is the installed package.
    script = tmp_path / "run.py"
    script.write_text(f"import sys\nsys.path.append({str(ROOT)!r})\nfrom training.__main__ import app\napp()\n")
    command = [sys.executable, str(script), "fit", str(tmp_path / "two.yaml"), "--data", str(archive), "--out", str(tmp_path / "run")]
    done = subprocess.run([*command, "--devices", "2"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    _, about = checkpoint.load(tmp_path / "run" / "best.safetensors")
    assert about["step"] == 3
    assert (tmp_path / "run" / "log.txt").read_text().count("step 3") == 1


def test_a_fast_run_says_whether_the_loss_falls(archive: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_cli, "FAST_SECONDS", 6.0)
    (tmp_path / "small.yaml").write_text(f"model: lite\nhparams: {SMALL}\nmix: {{aligned: 1}}\nlosses: {{l1: 1}}\nlr: 3.0e-3\n")
    arguments = ["fit", str(tmp_path / "small.yaml"), "--data", str(archive), "--out", str(tmp_path / "run"), "--fast"]
    good = CliRunner().invoke(training_cli.app, arguments)
    assert good.exit_code == 0 and "the loss went from" in good.output
    monkeypatch.setitem(training_cli.FAST, "lr", 1e-30)
    monkeypatch.setitem(training_cli.FAST, "seed", 3)
    monkeypatch.chdir(tmp_path)
    arguments = ["fit", "small.yaml", "--data", str(archive), "--fast", "--steps", "2"]
    for _ in range(2):  # its own folder is written over, no other
        assert "2 steps: the loss went from" in CliRunner().invoke(training_cli.app, arguments).output
    assert (tmp_path / "runs" / "small-fast" / "last.safetensors").is_file()
    again = CliRunner().invoke(training_cli.app, [*arguments, "--out", "run"])
    assert again.exit_code == 2 and "run holds a run already" in again.output


def test_throughput_says_what_holds_it_up(tmp_path: Path) -> None:
    (tmp_path / "small.yaml").write_text(f"model: lite\nhparams: {SMALL}\nmix: {{unaligned: 1}}\nlosses: {{l1: 1, theta: 1}}\n")
    report = tmp_path / "report.json"
    arguments = ["throughput", str(tmp_path / "small.yaml"), "--batch", "4", "--seconds", "0.2", "--json", str(report)]
    done = CliRunner().invoke(training_cli.app, arguments)
    assert done.exit_code == 0, done.output
    (row,) = json.loads(report.read_text())["rows"]
    assert row["batch"] == 4 and not row["captured"] and not row["faces_on_device"]
    assert row["bound_by"] == ("data" if row["data_faces_per_s"] < row["step_faces_per_s"] else "step")
    # Forward and backward take about three times the forward, of which the card of the whole network says how much it is.
    assert 0.001 < row["gflop_per_face"] < 0.1 and row["tflops"] == pytest.approx(1e-3 * row["gflop_per_face"] * row["faces_per_s"])
    assert 0 < row["share_of_peak"] < 1
    # The identity term is measured where its networks are given.
    done = CliRunner().invoke(training_cli.app, ["throughput", "csrip", "--identity", str(tmp_path)])
    assert done.exit_code == 2 and "identity-2x.safetensors" in done.output
