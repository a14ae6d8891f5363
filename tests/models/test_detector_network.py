"""The detector's network: small, fully convolutional, and exactly itself after the rewrites."""

import torch
from norms import shake_norms
from torch.utils.flop_counter import FlopCounterMode

from fhrt.export.rewrite import rewrite
from fhrt.models.detector import Detector


def test_size_and_shapes() -> None:
    model = Detector()
    assert 0.4e6 < sum(parameter.numel() for parameter in model.parameters()) <= 0.5e6
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        maps = model(torch.zeros(1, 3, 480, 640))
    assert maps.heat.shape == (1, 1, 120, 160) and maps.geometry.shape == (1, 8, 120, 160)
    assert 4.5e9 < counter.get_total_flops() < 5.5e9
    assert maps.heat.sigmoid().max() < 0.1  # untrained, it says that hardly anything is a face


def test_a_pieces_maps_are_the_frames() -> None:
    """Fully convolutional: away from the edges a cut-out gives the maps of the frame."""
    model = Detector()
    shake_norms(model)
    model = rewrite(model)
    frame = torch.rand(1, 3, 416, 416)
    with torch.no_grad():
        whole, part = model(frame), model(frame[:, :, 80:336, 80:336])
    for one, other in zip(whole, part, strict=True):
        middle = other[:, :, 24:40, 24:40]
        torch.testing.assert_close(one[:, :, 44:60, 44:60], middle, rtol=0, atol=1e-3 * float(middle.abs().max()) + 1e-4)


def test_folded_batch_norms_change_nothing() -> None:
    model = Detector().eval()
    shake_norms(model)
    folded = rewrite(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    frame = torch.rand(1, 3, 64, 96)
    with torch.no_grad():
        for one, other in zip(model(frame), folded(frame), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
