"""A recipe: everything that decides a training run, read from one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from fhrt.errors import BadInputError
from fhrt.protocols import PROTOCOLS
from fhrt.systems import SYSTEMS, find_name, unknown

RECIPES = Path(__file__).parent / "recipes"
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, le=1)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Mix(Strict):
    """Share of each protocol in a batch; ``pose`` ranges are those of the unaligned part."""

    aligned: float = Field(0.0, ge=0, le=1)
    unaligned: float = Field(0.0, ge=0, le=1)
    noisy: float = Field(0.0, ge=0, le=1)
    camera: float = Field(0.0, ge=0, le=1)
    loose: float = Field(0.0, ge=0, le=1)
    shift: float = 0.05
    jitter: float = 0.0  # brightness and contrast of LR and HR alike, ± this share

    @model_validator(mode="after")
    def _one_size(self) -> Mix:
        if len({PROTOCOLS[name] for name in self.shares()}) != 1:
            raise ValueError("a mix needs at least one protocol, and all of one size of LR faces")
        return self

    def shares(self) -> dict[str, float]:
        """Of the protocols that take part."""
        return {name: getattr(self, name) for name in PROTOCOLS if getattr(self, name) > 0}


class Losses(Strict):
    """Weights of the loss terms (`training.losses`); a term of weight 0 is not computed."""

    l1: Weight = 0.0
    mse: Weight = 0.0
    psnr: Weight = 0.0
    ssim: Weight = 0.0
    theta: Weight = 0.0
    corners: Weight = 0.0
    heatmap: Weight = 0.0
    feature: Weight = 0.0
    identity: Weight = 0.0
    adversarial: Weight = 0.0
    adversarial_decay: Share = 1.0  # its weight times this after every epoch, down to half of it (TDN, eq. 5)


def _system(name: Any) -> Any:
    return find_name(name, SYSTEMS) or name if isinstance(name, str) else name


class Recipe(Strict):
    model: Annotated[str, BeforeValidator(_system)]
    hparams: dict[str, int | list[int]] = {}
    stage: str = ""  # the part of the network that is trained, of one that is trained in stages
    mix: Mix
    losses: Losses
    discriminator: Literal["shared", "srgan"] = "shared"  # of the adversarial term; shared: UR-DGN's, TDN's, TDAE's and MTUN's
    optimiser: Literal["adamw", "adam", "rmsprop"] = "adamw"
    alpha: float = Field(0.9, gt=0, lt=1)  # of rmsprop: the share of its mean of squares that a step leaves
    lr: Positive = 1e-3
    schedule: Literal["cosine", "exponential", "steps"] = "cosine"
    lr_floor: float = Field(1e-2, ge=0, le=1)  # cosine ends at lr × this
    decay: Share | None = None  # exponential: lr × this after every epoch; steps: after those of decay_epochs
    decay_epochs: tuple[Annotated[int, Field(ge=1)], ...] = ()
    warmup: int = Field(500, ge=0)  # steps over which the rate rises
    batch: int = Field(32, ge=1)
    steps: int = Field(20_000, ge=1)
    localise_steps: int = Field(0, ge=0)  # first train only the localisation on the true theta
    # From this share of the localise_steps, and of the rest, on the batch norms that they train keep their statistics.
    freeze_norms: float | None = Field(None, ge=0, lt=1)
    ema: float = Field(0.999, ge=0, lt=1)
    clip: Positive | None = 1.0  # of the gradient's norm; null: not clipped
    bf16: bool = False  # autocast of the picture branch; the localisation stays in float32
    validate_every: int = Field(500, ge=1)
    patience: int = Field(0, ge=0)  # stop after so many validations without a better one; 0: never
    seed: int = 0

    @model_validator(mode="after")
    def _schedule_is_whole(self) -> Recipe:
        wanted = {"cosine": set[str](), "exponential": {"decay"}, "steps": {"decay", "decay_epochs"}}[self.schedule]
        given = {name for name, value in (("decay", self.decay), ("decay_epochs", self.decay_epochs)) if value}
        if wanted != given:
            needs = " and ".join(sorted(wanted)) or "neither decay nor decay_epochs"
            raise ValueError(f"schedule {self.schedule} takes {needs}, not {' and '.join(sorted(given)) or 'none'}")
        if list(self.decay_epochs) != sorted(set(self.decay_epochs)):
            raise ValueError(f"decay_epochs must rise, not {list(self.decay_epochs)}")
        if self.schedule != "cosine" and "lr_floor" in self.model_fields_set:
            raise ValueError(f"lr_floor is of the cosine schedule, not of {self.schedule}")
        if self.optimiser != "rmsprop" and "alpha" in self.model_fields_set:
            raise ValueError(f"alpha is of rmsprop, not of {self.optimiser}")
        return self


def recipe_names() -> list[str]:
    """What `load_recipe` finds by name: NAME, and NAME/ROW for a row of its system's ablation table."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))


def recipe_name(name: str) -> str:
    """A recipe's name as its file has it, whatever its spelling: UR-DGN is urdgn. What is none of them stays as it is."""
    return find_name(name, recipe_names()) or name


def load_recipe(name: str) -> Recipe:
    """The recipe ``recipes/NAME.yaml``, its name in any spelling, or the YAML file of that path. Raises BadInputError."""
    try:
        return Recipe.model_validate(_read(name))
    except ValidationError as error:
        faults = (": ".join((*(".".join(map(str, each["loc"])),) * bool(each["loc"]), each["msg"])) for each in error.errors())
        raise BadInputError(f"recipe {name}: {'; '.join(faults)}") from error


def _read(name: str) -> dict[str, Any]:
    """The settings, those of its ``base`` where it has one included: an ablation's row says only what it changes."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{recipe_name(name)}.yaml"
    if not path.is_file():
        raise BadInputError(unknown(name, recipe_names(), recipe_names(), "recipe"))
    try:
        settings = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise BadInputError(f"{path}: {error}") from error
    if not isinstance(settings, dict):
        raise BadInputError(f"{path} holds no settings")
    base = settings.pop("base", None)
    return settings if base is None else _merge(_read(base), settings)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        merged[key] = _merge(base[key], value) if isinstance(value, dict) and isinstance(base.get(key), dict) else value
    return merged
