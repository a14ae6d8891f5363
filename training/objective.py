"""What a step minimises: a network, what it makes of a batch, and the weighted loss terms of that."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fhrt.errors import BadInputError
from fhrt.models.layers import ModelOutput
from training.data import Batch, decimated
from training.features import FeatureLoss
from training.identity import IdentityPrior
from training.landmarks import component_heatmaps
from training.losses import adversarial_loss, corner_loss, heatmap_loss, picture_losses, theta_loss
from training.recipe import Recipe


class Objective(nn.Module):
    """``forward(batch, critic, localise_only)`` → the loss terms by name, and the faces [N, 3, H, W] for the critic.

    Everything that has a gradient is inside, so that several devices can share a step. network: one of `fhrt.models`; the recipe may name
    a stage of it, which then is all that is trained. Raises BadInputError where the network has no such stage, or nothing to localise with.
    """

    def __init__(
        self, network: nn.Module, recipe: Recipe, features: FeatureLoss | None = None, identity: IdentityPrior | None = None
    ) -> None:
        super().__init__()
        self.network, self.features, self.identity = network, features, identity
        self.recipe = recipe
        # TDN lets its weight fall; what a captured step reads anew lies on the device.
        self.register_buffer("adversarial", torch.tensor(recipe.losses.adversarial), persistent=False)
        if recipe.stage:
            if not hasattr(network, "stage") or recipe.stage not in dict(network.named_children()):
                raise BadInputError(f"{recipe.model} has no stage {recipe.stage!r}")
            network.requires_grad_(False)
            network.get_submodule(recipe.stage).requires_grad_(True)
        located = recipe.losses.theta or recipe.losses.corners
        if recipe.localise_steps and not (located and any(hasattr(self.part, one) for one in ("localise", "upright"))):
            raise BadInputError(f"localise_steps needs a theta or corners loss and a network that localises; {recipe.model} cannot")

    @property
    def part(self) -> Any:
        """What is trained: the network, or its stage."""
        return self.network.get_submodule(self.recipe.stage) if self.recipe.stage else self.network

    def trained(self) -> list[nn.Parameter]:
        """The parameters that a step changes."""
        return [parameter for parameter in self.network.parameters() if parameter.requires_grad]

    def output(self, lr: Tensor) -> ModelOutput:
        """Of the whole network, or of the stage that is trained."""
        stage = self.recipe.stage
        output: ModelOutput = self.network.stage(stage, lr) if stage else self.network(lr)  # type: ignore[operator]
        return output

    def forward(
        self, batch: Batch, critic: nn.Module | None = None, localise_only: bool = False
    ) -> tuple[dict[str, Tensor], Tensor | None]:
        weights = self.recipe.losses
        terms: dict[str, Tensor] = {}
        if (weights.theta or weights.corners) and hasattr(self.part, "localise"):
            # In float32: in bf16 the large terms that cancel in an angle near 0 leave an error of about 0.01, measured.
            first, theta = self.part.localise(batch.lr)
            terms |= self._located(batch, first, theta)
            if localise_only:
                return terms, None
            with self._autocast(batch):
                output = ModelOutput(self.part.restore(batch.lr, theta))
        else:
            with self._autocast(batch):
                if localise_only:
                    _, *thetas = self.part.upright(batch.lr)
                    return self._located(batch, *thetas), None
                output = self.output(batch.lr)
            if output.theta is not None:
                terms |= self._located(batch, *(each for each in (output.theta, output.first_theta) if each is not None))
        if weights.heatmap and batch.points is not None and batch.visible is not None:
            target = component_heatmaps(batch.points, batch.visible, output.heatmaps[-1].shape[-1])
            terms["heatmap"] = weights.heatmap * heatmap_loss(tuple(each.float() for each in output.heatmaps), target)
        for each in output.coarser:
            named = picture_losses(each.float(), decimated(batch.hr, each.shape[-1]), weights)
            terms |= {f"{name}_{each.shape[-1] // batch.lr.shape[-1]}x": term for name, term in named.items()}
        sr = output.sr.float()
        hr = reduced(batch.hr, sr)
        terms |= picture_losses(sr, hr, weights)
        if self.features is not None:
            terms["feature"] = weights.feature * self.features(sr, hr)
        if self.identity is not None and batch.identity is not None:
            pictures = {each.shape[-1] // batch.lr.shape[-1]: each.float() for each in (*output.coarser, sr)}
            terms["identity"] = weights.identity * self.identity(pictures, batch.identity)
        if critic is not None:
            terms["adversarial"] = self.adversarial * adversarial_loss(critic(sr))
        return terms, sr

    def localising_norms(self, side: int) -> list[nn.Module]:
        """The batch norms that LR faces of ``side`` pixels pass on the way to theta: those that a step which localises only trains."""
        part, passed, lr = self.part.eval(), list[nn.Module](), torch.zeros(1, 3, side, side, device=self.adversarial.device)
        hooks = [norm.register_forward_pre_hook(lambda norm, _: passed.append(norm)) for norm in batch_norms(part)]
        with torch.no_grad():
            part.localise(lr) if hasattr(part, "localise") else part.upright(lr)
        for hook in hooks:
            hook.remove()
        part.train()
        return passed

    def _located(self, batch: Batch, *thetas: Tensor) -> dict[str, Tensor]:
        """The terms of where the face is, summed over a network's looks."""
        weights, terms = self.recipe.losses, {}
        each = [theta.float() for theta in thetas]
        if weights.theta:
            terms["theta"] = weights.theta * torch.stack([theta_loss(theta, batch.theta) for theta in each]).sum()
        if weights.corners:
            side = batch.hr.shape[-1]
            terms["corners"] = weights.corners * torch.stack([corner_loss(theta, batch.theta, side) for theta in each]).sum()
        return terms

    def _autocast(self, batch: Batch) -> torch.autocast:
        return torch.autocast(batch.lr.device.type, torch.bfloat16, enabled=self.recipe.bf16)


def batch_norms(network: nn.Module) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)]


def reduced(hr: Tensor, like: Tensor) -> Tensor:
    """HR faces at the size of ``like``: antialiased bicubic where that is smaller."""
    return hr if hr.shape == like.shape else F.interpolate(hr, like.shape[2:], mode="bicubic", antialias=True)
