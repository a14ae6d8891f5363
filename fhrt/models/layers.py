"""Layers that several systems share."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fhrt import ops
from fhrt.errors import BadInputError


class ModelOutput(NamedTuple):
    """What a network says of N faces; what it does not know stays empty.

    sr: [N, 3, H, W] in [-1, 1]. theta: [N, 2, 3] from the upright output to the input (align_corners=False). heatmaps: of the components
    [N, 4, h, w], one tensor per stacked hourglass, the last one the best. coarser: the pictures at smaller scales, [N, 3, h, w] in [-1, 1].
    first_theta: of a network with two transformers what the first found, [N, 2, 3] as theta.
    """

    sr: Tensor
    theta: Tensor | None = None
    heatmaps: tuple[Tensor, ...] = ()
    coarser: tuple[Tensor, ...] = ()
    first_theta: Tensor | None = None


def check_size(system: str, name: str, value: Any, multiple: int = 1, least: int = 1) -> None:
    """Raises BadInputError unless ``value``, the hyper-parameter ``name``, is a multiple of ``multiple`` and at least ``least``."""
    if not isinstance(value, int) or value < least or value % multiple:
        wanted = f"a multiple of {multiple}, at least {least}" if multiple > 1 else f"a whole number, at least {least}"
        raise BadInputError(f"{system}: {name} must be {wanted}, not {value}")


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


def half_pixel_theta(theta: Tensor, side: int) -> Tensor:
    """A corners-aligned theta of a side × side map as one with align_corners=False.

    A corners-aligned coordinate c and a half-pixel one h of the same pixel obey h = c·(side − 1)/side, so the linear part stays
    and the shift shrinks.
    """
    return torch.cat([theta[:, :, :2], theta[:, :, 2:] * ((side - 1) / side)], 2)


class SpatialTransformer(nn.Module):
    """A similarity that a small localisation network finds on the map (Jaderberg et al., 2015, as TDN, TDAE and MTUN use it).

    Grid with corners aligned, bilinear, zeros outside. upsample: of the map, by nearest neighbours, before it is sampled; the localisation
    sees it as it comes. features: of the localisation's output, flattened. It starts as the identity.
    """

    def __init__(self, localisation: nn.Sequential, features: int, upsample: int = 1) -> None:
        super().__init__()
        self.localisation, self.upsample = localisation, upsample
        self.fc1, self.fc2 = nn.Linear(features, 20), nn.Linear(20, 4)
        nn.init.zeros_(self.fc2.weight)
        with torch.no_grad():
            self.fc2.bias.copy_(torch.tensor([0.0, 1.0, 0.0, 0.0]))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """[N, C, H, W] → the transformed map [N, C, H·upsample, W·upsample] and its theta [N, 2, 3] (corners aligned)."""
        features = self.localisation(x).flatten(1)
        with torch.autocast(x.device.type, enabled=False):  # an angle and a shift need more than bfloat16's eight bits
            theta = similarity_theta(self.fc2(F.relu(self.fc1(features.float()))))
        return ops.stn_sample(x, theta, align_corners=True, upsample=self.upsample), theta


class UpsampleConv2d(nn.Module):
    """Nearest-neighbour ×2, then a convolution with zero padding; computed at the low resolution.

    Each of the four output phases has its own small kernel: with a k5 kernel a phase sees 3×3 low-resolution pixels, with k3 it sees 2×2,
    because neighbouring upsampled pixels are copies of one. Zero padding of the upsampled map is zero padding of the map itself, so the
    borders are exact too. 25 multiply-adds per output become 9, and 9 become 4, in training as well.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2)
        reach = kernel // 2
        # Phase a sees the upsampled offset d at the low-resolution offset (a + d) // 2, its first one at (a - reach) // 2.
        lows = [[(phase + d) // 2 - (phase - reach) // 2 for d in range(-reach, reach + 1)] for phase in (0, 1)]
        self.small = max(lows[0]) + 1
        self.register_buffer("taps", F.one_hot(torch.tensor(lows), self.small).float(), persistent=False)  # [phase, kernel, small]

    def fold(self) -> tuple[Tensor, Tensor]:
        """Weight [4·outputs, inputs, small, small] and bias [4·outputs] of the low-resolution convolution, in sub-pixel order."""
        weight = torch.einsum("oiyx,ayk,bxl->oabikl", self.conv.weight, self.taps, self.taps)
        bias = self.conv.bias
        assert bias is not None
        return weight.flatten(0, 2), bias.repeat_interleave(4)

    def forward(self, x: Tensor) -> Tensor:
        return _shuffle_phases(F.conv2d(x, *self.fold(), padding=1), x, self.small)


class FoldedUpsampleConv2d(nn.Module):
    """An `UpsampleConv2d` with its small kernels made once, for use."""

    def __init__(self, source: UpsampleConv2d) -> None:
        super().__init__()
        with torch.no_grad():
            weight, bias = source.fold()
        self.small = source.small
        self.conv = nn.Conv2d(weight.shape[1], weight.shape[0], self.small, padding=1)
        self.conv.weight, self.conv.bias = nn.Parameter(weight), nn.Parameter(bias)

    def forward(self, x: Tensor) -> Tensor:
        return _shuffle_phases(self.conv(x), x, self.small)


def _shuffle_phases(phases: Tensor, x: Tensor, small: int) -> Tensor:
    if small == 2:
        # The 2×2 convolution with padding 1 has one row and column too many; each phase takes its own window of them.
        h, w = x.shape[2], x.shape[3]
        split = phases.unflatten(1, (phases.shape[1] // 4, 2, 2))
        parts = [split[:, :, a, b, a : a + h, b : b + w] for a in (0, 1) for b in (0, 1)]
        phases = torch.stack(parts, 2).flatten(1, 2)
    return ops.pixel_shuffle(phases, 2)
