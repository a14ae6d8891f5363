"""Finds a bundle, and refuses one that is not exactly what its card says."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path

import platformdirs
from pydantic import ValidationError

from fhrt.errors import UnknownModelError, WeightsError
from fhrt.files import own_folder
from fhrt.runtime.card import Card

SHIPPED = Path(__file__).parent.parent / "weights"
GRAPH, WEIGHTS, CARD = "model.onnx", "model.safetensors", "card.json"
INT8_GRAPH, INT8_WEIGHTS = "model.int8.onnx", "model.int8.safetensors"
"""Of the INT8 form, which a bundle may have besides: the same network with quantised weights and activations."""

SYSTEMS = dict.fromkeys(("lite", "urdgn", "tdn", "tdae", "mtun", "csrip", "srcnn", "vdsr", "srgan", "lp"), "fit")
SYSTEMS |= dict.fromkeys(("mnce", "lle", "lcr"), "dictionary")
"""The systems that fhrt has, with or without weights that ship, and the command of ``python -m training`` that makes each."""


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were checked against its card, and in which of its forms it shall run: "fp32" or "int8"."""

    folder: Path
    card: Card
    precision: str = "fp32"

    @property
    def graph(self) -> Path:
        return self.folder / (INT8_GRAPH if self.precision == "int8" else GRAPH)

    @property
    def weights(self) -> Path:
        return self.folder / (INT8_WEIGHTS if self.precision == "int8" else WEIGHTS)

    @property
    def sha256(self) -> str:
        """Of the form's graph and weights together; the INT8 form reads from the other's weights too."""
        files = dict.fromkeys((self.graph.name, self.weights.name, WEIGHTS))
        return hashlib.sha256("".join(self.card.sha256[file] for file in files).encode()).hexdigest()


def open_bundle(name: str | Path) -> Bundle:
    """The bundle of an installed model's name or of a folder. Raises UnknownModelError or WeightsError."""
    if not isinstance(name, (str, Path)):
        raise UnknownModelError(f"a model is a name or a bundle folder, not {type(name).__name__}")
    known = installed()
    folder = known.get(str(name), Path(name))
    if str(name) not in known:
        if folder.is_file():
            raise WeightsError(f"{name} is a file; a model is a bundle folder (fhrt models add installs an archive of one)")
        if not folder.is_dir():
            if str(name) in SYSTEMS:
                train = f"python -m training {SYSTEMS[str(name)]} {name} --data DIR"
                raise UnknownModelError(f"{name} has no weights here; install a bundle of it (fhrt models add) or train it: {train}")
            raise UnknownModelError(f"unknown model {str(name)!r}; there are: {', '.join(known) or 'none'}")
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
    except FileNotFoundError as error:
        raise WeightsError(f"{folder} is no bundle folder: it holds no {CARD}") from error
    except OSError as error:
        raise WeightsError(f"{folder / CARD}: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise WeightsError(f"{folder / CARD} is not a model card: {place} {first['msg']}") from error
    files = (GRAPH, WEIGHTS, *((INT8_GRAPH, INT8_WEIGHTS) if card.int8 else ()))
    if set(card.sha256) != set(files):
        raise WeightsError(f"{folder / CARD} must hold the sha256 of {', '.join(files)}, and of nothing else")
    return card


def own_bundles() -> Path:
    """The user's own folder of bundles: ``FHRT_MODELS``, or the platform's place for an application's data."""
    named = os.environ.get("FHRT_MODELS")
    return Path(named) if named else own_folder("FHRT_MODELS", platformdirs.user_data_path) / "models"


def installed() -> dict[str, Path]:
    """Name → folder of the bundles that came with the package or were added; one that ships comes first."""
    folders = [path.parent for place in (own_bundles(), SHIPPED) for path in place.glob(f"[!.]*/{CARD}")]
    return dict(sorted((folder.name, folder) for folder in folders))


def list_models() -> list[Card]:
    """The cards of all installed bundles."""
    return [read_card(folder) for folder in installed().values()]
