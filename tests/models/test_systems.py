"""The networks are those of their papers, and the exact rewrites compute the same."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fhrt.errors import BadInputError, UnknownModelError
from fhrt.export.rewrite import rewrite
from fhrt.models import create, names
from fhrt.models.layers import FoldedUpsampleConv2d, UpsampleConv2d

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


@pytest.mark.parametrize("name", names())
def test_flops_and_shapes(name: str) -> None:
    model = create(name).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        sr, theta = model(torch.zeros(1, 3, 16, 16))
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
    layer, x = UpsampleConv2d(3, 5, kernel), torch.randn(2, 3, 7, 4)
    torch.testing.assert_close(FoldedUpsampleConv2d(layer)(x), layer(x), atol=1e-5, rtol=0)


def test_unknown_names_and_hyper_parameters() -> None:
    with pytest.raises(UnknownModelError, match="lite"):
        create("no-such")
    with pytest.raises(BadInputError, match="urdgn"):
        create("urdgn", width=3)
