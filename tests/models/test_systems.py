"""The networks are those of their papers, and the exact rewrites compute the same."""

import pytest
import torch
import torch.nn.functional as F
from norms import shake_norms
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fhrt import ops
from fhrt.errors import BadInputError, UnknownModelError
from fhrt.export.rewrite import rewrite
from fhrt.models import create
from fhrt.models.layers import FoldedUpsampleConv2d, UpsampleConv2d, similarity_theta
from fhrt.models.tdn import TDN

GFLOPS = {"urdgn": (28, 31), "tdn": (16, 18.5), "tdae": (33, 35.5), "mtun": (13.5, 14.1), "lite": (0.5, 1.5)}


def conv(kernel: int, inputs: int, outputs: int, norm: bool = False) -> int:
    """Parameters of a convolution with a bias, and of a batch norm behind it."""
    return kernel * kernel * inputs * outputs + outputs + 2 * outputs * norm


def residual(inputs: int, outputs: int) -> int:
    shortcut = 0 if inputs == outputs else conv(1, inputs, outputs)
    return 2 * inputs + conv(3, inputs, outputs, True) + conv(1, outputs, outputs) + shortcut


def localisation(*convs: int, flattened: int) -> int:
    return sum(convs) + conv(1, flattened, 20) + conv(1, 20, 4)


TDN_CONVS = conv(3, 3, 512, True) + conv(3, 512, 256, True) + conv(5, 256, 128, True) + conv(5, 128, 64, True) + conv(5, 64, 3)
TDN_STNS = localisation(conv(5, 512, 20), conv(5, 20, 20), flattened=80) + localisation(
    conv(5, 256, 128), conv(5, 128, 20), conv(3, 20, 20), flattened=180
)
STACK = 14 * residual(64, 64) + conv(1, 64, 64, True) + conv(1, 64, 4)  # an hourglass of depth 4: three at each scale and one at the bottom
# The layer lists of the papers.
PARAMETERS = {
    "urdgn": conv(3, 3, 16, True) + conv(3, 16, 64, True) + conv(5, 64, 128, True) + conv(5, 128, 256, True) + conv(5, 256, 3),
    "tdn": TDN_CONVS + TDN_STNS,
    "tdae": 2 * TDN_CONVS
    + TDN_STNS
    + conv(5, 3, 32, True)
    + conv(5, 32, 64, True)
    + conv(3, 64, 128, True)
    + conv(3, 128, 256, True)
    + conv(3, 256, 3)
    + localisation(conv(5, 128, 20), conv(5, 20, 20), flattened=80)
    + localisation(conv(5, 256, 20), conv(5, 20, 20), flattened=80),
    "mtun": conv(4, 3, 32, True) + conv(4, 32, 128, True) + conv(4, 128, 512, True) + conv(2, 512, 2048, True)  # down
    + conv(2, 2048, 1024, True) + conv(4, 1536, 768, True) + conv(4, 896, 512, True) + conv(4, 544, 256, True)  # up
    + conv(4, 259, 128, True) + conv(4, 128, 64, True) + conv(3, 67, 64, True)
    + localisation(conv(5, 67, 20), conv(5, 20, 20), flattened=500)
    + conv(3, 64, 64) + residual(64, 64) + 4 * STACK + 3 * (conv(1, 64, 64) + conv(1, 4, 64))
    + conv(3, 68, 64) + residual(64, 64) + conv(3, 64, 32) + residual(32, 32)
    + conv(3, 64, 64) + residual(64, 64)
    + conv(3, 96, 64) + residual(64, 32) + residual(32, 32) + conv(3, 32, 16) + residual(16, 16) + conv(5, 16, 3),
}  # fmt: skip


def shaken(name: str) -> nn.Module:
    """The network with random norms and transformers away from the identity."""
    torch.manual_seed(0)
    model = create(name).eval()
    shake_norms(model)
    for key, parameter in model.named_parameters():
        if key.endswith(("fc2.weight", "pointwise", "shortcut")):
            nn.init.normal_(parameter, std=0.05)
    return model


def as_written(layer: UpsampleConv2d, x: Tensor) -> Tensor:
    return layer.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


@pytest.mark.parametrize("name", GFLOPS)
def test_flops_parameters_and_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UpsampleConv2d, "forward", as_written)
    model = create(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        sr, theta, *_ = model(torch.zeros(1, 3, 16, 16))
    low, high = GFLOPS[name]
    assert low <= counter.get_total_flops() / 1e9 <= high
    assert name not in PARAMETERS or sum(parameter.numel() for parameter in model.parameters()) == PARAMETERS[name]
    assert sr.shape == (1, 3, 128, 128)
    assert theta is None or theta.shape == (1, 2, 3)


@pytest.mark.parametrize("name", GFLOPS)
def test_the_rewritten_network_computes_the_same(name: str) -> None:
    model, lr = shaken(name), torch.rand(2, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        plain, folded = model(lr), rewrite(model)(lr)
    torch.testing.assert_close(folded.sr, plain.sr, atol=1e-4, rtol=0)
    if plain.theta is not None:
        assert (plain.theta - torch.eye(2, 3)).abs().max() > 0.01
        torch.testing.assert_close(folded.theta, plain.theta, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kernel", [3, 5])
def test_upsampled_convolution_at_the_low_resolution_is_exact_at_the_borders(kernel: int) -> None:
    layer, x = UpsampleConv2d(3, 5, kernel), torch.randn(2, 3, 7, 4, requires_grad=True)
    ours, wanted = layer(x), as_written(layer, x)
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(FoldedUpsampleConv2d(layer)(x), wanted, atol=1e-5, rtol=0)
    gradient, inputs = torch.randn_like(ours), (x, *layer.parameters())
    for mine, each in zip(*(torch.autograd.grad(out, inputs, gradient) for out in (ours, wanted)), strict=True):
        torch.testing.assert_close(mine, each, atol=1e-4, rtol=1e-4)


def test_the_transformer_never_needs_the_upsampled_map() -> None:
    model, x = TDN().eval(), torch.randn(2, 512, 16, 16)
    nn.init.normal_(model.stn1.fc2.weight, std=0.05)
    ours, theta = model.stn1(x)
    stored = F.interpolate(x, scale_factor=2, mode="nearest")
    seen = model.stn1.localisation(F.max_pool2d(stored, 2)).flatten(1)
    torch.testing.assert_close(theta, similarity_theta(model.stn1.fc2(F.relu(model.stn1.fc1(seen)))))
    torch.testing.assert_close(ours, ops.stn_sample(stored, theta, align_corners=True), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("hparams", [{"stacks": 1}, {"skip": 0}, {"autoencoder": 0}, {"heatmap_side": 16}, {"heatmap_side": 32}], ids=str)
def test_the_rows_of_mtuns_ablations(hparams: dict[str, int]) -> None:
    model = create("mtun", width=8, **hparams)
    output = model(torch.randn(2, 3, 16, 16))
    assert output.sr.shape == (2, 3, 128, 128)
    assert len(output.heatmaps) == hparams.get("stacks", 4)
    assert all(heatmaps.shape == (2, 4, 64, 64) for heatmaps in output.heatmaps)
    (output.sr.mean() + output.heatmaps[0].mean()).backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


NARROW = {  # hyper-parameters, parameters
    "urdgn": ({"width": 32}, 58_979),
    "tdn": ({"width": 128, "localisation": 64}, 360_659),
    "tdae": ({"width": 128, "localisation": 64}, 604_185),
    "mtun": ({"width": 8, "hourglass": 16, "stacks": 1}, 10_736_259),
}


@pytest.mark.parametrize("name", NARROW)
def test_narrow_networks(name: str) -> None:
    hparams, parameters = NARROW[name]
    model = create(name, **hparams)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters
    with torch.no_grad():
        assert model(torch.zeros(2, 3, 16, 16)).sr.shape == (2, 3, 128, 128)


@pytest.mark.parametrize(
    ("name", "hparams"),
    [("urdgn", {"width": 8}), ("tdn", {"width": 12}), ("tdn", {"localisation": 0}), ("tdae", {"width": 24}), ("tdae", {"localisation": -1})]
    + [("mtun", {each: 0}) for each in ("width", "contracting", "hourglass", "last")]
    + [("mtun", {"width": [8]}), ("tdn", {"width": 2.5})],
    ids=str,
)
def test_sizes_that_no_network_has(name: str, hparams: dict[str, object]) -> None:
    with pytest.raises(BadInputError, match=f"^{name}: {next(iter(hparams))} must be a [a-z 0-9,]+, not [^\n]+$"):
        create(name, **hparams)


def test_mtun_refuses_other_rows() -> None:
    for hparams in ({"heatmap_side": 48}, {"stacks": 0}, {"stacks": 5}):
        with pytest.raises(BadInputError, match="heatmap_side must be"):
            create("mtun", **hparams)


def test_the_thetas_of_tdaes_stages_are_composed() -> None:
    """Three quarter turns and a shift in one stage or spread over all of them: the same theta."""
    model = create("tdae").eval()
    angles = {"decoder1.stn1": 0.3, "decoder1.stn2": -0.1, "encoder.stn1": 0.2, "encoder.stn2": 0.4}
    for name, angle in angles.items():
        with torch.no_grad():
            model.get_submodule(name).fc2.bias[0] = angle
    with torch.no_grad():
        theta = model(torch.rand(1, 3, 16, 16)).theta[0]
    total = torch.tensor(sum(angles.values()))
    torch.testing.assert_close(theta[:, 0], torch.stack([total.cos(), total.sin()]))


def test_a_step_in_bfloat16_has_a_gradient() -> None:
    model = TDN()
    with torch.autocast("cpu", torch.bfloat16):
        output = model(torch.randn(2, 3, 16, 16))
    assert output.theta is not None and output.theta.dtype == torch.float32
    output.sr.float().square().mean().backward()
    assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.parameters())
    assert model.stn1.fc2.bias.grad.abs().max() > 0


def test_unknown_names_and_hyper_parameters() -> None:
    with pytest.raises(UnknownModelError, match="lite"):
        create("no-such")
    with pytest.raises(BadInputError, match="urdgn"):
        create("urdgn", width=3)
