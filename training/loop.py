"""The training loop: batches → losses → optimiser, with a moving average, validation, checkpoints and exact resume."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from fhrt import models
from fhrt.errors import BadInputError, FhrtError, WeightsError
from fhrt.models.discriminator import Discriminator
from fhrt.models.layers import ModelOutput
from training import checkpoint
from training.data import Batch, Batches
from training.faces import load_faces
from training.features import FeatureLoss
from training.landmarks import component_heatmaps
from training.losses import adversarial_loss, discriminator_loss, heatmap_loss, picture_losses, theta_loss
from training.recipe import Recipe
from training.validation import Validation


class DivergedError(FhrtError):
    """The loss became NaN or infinite; the last checkpoint is intact."""


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then cosine decay to ``lr × lr_floor`` at the last step."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (recipe.lr_floor + (1 - recipe.lr_floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


def reduced(hr: Tensor, like: Tensor) -> Tensor:
    """HR faces at the size of ``like``: antialiased bicubic where that is smaller."""
    return hr if hr.shape == like.shape else F.interpolate(hr, like.shape[2:], mode="bicubic", antialias=True)


class Trainer:
    """One run of a recipe in a folder: ``last.safetensors`` (everything), ``best.safetensors`` (averaged weights), sheets, log."""

    def __init__(
        self, recipe: Recipe, data: Path, out: Path, device: str = "cpu", limit: int | None = None, features: Path | None = None
    ) -> None:
        # Training the STN ran at a twentieth of its speed on denormal floats.
        torch.set_flush_denormal(True)
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.device = recipe, out, torch.device(device)
        self.model = models.create(recipe.model, **recipe.hparams).to(self.device, memory_format=torch.channels_last)
        self.trained = self._stage()
        self.optimiser = _optimiser(self.trained, recipe)
        self.average = checkpoint.plain_state(self.model)
        self.critic = Discriminator().to(self.device) if recipe.losses.adversarial else None
        self.critic_optimiser = _optimiser(self.critic, recipe) if self.critic else None
        self.feature_loss = FeatureLoss(features).to(self.device) if features is not None and recipe.losses.feature else None
        self.step, self.best = 0, -math.inf
        self.earlier_steps = 0  # of the run whose weights this one began with
        out.mkdir(parents=True, exist_ok=True)
        cache = out.parent / "faces"
        self.faces = load_faces(data, "train", cache, limit, landmarks=recipe.losses.heatmap > 0)
        self.validation = Validation(load_faces(data, "val", cache).pictures[::2], recipe)  # every other: the archive is sorted by source
        self.console = Console()
        if recipe.losses.feature and self.feature_loss is None:
            self.console.print("without the feature loss: its network's weights were not given (--features FILE)", style="yellow")

    # -- one step -------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One update; returns the weighted loss terms. Raises DivergedError before any weight is touched by a NaN."""
        batch = batch.to(self.device)
        terms, sr = self._losses(batch)
        loss = torch.stack(list(terms.values())).sum()
        if not torch.isfinite(loss):
            raise DivergedError(f"the loss is {loss.item()} at step {self.step}; resume from last.safetensors with a lower lr")
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.recipe)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained.parameters(), self.recipe.clip)
        self.optimiser.step()
        if self.critic is not None and sr is not None:
            self._critic_step(batch.hr, sr.detach())
        self._update_average()
        self.step += 1
        return {name: term.item() for name, term in terms.items()}

    def _losses(self, batch: Batch) -> tuple[dict[str, Tensor], Tensor | None]:
        weights, localise = self.recipe.losses, getattr(self.model, "localise", None)
        lr, hr, truth = batch[:3]
        terms: dict[str, Tensor] = {}
        if localise is not None and weights.theta:
            # In float32: in bf16 the large terms that cancel in an angle near 0 leave an error of about 0.01, measured.
            first, theta = localise(lr)
            terms["theta"] = weights.theta * (theta_loss(first, truth) + theta_loss(theta, truth))
            if self.step < self.recipe.localise_steps:
                return terms, None
            with self._autocast():
                sr = self.model.restore(lr, theta)
        else:
            with self._autocast():
                sr, theta, heatmaps, coarser = self.forward(lr)
            if weights.theta and theta is not None:
                terms["theta"] = weights.theta * theta_loss(theta, truth)
            if weights.heatmap and batch.points is not None and batch.visible is not None:
                target = component_heatmaps(batch.points, batch.visible, heatmaps[-1].shape[-1])
                terms["heatmap"] = weights.heatmap * heatmap_loss(tuple(each.float() for each in heatmaps), target)
            for each in coarser:
                scale = each.shape[-1] // lr.shape[-1]
                terms |= {f"{name}_{scale}x": term for name, term in picture_losses(each.float(), reduced(hr, each), weights).items()}
        sr, hr = sr.float(), reduced(hr, sr)
        terms |= picture_losses(sr, hr, weights)
        if self.feature_loss is not None:
            terms["feature"] = weights.feature * self.feature_loss(sr, hr)
        if self.critic is not None:
            terms["adversarial"] = weights.adversarial * adversarial_loss(self.critic(sr))
        return terms, sr

    def forward(self, lr: Tensor) -> ModelOutput:
        """Of the whole network, or of the stage that is trained."""
        output: ModelOutput = self.model.stage(self.recipe.stage, lr) if self.recipe.stage else self.model(lr)  # type: ignore[operator]
        return output

    def _stage(self) -> nn.Module:
        """The module that is trained. Raises BadInputError where the network has no such stage."""
        stage = self.recipe.stage
        if not stage:
            return self.model
        if not hasattr(self.model, "stage") or stage not in dict(self.model.named_children()):
            raise BadInputError(f"{self.recipe.model} has no stage {stage!r}")
        return self.model.get_submodule(stage)

    def _autocast(self) -> torch.autocast:
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.recipe.bf16)

    def _critic_step(self, hr: Tensor, sr: Tensor) -> None:
        """Update D unless it is already too good (mean loss under 0.3, UR-DGN's released code)."""
        assert self.critic is not None and self.critic_optimiser is not None
        loss = discriminator_loss(self.critic(hr), self.critic(sr))
        if loss.item() / 2 < 0.3:
            return
        self.critic_optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.critic_optimiser.step()

    def _update_average(self) -> None:
        # The average starts young and grows old, so that early steps do not linger in it.
        decay = min(self.recipe.ema, (1 + self.step) / (10 + self.step))
        for key, value in self.model.state_dict().items():
            if value.is_floating_point():
                self.average[key].lerp_(value.detach(), 1 - decay)
            else:
                self.average[key].copy_(value)

    # -- the run --------------------------------------------------------------------------------------------------

    def fit(self, save_seconds: float = 240.0) -> None:
        """Train to the recipe's last step; validates and saves on the way and on Ctrl-C."""
        batches = Batches(self.faces, self.recipe.mix, self.recipe.batch, self.recipe.seed, self.step)
        saved = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        try:
            with Progress(*columns, console=self.console) as progress:
                task = progress.add_task(self.recipe.model, total=self.recipe.steps, completed=self.step)
                for batch in batches:
                    if self.step >= self.recipe.steps:
                        break
                    terms = self.train_step(batch)
                    if self.step % 50 == 0:
                        told = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
                        progress.update(task, completed=self.step, description=f"{self.recipe.model}  {told}")
                    if self.step % self.recipe.validate_every == 0:
                        self.validate()
                    if time.monotonic() - saved > save_seconds:
                        self.save()
                        saved = time.monotonic()
        except KeyboardInterrupt:
            self.console.print(f"stopped at step {self.step}; continue with --resume")
        finally:
            batches.close()
        self.save()

    def validate(self) -> None:
        """Score the averaged weights, write the sheet, keep them as ``best`` when they are the best so far."""
        trained = checkpoint.plain_state(self.model)
        self.model.load_state_dict(self.average)
        self.model.eval()
        scores = self.validation.score(self.forward, self.device)
        self.validation.sheet(self.forward, self.device, self.out / f"sheet-{self.step:06d}.png")
        self.model.train()
        self.model.load_state_dict(trained)
        told = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        line = f"step {self.step}  {told}"
        self.console.print(line)
        with (self.out / "log.txt").open("a") as log:
            log.write(line + "\n")
        total = sum(value for name, value in scores.items() if name.endswith("psnr"))
        if total > self.best:
            self.best = total
            checkpoint.save(self.out / "best.safetensors", self.average, self._about() | {"validation": scores})

    def save(self) -> None:
        tensors = checkpoint.pack("model", self.model.state_dict()) | checkpoint.pack("average", self.average)
        tensors |= checkpoint.pack_optimiser(self.optimiser, "optimiser")
        if self.critic is not None and self.critic_optimiser is not None:
            tensors |= checkpoint.pack("critic", self.critic.state_dict())
            tensors |= checkpoint.pack_optimiser(self.critic_optimiser, "critic_optimiser")
        tensors["random"] = torch.get_rng_state()
        checkpoint.save(self.out / "last.safetensors", tensors, self._about() | {"best": self.best})

    def _about(self) -> dict[str, Any]:
        recipe = self.recipe
        return {"model": recipe.model, "hparams": recipe.hparams, "step": self.step, "earlier_steps": self.earlier_steps}

    def start_from(self, path: Path) -> int:
        """Begin with the weights of ``path`` (a ``best.safetensors``) that have this network's names and shapes; returns how many."""
        tensors, about = checkpoint.load(path)
        state = self.model.state_dict()
        known = {key: value for key, value in tensors.items() if key in state and value.shape == state[key].shape}
        if not known:
            raise WeightsError(f"{path} holds no weight of {self.recipe.model}")
        self.model.load_state_dict(state | known)
        self.average = checkpoint.plain_state(self.model)
        self.earlier_steps = about.get("step", 0) + about.get("earlier_steps", 0)
        return len(known)

    def resume(self) -> None:
        """Continue from ``last.safetensors``: model, average, optimiser, random state and position in the data."""
        tensors, about = checkpoint.load(self.out / "last.safetensors")
        self.model.load_state_dict(checkpoint.unpack("model", tensors))
        self.average = {key: value.to(self.device) for key, value in checkpoint.unpack("average", tensors).items()}
        checkpoint.unpack_optimiser(self.optimiser, "optimiser", tensors)
        if self.critic is not None and self.critic_optimiser is not None:
            self.critic.load_state_dict(checkpoint.unpack("critic", tensors))
            checkpoint.unpack_optimiser(self.critic_optimiser, "critic_optimiser", tensors)
        torch.set_rng_state(tensors["random"])
        self.step, self.best, self.earlier_steps = about["step"], about["best"], about.get("earlier_steps", 0)


def _optimiser(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimiser == "rmsprop":
        return torch.optim.RMSprop(module.parameters(), lr=recipe.lr, alpha=0.9, eps=1e-8)
    return torch.optim.AdamW(module.parameters(), lr=recipe.lr, betas=(0.9, 0.99), weight_decay=1e-4)
