"""Neighbour embedding and MNCE: the weights solve the stated problems, the regularisation its equation, and known faces come back."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from fhrt.errors import BadInputError, WeightsError
from fhrt.export.rewrite import rewrite
from fhrt.models.denoiser import DILATIONS, Denoiser, Reduction, regularise
from fhrt.models.layers import ModelOutput
from fhrt.models.mnce import MNCE, AllFaces, MNCERidge, NearestFaces
from fhrt.models.neighbours import (
    LCR,
    LLE,
    Codes,
    Components,
    affine_weights,
    embed,
    fading,
    five_components,
    locality_weights,
    nearest,
    position_patches,
    solve,
)
from fhrt.resample import resize
from training import __main__ as training_cli
from training import checkpoint
from training.dictionary import _take_denoiser, build_embedding, build_mnce, read_pairs, train_denoiser
from training.unfold import bundle_weights

SMALL = {"faces": 12, "neighbours": 5, "features": 4, "targets": 4, "side": 32, "stride": 8}


def smooth(count: int, side: int) -> Tensor:
    """Random pictures [count, 3, side, side] about as smooth as faces."""
    coarse = np.random.default_rng(0).uniform(-0.9, 0.9, (count, 3, 6, 6)).astype(np.float32)
    return torch.from_numpy(resize(coarse, (side, side)))


def distances(query: Tensor, neighbours: Tensor) -> Tensor:
    return (neighbours - query[..., None, :]).square().sum(-1)


@pytest.mark.parametrize("count", [4, 15])  # fewer neighbours than numbers, and more
def test_locality_weights_solve_their_least_squares(count: int) -> None:
    torch.manual_seed(0)
    query, neighbours, strength = torch.randn(2, 3, 8), torch.randn(2, 3, count, 8), 0.3
    squared = distances(query, neighbours)
    ours = locality_weights(query, neighbours, squared, strength)
    # ‖q − Nᵀw‖² + λ‖d ⊙ w‖² as one tall system of its own
    tall = torch.cat([neighbours.mT, torch.diag_embed((strength * fading(squared)).sqrt())], -2).double()
    right = torch.cat([query, torch.zeros(2, 3, count)], -1).double()
    wanted = torch.linalg.lstsq(tall, right[..., None]).solution[..., 0]
    torch.testing.assert_close(ours, wanted.float(), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("count", [6, 15])
def test_affine_weights_solve_theirs(count: int) -> None:
    torch.manual_seed(1)
    query, neighbours = torch.randn(4, 8), torch.randn(4, count, 8)
    penalty = 0.3 * distances(query, neighbours)
    ours = affine_weights(query, neighbours, penalty)
    # w_1 = 1 − the others leaves a free least-squares problem
    base, others = neighbours[:, :1], neighbours[:, 1:] - neighbours[:, :1]
    root = penalty.sqrt()
    rows = torch.diag_embed(root[:, 1:])
    tall = torch.cat([others.mT, rows, -root[:, :1, None].expand(-1, 1, count - 1)], 1)
    right = torch.cat([query - base[:, 0], torch.zeros(4, count - 1), -root[:, :1]], 1)
    wanted = torch.linalg.lstsq(tall.double(), right.double()[..., None]).solution[..., 0].float()
    torch.testing.assert_close(ours.sum(1), torch.ones(4))
    torch.testing.assert_close(ours[:, 1:], wanted, atol=1e-4, rtol=1e-3)


def test_elimination_solves() -> None:
    torch.manual_seed(2)
    half, right = torch.randn(3, 5, 24, 24), torch.randn(3, 5, 24, 2)
    system = half @ half.mT + 0.1 * torch.eye(24)
    torch.testing.assert_close(solve(system.double(), right.double()), torch.linalg.solve(system.double(), right.double()))
    assert (system @ solve(system, right) - right).abs().max() < 1e-2


def test_nothing_jumps_when_another_face_becomes_the_last_neighbour() -> None:
    """On a line through the dictionary a ten times smaller step moves the weighted sum ten times less, at the worst place too."""
    torch.manual_seed(3)
    entries, line = torch.randn(1, 40, 8, dtype=torch.float64), torch.randn(2, 8, dtype=torch.float64)
    embeddings = {
        "mnce": lambda *given: locality_weights(*given, 0.3),
        "lle": LLE(faces=40, neighbours=12).weights,
        "lcr": LCR(faces=40, neighbours=12).weights,
    }
    for name, weights in embeddings.items():
        furthest = []
        for steps in (2_000, 20_000):
            share = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:, None]
            queries = ((1 - share) * line[0] + share * line[1])[None]
            squared, indices = nearest(queries, entries, 12)
            found = entries[0][indices]
            sums = (weights(queries, found, squared)[..., None, :] @ found)[0, :, 0]
            furthest.append((sums[1:] - sums[:-1]).norm(dim=1).max().item())
        assert furthest[1] < 0.2 * furthest[0], name


def test_weights_survive_flushed_denormals() -> None:
    query, neighbours = torch.randn(3, 40, 8), torch.randn(3, 40, 20, 8)
    wanted = locality_weights(query, neighbours, distances(query, neighbours), 0.1)
    torch.set_flush_denormal(True)
    try:
        ours = locality_weights(query, neighbours, distances(query, neighbours), 0.1)
    finally:
        torch.set_flush_denormal(False)
    torch.testing.assert_close(ours, wanted)


def test_the_nearest_are_found_and_one_can_be_left_out() -> None:
    entries = torch.randn(2, 9, 3)
    squared, indices = nearest(entries, entries, 1)
    assert torch.equal(indices[..., 0], torch.arange(9).expand(2, 9))
    assert squared.max() < 1e-4
    left = nearest(entries, entries, 8, torch.arange(9))[1]
    assert not (left == torch.arange(9)[:, None]).any()
    torch.testing.assert_close(nearest(entries, entries, 9)[0].sort(2).values, torch.cdist(entries, entries).square().sort(2).values)
    with pytest.raises(BadInputError, match="neighbours"):
        nearest(entries, entries, 10)
    with pytest.raises(BadInputError, match="8 faces"):
        nearest(entries, entries, 9, torch.arange(9))


@pytest.mark.parametrize(
    "shares", [position_patches(16, 4), position_patches(16, 2, 1), position_patches(64, 8, 2), five_components(64), five_components(32)]
)
def test_a_layout_covers_the_picture_and_blends_back(shares: Tensor) -> None:
    torch.testing.assert_close(shares.sum(0), torch.ones_like(shares[0]))
    assert (shares >= 0).all() and (shares.flatten(1).amax(1) > 0.4).all()
    components, picture = Components(shares), torch.randn(2, 3, *shares.shape[1:])
    torch.testing.assert_close(components.put(components.take(picture)), picture)


def test_shares_with_a_hole_and_a_stride_that_does_not_fit_are_refused() -> None:
    with pytest.raises(BadInputError, match="sum to one"):
        Components(position_patches(16, 4)[1:])
    with pytest.raises(BadInputError, match="stride"):
        position_patches(16, 5)


def test_codes_keep_what_the_coefficients_can() -> None:
    torch.manual_seed(0)
    parts = torch.randn(2, 30, 3) @ torch.randn(2, 3, 10) + 5  # three numbers in disguise
    codes = Codes(2, 10, 30, 3)
    codes.fit(parts)
    assert codes.codes.dtype == torch.uint8 and codes.basis.dtype == torch.float16
    torch.testing.assert_close(codes.decode(codes.entries()), parts, atol=0.1, rtol=0)
    torch.testing.assert_close(codes.decode(codes.encode(parts)), parts, atol=0.03, rtol=0)
    with pytest.raises(BadInputError, match="30 faces"):
        codes.fit(parts[:, :7])


def test_the_denoiser_is_the_network_of_the_paper() -> None:
    denoiser = Denoiser()
    convs = [layer for layer in denoiser.layers if isinstance(layer, nn.Conv2d)]
    assert [conv.dilation[0] for conv in convs] == list(DILATIONS) == [1, 2, 3, 4, 3, 2, 1]
    assert [type(layer).__name__ for layer in denoiser.layers] == [
        "Conv2d", "ReLU", *["Conv2d", "BatchNorm2d", "ReLU"] * 5, "Conv2d"
    ]  # fmt: skip
    weights = 3 * 64 * 9 + 64 + 5 * (64 * 64 * 9 + 64 + 2 * 64) + 64 * 3 * 9 + 3
    assert sum(parameter.numel() for parameter in denoiser.parameters()) == weights
    nn.init.zeros_(convs[-1].weight)
    nn.init.constant_(convs[-1].bias, 0.25)
    picture = torch.randn(1, 3, 20, 12)
    torch.testing.assert_close(denoiser.eval()(picture), picture - 0.25)


def test_the_denoiser_learns() -> None:
    torch.manual_seed(0)
    denoiser, faces = Denoiser(32), smooth(16, 24)
    noisy = faces + 0.3 * torch.randn_like(faces)
    train_denoiser(denoiser, faces, 300)  # the deep network's start is slow: nothing is seen of it before 200 steps
    with torch.no_grad():
        assert (denoiser(noisy) - faces).square().mean() < 0.9 * (noisy - faces).square().mean()
    with pytest.raises(BadInputError, match="faces and steps"):
        train_denoiser(denoiser, faces, 0)


@pytest.mark.parametrize("side", [64, 128])
def test_the_reduction_is_the_resampler(side: int) -> None:
    reduction, picture = Reduction(16, side), smooth(2, side)
    wanted = torch.from_numpy(resize(picture.numpy(), (16, 16)))
    torch.testing.assert_close(reduction(picture), wanted)
    torch.testing.assert_close((reduction.left * reduction.singular) @ reduction.right.mT, reduction.matrix)
    torch.testing.assert_close(reduction.enlarge(wanted), torch.from_numpy(resize(wanted.numpy(), (side, side))))


@pytest.mark.parametrize("strength", [1e-4, 1e-2, 1.0])
def test_the_linear_step_solves_its_equation(strength: float) -> None:
    reduction, lr, prior = Reduction(), smooth(2, 16), smooth(2, 128)
    x = reduction.solve(lr, prior, strength)
    back = reduction.matrix.mT @ (reduction(x) - lr) @ reduction.matrix  # Hᵀ(Hx − y)
    torch.testing.assert_close(back + strength * (x - prior), torch.zeros_like(x), atol=1e-5, rtol=0)


def test_regularisation_goes_the_stated_steps() -> None:
    reduction, lr = Reduction(16, 32), smooth(2, 16)
    enlarged = reduction.enlarge(lr)
    assert torch.equal(regularise(lr, torch.neg, reduction, 0.1, 0), enlarged)
    twice = reduction.solve(lr, -reduction.solve(lr, -enlarged, 0.1), 0.1)
    torch.testing.assert_close(regularise(lr, torch.neg, reduction, 0.1, 2), twice)
    with pytest.raises(BadInputError, match="strength"):
        regularise(lr, torch.neg, reduction, 0.0, 1)


@pytest.mark.parametrize("shares", [position_patches(16, 4), position_patches(16, 4, 1), five_components(16)])
def test_a_face_of_the_dictionary_comes_back(shares: Tensor) -> None:
    torch.manual_seed(0)
    x, truth = smooth(20, 16), smooth(20, 16) + 0.2 * torch.randn(20, 3, 16, 16)
    layer = NearestFaces(shares, 20, 6, 0.1, 16, 20)
    layer.build(x, truth)
    with torch.no_grad():
        known, others = layer(x), layer.leave_one_out(x)
    assert (known - truth).abs().max() < 0.02
    assert (others - truth).square().mean() > 50 * (known - truth).square().mean()


@pytest.mark.parametrize("kind", [LLE, LCR])
def test_a_face_of_the_baselines_dictionary_comes_back(kind: type[LLE] | type[LCR]) -> None:
    lr = torch.rand(80, 3, 16, 16) * 1.8 - 0.9
    hr = smooth(80, 32) + 0.3 * torch.rand(80, 1, 1, 1)
    model = kind(faces=80, neighbours=5, targets=70, side=32)
    model.build(lr, hr)
    with torch.no_grad():
        sr = model(lr[:3]).sr
    wanted = torch.from_numpy(resize(hr[:3].numpy(), (128, 128)))
    assert sr.shape == (3, 3, 128, 128)
    assert (sr - wanted).abs().max() < 0.05


def test_the_first_layer_learns_what_is_linear_and_leaves_faces_out() -> None:
    torch.manual_seed(0)
    layer, x = AllFaces(32, 1), torch.randn(300, 3, 32, 32)
    truth = x + 0.5 * Reduction(16, 32).enlarge(layer.reduction(x)).roll(2, 3) + 0.1
    inverse = layer.fit(x, truth, 1e-3)
    inner = (slice(None), slice(None), slice(8, 24), slice(8, 24))  # where roll does not wrap and the window holds what it needs
    assert (layer(x) - truth)[inner].square().mean() < 0.2 * (x - truth)[inner].square().mean()

    number = 7
    rest = torch.arange(300) != number
    left = layer.leave_one_out(x, truth, inverse)[number]
    other = AllFaces(32, 1)
    other.fit(x[rest], truth[rest], 1e-3)
    torch.testing.assert_close(left, other(x[number : number + 1])[0], atol=0.02, rtol=0)


@pytest.mark.parametrize("kind", [MNCE, MNCERidge])
@pytest.mark.parametrize("changes", [{"steps": 1}, {"layers": 2, "layout": "patches", "overlap": 2, "steps": 2}])
def test_a_batch_is_its_faces_one_by_one(kind: type[MNCE], changes: dict[str, object]) -> None:
    torch.manual_seed(0)
    model, lr = kind(**{**SMALL, **changes}).eval(), smooth(40, 16)
    with torch.no_grad():
        x = model.regularise(lr)
        model.build(x, smooth(40, 32), torch.arange(12))
        together = model(lr[20:25])
        single = torch.cat([model(face[None]).sr for face in lr[20:25]])
    assert isinstance(together, ModelOutput) and together.sr.shape == (5, 3, 128, 128)
    assert (together.sr - kind(**{**SMALL, **changes}).eval()(lr[20:25]).sr).abs().max() > 0.01
    torch.testing.assert_close(together.sr, single, atol=2e-4, rtol=0)


def test_mnce_is_the_papers_and_the_ridge_is_not_in_it() -> None:
    model, ours = MNCE(), MNCERidge()
    assert model.steps > 1 and len(model.layers) == 3 and model.first is None
    assert all(len(layer.components.index) == 5 for layer in model.layers)
    assert ours.steps == len(ours.layers) == 1 and isinstance(ours.first, AllFaces) and len(ours.layers[0].components.index) == 64


def test_a_layer_is_filled_with_what_those_before_make_of_faces_left_out() -> None:
    torch.manual_seed(0)
    model, x, truth = MNCE(**SMALL), smooth(12, 32), smooth(12, 32) + 0.1 * torch.randn(12, 3, 32, 32)
    model.build(x, truth, torch.arange(12))
    for layer, after in zip(model.layers[:-1], model.layers[1:], strict=True):
        with torch.no_grad():
            kept, x = layer(x), layer.leave_one_out(x)
            filled = after.features.entries()
            wanted, leaked = (after.features.encode(after.components.take(each)) for each in (x, kept))
        assert (filled - wanted).square().mean() < 0.1 * (filled - leaked).square().mean()  # what eight bits lose


def test_the_steps_that_are_shown_end_with_the_picture() -> None:
    model, lr = MNCE(**SMALL).eval(), smooth(2, 16)
    with torch.no_grad():
        stages, sr = model.stages(lr), model(lr).sr
    assert list(stages) == ["bicubic", "denoiser", "layer 1", "layer 2", "layer 3"]
    assert torch.equal(stages["layer 3"], sr) and all(each.shape == (2, 3, 128, 128) for each in stages.values())
    torch.testing.assert_close(stages["bicubic"], torch.from_numpy(resize(lr.numpy(), (128, 128))))


@pytest.mark.parametrize("wrong", [{"neighbours": 13}, {"layout": "six"}, {"side": 48}, {"stride": 5, "layout": "patches"}])
def test_parameters_that_do_not_fit_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(BadInputError, match=next(iter(wrong))):
        MNCE(**{**SMALL, **wrong})
    if "neighbours" in wrong:
        with pytest.raises(BadInputError, match="neighbours"):
            LCR(faces=12, neighbours=13)


def test_dictionaries_are_written_and_read_again(archive: Path, tmp_path: Path) -> None:
    small = {"faces": 8, "neighbours": 3, "features": 3, "targets": 3, "side": 32}
    path = build_mnce(archive, tmp_path, denoiser_steps=2, name="mnce-ridge", **small)
    tensors, about = checkpoint.load(path)
    assert path.name == "mnce-ridge.safetensors" and about["model"] == "mnce-ridge" and about["hparams"] == small
    steps = about["validation"]["steps"]
    assert (
        list(steps) == ["bicubic", "denoiser", "all faces", "layer 1"] and steps["layer 1"][0] == about["validation"]["aligned_psnr"] > 15
    )
    assert tensors["first.matrix"].dtype == torch.float16 and tensors["layers.0.targets.codes"].dtype == torch.uint8
    MNCERidge(**small).load_state_dict(tensors)

    again = build_mnce(archive, tmp_path / "again", denoiser=path, **small)
    assert torch.equal(checkpoint.load(again)[0]["denoiser.layers.0.weight"], tensors["denoiser.layers.0.weight"])
    (tmp_path / "other.safetensors").write_bytes(again.read_bytes().replace(b"denoiser.", b"recoiler."))
    with pytest.raises(WeightsError, match="holds no denoiser"):
        build_mnce(archive, tmp_path, denoiser=tmp_path / "other.safetensors", **small)
    with pytest.raises(BadInputError, match="hold 13 faces"):
        build_mnce(archive, tmp_path, denoiser=path, **{**small, "faces": 13})
    with pytest.raises(BadInputError, match="lle"):
        build_embedding("pca", archive, tmp_path)


def test_hyper_parameters_reach_the_command(archive: Path, tmp_path: Path) -> None:
    settings = {"faces": 8, "neighbours": 3, "features": 3, "targets": 3, "side": 32, "layers": 2, "steps": 2, "locality": 0.5}
    options = [option for key, value in settings.items() for option in ("--set", f"{key}={value}")]
    arguments = ["dictionary", "mnce", "--data", str(archive), "--out", str(tmp_path), "--steps", "1", "--batch", "2", *options]
    done = CliRunner().invoke(training_cli.app, arguments)
    assert done.exit_code == 0 and "layer 2" in done.output and "layer 3" not in done.output
    tensors, about = checkpoint.load(tmp_path / "mnce.safetensors")
    assert about["hparams"] == settings and set(about["validation"]["steps"]) == {"bicubic", "denoiser", "layer 1", "layer 2"}
    MNCE(**about["hparams"]).load_state_dict(tensors)


@pytest.mark.parametrize(
    ("name", "setting", "words"),
    [
        ("mnce", "margin=3", "mnce has no hyper-parameter 'margin'; there are: faces, layers"),
        ("mnce-ridge", "layers=two", "layers must be a whole number, not 'two'"),
        ("lcr", "locality", "locality must be a number, not ''"),
        ("mnce", "layout=six", "layout must be 'five' or 'patches', not 'six'"),
        ("denoiser", "layers=2", "the denoiser has no hyper-parameters to --set, layers=2 is for the dictionary"),
        ("pca", "layers=2", "name must be one of mnce, mnce-ridge, lle, lcr, not 'pca'"),
    ],
)
def test_settings_that_do_not_fit_are_one_line(name: str, setting: str, words: str, archive: Path, tmp_path: Path) -> None:
    done = CliRunner().invoke(training_cli.app, ["dictionary", name, "--data", str(archive), "--out", str(tmp_path), "--set", setting])
    assert done.exit_code == 2 and done.output.startswith(words) and len(done.output.splitlines()) == 1


def test_a_shipped_bundle_lends_its_denoiser(archive: Path) -> None:
    model, lr = MNCE(**SMALL), read_pairs(archive, "train", 32, 8)[0]
    _take_denoiser(model, "mnce-ridge", lr)
    folded = rewrite(Denoiser())
    folded.load_state_dict(checkpoint.unpack("denoiser", bundle_weights("mnce-ridge")))
    with torch.no_grad():
        torch.testing.assert_close(model.denoiser(lr), folded(lr), atol=1e-4, rtol=0)
        assert (model.denoiser(lr) - lr).abs().max() > 1e-3
    with pytest.raises(WeightsError, match="weights of another network"):
        _take_denoiser(model, "lite", lr)


def test_the_node_of_an_exported_graph_is_what_it_stands_for() -> None:
    entries, targets = Codes(5, 20, 50, 6), Codes(5, 30, 50, 8)
    for each in (entries, targets):
        each.codes.copy_(torch.randint(0, 255, each.codes.shape, dtype=torch.uint8))
        each.scale.uniform_(0.1, 1)
    query = 20 * torch.randn(5, 3, 6)
    node = torch.ops.fhrt.neighbour_embedding(query, entries.codes, entries.scale, targets.codes, targets.scale, 7, 0.1)
    torch.testing.assert_close(node, embed(query, entries, targets, 7, 0.1))
