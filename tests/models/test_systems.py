"""The networks are those of their papers, and the exact rewrites compute the same."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fhrt import ops
from fhrt.errors import BadInputError, UnknownModelError
from fhrt.export.rewrite import rewrite
from fhrt.models import create, names
from fhrt.models.layers import FoldedUpsampleConv2d, UpsampleConv2d, similarity_theta
from fhrt.models.tdn import TDN

GFLOPS = {"urdgn": (28, 31), "tdn": (16, 18.5), "lite": (0.5, 1.5)}


def shaken(name: str) -> nn.Module:
    """The network with random norms and transformers away from the identity."""
    torch.manual_seed(0)
    model = create(name).eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.running_mean, module.bias):
                nn.init.normal_(tensor, std=0.1)
            for tensor in (module.running_var, module.weight):
                nn.init.uniform_(tensor, 0.5, 1.5)
    for key, parameter in model.named_parameters():
        if key.endswith(("fc2.weight", "pointwise", "shortcut")):
            nn.init.normal_(parameter, std=0.05)
    return model


def as_written(layer: UpsampleConv2d, x: Tensor) -> Tensor:
    return layer.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


@pytest.mark.parametrize("name", names())
def test_flops_and_shapes(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(UpsampleConv2d, "forward", as_written)
    model = create(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        sr, theta, *_ = model(torch.zeros(1, 3, 16, 16))
    low, high = GFLOPS[name]
    assert low <= counter.get_total_flops() / 1e9 <= high
    assert sr.shape == (1, 3, 128, 128)
    assert theta is None or theta.shape == (1, 2, 3)


@pytest.mark.parametrize("name", names())
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


def test_unknown_names_and_hyper_parameters() -> None:
    with pytest.raises(UnknownModelError, match="lite"):
        create("no-such")
    with pytest.raises(BadInputError, match="urdgn"):
        create("urdgn", width=3)
