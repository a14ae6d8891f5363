"""Adds bundles to the user's own, from a folder, a zip archive or the address of one."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import tempfile
import urllib.request
import zipfile
from pathlib import Path, PurePosixPath
from urllib.parse import quote

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
    if re.match(r"https?:?/", str(source)) and not re.match(r"https?://", str(source)) and not Path(source).exists():
        # Not shown: a login in it is not where one would be found and left out.
        raise WeightsError("the address has a slip in its beginning: it must start with http:// or https://")
    with tempfile.TemporaryDirectory(dir=own_bundles(), prefix=".new.") as temporary:
        place = Path(temporary)
        address = str(source) if re.match(r"https?://", str(source)) else ""
        source = shown = _shown(address) if address else str(source)
        folder = _download(address, place / "download.zip") if address else Path(source)
        if not folder.is_dir():
            folder = _unpack(folder, place / "unpacked", shown)
        try:
            card = open_bundle(folder).card
        except WeightsError as error:  # which names a folder that will be gone
            raise WeightsError(str(error).replace(str(folder), shown)) from error
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
    before = address.partition("//")[2].rpartition("@")[0]
    if before and (":" in before or not re.search("[/?#]", before)):
        raise WeightsError(f"{_shown(address)} cannot be had with a user and a password; download it, and add the file")
    try:
        # A blank, or a letter beyond ASCII, is not for HTTP; what is encoded already stays.
        request = urllib.request.Request(quote(address, safe="!#$%&'()*+,/:;=?@[]~"))
        with _opener().open(request, timeout=TIMEOUT) as answer, path.open("wb") as file:
            size = 0
            while block := answer.read(1 << 20):
                size += len(block)
                if size > LARGEST:
                    raise WeightsError(f"{_shown(address)} is larger than {LARGEST >> 30} GiB: no bundle")
                file.write(block)
            whole = answer.headers.get("Content-Length") or ""
            if whole.isdecimal() and size != int(whole):
                raise WeightsError(f"{_shown(address)} cannot be had: the answer was cut off after {size} of {whole} bytes")
    except (OSError, ValueError, http.client.HTTPException) as error:  # ValueError: no address
        reason = getattr(error, "reason", None) or error
        said = "the answer was cut off" if isinstance(error, http.client.IncompleteRead) else " ".join(str(reason).split())
        if isinstance(error, http.client.BadStatusLine):
            said = "the server does not answer in HTTP"
        raise WeightsError(f"{_shown(address)} cannot be had: {said or type(error).__name__}") from error
    return path


def _opener() -> urllib.request.OpenerDirector:
    """Of HTTP alone, also where a server points to another address."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _shown(address: str) -> str:
    """Without what may be secret: a name and password, whatever they hold, or a signature in the query."""
    scheme, _, rest = address.partition("//")
    before, at, place = rest.rpartition("@")
    login = at and (":" in before or not re.search("[/?#]", before))
    return f"{scheme}//{place if login else rest}".partition("?")[0]


def _unpack(archive: Path, folder: Path, shown: str) -> Path:
    """The bundle's files of a zip archive, at its top or in one folder of it; whatever else it holds is left alone."""
    folder.mkdir()
    try:
        with zipfile.ZipFile(archive) as file:
            found = {PurePosixPath(info.filename).name: info for info in file.infolist() if not info.is_dir()}
            if sum(info.file_size for info in found.values()) > LARGEST:
                raise WeightsError(f"{shown} is larger than {LARGEST >> 30} GiB when unpacked: no bundle")
            for name in (GRAPH, WEIGHTS, CARD):
                if name not in found:
                    raise WeightsError(f"{shown} holds no {name}: no bundle")
            for name in found.keys() & {GRAPH, WEIGHTS, CARD, INT8_GRAPH, INT8_WEIGHTS, PROBE}:
                if found[name].flag_bits & 1:
                    raise WeightsError(f"{shown} is encrypted; unpack it, and add the folder")
                with file.open(found[name]) as source, (folder / name).open("wb") as target:
                    shutil.copyfileobj(source, target)
    except WeightsError:
        raise
    except NotImplementedError as error:
        raise WeightsError(f"{shown} is compressed in a way that Python does not know; unpack it, and add the folder") from error
    except Exception as error:  # whatever the decompressors come upon in a damaged one
        raise WeightsError(f"{shown} is no bundle folder, and no zip archive of one: {error}") from error
    return folder
