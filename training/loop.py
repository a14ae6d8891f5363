"""The training loop: batches → losses → optimiser, with a moving average, validation, checkpoints and exact resume.

On a CUDA device nothing in a step waits for the device: its work becomes one CUDA graph, and whether a loss was NaN is asked every
`CHECK_EVERY` steps, after which a run that was goes back to where it was asked before.
"""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.loggers import TensorBoardLogger
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn

from fhrt import models
from fhrt.errors import BadInputError, FhrtError, WeightsError
from fhrt.files import make_folder
from fhrt.models.discriminator import Discriminator
from fhrt.models.srgan import SRGANDiscriminator
from fhrt.runtime.bundle import open_bundle
from training import checkpoint
from training.capture import CapturedStep
from training.data import Batch, Batches, FromMemory, Source, make_batch
from training.device import THREADS, OnDevice, check_device, computes_bf16, fits
from training.faces import FaceSet, describe, load_faces
from training.features import FeatureLoss
from training.identity import IdentityPrior
from training.losses import discriminator_loss
from training.objective import Objective, batch_norms
from training.recipe import Recipe
from training.unfold import bundle_weights, calibrate, unfold
from training.validation import Validation

SAVE_SECONDS = 240.0
LOG_EVERY = 50  # steps
CHECK_EVERY = 50  # steps on a device between two looks at their losses, for each of which the host waits
GRADIENT = "gradient"  # among a step's loss terms: the norm
UNFOLD_WITH = 32  # faces, for the normalisations of a bundle's network
TOO_GOOD = 0.3  # mean loss under which the discriminator is left alone (UR-DGN's released code)


class DivergedError(FhrtError):
    """The loss became NaN or infinite; no weight was touched by it, and the last checkpoint is intact."""


def learning_rate(step: int, recipe: Recipe, epoch: int) -> float:
    """Linear warm-up, then what the recipe's schedule says: cosine decay to ``lr × lr_floor`` at the last step, or ``lr × decay`` after
    every ``epoch`` steps, or after some of them.
    """
    if step < recipe.warmup:
        return recipe.lr * (step + 1) / recipe.warmup
    if recipe.decay is not None:
        done = step // epoch
        return recipe.lr * recipe.decay ** (done if recipe.schedule == "exponential" else sum(done >= each for each in recipe.decay_epochs))
    done = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return recipe.lr * (recipe.lr_floor + (1 - recipe.lr_floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, done))))


class Trainer:
    """One run of a recipe in a folder: ``last.safetensors`` (everything), ``best.safetensors`` (averaged weights), sheets, logs.

    data: folder of the face archive, or faces already in memory. device: "cpu", "cuda" or "cuda:1". devices: how many share each step (DDP,
    each with a batch of its own). features: VGG-19's weights. identity: folder with the three identity networks. check_every: steps between
    two looks at the losses; 1: before every update, which is the default on the CPU. captured: whether a step on one CUDA device becomes a
    CUDA graph.
    """

    def __init__(
        self,
        recipe: Recipe,
        data: Path | FaceSet,
        out: Path,
        device: str = "cpu",
        devices: int = 1,
        limit: int | None = None,
        features: Path | None = None,
        identity: Path | None = None,
        check_every: int | None = None,
        captured: bool = True,
    ) -> None:
        made = models.system(recipe.model).made
        if made != "fit":
            raise BadInputError(f"{recipe.model} has no recipe: python -m training {made} {recipe.model} --data {data}")
        if recipe.losses.feature and features is None:
            raise BadInputError(f"{recipe.model}'s recipe has a feature loss: give VGG-19's weights with --features FILE")
        # Training the STN ran at a twentieth of its speed on denormal floats.
        torch.set_flush_denormal(True)
        self.fabric = _fabric(out, device, devices)
        self.fabric.launch()
        torch.manual_seed(recipe.seed)
        self.recipe, self.out, self.device = recipe, out, self.fabric.device
        if recipe.bf16 and not computes_bf16(self.device.type):
            self.recipe = recipe = recipe.model_copy(update={"bf16": False})
        on_cuda = self.device.type == "cuda"
        torch.backends.cudnn.benchmark = on_cuda  # a step's sizes are the same every time
        self.check_every = check_every or (CHECK_EVERY if on_cuda else 1)
        self.console = Console(quiet=not self.fabric.is_global_zero)
        self.faces, self.validation = self._load(data, limit)
        self.data = describe(data, "train", len(self.faces)) if isinstance(data, Path) else f"{len(self.faces):,} faces"
        self.threads = THREADS if on_cuda else 1
        self.source: Source = OnDevice(self.faces, self.device) if on_cuda and fits(self.faces, self.device) else FromMemory(self.faces)

        self.model = models.create(recipe.model, **recipe.hparams).to(memory_format=torch.channels_last)
        feature_loss = FeatureLoss(features) if features is not None and recipe.losses.feature else None
        prior = IdentityPrior(identity) if identity is not None and recipe.losses.identity else None
        objective = Objective(self.model, recipe, feature_loss, prior)
        self.objective, self.optimiser = self.fabric.setup(objective, _optimiser(objective.trained(), recipe, self.device))
        self.average = checkpoint.plain_state(self.model)
        self.critic: Any = None
        if recipe.losses.adversarial:
            critic = SRGANDiscriminator() if recipe.discriminator == "srgan" else Discriminator()
            self.critic, self.critic_optimiser = self.fabric.setup(critic, _optimiser(list(critic.parameters()), recipe, self.device))
        self.step, self.best, self.best_step = 0, -math.inf, 0
        self.epoch = -(-len(self.faces) // (recipe.batch * self.fabric.world_size))  # steps
        self.norms = self._norms()
        self.frozen: list[nn.Module] = []  # of these, those that keep their statistics
        # What a captured step reads anew at every replay lies on the device.
        self.rate, self.decay = (torch.zeros((), dtype=dtype, device=self.device) for dtype in (torch.float32, torch.float64))
        self.captured = CapturedStep(self._update) if on_cuda and captured and devices == 1 and self.check_every > 1 else None
        self.checked: dict[str, Tensor] = {}  # the state when the losses were last looked at
        self.checked_step = 0
        self.unchecked: list[dict[str, Tensor]] = []  # what came of the steps since
        self.earlier_steps, self.start = 0, ""  # of the run whose weights this one began with; what the bundle says of its training
        self.grown = ""  # the sizes that these weights' network had before it grew
        if recipe.losses.identity and identity is None:
            self.console.print("without the identity term: its networks were not given (--identity FOLDER)", style="yellow")

    def _load(self, data: Path | FaceSet, limit: int | None) -> tuple[FaceSet, Validation]:
        """Training and validation faces; the first process decodes, the others wait for it."""
        make_folder(self.out)
        if isinstance(data, FaceSet):
            return data, Validation(data.pictures[:8], self.recipe)
        cache = self.out.parent / "faces"
        with self.fabric.rank_zero_first():
            losses = self.recipe.losses
            faces = load_faces(data, "train", cache, limit, landmarks=losses.heatmap > 0, people=losses.identity > 0)
            held_back = load_faces(data, "val", cache).pictures[::2]  # every other: the archive is sorted by source
        return faces, Validation(held_back, self.recipe)

    # -- one step -------------------------------------------------------------------------------------------------

    def train_step(self, batch: Batch) -> dict[str, Tensor]:
        """One update; returns the weighted loss terms, on the device.

        Raises DivergedError before any weight is touched by a NaN where every step is looked at; else `check` does, going back.
        """
        batch = batch.to(self.device)
        if self.check_every > 1 and not self.checked:
            self.checked, self.checked_step = self._copied(), self.step
        self._freeze()
        self.rate.fill_(learning_rate(self.step, self.recipe, self.epoch))
        self.decay.fill_(self._average_decay())
        losses = self.recipe.losses
        self.objective.module.adversarial.fill_(losses.adversarial * max(0.5, losses.adversarial_decay ** (self.step // self.epoch)))
        localise_only = self.step < self.recipe.localise_steps
        told = self._update(batch, localise_only) if self.captured is None else self.captured(batch, localise_only)
        self.step += 1
        if self.check_every > 1:
            self.unchecked.append(told)
        return {name: term for name, term in told.items() if name != GRADIENT}

    def _update(self, batch: Batch, localise_only: bool) -> dict[str, Tensor]:
        """What a step does to the weights; returns its loss terms and the gradient's norm."""
        critic = None if self.critic is None else self.critic.module
        terms, sr = self.objective(batch, critic, localise_only=localise_only)
        loss = torch.stack(list(terms.values())).sum()
        told: Any = self.fabric.all_reduce({name: term.detach() for name, term in terms.items()})
        if self.check_every == 1:
            self._refuse("loss", sum(term.item() for term in told.values()))
        rate = self.rate if self.optimiser.defaults["capturable"] else learning_rate(self.step, self.recipe, self.epoch)
        optimisers = (self.optimiser,) if self.critic is None else (self.optimiser, self.critic_optimiser)
        for group in (group for optimiser in optimisers for group in optimiser.param_groups):
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        most = self.recipe.clip or math.inf
        norm: Any = self.fabric.clip_gradients(self.objective, self.optimiser, max_norm=most, error_if_nonfinite=False)
        if self.check_every == 1:
            self._refuse("gradient", norm.item())
        else:  # what is found out later must not reach the weights meanwhile
            for group in self.optimiser.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.nan_to_num_(0.0, 0.0, 0.0)
        self.optimiser.step()
        if self.critic is not None and sr is not None:
            self._critic_step(batch.hr, sr.detach())
        checkpoint.follow(self.average, self.model, self._average_decay() if self.captured is None else self.decay)
        return {**told, GRADIENT: norm.detach()}

    def _norms(self) -> list[tuple[int, list[nn.Module]]]:
        """Batch norms, and the step from which on they keep their statistics. Raises BadInputError for a network that has none."""
        recipe = self.recipe
        if recipe.freeze_norms is None:
            return []
        objective, alone = self.objective.module, min(recipe.localise_steps, recipe.steps)
        every = batch_norms(objective.part)
        if not every:
            raise BadInputError(f"freeze_norms needs a network with batch norms; {recipe.model} has none")
        found = [(alone + round(recipe.freeze_norms * (recipe.steps - alone)), every)]
        if alone:
            localising = objective.localising_norms(models.system(recipe.model).lr_side)
            found.append((round(recipe.freeze_norms * alone), localising))
        return found

    def _freeze(self) -> None:
        """Puts the batch norms into the state that this step wants."""
        frozen = [norm for start, norms in self.norms if self.step >= start for norm in norms]
        if len(frozen) != len(self.frozen) and self.captured is not None:
            self.captured = CapturedStep(self._update)
        self.frozen = frozen
        for norm in self.norms[0][1] if self.norms else ():
            norm.train(norm not in frozen)

    def _average_decay(self) -> float:
        """The average starts young and grows old, so that early steps do not linger in it."""
        return min(self.recipe.ema, (1 + self.step) / (10 + self.step))

    def _refuse(self, what: str, value: float, step: int | None = None) -> None:
        if not math.isfinite(value):
            at = self.step if step is None else step
            raise DivergedError(f"the {what} is {value} at step {at}; resume from last.safetensors with a lower lr")

    def _critic_step(self, hr: Tensor, sr: Tensor) -> None:
        """Update D unless it is already too good; where every step is looked at, its gradient is then not even computed."""
        loss = discriminator_loss(self.critic(hr), self.critic(sr))
        mean: Any = self.fabric.all_reduce(loss.detach())
        leave = mean / 2 < TOO_GOOD
        if self.check_every == 1 and leave.item():
            return
        self.critic_optimiser.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        before = [each.clone() for each in self._critic_state()] if self.check_every > 1 else []
        self.critic_optimiser.step()
        for now, then in zip(self._critic_state(), before, strict=False):
            now.copy_(torch.where(leave, then, now))

    def _critic_state(self) -> list[Tensor]:
        """What an update of D changes. The optimiser's part is empty before its first update, which so is never taken back."""
        state = self.critic_optimiser.optimizer.state
        return [each.detach() for each in self.critic.parameters()] + [value for fields in state.values() for value in fields.values()]

    def check(self) -> list[dict[str, float]]:
        """The loss terms of the steps since the last call. Where one was NaN or infinite, or a gradient was, everything becomes what it was
        at that call, is saved, and DivergedError is raised.
        """
        told = [dict(zip(terms, torch.stack(list(terms.values())).tolist(), strict=True)) for terms in self.unchecked]
        self.unchecked.clear()
        try:
            for number, terms in enumerate(told):
                norm = terms.pop(GRADIENT)
                self._refuse("loss", sum(terms.values()), self.checked_step + number)
                self._refuse("gradient", norm, self.checked_step + number)
        except DivergedError:
            self._restore(self.checked)
            self.step = self.checked_step
            self.save()
            raise
        if told:
            self.checked, self.checked_step = self._copied(), self.step
        return told

    # -- the run --------------------------------------------------------------------------------------------------

    def fit(self, seconds: float = math.inf) -> list[float]:
        """Train to the recipe's last step, until nothing improves, or for so long; returns the loss of every step.

        Validates and saves on the way, and saves on Ctrl-C.
        """
        rank, world = self.fabric.global_rank, self.fabric.world_size
        batches = Batches(self.source, self.recipe.mix, self.recipe.batch, self.recipe.seed, self.step * world + rank, world, self.threads)
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
                    if self.check_every == 1:
                        losses.append(sum(term.item() for term in terms.values()))
                    elif self.step % self.check_every == 0:
                        losses += (sum(each.values()) for each in self.check())
                    if self.step % LOG_EVERY == 0:
                        values = {name: value.item() for name, value in terms.items()}
                        self.fabric.log_dict({f"loss/{name}": value for name, value in values.items()}, self.step)
                        told = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
                        progress.update(task, completed=self.step, description=f"{self.recipe.model}  {told}")
                    validated = self.step % self.recipe.validate_every == 0
                    if validated:
                        losses += (sum(each.values()) for each in self.check())
                        self.validate()
                    if validated or time.monotonic() - saved > SAVE_SECONDS:  # a run that has a best.safetensors can be resumed
                        losses += (sum(each.values()) for each in self.check())
                        self.save()
                        saved = time.monotonic()
        except KeyboardInterrupt:
            self.console.print(f"stopped at step {self.step}; continue with --resume")
        finally:
            batches.close()
        losses += (sum(each.values()) for each in self.check())
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
        about = self._about() | {"best": self.best, "best_step": self.best_step}
        checkpoint.save(self.out / "last.safetensors", self._state(), about)

    def _state(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint; the weights' own memory."""
        tensors = checkpoint.pack("model", self.model.state_dict()) | checkpoint.pack("average", self.average)
        tensors |= checkpoint.pack_optimiser(self.optimiser, "optimiser")
        if self.critic is not None:
            tensors |= checkpoint.pack("critic", self.critic.module.state_dict())
            tensors |= checkpoint.pack_optimiser(self.critic_optimiser, "critic_optimiser")
        if self.device.type == "cuda":
            tensors["random_device"] = torch.cuda.get_rng_state(self.device)
        return tensors | {"random": torch.get_rng_state()}

    def _copied(self) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in self._state().items()}

    def _restore(self, tensors: dict[str, Tensor]) -> None:
        """What `_state` gave."""
        self.model.load_state_dict(checkpoint.unpack("model", tensors))
        self.average = {key: value.to(self.device) for key, value in checkpoint.unpack("average", tensors).items()}
        checkpoint.unpack_optimiser(self.optimiser, "optimiser", tensors)
        if self.critic is not None:
            self.critic.module.load_state_dict(checkpoint.unpack("critic", tensors))
            checkpoint.unpack_optimiser(self.critic_optimiser, "critic_optimiser", tensors)
        torch.set_rng_state(tensors["random"])
        if self.device.type == "cuda" and "random_device" in tensors:
            torch.cuda.set_rng_state(tensors["random_device"], self.device)

    def _about(self) -> dict[str, Any]:
        kept = {key: getattr(self.recipe, key) for key in ("model", "hparams", "stage")}
        kept |= {"start": self.start} if self.start else {}
        kept |= {"grown": self.grown} if self.grown else {}
        return kept | {"step": self.step, "earlier_steps": self.earlier_steps, "data": self.data}

    def start_from(self, path: Path) -> int:
        """Begin with the weights of ``path`` that have this network's names and shapes; returns how many.

        path: a ``best.safetensors``, or a bundle's folder or name. Raises WeightsError, UnknownModelError.
        """
        if path.suffix == ".safetensors":
            tensors, about = checkpoint.load(path)
        else:
            tensors, about = self._unfolded(str(path))
        state = self.model.state_dict()
        known = {key: value for key, value in tensors.items() if key in state and value.shape == state[key].shape}
        if not known:
            raise WeightsError(f"{path} holds no weight of {self.recipe.model}")
        self.model.load_state_dict(state | known)
        if about.get("unseen"):  # of a network that grew
            calibrate(self.model, about["unseen"], self._seen().to(self.device))
        self.average = checkpoint.plain_state(self.model)
        self.earlier_steps, self.start = about.get("step", 0) + about.get("earlier_steps", 0), about.get("start", "")
        self.grown = about.get("grown", "")
        return len(known)

    def _seen(self) -> Tensor:
        """LR faces [`UNFOLD_WITH`, 3, H, W] that normalisations get their statistics from."""
        return make_batch(self.faces, self.recipe.mix, UNFOLD_WITH, np.random.default_rng(self.recipe.seed)).lr

    def _unfolded(self, bundle: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """The weights of a bundle as they were before its export, and what is known of them."""
        card = open_bundle(bundle).card
        if card.name != self.recipe.model:
            raise WeightsError(f"{bundle} is a bundle of {card.name}, not of {self.recipe.model}")
        try:
            network = unfold(models.create(card.name, **card.hparams), bundle_weights(bundle), self._seen())
        except WeightsError as error:
            raise WeightsError(f"{bundle}: {error}") from error
        return network.state_dict(), {"start": card.training}

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
        self._restore(tensors)
        self.step, self.best, self.earlier_steps = about["step"], about["best"], about.get("earlier_steps", 0)
        self.start, self.grown = about.get("start", ""), about.get("grown", "")
        self.best_step = about.get("best_step", self.step)


def _fabric(out: Path, device: str, devices: int) -> Fabric:
    check_device(device, devices)
    kind, _, number = device.partition(":")
    # The networks' own branches decide who gets a gradient in a step: a localisation that is trained first, a critic left alone.
    strategy = "ddp_find_unused_parameters_true" if devices > 1 else "auto"
    logger = TensorBoardLogger(out, name="", version="tensorboard")
    return Fabric(accelerator=kind, devices=[int(number)] if number else devices, strategy=strategy, loggers=logger)


def _optimiser(parameters: list[nn.Parameter], recipe: Recipe, device: torch.device) -> torch.optim.Optimizer:
    """On a CUDA device one whose step can be captured: what it reads is in the device's memory."""
    on_cuda = device.type == "cuda"
    lr: Any = torch.tensor(recipe.lr, device=device) if on_cuda else recipe.lr
    if recipe.optimiser == "rmsprop":
        return torch.optim.RMSprop(parameters, lr=lr, alpha=recipe.alpha, eps=1e-8, capturable=on_cuda)
    if recipe.optimiser == "adam":
        return torch.optim.Adam(parameters, lr=lr, capturable=on_cuda)
    return torch.optim.AdamW(parameters, lr=lr, betas=(0.9, 0.99), weight_decay=1e-4, capturable=on_cuda)
