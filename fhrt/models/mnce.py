"""MNCE: deep denoiser and multi-layer neighbour component embedding (Jiang, Yu, Hu, Tang & Ma, IJCAI 2018), 16×16 → 128×128, aligned.

`MNCE` is the paper's method: steps of regularisation by denoising, then layers that each find a face's five components among the training
faces' and add what these lack, the training faces being estimated anew, each left out, between layers. It differs in this:

- The picture is worked on at ``side`` 64 and enlarged bicubically at the end: that loses nothing that can be predicted from 16×16 pixels
  (a 64×64 copy of the truth scores 35 dB), and a denoiser step costs a quarter. ``side`` 128 is the paper's.
- Components are compared in PCA coefficients, centred on the dictionary's mean.
- A neighbour's weight goes to zero toward the K-th (`fading`), so that the picture does not jump when another face becomes it.

`MNCERidge` is fhrt's own, which scores better and takes less time per face. It has one denoiser step, and

- before the neighbours a layer that takes **all** training faces, at no charge for distance. The weights are then linear in f(y), so that
  the sum Σ w_k (x_k − f(y_k)) folds into one matrix per position (the global regression of Timofte et al., ICCV 2013): 24,000 faces at the
  cost of one. It brings half of the gain;
- one layer of neighbours after it, whose components are position patches.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fhrt.errors import BadInputError
from fhrt.models.denoiser import Denoiser, Reduction, regularise
from fhrt.models.layers import ModelOutput
from fhrt.models.neighbours import Codes, Components, embed, enlarge, five_components, position_patches

LR, HR = 16, 128
_CHUNK = 64  # faces at a time while a dictionary is built


class AllFaces(nn.Module):
    """The layer whose neighbours are all training faces: x + put(W·window), one matrix per 2×2 LR pixels.

    side: of the picture x; margin: LR pixels around the 2×2 that the window has. What is matched is H·f(y), with a one for the constant.
    """

    matrix: Tensor

    def __init__(self, side: int, margin: int) -> None:
        super().__init__()
        self.reduction = Reduction(LR, side)
        self.components = Components(position_patches(side, 2 * side // LR))
        cells = position_patches(LR, 2)
        around = F.max_pool2d(cells[:, None], 2 * margin + 1, 1, margin)[:, 0]
        self.windows = Components(around / around.sum(0))
        shape = (len(cells), 3 * self.windows.index.shape[1] + 1, 3 * self.components.index.shape[1])
        self.register_buffer("matrix", torch.zeros(shape, dtype=torch.float16))

    def _window(self, x: Tensor) -> Tensor:
        parts = self.windows.take(self.reduction(x))
        return torch.cat([parts, parts.new_ones(*parts.shape[:2], 1)], 2)

    def forward(self, x: Tensor) -> Tensor:
        """[N, 3, side, side] → the same, compensated."""
        return x + self.components.put(self._window(x) @ self.matrix.float())

    def fit(self, x: Tensor, truth: Tensor, ridge: float) -> Tensor:
        """Find the matrices from f(y) and the truth, both [M, 3, side, side] (any float dtype), by ridge regression.

        Returns (ZᵀZ + λI)⁻¹ of each position's windows Z, [C, F, F] float64, for `leave_one_out`.
        """
        count, size, outputs = self.matrix.shape
        gram, cross = torch.zeros(count, size, size, dtype=torch.float64), torch.zeros(count, size, outputs, dtype=torch.float64)
        for some, wanted in zip(x.split(_CHUNK * 8), truth.split(_CHUNK * 8), strict=True):
            some = some.float()
            window, residual = self._window(some), self.components.take(wanted.float() - some)
            gram += window.mT @ window
            cross += window.mT @ residual
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram + ridge * torch.eye(size, dtype=torch.float64)))
        self.matrix.copy_(inverse @ cross)
        return inverse

    def leave_one_out(self, x: Tensor, truth: Tensor, inverse: Tensor) -> Tensor:
        """What the layer would make of training faces, had each not been among them: the error grows by 1/(1 − zᵀ(ZᵀZ + λI)⁻¹z)."""
        window = self._window(x)
        leverage = ((window @ inverse.float()) * window).sum(2, keepdim=True)
        error = self.components.take(truth - self(x)) / (1 - leverage.clamp(0, 0.99))
        return truth - self.components.put(error)


class NearestFaces(nn.Module):
    """A layer of neighbour component embedding: x + Σ w_k (x_k − f_k), over each component's K nearest faces.

    shares: of the components (`Components`); faces M; neighbours K; locality λ; features and targets: PCA coefficients of what is compared
    and of what is added.
    """

    def __init__(self, shares: Tensor, faces: int, neighbours: int, locality: float, features: int, targets: int) -> None:
        super().__init__()
        self.neighbours, self.locality = neighbours, locality
        self.components = Components(shares)
        count, size = self.components.index.shape
        self.features = Codes(count, 3 * size, faces, features)
        self.targets = Codes(count, 3 * size, faces, targets)

    def forward(self, x: Tensor, leave_out: Tensor | None = None) -> Tensor:
        """[N, 3, side, side] → the same, compensated. leave_out: [N] int64, the entry that a face must not use."""
        query = self.features.encode(self.components.take(x))
        values = embed(query, self.features, self.targets, self.neighbours, self.locality, leave_out)
        return x + self.components.put(self.targets.decode(values))

    def build(self, x: Tensor, truth: Tensor) -> None:
        """Fill the dictionary from the estimates that reach this layer and the truth, both [M, 3, side, side] float32."""
        self.features.fit(self.components.take(x))
        self.targets.fit(self.components.take(truth - x))

    def leave_one_out(self, x: Tensor) -> Tensor:
        """What the layer makes of the dictionary's own faces, each left out: the next layer's estimates."""
        numbers = torch.arange(len(x)).split(_CHUNK)
        return torch.cat([self(x[some], some) for some in numbers])


class MNCE(nn.Module):
    """The paper's system. ``forward(lr [N, 3, 16, 16] in [-1, 1])`` → ``ModelOutput(sr [N, 3, 128, 128])``.

    faces: in the dictionary. layers: of nearest neighbours. neighbours: K. locality: λ of the weights. features, targets: coefficients per
    component. side: of the picture that is worked on (it divides 128). layout: of the components, "five" or "patches" (``stride`` and
    ``overlap`` in pixels of that picture). strength, steps: of the regularisation. Raises BadInputError when a parameter does not fit.
    """

    def __init__(
        self,
        faces: int = 5000,
        layers: int = 3,
        neighbours: int = 600,
        locality: float = 3.0,
        features: int = 64,
        targets: int = 64,
        side: int = 64,
        layout: str = "five",
        stride: int = 8,
        overlap: int = 0,
        strength: float = 1e-3,
        steps: int = 3,
    ) -> None:
        super().__init__()
        if layout not in ("five", "patches"):
            raise BadInputError(f"layout must be 'five' or 'patches', not {layout!r}")
        if not 1 <= neighbours <= faces:
            raise BadInputError(f"neighbours must be between 1 and the {faces} faces of the dictionary, not {neighbours}")
        if side % LR or HR % side:
            raise BadInputError(f"side must be a multiple of {LR} that divides {HR}, not {side}")
        self.faces, self.strength, self.steps = faces, strength, steps
        self.denoiser, self.reduction = Denoiser(), Reduction(LR, side)
        self.first: AllFaces | None = None
        shares = five_components(side) if layout == "five" else position_patches(side, stride, overlap)
        self.layers = nn.ModuleList(NearestFaces(shares, faces, neighbours, locality, features, targets) for _ in range(layers))

    def regularise(self, lr: Tensor) -> Tensor:
        """f(y) at the working side, [N, 3, side, side]."""
        return regularise(lr, self.denoiser, self.reduction, self.strength, self.steps)

    def steps_of(self, lr: Tensor) -> dict[str, Tensor]:
        """What each step makes of a face, in their order and by name, at the working side."""
        x = self.regularise(lr)
        made = {"denoiser": x}
        if self.first is not None:
            x = made["all faces"] = self.first(x)
        for number, layer in enumerate(self.layers, 1):
            x = made[f"layer {number}"] = layer(x)
        return made

    def stages(self, lr: Tensor) -> dict[str, Tensor]:
        """The picture [N, 3, 128, 128] after every step by name, the bicubic enlargement first."""
        return {name: enlarge(picture, HR) for name, picture in {"bicubic": lr, **self.steps_of(lr)}.items()}

    def forward(self, lr: Tensor) -> ModelOutput:
        *_, last = self.steps_of(lr).values()
        return ModelOutput(enlarge(last, HR))

    @torch.no_grad()
    def build(self, x: Tensor, truth: Tensor, chosen: Tensor, ridge: float = 1.0) -> None:
        """Fill the dictionaries with the chosen faces, and fit `MNCERidge`'s first layer to all.

        x: f(y), truth: the faces, both [M, 3, side, side] (fp16 saves memory); chosen: [faces] int64; ridge: of the first layer. Each layer
        gets the estimates that the layers before it make of a face left out.
        """
        estimate, wanted = x[chosen].float(), truth[chosen].float()
        if self.first is not None:
            inverse, first = self.first.fit(x, truth, ridge), self.first
            pairs = zip(estimate.split(_CHUNK), wanted.split(_CHUNK), strict=True)
            estimate = torch.cat([first.leave_one_out(some, true, inverse) for some, true in pairs])
        for number, layer in enumerate(self.layers):
            assert isinstance(layer, NearestFaces)
            layer.build(estimate, wanted)
            if number + 1 < len(self.layers):
                estimate = layer.leave_one_out(estimate)


class MNCERidge(MNCE):
    """fhrt's system, after the paper's: `AllFaces` first, then nearest faces by position patches. As `MNCE`; margin: LR pixels around the
    2×2 that the first layer looks at.
    """

    def __init__(
        self,
        faces: int = 5200,
        layers: int = 1,
        neighbours: int = 300,
        locality: float = 0.3,
        features: int = 24,
        targets: int = 16,
        side: int = 64,
        layout: str = "patches",
        stride: int = 8,
        overlap: int = 0,
        strength: float = 1e-3,
        steps: int = 1,
        margin: int = 3,
    ) -> None:
        super().__init__(faces, layers, neighbours, locality, features, targets, side, layout, stride, overlap, strength, steps)
        self.first = AllFaces(side, margin)
