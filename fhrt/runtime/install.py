"""Adds bundles to the user's own, from a folder, a zip archive or the address of one."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath

from fhrt.errors import WeightsError
from fhrt.runtime.bundle import CARD, GRAPH, INT8_GRAPH, INT8_WEIGHTS, PROBE, SHIPPED, WEIGHTS, open_bundle, own_bundles
from fhrt.runtime.card import Card

LARGEST = 2 << 30  # bytes of an archive's files together: no bundle comes near it
TIMEOUT = 60  # seconds that a server may be silent


def install(source: str | Path) -> Card:
    """Check a bundle (every file's sha256) and put it among the user's own; an older one of its name is replaced. Returns its card.

    source: a bundle folder, a zip archive that holds one, or the ``http(s)://`` address of such an archive. Raises WeightsError where that
    is no bundle, is damaged, cannot be had, or has the name of a model that ships. Nothing is changed then.
    """
    try:
        own_bundles().mkdir(parents=True, exist_ok=True)
        return _install(source)
    except OSError as error:
        raise WeightsError(f"cannot install to {own_bundles()}: {error}; FHRT_MODELS names another folder") from error


def _install(source: str | Path) -> Card:
    with tempfile.TemporaryDirectory(dir=own_bundles(), prefix=".new.") as temporary:
        place = Path(temporary)
        if re.match(r"https?://", str(source)):
            source = _download(str(source), place / "download.zip")
        folder = Path(source)
        if not folder.is_dir():
            folder = _unpack(folder, place / "unpacked")
        card = open_bundle(folder).card
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]*", card.name):
            raise WeightsError(f"{source}: a model's name is of a-z, 0-9, - and _, not {card.name!r}")
        if (SHIPPED / card.name).exists():
            raise WeightsError(f"{source}: {card.name} comes with fhrt; a model of one's own needs another name")
        new = place / "bundle"
        new.mkdir()
        for file in (*card.sha256, CARD):
            shutil.copyfile(folder / file, new / file)
        open_bundle(new)  # as it was copied: the source may have changed meanwhile
        final = own_bundles() / card.name
        if final.exists():
            os.replace(final, place / "old")
        os.replace(new, final)
    return card


def _download(address: str, path: Path) -> Path:
    try:
        with urllib.request.urlopen(address, timeout=TIMEOUT) as answer, path.open("wb") as file:
            size = 0
            while block := answer.read(1 << 20):
                size += len(block)
                if size > LARGEST:
                    raise WeightsError(f"{_shown(address)} is larger than {LARGEST >> 30} GiB: no bundle")
                file.write(block)
    except (OSError, ValueError) as error:  # ValueError: no address
        raise WeightsError(f"{_shown(address)} cannot be had: {getattr(error, 'reason', error)}") from error
    return path


def _shown(address: str) -> str:
    """Without what may be secret: a name and password, or a signature in the query."""
    return re.sub(r"//[^/@]*@", "//", address).partition("?")[0]


def _unpack(archive: Path, folder: Path) -> Path:
    """The bundle's files of a zip archive, at its top or in one folder of it; whatever else it holds is left alone."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as file:
            found = {PurePosixPath(info.filename).name: info for info in file.infolist() if not info.is_dir()}
            if sum(info.file_size for info in found.values()) > LARGEST:
                raise WeightsError(f"{archive} is larger than {LARGEST >> 30} GiB when unpacked: no bundle")
            for name in (GRAPH, WEIGHTS, CARD):
                if name not in found:
                    raise WeightsError(f"{archive} holds no {name}: no bundle")
            for name in found.keys() & {GRAPH, WEIGHTS, CARD, INT8_GRAPH, INT8_WEIGHTS, PROBE}:
                with file.open(found[name]) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except (OSError, zipfile.BadZipFile) as error:
        raise WeightsError(f"{archive} is no bundle folder, and no zip archive of one: {error}") from error
    return folder
