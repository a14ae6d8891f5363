"""Files that appear whole or not at all, and the folder for what can be computed again."""

from __future__ import annotations

import atexit
import logging
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import platformdirs

from fhrt.errors import BadInputError


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Writes a file whole or not at all. Raises `BadInputError`."""
    path = Path(path)
    try:
        with whole_file(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise BadInputError(f"cannot write {path}: {error.strerror}") from error
    return path


def make_folder(folder: Path) -> None:
    """Makes a folder, with those around it, where there is none. Raises `BadInputError`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"cannot make the folder {folder}: {error.strerror}") from error


_unfinished: set[Path] = set()


@atexit.register
def _remove_unfinished() -> None:
    """Those of daemon threads, which end without a word when the program does."""
    for temporary in _unfinished:
        temporary.unlink(missing_ok=True)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file in the same folder, which is renamed to `path` in the end, or removed where the block raises. Raises OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
    os.close(handle)
    temporary = Path(name)
    _unfinished.add(temporary)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes it private
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    finally:
        _unfinished.discard(temporary)


def cache_folder() -> Path:
    """The user's own folder for engines and measurements: ``FHRT_CACHE``, or the platform's place for an application's cache."""
    return own_folder("FHRT_CACHE", platformdirs.user_cache_path)


def own_folder(variable: str, place: Callable[[str], Path]) -> Path:
    """The folder that a variable names, or the platform's; where a user has no home, one that holds nothing and cannot be made."""
    if named := os.environ.get(variable):
        return Path(named)
    try:
        path = place("fhrt")
    except RuntimeError:  # no HOME, and a user that the system does not know
        path = Path("~")
    if path.is_absolute():
        return path
    _say_homeless()
    return NOWHERE


NOWHERE = Path(os.devnull) / "fhrt"


@cache
def _say_homeless() -> None:
    logging.getLogger("fhrt").warning("this user has no home folder, so nothing is kept: FHRT_CACHE and FHRT_MODELS name folders")
