"""Layers that several systems share."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fhrt import ops


class ModelOutput(NamedTuple):
    """``sr`` [N, 3, H, W] in [-1, 1]; ``theta`` [N, 2, 3] from the upright output to the input (align_corners=False), or None."""

    sr: Tensor
    theta: Tensor | None = None


def similarity_theta(parameters: Tensor) -> Tensor:
    """Theta [N, 2, 3] of similarity parameters [N, 4]: angle (radians), scale, x and y shift (normalised)."""
    angle, scale, x, y = parameters.unbind(1)
    cos, sin = scale * torch.cos(angle), scale * torch.sin(angle)
    return torch.stack([torch.stack([cos, -sin, x], 1), torch.stack([sin, cos, y], 1)], 1)


def compose(outer: Tensor, inner: Tensor) -> Tensor:
    """Theta [N, 2, 3] of ``p ↦ outer(inner(p))``."""
    linear = outer[:, :, :2] @ inner[:, :, :2]
    shift = outer[:, :, :2] @ inner[:, :, 2:] + outer[:, :, 2:]
    return torch.cat([linear, shift], 2)


class UpsampleConv2d(nn.Module):
    """Nearest-neighbour ×2, then a convolution with zero padding."""

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.interpolate(x, scale_factor=2, mode="nearest"))


class FoldedUpsampleConv2d(nn.Module):
    """What `UpsampleConv2d` computes, at the low resolution: each of the four output phases has its own small kernel.

    With a k5 kernel an output phase sees 3×3 low-resolution pixels, with k3 it sees 2×2, because neighbouring upsampled pixels are
    copies of one. Zero padding of the upsampled map is zero padding of the map itself, so the borders are exact too.
    """

    def __init__(self, source: UpsampleConv2d) -> None:
        super().__init__()
        weight = source.conv.weight.detach()
        outputs, inputs, kernel, _ = weight.shape
        reach = kernel // 2
        # Phase a sees the upsampled offset d at the low-resolution offset (a + d) // 2.
        lows = [[(phase + d) // 2 for d in range(-reach, reach + 1)] for phase in (0, 1)]
        self.small = len(set(lows[0]))
        folded = weight.new_zeros(2, 2, outputs, inputs, self.small, self.small)
        for a in (0, 1):
            for b in (0, 1):
                for y in range(kernel):
                    for x in range(kernel):
                        folded[a, b, :, :, lows[a][y] - lows[a][0], lows[b][x] - lows[b][0]] += weight[:, :, y, x]
        # k5: every phase starts one pixel before. k3: phase 0 starts one before, phase 1 at the pixel itself.
        self.outputs = outputs
        self.conv = nn.Conv2d(inputs, 4 * outputs, self.small, padding=1)
        with torch.no_grad():
            # Sub-pixel order: channel (c·2 + a)·2 + b.
            self.conv.weight.copy_(folded.permute(2, 0, 1, 3, 4, 5).reshape(4 * outputs, inputs, self.small, self.small))
            bias = source.conv.bias
            self.conv.bias.copy_(torch.zeros(4 * outputs) if bias is None else bias.detach().repeat_interleave(4))  # type: ignore[union-attr]

    def forward(self, x: Tensor) -> Tensor:
        phases = self.conv(x)
        if self.small == 2:
            # The 2×2 convolution with padding 1 has one row and column too many; each phase takes its own window of them.
            h, w = x.shape[2], x.shape[3]
            split = phases.unflatten(1, (self.outputs, 2, 2))
            parts = [split[:, :, a, b, a : a + h, b : b + w] for a in (0, 1) for b in (0, 1)]
            phases = torch.stack(parts, 2).flatten(1, 2)
        return ops.pixel_shuffle(phases, 2)
