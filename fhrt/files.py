"""Files that appear whole or not at all, and the folder for what can be computed again."""

from __future__ import annotations

import atexit
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
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
    return Path(os.environ.get("FHRT_CACHE") or platformdirs.user_cache_path("fhrt"))
