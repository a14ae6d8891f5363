"""A network that grew computes what the narrow one did, and training goes on with it."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from archives import made_up_faces
from norms import shake_norms
from onnx import TensorProto, helper, load, save
from torch import Tensor, nn
from typer.testing import CliRunner

import training.__main__ as training_cli
from fhrt.errors import BadInputError, FhrtError, WeightsError
from fhrt.export import export
from fhrt.export.folder import checksums
from fhrt.models import create, system
from fhrt.models.csrip import CSRIP
from fhrt.protocols import make_pairs
from fhrt.runtime.bundle import GRAPH, WEIGHTS, read_card
from training import checkpoint
from training.grow import TOLERANCE, differ, grow, grow_from, own_sizes
from training.loop import Trainer
from training.recipe import Losses, Mix, Recipe
from training.unfold import calibrate

MTUN = {"width": 2, "contracting": 1, "hourglass": 4, "last": 2}
CSRIP_SMALL = {"width": 8, "blocks": [2, 1, 0], "tail": 0}
GROWTH = [
    ("urdgn", {"width": 16}, {"width": 72}),
    ("tdn", {"width": 16, "localisation": 5}, {"width": 40, "localisation": 12}),  # no whole multiples
    ("tdae", {"width": 16, "localisation": 4}, {"width": 32}),
    ("mtun", {**MTUN, "stacks": 1}, {"width": 5, "contracting": 2, "hourglass": 10, "last": 3, "stacks": 3}),
    ("mtun", {"width": 4, "hourglass": 4, "last": 8, "stacks": 2, "skip": 0, "autoencoder": 0}, {"width": 8, "stacks": 4}),
    ("csrip", CSRIP_SMALL, {"width": 24, "blocks": [3, 1, 1], "tail": 1}),
    ("csrip", {**CSRIP_SMALL, "cascade": 0, "multi_scale": 0}, {"width": 16, "blocks": [3, 1, 1]}),
]
NARROW = {
    "urdgn": {"width": 32},
    "tdn": {"width": 64, "localisation": 32},
    "tdae": {"width": 64, "localisation": 32},
    "mtun": {"width": 8, "hourglass": 16, "stacks": 1},
    "csrip": {"width": 64, "blocks": [6, 1, 0], "tail": 0},
}


def lr_faces(name: str, count: int) -> Tensor:
    protocol = system(name).protocol
    lr = make_pairs(made_up_faces(count), protocol, np.random.default_rng(0)).lr
    return torch.from_numpy(lr).float() / 127.5 - 1


def spread(pictures: Tensor) -> Tensor:
    """Of a picture's values about their channel's mean."""
    return (pictures - pictures.mean((2, 3), keepdim=True)).std()


def shaken(name: str, hparams: dict[str, object]) -> nn.Module:
    """A network with norms that are not at rest, transformers away from the identity and pictures that fill their range."""
    torch.manual_seed(0)
    network = create(name, **hparams).eval()
    shake_norms(network)
    for key, parameter in network.named_parameters():
        if key.endswith("fc2.weight"):
            nn.init.normal_(parameter, std=0.05)
    with torch.no_grad():
        last = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d) and layer.out_channels == 3][-1]
        last.weight /= spread(network(lr_faces(name, 1)).sr)
    return network


def check(name: str, narrow: nn.Module, grown: nn.Module) -> None:
    lr = lr_faces(name, 2)
    assert differ(narrow, grown, lr) <= TOLERANCE
    with torch.no_grad():
        output = narrow(lr)
    assert spread(output.sr) > 0.5
    if output.theta is not None:
        assert (output.theta - torch.eye(2, 3)).abs().max() > 1e-3


@pytest.mark.parametrize("noise", [0.0, 1.0])
@pytest.mark.parametrize(("name", "hparams", "sizes"), GROWTH, ids=str)
def test_what_grew_computes_the_same(name: str, hparams: dict[str, object], sizes: dict[str, object], noise: float) -> None:
    narrow = shaken(name, hparams)
    grown = grow(name, narrow, hparams, sizes, noise)
    wanted = create(name, **hparams | sizes)
    assert [(key, value.shape) for key, value in grown.state_dict().items()] == [
        (key, value.shape) for key, value in wanted.state_dict().items()
    ]
    check(name, narrow, grown)


@pytest.mark.slow  # C-SRIP's 50 M parameters alone take 10 seconds
@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("name", NARROW)
def test_it_computes_the_same_at_the_published_size(name: str, noise: float) -> None:
    narrow = shaken(name, NARROW[name])
    grown = grow(name, narrow, NARROW[name], own_sizes(name, narrow, {}), noise)
    create(name).load_state_dict(grown.state_dict())
    check(name, narrow, grown)


def test_every_stack_that_was_added_gives_the_heatmaps() -> None:
    narrow = shaken("mtun", {**MTUN, "stacks": 1})
    with torch.no_grad():
        grown, lr = grow("mtun", narrow, {**MTUN, "stacks": 1}, {"stacks": 3}), lr_faces("mtun", 1)
        (wanted,), every = narrow(lr).heatmaps, grown(lr).heatmaps
    assert len(every) == 3
    for heatmaps in every:
        torch.testing.assert_close(heatmaps, wanted, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_noise_tells_the_copies_of_a_channel_apart(noise: float) -> None:
    """By the gradients of what computes them, in a layer whose inputs and outputs are copies."""
    narrow = shaken("tdn", {"width": 16, "localisation": 4})
    grown = grow("tdn", narrow, {"width": 16, "localisation": 4}, {"width": 32}, noise)
    grown(lr_faces("tdn", 2)).sr.square().mean().backward()
    first, second = grown.conv3[0].weight.grad.chunk(2)
    apart = (first - second).abs().max() / first.abs().max()
    assert apart > 0.01 if noise else apart < 1e-4


def test_added_blocks_learn() -> None:
    narrow = shaken("csrip", CSRIP_SMALL)
    grown = grow("csrip", narrow, CSRIP_SMALL, {"blocks": [3, 1, 1]}).train()
    grown(lr_faces("csrip", 2)).sr.square().mean().backward()
    assert grown.sr_modules[0][2].layers[4].weight.grad.any()
    assert grown.sr_modules[2][0].layers[4].weight.grad.any()


def test_calibrated_norms_know_what_they_see_and_nothing_else_changes() -> None:
    narrow, lr = shaken("csrip", CSRIP_SMALL), lr_faces("csrip", 4)
    grown = grow("csrip", narrow, CSRIP_SMALL, {"blocks": [3, 1, 1], "tail": 1})
    names = ["sr_modules.0.2.layers.1", "sr_modules.0.2.layers.4", "tail.0.layers.1", "sr_modules.0.0.layers.1"]
    before = {name: grown.get_submodule(name).running_var.clone() for name in [*names, "sr_modules.0.1.layers.1"]}
    calibrate(grown, names, lr)
    assert not grown.training
    check("csrip", narrow, grown)
    for name, variance in before.items():
        assert (not torch.equal(grown.get_submodule(name).running_var, variance)) == (name in names)
    seen = []
    grown.tail[0].layers[1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        grown(lr)
    torch.testing.assert_close(grown.tail[0].layers[1].running_mean, seen[0].mean((0, 2, 3)), atol=1e-4, rtol=1e-4)


# -- from file to file ------------------------------------------------------------------------------------------------


def saved(folder: Path, name: str = "csrip", hparams: dict[str, object] | None = None) -> Path:
    hparams = CSRIP_SMALL if hparams is None else hparams
    about = {"model": name, "hparams": hparams, "step": 7, "data": "9 faces"}
    checkpoint.save(folder / "best.safetensors", shaken(name, hparams).state_dict(), about)
    return folder / "best.safetensors"


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(training_cli.app, ["grow", *map(str, arguments)])
    return done.exit_code, done.output.strip()


def recipe(**hparams: object) -> Recipe:
    return Recipe(model="csrip", hparams=hparams, mix=Mix(loose=1), losses=Losses(mse=1), batch=2, steps=1, validate_every=1)


def test_a_checkpoint_grows_trains_on_and_is_exported(archive: Path, tmp_path: Path) -> None:
    narrow, grown = saved(tmp_path), tmp_path / "new" / "grown.safetensors"
    code, said = run(narrow, "--width", 16, "--blocks", "3,1,1", "--set", "tail=1", "--noise", 0.5, "-o", grown)
    assert code == 0, said
    assert f"differs from {narrow} by at most" in said
    larger = {"width": 16, "blocks": [3, 1, 1], "tail": 1}
    assert checkpoint.load(grown)[1]["hparams"] == larger
    text = "9 faces, 7 steps; grown from width 8, blocks 2 1 0, tail 0"
    card = read_card(export("csrip", grown, tmp_path / "bundle"))
    assert (card.hparams, card.training) == (larger, text)

    trainer = Trainer(recipe(**larger), archive, tmp_path / "run")
    assert trainer.start_from(grown) == len(trainer.average)
    norm = trainer.model.get_submodule("tail.0.layers.1")
    assert not torch.equal(norm.running_var, torch.ones(2))  # calibrated
    check("csrip", shaken("csrip", CSRIP_SMALL), trainer.model.eval())
    trainer.model.train()
    trainer.fit()
    facts = checkpoint.load(tmp_path / "run" / "last.safetensors")[1]
    assert facts["grown"] == "width 8, blocks 2 1 0, tail 0"
    assert "unseen" not in facts
    grow_from(tmp_path / "run" / "last.safetensors", tmp_path / "again.safetensors", {"width": 24})
    assert checkpoint.load(tmp_path / "again.safetensors")[1]["grown"] == "width 8, blocks 2 1 0, tail 0, then width 16"


def test_a_narrow_bundle_begins_a_run_and_grows(archive: Path, tmp_path: Path) -> None:
    bundle = export("csrip", saved(tmp_path), tmp_path / "narrow")
    assert read_card(bundle).hparams == CSRIP_SMALL
    trainer = Trainer(recipe(**CSRIP_SMALL), archive, tmp_path / "run")
    assert trainer.start_from(bundle) == len(trainer.average)
    narrow = trainer.model.eval()

    grow_from(bundle, tmp_path / "grown.safetensors", {"width": 16})
    about = checkpoint.load(tmp_path / "grown.safetensors")[1]
    card = read_card(export("csrip", tmp_path / "grown.safetensors", tmp_path / "bundle"))
    assert card.training == "9 faces, 7 steps; grown from width 8"
    larger = Trainer(recipe(**about["hparams"]), archive, tmp_path / "larger")
    assert larger.start_from(tmp_path / "grown.safetensors") == len(larger.average)
    check("csrip", narrow, larger.model.eval())
    for name, norm in larger.model.named_modules():  # all have faces' statistics, which a bundle does not keep
        if isinstance(norm, nn.BatchNorm2d):
            torch.testing.assert_close(norm.running_mean[:2], narrow.get_submodule(name).running_mean[:2], atol=1e-3, rtol=1e-2)


def test_without_a_size_it_grows_to_the_published_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(CSRIP.__init__, "__defaults__", (24, 1, 1, (2, 2, 1), 1))  # the published one takes seconds
    difference = grow_from(saved(tmp_path), tmp_path / "grown.safetensors", {})
    assert difference <= TOLERANCE
    assert checkpoint.load(tmp_path / "grown.safetensors")[1]["hparams"] == {"width": 24, "blocks": [2, 2, 1], "tail": 1}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--width", 8), "csrip has these sizes already: width 8"),
        (("--blocks", "3,0,0"), "csrip can grow, but not shrink: blocks 2 1 0 is more than blocks 3 0 0"),
        (("--width", 12), "csrip: width must be a multiple of 8, at least 8, not 12"),
        (("--width", -16), "csrip: width must be a multiple of 8, at least 8, not -16"),
        (("--blocks", "7"), "csrip: blocks must be three whole numbers, one of each SR module, not 7"),
        (("--blocks", "7,many"), "a size is a whole number or several with commas, as width=32 or blocks=7,7,7, not blocks=7,many"),
        (("--stacks", 2), "csrip has no stacks that could grow, but width, blocks, tail"),
        (("--set", "cascade=1"), "csrip has no cascade that could grow, but width, blocks, tail"),
        (("--width", 16, "--noise", 2), "noise must be 0 to 1, not 2.0"),
    ],
)
def test_sizes_that_it_cannot_grow_to(options: tuple[object, ...], message: str, tmp_path: Path) -> None:
    assert run(saved(tmp_path), *options, "-o", tmp_path / "grown.safetensors") == (2, message)
    assert not (tmp_path / "grown.safetensors").exists()


def test_what_cannot_grow(tmp_path: Path) -> None:
    these = "urdgn, tdn, tdae, mtun, csrip"
    assert run("lite", "--width", 128, "-o", tmp_path / "x.safetensors") == (2, f"lite cannot grow; these can: {these}")
    assert run(saved(tmp_path / "srcnn", "srcnn", {}), "-o", tmp_path / "x.safetensors") == (2, f"srcnn cannot grow; these can: {these}")
    code, said = run("urdgn", "-o", tmp_path / "x.safetensors")
    assert (code, said) == (2, "urdgn has these sizes already: width 256")
    own = saved(tmp_path)
    assert run(own, "--width", 16, "-o", own) == (2, f"{own} is what shall grow: choose another file")
    with pytest.raises(FhrtError, match=r"^unknown model"):
        grow_from("nothing", tmp_path / "x.safetensors", {})
    with pytest.raises(WeightsError, match="is not a checkpoint"):
        grow_from(tmp_path / "none.safetensors", tmp_path / "x.safetensors", {})


def test_weights_of_another_system_are_refused(tmp_path: Path) -> None:
    tensors, about = checkpoint.load(saved(tmp_path, "urdgn", {"width": 16}))
    checkpoint.save(tmp_path / "other.safetensors", tensors, about | {"model": "tdn", "hparams": {}})
    with pytest.raises(WeightsError, match=r"^[^\n]*other\.safetensors is not a checkpoint of tdn[^\n]*$"):
        grow_from(tmp_path / "other.safetensors", tmp_path / "x.safetensors", {})
    bundle = export("urdgn", tmp_path / "best.safetensors", tmp_path / "bundle")
    card = json.loads((bundle / "card.json").read_text())
    (bundle / "card.json").write_text(json.dumps(card | {"name": "csrip", "hparams": {"width": 8}}))
    with pytest.raises(WeightsError, match=r"^[^\n]*: these are weights of another network[^\n]*$"):
        grow_from(bundle, tmp_path / "x.safetensors", {"width": 16})


def test_a_quantised_graph_is_refused(tmp_path: Path) -> None:
    bundle = export("urdgn", saved(tmp_path, "urdgn", {"width": 16}), tmp_path / "bundle")
    graph = load(bundle / GRAPH, load_external_data=False)
    graph.graph.initializer.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [0.1]))
    graph.graph.node.append(helper.make_node("QuantizeLinear", [graph.graph.input[0].name, "scale"], ["quantised"]))
    save(graph, bundle / GRAPH)
    card = json.loads((bundle / "card.json").read_text())
    (bundle / "card.json").write_text(json.dumps(card | {"sha256": checksums(bundle, GRAPH, WEIGHTS)}))
    with pytest.raises(BadInputError, match=r"^[^\n]* is quantised: grow the bundle that it was made of$"):
        grow_from(bundle, tmp_path / "x.safetensors", {"width": 32})
