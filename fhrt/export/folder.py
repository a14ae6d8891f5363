"""A bundle's folder on its way to its place, where it appears whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fhrt.errors import BadInputError
from fhrt.runtime.bundle import CARD
from fhrt.runtime.card import Card


@contextmanager
def new_bundle(out: Path) -> Iterator[Path]:
    """An empty folder, which becomes ``out`` when the body is through. Raises BadInputError when ``out`` exists and is no bundle."""
    if out.exists() and not (out / CARD).is_file():
        raise BadInputError(f"{out} exists and is not a bundle; it is left alone")
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}."))
    try:
        yield folder
        folder.chmod(0o755)  # mkdtemp and safetensors make them private
        for file in folder.iterdir():
            file.chmod(0o644)
        _put(folder, out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def checksums(folder: Path, *files: str) -> dict[str, str]:
    """File name → sha256."""
    return {file: hashlib.sha256((folder / file).read_bytes()).hexdigest() for file in files}


def write_card(card: Card, folder: Path) -> None:
    """``card.json``; what the card leaves out is not in the file."""
    text = json.dumps(card.model_dump(mode="json", exclude_none=True), indent=2, ensure_ascii=False)
    (folder / CARD).write_text(text + "\n")


def _put(folder: Path, out: Path) -> None:
    """Move ``folder`` to ``out``; a bundle that is already there stays whole until the new one takes its name."""
    if not out.exists():
        os.replace(folder, out)
        return
    old = out.parent / f".{out.name}.old.{os.getpid()}"
    os.replace(out, old)
    os.replace(folder, out)
    shutil.rmtree(old, ignore_errors=True)
