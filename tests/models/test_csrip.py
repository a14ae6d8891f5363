"""C-SRIP's cascade and its identity networks are those of the paper."""

import cv2
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from norms import shake_norms
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fhrt.errors import BadInputError
from fhrt.export.rewrite import rewrite
from fhrt.models.csrip import CSRIP, Enlarge, ResidualBlock, picture_of_phases
from fhrt.models.squeezenet import SIGMAS, Fire, SqueezeNet, residual_image


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def faces(count: int, side: int) -> Tensor:
    return torch.rand(count, 3, side, side, generator=torch.Generator().manual_seed(0)) * 2 - 1


# -- the cascade ------------------------------------------------------------------------------------------------------


def test_full_width_has_its_size_and_cost() -> None:
    model = CSRIP().eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        sr, theta, heatmaps, coarser, _ = model(faces(1, 24))
    assert sr.shape == (1, 3, 192, 192)
    assert [picture.shape for picture in coarser] == [(1, 3, 48, 48), (1, 3, 96, 96)]
    assert theta is None
    assert heatmaps == ()
    assert parameters(model) == 49_879_881
    flops = counter.get_flop_counts()
    branches = sum(flops[f"CSRIP.branches.{index}"][torch.ops.aten.convolution] for index in (0, 1))
    assert counter.get_total_flops() / 1e9 == pytest.approx(138.0, abs=0.1)
    assert (counter.get_total_flops() - branches) / 1e9 == pytest.approx(137.2, abs=0.1)


@pytest.mark.parametrize("cascade", [0, 1])
def test_the_blocks_stand_at_their_sides_with_their_channels(cascade: int) -> None:
    model, seen = CSRIP(width=32, cascade=cascade).eval(), []
    for module in model.modules():
        if isinstance(module, (ResidualBlock, Enlarge)):
            module.register_forward_hook(lambda layer, _, out: seen.append((type(layer), *out.shape[1:3])))
    with torch.no_grad():
        sr, *_, coarser, _ = model(faces(2, 24))
    counts = (7, 7, 7) if cascade else (21, 0, 0)
    expected = []
    for count, channels, side in zip(counts, (32, 16, 8), (24, 48, 96), strict=True):
        expected += [(ResidualBlock, channels, side)] * count + [(Enlarge, channels // 2, 2 * side)]
    assert seen == [*expected, (ResidualBlock, 4, 192)]
    assert sr.shape == (2, 3, 192, 192)
    assert [picture.shape for picture in coarser] == [(2, 3, 48, 48), (2, 3, 96, 96)]


def test_the_baseline_takes_the_cascades_operations() -> None:
    def flops(cascade: int) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            CSRIP(width=32, cascade=cascade, multi_scale=0).eval()(faces(1, 24))
        return counter.get_total_flops()

    assert flops(cascade=0) == flops(cascade=1)


def test_the_branches_only_add_pictures() -> None:
    plain, branched = CSRIP(width=16, multi_scale=0).eval(), CSRIP(width=16, multi_scale=1).eval()
    missing = plain.load_state_dict(branched.state_dict(), strict=False)
    assert missing.missing_keys == []
    assert missing.unexpected_keys
    assert all(key.startswith("branches.") for key in missing.unexpected_keys)
    with torch.no_grad():
        without, with_branches = plain(faces(1, 24)), branched(faces(1, 24))
    assert without.coarser == ()
    torch.testing.assert_close(without.sr, with_branches.sr)


def test_a_residual_block_adds_after_its_activation() -> None:
    block, x = ResidualBlock(8), torch.randn(4, 8, 6, 6)
    conv1, norm1, _, conv2, norm2, _ = block.layers
    inner = F.leaky_relu(norm1(conv1(x)), 0.2)
    torch.testing.assert_close(block(x), x + F.leaky_relu(norm2(conv2(inner)), 0.2))


def test_enlarging_moves_channels_into_space() -> None:
    layer, x = Enlarge(8), torch.randn(2, 8, 5, 6)
    torch.testing.assert_close(layer(x), F.pixel_shuffle(F.leaky_relu(layer.conv(x), 0.2), 2))


@pytest.mark.parametrize("cascade", [0, 1])
def test_gradients_reach_every_parameter(cascade: int) -> None:
    model = CSRIP(width=16, cascade=cascade)
    sr, *_, coarser, _ = model(faces(2, 24))
    sum(picture.square().mean() for picture in (sr, *coarser)).backward()
    dead = [name for name, parameter in model.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not dead


@pytest.mark.parametrize("cascade", [0, 1])
def test_the_rewritten_network_has_no_norms_and_computes_the_same(cascade: int) -> None:
    torch.manual_seed(0)
    model, lr = CSRIP(width=32, cascade=cascade).eval(), faces(2, 24)
    shake_norms(model)
    folded = rewrite(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    with torch.no_grad():
        wanted, ours = model(lr), folded(lr)
    assert wanted.sr.std() > 0.01
    for mine, each in zip((ours.sr, *ours.coarser), (wanted.sr, *wanted.coarser), strict=True):
        torch.testing.assert_close(mine, each, atol=1e-4, rtol=0)


def test_all_three_pictures_are_clipped_in_training_too() -> None:
    model = CSRIP(width=8).train()
    for last in (model.tail[-1], *model.branches):
        nn.init.constant_(last.bias, 100.0)
    output = model(faces(2, 24))
    for picture in (output.sr, *output.coarser):
        assert picture.min() == 1
        assert not torch.autograd.grad(picture.sum(), model.head[0].weight, retain_graph=True)[0].any(), "beyond white nothing is learnt"


@pytest.mark.parametrize("width", [0, -8, 12])
def test_widths_that_do_not_halve_three_times(width: int) -> None:
    with pytest.raises(BadInputError, match="width"):
        CSRIP(width=width)


def test_blocks_of_each_module_and_of_the_tail() -> None:
    model = CSRIP(width=16, blocks=[2, 1, 0], tail=0)
    assert [len(module) - 1 for module in model.sr_modules] == [2, 1, 0]
    assert len(model.tail) == 1
    for wrong in ({"blocks": [7, 7]}, {"blocks": 7}, {"blocks": [7, 7, -1]}, {"tail": -1}):
        with pytest.raises(BadInputError, match=f"csrip: {next(iter(wrong))} must be"):
            CSRIP(width=16, **wrong)


def test_pictures_at_the_half_side_are_the_convolutions() -> None:
    """What a network in training computes of the pictures' convolutions, borders and gradients included."""
    conv, x = nn.Conv2d(8, 3, 9, padding=4), torch.randn(2, 8, 12, 8, requires_grad=True)
    ours, wanted = picture_of_phases(conv, x), conv(x)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)
    gradient, inputs = torch.randn_like(ours), (x, *conv.parameters())
    for mine, each in zip(*(torch.autograd.grad(out, inputs, gradient) for out in (ours, wanted)), strict=True):
        torch.testing.assert_close(mine, each, atol=1e-3, rtol=1e-4)
    model = CSRIP(width=8, blocks=[0, 0, 0], tail=0)  # without norms, which make the modes differ
    for mine, each in zip(*((out.sr, *out.coarser) for out in (model.train()(faces(2, 24)), model.eval()(faces(2, 24)))), strict=True):
        torch.testing.assert_close(mine, each, atol=1e-5, rtol=0)


# -- the identity networks --------------------------------------------------------------------------------------------


def test_a_fire_module_squeezes_expands_and_is_bypassed() -> None:
    fire, x = Fire(6, 4, 16), torch.randn(2, 6, 7, 7)
    shapes = {name: tuple(p.shape) for name, p in fire.named_parameters() if name.endswith("weight")}
    assert shapes == {
        "squeeze.weight": (4, 6, 1, 1),
        "expand1.weight": (8, 4, 1, 1),
        "expand3.weight": (8, 4, 3, 3),
        "bypass.weight": (16, 6, 1, 1),
    }
    squeezed = F.relu(fire.squeeze(x))
    expanded = torch.cat([F.relu(fire.expand1(squeezed)), F.relu(fire.expand3(squeezed))], 1)
    torch.testing.assert_close(fire(x), expanded + fire.bypass(x))
    plain = Fire(16, 4, 16)
    assert isinstance(plain.bypass, nn.Identity)
    nn.init.zeros_(plain.expand1.weight), nn.init.zeros_(plain.expand1.bias)
    torch.testing.assert_close(plain(expanded)[:, :8], expanded[:, :8])


def test_squeezenet_has_nine_fire_modules_every_other_one_with_a_convolution_as_bypass() -> None:
    model = SqueezeNet(10, 48)
    fires = [module for module in model.modules() if isinstance(module, Fire)]
    assert [fire.squeeze.out_channels for fire in fires] == [16, 16, 32, 32, 48, 48, 64, 64, 64]
    assert [2 * fire.expand3.out_channels for fire in fires] == [128, 128, 256, 256, 384, 384, 512, 512, 512]
    assert [isinstance(fire.bypass, nn.Conv2d) for fire in fires] == [True, False] * 4 + [False]
    stem, squeeze_and_expand, bypasses = 3 * 49 * 96 + 96, 0, 0
    for fire in fires:
        inputs, squeezed, outputs = fire.squeeze.in_channels, fire.squeeze.out_channels, 2 * fire.expand3.out_channels
        squeeze_and_expand += inputs * squeezed + squeezed + squeezed * outputs * 5 + outputs  # (1 + 9) / 2 weights per output
        bypasses += 0 if inputs == outputs else inputs * outputs + outputs
    assert parameters(model) == stem + squeeze_and_expand + bypasses + 512 * 10 + 10 == 1_278_986


@pytest.mark.parametrize("size", [48, 96, 192])
def test_identity_network_at_each_size(size: int) -> None:
    torch.manual_seed(0)
    model, x = SqueezeNet(7, size).eval(), residual_image(faces(2, size), 1.0)
    with torch.no_grad():
        assert model(x).shape == (2, 7)
        assert [tuple(each.shape) for each in model.features(x)] == [(2, 128, 48, 48), (2, 128, 48, 48), (2, 256, 48, 48)]
        embedding = model.embedding(x)
    assert embedding.shape == (2, 512)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))
    assert embedding[0] @ embedding[1] < 0.9999


def test_the_classifier_tells_two_textures_apart() -> None:
    torch.manual_seed(0)
    model = SqueezeNet(2, 48)
    optimiser = torch.optim.Adam(model.parameters(), 1e-3)
    stripes = (torch.arange(48) % 2 * 0.004 - 0.002).expand(4, 3, 48, 48)  # as faint as a face's residual at σ = 1/3
    x = torch.cat([stripes, stripes.transpose(2, 3)]) + 0.001 * torch.randn(8, 3, 48, 48)
    labels = torch.tensor([0] * 4 + [1] * 4)
    x, losses = x[:, :, :16, :16], []
    for _ in range(15):
        losses.append(F.cross_entropy(model(x), labels))
        optimiser.zero_grad()
        losses[-1].backward()
        optimiser.step()
    assert losses[-1] < 0.1


def test_gradients_of_a_frozen_identity_network_reach_the_picture() -> None:
    model, picture = SqueezeNet(3, 48).eval().requires_grad_(False), faces(1, 48).requires_grad_()
    F.cross_entropy(model(residual_image(picture, SIGMAS[2])), torch.tensor([1])).backward()
    assert picture.grad is not None
    assert picture.grad.flatten(1).norm() > 0


@pytest.mark.parametrize("size", [24, 64, 224])
def test_sizes_without_an_identity_network(size: int) -> None:
    with pytest.raises(BadInputError, match="size"):
        SqueezeNet(7, size)


# -- residual images --------------------------------------------------------------------------------------------------


def test_each_scale_has_its_sigma() -> None:
    assert {scale: round(sigma, 6) for scale, sigma in SIGMAS.items()} == {2: 0.333333, 4: 1.0, 8: 2.333333}


@pytest.mark.parametrize("scale", SIGMAS)
def test_residual_image_against_opencv(scale: int) -> None:
    sigma, x = SIGMAS[scale], faces(2, 24 * scale)[:, :, :, : 24 * scale - 5]
    side = 2 * int(4 * sigma + 0.5) + 1
    ours = residual_image(x, sigma).permute(0, 2, 3, 1).numpy()
    for mine, picture in zip(ours, x.permute(0, 2, 3, 1).numpy(), strict=True):
        blurred = cv2.GaussianBlur(picture, (side, side), sigma, borderType=cv2.BORDER_REFLECT_101)
        np.testing.assert_allclose(mine, picture - blurred, atol=1e-5)


@pytest.mark.parametrize("sigma", SIGMAS.values())
def test_a_constant_picture_has_no_residual(sigma: float) -> None:
    torch.testing.assert_close(residual_image(torch.full((1, 3, 48, 48), 0.7), sigma), torch.zeros(1, 3, 48, 48), atol=1e-6, rtol=0)


@pytest.mark.parametrize("period", [24, 12, 6, 3])
@pytest.mark.parametrize("sigma", [SIGMAS[4], SIGMAS[8]])  # at 1/3 the pixels are too far apart for the transfer function
def test_residual_image_takes_the_low_frequencies_away(sigma: float, period: int) -> None:
    wave = torch.cos(torch.arange(96) * (2 * torch.pi / period)).expand(1, 1, 48, 96)
    inside = (..., slice(12, -12), slice(12, -12))  # beyond the borders a reflected wave may be out of step
    kept = 1 - np.exp(-0.5 * (2 * np.pi * sigma / period) ** 2)  # the Gaussian's transfer function
    torch.testing.assert_close(residual_image(wave, sigma)[inside], kept * wave[inside], atol=1e-3, rtol=0)


def test_residual_image_is_exact_under_autocast_and_in_half_precision() -> None:
    x = faces(1, 48)
    wanted = residual_image(x, SIGMAS[2])
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(residual_image(x, SIGMAS[2]), wanted)
    half = residual_image(x.half(), SIGMAS[2])
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, residual_image(x.half().float(), SIGMAS[2]))


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf"), 12.0])
def test_sigmas_that_make_no_residual_image(sigma: float) -> None:
    with pytest.raises(BadInputError, match="sigma"):
        residual_image(faces(1, 48), sigma)


def test_the_widest_sigma_that_can_be_reflected() -> None:
    assert residual_image(faces(1, 48), 47 / 4).shape == (1, 3, 48, 48)
