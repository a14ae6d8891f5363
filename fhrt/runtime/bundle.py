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
from fhrt.systems import SYSTEMS, find_name, how_to_make, unknown

SHIPPED = Path(__file__).parent.parent / "weights"
GRAPH, WEIGHTS, CARD = "model.onnx", "model.safetensors", "card.json"
INT8_GRAPH, INT8_WEIGHTS = "model.int8.onnx", "model.int8.safetensors"
"""Of the INT8 form, which a bundle may have besides: the same network with quantised weights and activations."""
PROBE = "probe.safetensors"
"""A few inputs and what the fp32 form makes of them (`fhrt.runtime.probe`); bundles of before there were any lack it."""


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

    @property
    def whole_sha256(self) -> str:
        """Of all its files but the card, in whatever form it shall run."""
        return hashlib.sha256("".join(map("\0".join, sorted(self.card.sha256.items()))).encode()).hexdigest()


def open_bundle(name: str | Path) -> Bundle:
    """The bundle of an installed model's name, whatever its spelling ("UR-DGN" is urdgn), or of a folder.

    Raises UnknownModelError or WeightsError.
    """
    folder = _find(name)
    card = read_card(folder)
    for file, expected in card.sha256.items():
        try:
            actual = hashlib.sha256((folder / file).read_bytes()).hexdigest()
        except OSError as error:
            raise WeightsError(f"{folder / file}: {error.strerror}") from error
        if actual != expected:
            raise WeightsError(f"{folder / file} is damaged or was changed: its sha256 is not the one in {CARD}")
    return Bundle(folder, card)


def _find(name: str | Path) -> Path:
    """A folder that a name stands for, or that it is. A name comes first as it is written, then a bundle of that path, then the name as
    it may have been meant. Raises UnknownModelError or WeightsError.
    """
    if not isinstance(name, (str, Path)):
        raise UnknownModelError(f"a model is a name or a bundle folder, not {type(name).__name__}")
    text, folder, known = str(name), Path(name), installed()
    if text in known:
        return known[text]
    is_name = folder.name == text  # ./lite is a folder, whatever is installed
    if is_name and not (folder / CARD).is_file():
        meant = find_name(text, known)
        if meant is not None:
            return known[meant]
    if folder.is_dir():
        return folder
    if folder.is_file():
        raise WeightsError(f"{name} is a file; a model is a bundle folder (fhrt models add installs an archive of one)")
    if not is_name:
        raise UnknownModelError(f"there is no bundle folder {text!r}; fhrt models lists the models that have a name")
    meant = find_name(text, SYSTEMS)
    if meant is None:
        raise UnknownModelError(unknown(text, {**known, **SYSTEMS}, known))
    kin = [other for other in known if other.startswith(f"{meant}-")]
    use = f"use {' or '.join(kin)}, " if kin else ""
    train = f"{how_to_make(meant)} --data DIR"
    raise UnknownModelError(f"{meant} has no weights here; {use}install a bundle of it (fhrt models add) or train it: {train}")


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
    if set(card.sha256) - {PROBE} != set(files):
        raise WeightsError(f"{folder / CARD} must hold the sha256 of {', '.join(files)}, may hold that of {PROBE}, and of nothing else")
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
