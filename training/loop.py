"""The training loop: batches → losses → optimiser, with a moving average, validation, checkpoints and exact resume."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from fhrt import models
from fhrt.errors import BadInputError, FhrtError, WeightsError
from fhrt.models.discriminator import Discriminator
from fhrt.models.srgan import SRGANDiscriminator
from training import checkpoint
from training.data import Batch, Batches
from training.faces import describe, load_faces
from training.features import FeatureLoss
from training.identity import IdentityPrior
from training.losses import discriminator_loss
from training.objective import Objective
from training.recipe import Recipe
from training.validation import Validation

SAVE_SECONDS = 240.0
LOG_EVERY = 50  # steps


class DivergedError(FhrtError):
    """The loss became NaN or infinite; the last checkpoint is intact."""


def learning_rate(step: int, recipe: Recipe) -> float:
    """Linear warm-up, then cosine decay to ``lr × lr_floor`` at the last step."""
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (recipe.lr_floor + (1 - recipe.lr_floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class Trainer:
    """One run of a recipe in a folder: ``last.safetensors`` (everything), ``best.safetensors`` (averaged weights), sheets, logs.

    device: "cpu", "cuda" or "cuda:1". devices: how many share each step (DDP, each with a batch of its own). features: VGG-19's weights.
    identity: folder with the three identity networks.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path,
        out: Path,
        device: str = "cpu",
        devices: int = 1,
        limit: int | None = None,
        features: Path | None = None,
        identity: Path | None = None,
    ) -> None:
        made = models.system(recipe.model).made
        if made != "fit":
            raise BadInputError(f"{recipe.model} has no recipe: python -m training {made} {recipe.model} --data {data}")
        # Training the STN ran at a twentieth of its speed on denormal floats.
        torch.set_flush_denormal(True)
        self.fabric = _fabric(out, device, devices)
        self.fabric.launch()
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.device = recipe, out, self.fabric.device
        self.console = Console(quiet=not self.fabric.is_global_zero)
        self.faces, self.validation = self._load(data, limit)
        self.data = describe(data, "train", len(self.faces))

        self.model = models.create(recipe.model, **recipe.hparams).to(memory_format=torch.channels_last)
        feature_loss = FeatureLoss(features) if features is not None and recipe.losses.feature else None
        prior = IdentityPrior(identity) if identity is not None and recipe.losses.identity else None
        objective = Objective(self.model, recipe, feature_loss, prior)
        self.objective, self.optimiser = self.fabric.setup(objective, _optimiser(objective.trained(), recipe))
        self.average = checkpoint.plain_state(self.model)
        self.critic: Any = None
        if recipe.losses.adversarial:
            critic = SRGANDiscriminator() if recipe.discriminator == "srgan" else Discriminator()
            self.critic, self.critic_optimiser = self.fabric.setup(critic, _optimiser(list(critic.parameters()), recipe))
        self.step, self.best, self.best_step = 0, -math.inf, 0
        self.earlier_steps = 0  # of the run whose weights this one began with
        if recipe.losses.feature and features is None:
            self.console.print("without the feature loss: its network's weights were not given (--features FILE)", style="yellow")
        if recipe.losses.identity and identity is None:
            self.console.print("without the identity term: its networks were not given (--identity FOLDER)", style="yellow")

    def _load(self, data: Path, limit: int | None) -> tuple[Any, Validation]:
        """Training and validation faces; the first process decodes, the others wait for it."""
        self.out.mkdir(parents=True, exist_ok=True)
        cache = self.out.parent / "faces"
        with self.fabric.rank_zero_first():
            losses = self.recipe.losses
            faces = load_faces(data, "train", cache, limit, landmarks=losses.heatmap > 0, people=losses.identity > 0)
            held_back = load_faces(data, "val", cache).pictures[::2]  # every other: the archive is sorted by source
        return faces, Validation(held_back, self.recipe)

    # -- one step -------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One update; returns the weighted loss terms. Raises DivergedError before any weight is touched by a NaN."""
        batch = batch.to(self.device)
        critic = None if self.critic is None else self.critic.module
        terms, sr = self.objective(batch, critic, localise_only=self.step < self.recipe.localise_steps)
        loss = torch.stack(list(terms.values())).sum()
        told: Any = self.fabric.all_reduce({name: term.detach() for name, term in terms.items()})
        if not all(math.isfinite(term.item()) for term in told.values()):
            raise DivergedError(f"the loss is {loss.item()} at step {self.step}; resume from last.safetensors with a lower lr")
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(self.step, self.recipe)
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        norm: Any = self.fabric.clip_gradients(self.objective, self.optimiser, max_norm=self.recipe.clip, error_if_nonfinite=False)
        if not math.isfinite(norm.item()):
            raise DivergedError(f"the gradient is {norm.item()} at step {self.step}; resume from last.safetensors with a lower lr")
        self.optimiser.step()
        if self.critic is not None and sr is not None:
            self._critic_step(batch.hr, sr.detach())
        self._update_average()
        self.step += 1
        return {name: term.item() for name, term in told.items()}

    def _critic_step(self, hr: Tensor, sr: Tensor) -> None:
        """Update D unless it is already too good (mean loss under 0.3, UR-DGN's released code)."""
        loss = discriminator_loss(self.critic(hr), self.critic(sr))
        mean: Any = self.fabric.all_reduce(loss.detach())
        if mean.item() / 2 < 0.3:
            return
        self.critic_optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        self.critic_optimiser.step()

    def _update_average(self) -> None:
        # The average starts young and grows old, so that early steps do not linger in it.
        checkpoint.follow(self.average, self.model, min(self.recipe.ema, (1 + self.step) / (10 + self.step)))

    # -- the run --------------------------------------------------------------------------------------------------

    def fit(self, seconds: float = math.inf) -> list[float]:
        """Train to the recipe's last step, until nothing improves, or for so long; returns the loss of every step.

        Validates and saves on the way, and saves on Ctrl-C.
        """
        rank, world = self.fabric.global_rank, self.fabric.world_size
        batches = Batches(self.faces, self.recipe.mix, self.recipe.batch, self.recipe.seed, self.step * world + rank, every=world)
        began = saved = time.monotonic()
        losses: list[float] = []
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        try:
            with Progress(*columns, console=self.console) as progress:
                task = progress.add_task(self.recipe.model, total=self.recipe.steps, completed=self.step)
                for batch in batches:
                    if self.step >= self.recipe.steps or time.monotonic() - began > seconds or self._stuck():
                        break
                    terms = self.train_step(batch)
                    losses.append(sum(terms.values()))
                    if self.step % LOG_EVERY == 0:
                        self.fabric.log_dict({f"loss/{name}": value for name, value in terms.items()}, self.step)
                        told = "  ".join(f"{name} {value:.4f}" for name, value in terms.items())
                        progress.update(task, completed=self.step, description=f"{self.recipe.model}  {told}")
                    if self.step % self.recipe.validate_every == 0:
                        self.validate()
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self.save()
                        saved = time.monotonic()
        except KeyboardInterrupt:
            self.console.print(f"stopped at step {self.step}; continue with --resume")
        finally:
            batches.close()
        self.save()
        return losses

    def _stuck(self) -> bool:
        """Whether the last ``patience`` validations brought nothing."""
        since = (self.step - self.best_step) // self.recipe.validate_every
        return self.recipe.patience > 0 and self.best_step > 0 and since >= self.recipe.patience

    def validate(self) -> None:
        """Score the averaged weights, write the sheet, keep them as ``best`` when they are the best so far."""
        trained = checkpoint.plain_state(self.model)
        self.model.load_state_dict(self.average)
        self.model.eval()
        forward = self.objective.module.output
        scores = self.validation.score(forward, self.device)
        if self.fabric.is_global_zero:
            self.validation.sheet(forward, self.device, self.out / f"sheet-{self.step:06d}.png")
        self.model.train()
        self.model.load_state_dict(trained)
        told = "  ".join(f"{name} {value:.3f}" for name, value in scores.items())
        self.console.print(f"step {self.step}  {told}")
        self.fabric.log_dict({f"validation/{name}": value for name, value in scores.items()}, self.step)
        total = sum(value for name, value in scores.items() if name.endswith("psnr"))
        improved = total > self.best
        if improved:
            self.best, self.best_step = total, self.step
        if self.fabric.is_global_zero:
            with (self.out / "log.txt").open("a") as log:
                log.write(f"step {self.step}  {told}\n")
            if improved:
                checkpoint.save(self.out / "best.safetensors", self.average, self._about() | {"validation": scores})

    def save(self) -> None:
        """Everything that `resume` needs, from the first process."""
        if not self.fabric.is_global_zero:
            return
        tensors = checkpoint.pack("model", self.model.state_dict()) | checkpoint.pack("average", self.average)
        tensors |= checkpoint.pack_optimiser(self.optimiser, "optimiser")
        if self.critic is not None:
            tensors |= checkpoint.pack("critic", self.critic.module.state_dict())
            tensors |= checkpoint.pack_optimiser(self.critic_optimiser, "critic_optimiser")
        tensors["random"] = torch.get_rng_state()
        checkpoint.save(self.out / "last.safetensors", tensors, self._about() | {"best": self.best, "best_step": self.best_step})

    def _about(self) -> dict[str, Any]:
        kept = {key: getattr(self.recipe, key) for key in ("model", "hparams", "stage")}
        return kept | {"step": self.step, "earlier_steps": self.earlier_steps, "data": self.data}

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
        """Continue from ``last.safetensors``: model, average, optimiser, random state and position in the data.

        Raises WeightsError where there is none, or where it is another recipe's.
        """
        path = self.out / "last.safetensors"
        tensors, about = checkpoint.load(path)
        for key, value in (("model", self.recipe.model), ("hparams", self.recipe.hparams), ("stage", self.recipe.stage)):
            if about.get(key, "") != value:
                raise WeightsError(f"{path} is another recipe's: its {key} is {about.get(key)!r}, not {value!r}")
        critic = checkpoint.unpack("critic", tensors)
        if bool(critic) != (self.critic is not None):
            raise WeightsError(f"{path} is another recipe's: it has {'a' if critic else 'no'} discriminator")
        self.model.load_state_dict(checkpoint.unpack("model", tensors))
        self.average = {key: value.to(self.device) for key, value in checkpoint.unpack("average", tensors).items()}
        checkpoint.unpack_optimiser(self.optimiser, "optimiser", tensors)
        if self.critic is not None:
            self.critic.module.load_state_dict(critic)
            checkpoint.unpack_optimiser(self.critic_optimiser, "critic_optimiser", tensors)
        torch.set_rng_state(tensors["random"])
        self.step, self.best, self.earlier_steps = about["step"], about["best"], about.get("earlier_steps", 0)
        self.best_step = about.get("best_step", self.step)


def _fabric(out: Path, device: str, devices: int) -> Fabric:
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and (not number.isdigit() or devices > 1)):
        raise BadInputError(f'device must be "cpu", "cuda" or, for one of several, "cuda:1"; not {device!r} with {devices} devices')
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadInputError("device is cuda, and this machine has none that torch can use")
    # The networks' own branches decide who gets a gradient in a step: a localisation that is trained first, a critic left alone.
    strategy = "ddp_find_unused_parameters_true" if devices > 1 else "auto"
    logger = TensorBoardLogger(out, name="", version="tensorboard")
    return Fabric(accelerator=kind, devices=[int(number)] if number else devices, strategy=strategy, loggers=logger)


def _optimiser(parameters: list[nn.Parameter], recipe: Recipe) -> torch.optim.Optimizer:
    if recipe.optimiser == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=recipe.lr, alpha=0.9, eps=1e-8)
    return torch.optim.AdamW(parameters, lr=recipe.lr, betas=(0.9, 0.99), weight_decay=1e-4)
