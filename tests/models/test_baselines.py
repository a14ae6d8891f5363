"""SRCNN, VDSR, SRGAN and the perceptual-loss network are those of their papers, fully convolutional, and survive rewriting and export."""

from itertools import pairwise

import cv2
import numpy as np
import onnxruntime
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fhrt.errors import BadInputError
from fhrt.export.graph import to_onnx
from fhrt.export.rewrite import rewrite
from fhrt.models.lp import LP
from fhrt.models.srcnn import SRCNN, bicubic
from fhrt.models.srgan import SRGAN, SRGANDiscriminator
from fhrt.models.vdsr import VDSR

SYSTEMS = (SRCNN, VDSR, SRGAN, LP)

# A convolution has inputs · outputs · k² weights, and a bias per output unless a norm follows; a norm has a weight and a bias per channel,
# a PReLU one slope.
PARAMETERS = {
    # k9 3→64; k5 64→32; k5 32→3
    SRCNN: (15_552 + 64) + (51_200 + 32) + (2_400 + 3),
    # k3 3→64; eighteen k3 64→64; k3 64→3
    VDSR: (1_728 + 64) + 18 * (36_864 + 64) + (1_728 + 3),
    # k9 3→64, PReLU; sixteen blocks of two k3 64→64, two norms, a PReLU; k3 64→64, norm; three of k3 64→256, PReLU; k9 64→3
    SRGAN: (15_552 + 64 + 64) + 16 * (2 * 36_864 + 2 * 128 + 64) + (36_864 + 128) + 3 * (147_456 + 256 + 64) + (15_552 + 3),
    # k9 3→64, norm; four blocks of two k3 64→64, two norms; three transposed k3 64→64, norm; k9 64→3
    LP: (15_552 + 128) + 4 * (2 * 36_864 + 2 * 128) + 3 * (36_864 + 128) + (15_552 + 3),
}

# Multiply-adds per LR pixel: each convolution's weights as often as it is applied. The stages that double the side are applied 1, 4 and 16
# times (at their input: a transposed convolution, or one before a shuffle), what follows them 64 times.
MULTIPLY_ADDS = {
    SRCNN: 64 * (15_552 + 51_200 + 2_400),
    VDSR: 64 * (1_728 + 18 * 36_864 + 1_728),
    SRGAN: 15_552 + (16 * 2 + 1) * 36_864 + (1 + 4 + 16) * 147_456 + 64 * 15_552,
    LP: 15_552 + 4 * 2 * 36_864 + (1 + 4 + 16) * 36_864 + 64 * 15_552,
}


def fresh(system: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return system()


def shaken(system: type[nn.Module]) -> nn.Module:
    """The network in use, its norms with a random batch's statistics, and weights that let every layer show in the output."""
    model = fresh(system)
    for module in model.modules():
        if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(module.weight)
        elif isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
        elif isinstance(module, nn.PReLU):
            nn.init.uniform_(module.weight, -0.5, 0.5)
    model.train()(faces(8, 3, 5, 6))
    return model.eval()


def faces(*shape: int) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(0)) * 2 - 1


def silence(norm: nn.Module) -> None:
    nn.init.zeros_(norm.weight)
    nn.init.zeros_(norm.bias)


@pytest.mark.parametrize("system", SYSTEMS)
def test_parameters(system: type[nn.Module]) -> None:
    assert sum(parameter.numel() for parameter in system().parameters()) == PARAMETERS[system]


@pytest.mark.parametrize("side", [16, 24])
@pytest.mark.parametrize("system", SYSTEMS)
def test_flops_and_shapes(system: type[nn.Module], side: int) -> None:
    with torch.device("meta"), FlopCounterMode(display=False) as counter:
        sr, *others = system().eval()(torch.empty(2, 3, side, side))
    assert sr.shape == (2, 3, 8 * side, 8 * side)
    assert others == [None, (), (), None]
    assert counter.get_total_flops() == 2 * 2 * side**2 * MULTIPLY_ADDS[system]


@pytest.mark.parametrize("system", SYSTEMS)
def test_gradients_reach_every_parameter(system: type[nn.Module]) -> None:
    model = fresh(system).train()
    sr = model(faces(2, 3, 3, 5)).sr
    assert sr.shape == (2, 3, 24, 40)
    (sr * torch.randn_like(sr)).sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


def test_bicubic_is_opencvs() -> None:
    lr = faces(1, 3, 6, 5)
    wanted = cv2.resize(lr[0].permute(1, 2, 0).numpy(), (40, 48), interpolation=cv2.INTER_CUBIC)
    np.testing.assert_allclose(bicubic(lr)[0].permute(1, 2, 0).numpy(), wanted, atol=1e-5)


def test_vdsr_without_its_residual_is_bicubic() -> None:
    model, lr = fresh(VDSR), faces(2, 3, 6, 5)
    assert (model(lr).sr - bicubic(lr)).std((2, 3)).min() > 0.05  # the picture reaches the last layer of the untrained network
    nn.init.zeros_(model.layers[-1].weight)
    nn.init.zeros_(model.layers[-1].bias)
    torch.testing.assert_close(model(lr).sr, bicubic(lr), atol=0, rtol=0)


def test_srcnn_can_be_bicubic() -> None:
    """Layers that pass on each colour's positive and negative part keep every pixel in its place; off the centre, zeros come in."""
    model, lr = fresh(SRCNN), faces(2, 3, 6, 5)
    first, _, second, _, third = model.layers
    for layer in (first, second, third):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    for shift, wanted in ((0, bicubic(lr)), (4, F.pad(bicubic(lr), (4, -4, 4, -4)))):
        nn.init.zeros_(first.weight)
        with torch.no_grad():
            for colour in range(3):
                for part, sign in ((colour, 1.0), (colour + 3, -1.0)):
                    first.weight[part, colour, 4 - shift, 4 - shift] = third.weight[colour, part, 2, 2] = sign
                    second.weight[part, part, 2, 2] = 1.0
            torch.testing.assert_close(model(lr).sr, wanted, atol=0, rtol=0)


def test_residual_blocks_end_in_the_sum() -> None:
    for system, count in ((SRGAN, 16), (LP, 4)):
        model, x = fresh(system).eval(), faces(1, 64, 4, 4)
        blocks = [module for module in model.modules() if type(module).__name__ == "ResidualBlock"]
        assert len(blocks) == count
        for block in blocks:
            silence(block.layers[-1])
            torch.testing.assert_close(block(x), x, atol=0, rtol=0)


def test_srgan_without_its_trunk_enlarges_its_first_features() -> None:
    model, lr = fresh(SRGAN).eval(), faces(1, 3, 4, 4)
    silence(model.trunk[-1])
    torch.testing.assert_close(model(lr).sr, model.tail(model.head(lr)), atol=0, rtol=0)


def test_lp_keeps_the_range() -> None:
    model = fresh(LP)
    nn.init.normal_(model.layers[-2].weight, std=1.0)
    sr = model(faces(2, 3, 4, 4)).sr
    assert sr.min() >= -1 and sr.max() <= 1 and sr.abs().max() > 0.99


@pytest.mark.parametrize("system", SYSTEMS)
def test_rewritten_and_exported_it_computes_the_same(system: type[nn.Module]) -> None:
    model, lr = shaken(system), faces(3, 3, 5, 6)
    rewritten = rewrite(model)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in rewritten.modules())
    with torch.no_grad():
        wanted = model(lr).sr
        torch.testing.assert_close(rewritten(lr).sr, wanted, atol=1e-4, rtol=0)
    assert (wanted - bicubic(lr)).std() > 0.1
    proto = to_onnx(rewritten, (5, 6), ("sr",))
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    for count in (1, 3):
        (sr,) = session.run(["sr"], {"lr": lr[:count].numpy()})
        np.testing.assert_allclose(sr, wanted[:count].numpy(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("side", [128, 192])
def test_discriminator(side: int) -> None:
    with torch.device("meta"):
        critic = SRGANDiscriminator(side)
        assert critic(torch.empty(2, 3, side, side)).shape == (2, 1)
    # k3 3→64; then seven k3 with norms; then two dense layers.
    channels = (64, 64, 128, 128, 256, 256, 512, 512)
    convolutions = (1_728 + 64) + sum(9 * a * b + 2 * b for a, b in pairwise(channels))
    dense = (512 * (side // 16) ** 2 * 1024 + 1024) + (1024 + 1)
    assert sum(parameter.numel() for parameter in critic.parameters()) == convolutions + dense
    strides = [module.stride[0] for module in critic.modules() if isinstance(module, nn.Conv2d)]
    assert strides == [1, 2] * 4


def test_discriminator_learns_and_refuses_other_sides() -> None:
    torch.manual_seed(0)
    critic = SRGANDiscriminator(32)
    probability = critic(faces(4, 3, 32, 32))
    assert ((probability > 0) & (probability < 1)).all()
    (probability * torch.randn(4, 1)).sum().backward()
    for name, parameter in critic.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().max() > 0, name
    for side in (0, 100, -16):
        with pytest.raises(BadInputError, match="side"):
            SRGANDiscriminator(side)
