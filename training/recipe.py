"""A recipe: everything that decides a training run, read from one YAML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from fhrt.errors import BadInputError
from fhrt.protocols import PROTOCOLS

RECIPES = Path(__file__).parent / "recipes"
Positive = Annotated[float, Field(gt=0)]


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
    """Weights of the loss terms; a term of weight 0 is not computed."""

    l1: float = 0.0
    mse: float = 0.0
    psnr: float = 0.0
    ssim: float = 0.0
    theta: float = 0.0
    heatmap: float = 0.0
    feature: float = 0.0
    identity: float = 0.0
    adversarial: float = 0.0


class Recipe(Strict):
    model: str
    hparams: dict[str, int | list[int]] = {}
    stage: str = ""  # the part of the network that is trained, of one that is trained in stages
    mix: Mix
    losses: Losses
    discriminator: Literal["shared", "srgan"] = "shared"  # of the adversarial term; shared: UR-DGN's, TDN's, TDAE's and MTUN's
    optimiser: Literal["adamw", "rmsprop"] = "adamw"
    lr: Positive = 1e-3
    lr_floor: float = 1e-2  # cosine decay ends at lr × this
    warmup: int = 500
    batch: int = Field(32, ge=1)
    steps: int = Field(20_000, ge=1)
    localise_steps: int = 0  # first train only the localisation on the true theta
    ema: float = Field(0.999, ge=0, lt=1)
    clip: Positive = 1.0
    bf16: bool = False  # autocast of the picture branch; the localisation stays in float32
    validate_every: int = Field(500, ge=1)
    patience: int = Field(0, ge=0)  # stop after so many validations without a better one; 0: never
    seed: int = 0


def recipe_names() -> list[str]:
    """What `load_recipe` finds by name: NAME, and NAME/ROW for a row of its system's ablation table."""
    return sorted(path.relative_to(RECIPES).with_suffix("").as_posix() for path in RECIPES.rglob("*.yaml"))


def load_recipe(name: str) -> Recipe:
    """The recipe ``recipes/NAME.yaml``, or the YAML file of that path. Raises BadInputError."""
    try:
        return Recipe.model_validate(_read(name))
    except ValidationError as error:
        raise BadInputError(f"recipe {name}: {error}") from error


def _read(name: str) -> dict[str, Any]:
    """The settings, those of its ``base`` where it has one included: an ablation's row says only what it changes."""
    path = Path(name) if name.endswith((".yaml", ".yml")) else RECIPES / f"{name}.yaml"
    if not path.is_file():
        raise BadInputError(f"no recipe {name!r}; there are: {', '.join(recipe_names())}")
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
