"""Files that appear whole or not at all, and the folder for what can be computed again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import platformdirs

from fhrt.errors import BadInputError


def write_bytes(path: str | Path, data: bytes) -> Path:
    """Writes a file whole or not at all: a temporary file in the same folder, then a rename. Raises `BadInputError`."""
    path = Path(path)
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name[:100]}.")
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes it private
        os.replace(temporary, path)
        temporary = None
    except OSError as error:
        raise BadInputError(f"cannot write {path}: {error.strerror}") from error
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
    return path


def cache_folder() -> Path:
    """The user's own folder for engines and measurements: ``FHRT_CACHE``, or the platform's place for an application's cache."""
    return Path(os.environ.get("FHRT_CACHE") or platformdirs.user_cache_path("fhrt"))
