"""The feature loss reads VGG-19 as torchvision names it."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from fhrt.errors import WeightsError
from training.features import FeatureLoss


@pytest.fixture(scope="module")
def vgg() -> dict[str, torch.Tensor]:
    """VGG-19's first convolutions at their places in torchvision's model, with small random weights, and some of what follows."""
    torch.manual_seed(0)
    places = {0: (3, 64), 2: (64, 64), 5: (64, 128), 7: (128, 128), 10: (128, 256), 12: (256, 256), 14: (256, 256)}
    layers = {f"features.{place}": nn.Conv2d(*channels, 3) for place, channels in places.items()}
    return {f"{name}.{key}": value for name, layer in layers.items() for key, value in layer.state_dict().items()}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_distance(vgg: dict[str, torch.Tensor], tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"vgg{suffix}"
    if suffix == ".pth":
        torch.save(vgg, path)
    else:
        save_file(vgg, path)
    loss = FeatureLoss(path)
    hr = torch.rand(2, 3, 32, 32) * 2 - 1
    sr = (hr + torch.randn_like(hr) * 0.1).requires_grad_()
    assert loss.features(hr).shape == (2, 256, 8, 8)
    assert loss(hr, hr) == 0
    near, far = loss(sr, hr), loss(-sr, hr)
    assert 0 < near < far
    (gradient,) = torch.autograd.grad(near, sr)
    assert gradient.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in loss.parameters())


def test_bad_files(vgg: dict[str, torch.Tensor], tmp_path: Path) -> None:
    path = tmp_path / "vgg.pth"
    with pytest.raises(WeightsError, match=r"vgg\.pth cannot be read"):
        FeatureLoss(path)
    path.write_bytes(b"no weights")
    with pytest.raises(WeightsError, match="cannot be read"):
        FeatureLoss(path)
    torch.save([1, 2], path)
    with pytest.raises(WeightsError, match="no state dict"):
        FeatureLoss(path)
    torch.save({key: value for key, value in vgg.items() if "12" not in key}, path)
    with pytest.raises(WeightsError, match=r"features\.12"):
        FeatureLoss(path)
    torch.save(vgg | {"features.5.weight": torch.zeros(1)}, path)
    with pytest.raises(WeightsError, match=r"features\.5"):
        FeatureLoss(path)
