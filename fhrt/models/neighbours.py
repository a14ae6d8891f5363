"""Neighbour embedding: a face's components written as weighted sums of a dictionary's, and the baselines LLE and LcR.

A dictionary keeps its components as PCA coefficients in uint8; everything below is batched over faces and components.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, library, nn

from fhrt.errors import BadInputError
from fhrt.models.layers import ModelOutput
from fhrt.resample import resample_matrix

# Squared distances are floored at this part of their mean, so that a query which is in the dictionary leaves a system that can be solved.
_FLOOR = 1e-4


def nearest(queries: Tensor, entries: Tensor, count: int, leave_out: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The ``count`` nearest entries of every query, in no order: squared distances and indices, both [C, N, count].

    queries [C, N, p] and entries [C, M, p] float32. leave_out: [N] int64, the entry that each query must not find. Raises BadInputError
    when there are fewer than ``count`` entries to find.
    """
    there = entries.shape[1] - (leave_out is not None)
    if not 1 <= count <= there:
        raise BadInputError(f"neighbours must be between 1 and the {there} faces of the dictionary, not {count}")
    distances = (queries.square().sum(2, True) + entries.square().sum(2)[:, None] - 2 * queries @ entries.mT).clamp_min(0)
    if leave_out is not None:
        distances[:, torch.arange(len(leave_out)), leave_out] = torch.inf
    found = distances.topk(count, dim=2, largest=False, sorted=False)
    return found.values, found.indices


def fading(squared: Tensor) -> Tensor:
    """Squared distances [..., K] that grow without bound toward the largest, so that the neighbour at the border has next to no weight.

    Otherwise the picture jumps, from frame to frame and from processor to processor, whenever another face becomes the K-th nearest.
    """
    return squared / (1 - squared / squared.amax(-1, keepdim=True).clamp_min(1e-12)).clamp_min(_FLOOR)


def solve(system: Tensor, right: Tensor) -> Tensor:
    """system⁻¹·right for symmetric positive definite systems [..., n, n], batched.

    Gauss-Jordan elimination, which needs no pivots for these, spelt out because no ONNX operator solves. Each step takes the first row and
    column away and puts the reduced row at the end: after n of them the rows are back in order.
    """
    rows = torch.cat([system, right], -1)
    for _ in range(system.shape[-1]):
        first = rows[..., :1, 1:] / rows[..., :1, :1]
        rows = torch.cat([rows[..., 1:, 1:] - rows[..., 1:, :1] * first, first], -2)
    return rows


def locality_weights(query: Tensor, neighbours: Tensor, squared: Tensor, strength: float) -> Tensor:
    """w* = argmin ‖q − Σ w_k n_k‖² + λ‖d ⊙ w‖² (Jiang et al., 2018, the embedding step); the weights need not sum to one.

    query [..., p], neighbours [..., K, p], squared distances [..., K], of which d² is the `fading`, strength: λ > 0. Returns [..., K]. With
    B = D⁻¹N it is D⁻¹(BBᵀ + λI)⁻¹Bq = D⁻¹B(BᵀB + λI)⁻¹q: K equations or p, whichever is fewer.
    """
    scale = squared.mean(-1, keepdim=True).clamp_min(1e-12)
    inverse = (scale / torch.maximum(fading(squared), _FLOOR * scale)).sqrt()[..., None]  # 1/d, in units of the mean distance
    scaled, ridge = neighbours * inverse, (strength * scale)[..., None]
    if neighbours.shape[-2] <= neighbours.shape[-1]:
        solution = solve(_add_diagonal(scaled @ scaled.mT, ridge), scaled @ query[..., None])
    else:
        solution = scaled @ solve(_add_diagonal(scaled.mT @ scaled, ridge), query[..., None])
    return (inverse * solution)[..., 0]


def embed(query: Tensor, entries: Codes, targets: Codes, count: int, strength: float, leave_out: Tensor | None = None) -> Tensor:
    """Σ w_k t_k over the ``count`` nearest entries of every query [C, N, p], by `locality_weights`: [C, N, t]. leave_out: as of `nearest`.

    In an exported graph it is one node, which the CPU has a kernel for.
    """
    if torch.compiler.is_exporting() and leave_out is None:
        return _embed_node(query, entries.codes, entries.scale, targets.codes, targets.scale, count, strength)
    squared, indices = nearest(query, entries.entries(), count, leave_out)
    weights = locality_weights(query, entries.pick(indices), squared, strength)
    return (weights[:, :, None] @ targets.pick(indices))[:, :, 0]


@library.custom_op("fhrt::neighbour_embedding", mutates_args=())
def _embed_node(
    query: Tensor, codes: Tensor, scale: Tensor, target_codes: Tensor, target_scale: Tensor, neighbours: int, strength: float
) -> Tensor:
    """`embed`, as the node that it is in an exported graph."""
    entries, targets = ((each.float() - 128) * worth for each, worth in ((codes, scale), (target_codes, target_scale)))
    squared, indices = nearest(query, entries, neighbours, None)
    component = torch.arange(len(codes), device=codes.device)[:, None, None]
    weights = locality_weights(query, entries[component, indices], squared, strength)
    return (weights[:, :, None] @ targets[component, indices])[:, :, 0]


@_embed_node.register_fake
def _(query: Tensor, codes: Tensor, scale: Tensor, target_codes: Tensor, target_scale: Tensor, neighbours: int, strength: float) -> Tensor:
    return query.new_empty(*query.shape[:2], target_codes.shape[2])


def affine_weights(query: Tensor, neighbours: Tensor, penalty: Tensor) -> Tensor:
    """argmin ‖q − Σ w_k n_k‖² + Σ penalty_k w_k² with Σ w_k = 1: the weights of LLE and LcR.

    query [..., p], neighbours [..., K, p], penalty [..., K]. Returns [..., K]. (G + P)w = 1 with G the Gram matrix of n_k − q, then scaled.
    With S = P^−½ and B = S(N − q) it is S(BBᵀ + I)⁻¹S·1 = S(v − B(BᵀB + I)⁻¹Bᵀv), v = S·1: K equations or p, whichever is fewer.
    """
    offsets = neighbours - query[..., None, :]
    least = 1e-6 * offsets.square().sum(-1).mean(-1, keepdim=True).clamp_min(1e-12)
    inverse = (penalty + least).rsqrt()[..., None]
    scaled, one = offsets * inverse, torch.ones_like(inverse[..., :1, :])
    if neighbours.shape[-2] <= neighbours.shape[-1]:
        solution = solve(_add_diagonal(scaled @ scaled.mT, one), inverse)
    else:
        solution = inverse - scaled @ solve(_add_diagonal(scaled.mT @ scaled, one), scaled.mT @ inverse)
    weights = (inverse * solution)[..., 0]
    return weights / weights.sum(-1, keepdim=True)


def _add_diagonal(matrix: Tensor, value: Tensor) -> Tensor:
    """matrix [..., n, n] + value [..., 1, 1]·I."""
    return matrix + value * torch.eye(matrix.shape[-1], device=matrix.device)


class Components(nn.Module):
    """Cuts pictures into components and blends components into a picture.

    weights: [C, side, side] ≥ 0, each component's share of every pixel; they sum to one over the components. A component is the pixels
    where its share is positive; all are padded with zeros to the size D of the largest. Raises BadInputError when some pixel is in none.
    """

    index: Tensor
    inside: Tensor
    share: Tensor
    places: Tensor

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        flat = weights.flatten(1)
        if (flat < 0).any() or not torch.allclose(flat.sum(0), torch.ones_like(flat[0]), atol=1e-4):
            raise BadInputError("the components' shares of every pixel must be at least 0 and sum to one")
        self.side = weights.shape[-1]
        size = int((flat > 0).sum(1).max())
        inside, index = (flat > 0).float().sort(dim=1, descending=True, stable=True)
        self.register_buffer("index", index[:, :size].contiguous(), persistent=False)
        self.register_buffer("inside", inside[:, :size].contiguous(), persistent=False)
        self.register_buffer("share", flat.gather(1, self.index) * self.inside, persistent=False)
        # The same map the other way round: where each pixel's contributions stand among all components' numbers, and one that is zero.
        slots = self.index.flatten() + self.side**2 * (self.inside.flatten() == 0)
        order = slots.argsort(stable=True)
        counts = torch.bincount(slots, minlength=self.side**2 + 1)[: self.side**2]
        nth = torch.arange(int(counts.max()))[:, None]
        nothing = len(slots)
        places = torch.cat([order, order.new_tensor([nothing])])[torch.where(nth < counts, counts.cumsum(0) - counts + nth, nothing)]
        self.register_buffer("places", places, persistent=False)

    def take(self, pictures: Tensor) -> Tensor:
        """[N, channels, side, side] → [C, N, channels·D]."""
        parts = pictures.flatten(2)[:, :, self.index] * self.inside
        return parts.permute(2, 0, 1, 3).flatten(2)

    def put(self, parts: Tensor) -> Tensor:
        """[C, N, channels·D] → [N, channels, side, side], the components weighted with their shares and summed."""
        shares = parts.unflatten(2, (-1, self.share.shape[1])) * self.share[:, None, None]
        flat = F.pad(shares.permute(1, 2, 0, 3).flatten(2), (0, 1))
        return sum((flat[:, :, place] for place in self.places), flat.new_zeros(())).unflatten(2, (self.side, self.side))


def position_patches(side: int, stride: int, overlap: int = 0) -> Tensor:
    """Shares [C, side, side] of square patches, one per ``stride`` × ``stride`` cell, that reach ``overlap`` pixels into their neighbours.

    The shares fall off linearly toward a patch's edge. Raises BadInputError when ``stride`` does not divide ``side``.
    """
    if side % stride or overlap < 0:
        raise BadInputError(f"stride must divide the side {side} and overlap not be negative, not {stride} and {overlap}")
    centres = torch.arange(side // stride)[:, None] * stride + (stride - 1) / 2
    outside = (torch.arange(side) - centres).abs() - (stride - 1) / 2  # pixels beyond the cell, 0 or less within
    line = (1 - (outside - 1 + overlap).clamp_min(-1).add(1) / (2 * overlap + 1)).clamp(0, 1) if overlap else (outside <= 0).float()
    line = line / line.sum(0)
    return (line[:, None, :, None] * line[None, :, None, :]).flatten(0, 1)


def five_components(side: int) -> Tensor:
    """Shares [5, side, side] of brows, eyes, nose, mouth and the rest of the canonical tight face, with soft edges.

    The boxes hold the landmarks of nine in ten training faces.
    """
    boxes = ((0.17, 0.26, 0.83, 0.36), (0.17, 0.36, 0.83, 0.49), (0.36, 0.49, 0.64, 0.70), (0.30, 0.70, 0.70, 0.90))
    shares = torch.zeros(4, side, side)
    for share, box in zip(shares, boxes, strict=True):
        left, top, right, bottom = (round(side * edge) for edge in box)
        share[top:bottom, left:right] = 1
    window = 2 * (side // 32) + 1
    shares = F.avg_pool2d(shares[:, None], window, 1, window // 2, count_include_pad=False)[:, 0]
    shares = shares / shares.sum(0).clamp_min(1)
    return torch.cat([shares, (1 - shares.sum(0, keepdim=True)).clamp_min(0)])


class Codes(nn.Module):
    """A dictionary's components as PCA coefficients: mean and basis in fp16, coefficients in uint8 with a scale each.

    C components of D numbers, M entries, p coefficients. What one coefficient is worth: (code − 128)·scale.
    """

    mean: Tensor
    basis: Tensor
    codes: Tensor
    scale: Tensor

    def __init__(self, components: int, size: int, entries: int, coefficients: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(components, size, dtype=torch.float16))
        self.register_buffer("basis", torch.zeros(components, size, coefficients, dtype=torch.float16))
        self.register_buffer("codes", torch.full((components, entries, coefficients), 128, dtype=torch.uint8))
        self.register_buffer("scale", torch.ones(components, 1, coefficients))

    def fit(self, parts: Tensor) -> None:
        """Fill the dictionary from components [C, M, D]; torch's random state decides the last digits.

        Raises BadInputError when M faces or D numbers cannot give p coefficients.
        """
        entries, coefficients = self.codes.shape[1:]
        if parts.shape[1] != entries or min(parts.shape[1:]) < coefficients:
            raise BadInputError(f"parts must be {entries} faces of at least {coefficients} numbers each, not {tuple(parts.shape[1:])}")
        mean = parts.mean(1)
        # Randomised, with more columns than are kept: components padded with zeros make a full decomposition fail to converge.
        columns = min(coefficients + 8, *parts.shape[1:])
        basis = torch.svd_lowrank(parts - mean[:, None], columns, niter=4)[2][..., :coefficients]
        self.mean.copy_(mean)
        self.basis.copy_(basis)
        values = self.encode(parts)
        self.scale.copy_(values.abs().amax(1, keepdim=True).clamp_min(1e-9) / 127)
        self.codes.copy_((values / self.scale).round() + 128)

    def encode(self, parts: Tensor) -> Tensor:
        """Coefficients [C, N, p] of components [C, N, D]."""
        return (parts - self.mean.float()[:, None]) @ self.basis.float()

    def decode(self, coefficients: Tensor) -> Tensor:
        """Components [C, N, D] of coefficients [C, N, p]."""
        return coefficients @ self.basis.float().mT + self.mean.float()[:, None]

    def entries(self) -> Tensor:
        """All coefficients [C, M, p] float32."""
        return (self.codes.float() - 128) * self.scale

    def pick(self, indices: Tensor) -> Tensor:
        """Coefficients [C, N, K, p] float32 of the entries at ``indices`` [C, N, K]."""
        # Picked as bytes: fewer of them, and OpenVINO miscompiles a reshape between decoding and picking.
        first = torch.arange(len(indices), device=indices.device)[:, None, None] * self.codes.shape[1]
        return (self.codes.flatten(0, 1)[indices + first].float() - 128) * self.scale[:, None]


class PositionEmbedding(nn.Module, ABC):
    """What LLE and LcR share: each LR patch is written by its nearest in the dictionary, and the HR patches are summed with those weights.

    Patches: one per 2×2 LR pixels, with an overlap of one LR pixel (so 4×4); HR patches are reconstructed at ``side`` (and enlarged
    bicubically where that is not 128), the overlaps blended. faces: in the dictionary; neighbours: K; targets: coefficients per HR patch.
    Raises BadInputError when there are more neighbours than faces.
    """

    lr_side = 16

    def __init__(self, faces: int, neighbours: int, targets: int, side: int) -> None:
        super().__init__()
        if not 1 <= neighbours <= faces:
            raise BadInputError(f"neighbours must be between 1 and the {faces} faces of the dictionary, not {neighbours}")
        self.faces, self.neighbours, factor = faces, neighbours, side // self.lr_side
        self.lr_components = Components(position_patches(self.lr_side, 2, 1))
        self.hr_components = Components(position_patches(side, 2 * factor, factor))
        count, size = self.lr_components.index.shape
        self.inputs = Codes(count, 3 * size, faces, 3 * size)
        self.targets = Codes(count, 3 * self.hr_components.index.shape[1], faces, targets)

    def build(self, lr: Tensor, hr: Tensor) -> None:
        """Fill the dictionary: lr [M, 3, 16, 16] and hr [M, 3, side, side] in [-1, 1]."""
        self.inputs.fit(self.lr_components.take(lr))
        self.targets.fit(self.hr_components.take(hr))

    @abstractmethod
    def weights(self, query: Tensor, neighbours: Tensor, squared: Tensor) -> Tensor:
        """Weights [C, N, K] of query [C, N, p] by neighbours [C, N, K, p] at squared distances [C, N, K]; they sum to one."""

    def forward(self, lr: Tensor) -> ModelOutput:
        """lr [N, 3, 16, 16] in [-1, 1] → sr [N, 3, 128, 128]."""
        query = self.inputs.encode(self.lr_components.take(lr))
        squared, indices = nearest(query, self.inputs.entries(), self.neighbours)
        weights = self.weights(query, self.inputs.pick(indices), squared)
        values = (weights[:, :, None] @ self.targets.pick(indices))[:, :, 0]
        picture = self.hr_components.put(self.targets.decode(values))
        return ModelOutput(enlarge(picture, 8 * self.lr_side))


class LLE(PositionEmbedding):
    """Super-resolution through neighbour embedding (Chang, Yeung & Xiong, CVPR 2004): Σ w_k = 1, no other penalty than a small ridge.

    Here every patch is matched at its own position of the face, on RGB values, where Chang et al. match gradients anywhere in the pictures:
    that is how papers on faces use it.
    """

    def __init__(self, faces: int = 2000, neighbours: int = 300, targets: int = 64, side: int = 64, ridge: float = 0.01) -> None:
        super().__init__(faces, neighbours, targets, side)
        self.ridge = ridge

    def weights(self, query: Tensor, neighbours: Tensor, squared: Tensor) -> Tensor:
        # The trace of the Gram matrix of n_k − q is Σ d². What fades is the last neighbours' part only.
        trace = squared.mean(-1, keepdim=True)
        return affine_weights(query, neighbours, self.ridge * trace * fading(squared) / squared.clamp_min(1e-12))


class LCR(PositionEmbedding):
    """Locality-constrained representation of position patches (Jiang, Hu, Wang & Han, 2014): + τ‖d ⊙ w‖², Σ w_k = 1.

    The K nearest take part, not all faces of the dictionary; the others' weights are next to nothing and would cost a system of that size.
    """

    def __init__(self, faces: int = 2000, neighbours: int = 400, targets: int = 64, side: int = 64, locality: float = 0.02) -> None:
        super().__init__(faces, neighbours, targets, side)
        self.locality = locality

    def weights(self, query: Tensor, neighbours: Tensor, squared: Tensor) -> Tensor:
        return affine_weights(query, neighbours, self.locality * fading(squared))


def enlarge(picture: Tensor, side: int) -> Tensor:
    """Bicubic enlargement [N, 3, S, S] → [N, 3, side, side]; the picture itself when it has that size."""
    if picture.shape[-1] == side:
        return picture
    matrix = torch.from_numpy(resample_matrix(picture.shape[-1], side).copy()).to(picture)
    return matrix @ picture @ matrix.mT
