"""Finds a bundle, and refuses one that is not exactly what its card says."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from fhrt.errors import UnknownModelError, WeightsError
from fhrt.runtime.card import Card

SHIPPED = Path(__file__).parent.parent / "weights"
GRAPH, WEIGHTS, CARD = "model.onnx", "model.safetensors", "card.json"

SYSTEMS = ("lite", "urdgn", "tdn", "tdae", "mtun")
"""The systems that fhrt has a network for, with or without weights that ship."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked against its card."""

    folder: Path
    card: Card

    @property
    def graph(self) -> Path:
        return self.folder / GRAPH

    @property
    def weights(self) -> Path:
        return self.folder / WEIGHTS


def open_bundle(name: str | Path) -> Bundle:
    """The bundle of a shipped model's name or of a folder. Raises UnknownModelError or WeightsError."""
    folder = SHIPPED / str(name)
    if str(name) not in shipped():
        if Path(name).is_file():
            raise WeightsError(f"{name} is a file; a model is a bundle folder (fhrt export makes one from a checkpoint)")
        folder = Path(name)
        if not folder.is_dir():
            if str(name) in SYSTEMS:
                raise UnknownModelError(f"{name} has no weights yet; train it: python -m training fit {name} --data DIR")
            raise UnknownModelError(f"unknown model {str(name)!r}; there are: {', '.join(shipped()) or 'none'}")
    card = read_card(folder)
    for file, expected in card.sha256.items():
        try:
            actual = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        except OSError as error:
            raise WeightsError(f"{folder / file}: {error.strerror}") from error
        if actual != expected:
            raise WeightsError(f"{folder / file} is damaged or was changed: its sha256 is not the one in {CARD}")
    return Bundle(folder, card)


def read_card(folder: Path) -> Card:
    """The card of a bundle folder. Raises WeightsError when it is missing or malformed."""
    try:
        card = Card.model_validate_json((folder / CARD).read_bytes())
    except OSError as error:
        raise WeightsError(f"{folder / CARD}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise WeightsError(f"{folder / CARD} is not a model card: {place} {first['msg']}") from error
    if set(card.sha256) != {GRAPH, WEIGHTS}:
        raise WeightsError(f"{folder / CARD} must hold the sha256 of {GRAPH} and {WEIGHTS}, and of nothing else")
    return card


def shipped() -> list[str]:
    """Names of the bundles that are installed with the package."""
    return sorted(path.parent.name for path in SHIPPED.glob(f"*/{CARD}"))


def list_models() -> list[Card]:
    """The cards of all shipped bundles."""
    return [read_card(SHIPPED / name) for name in shipped()]
