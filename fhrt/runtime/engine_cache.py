"""Built TensorRT engines on disk: each with a JSON file that says what it was built for, and a timing cache that makes the next quick.

An engine is the file as TensorRT serialises it, so that trtexec and Triton load it too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any

from fhrt.errors import BackendError, BadInputError, MissingExtraError
from fhrt.files import cache_folder, write_bytes
from fhrt.runtime.bundle import Bundle

LOG = logging.getLogger("fhrt")


@dataclass(frozen=True)
class EngineKey:
    """All that an engine depends on. graph: sha256 of the ONNX bytes that were built, weights inside. bundle: sha256 of the bundle's files.
    profiles and io_types: tensor → shape and dtype. native: sha256 of fhrt's own kernels. tensorrt: the full version.
    """

    bundle: str
    graph: str
    profiles: Mapping[str, tuple[int, ...]]
    io_types: Mapping[str, str]
    precision: str
    native: str
    tensorrt: str
    gpu: str
    compute_capability: str
    flags: tuple[str, ...]

    @cached_property
    def as_json(self) -> Any:
        return json.loads(json.dumps(asdict(self), sort_keys=True))

    @cached_property
    def digest(self) -> str:
        """The name of its files."""
        return hashlib.sha256(json.dumps(self.as_json, sort_keys=True).encode()).hexdigest()[:32]


@dataclass(frozen=True)
class Entry:
    """An engine of the cache. key: `EngineKey`'s fields. size: in bytes. parity_db: PSNR against ONNX Runtime; None: not checked yet.
    build_seconds: what building it took.
    """

    digest: str
    key: Mapping[str, Any]
    size: int
    sha256: str
    parity_db: float | None = None
    build_seconds: float | None = None


class EngineCache:
    """Folder: default `fhrt.files.cache_folder`'s ``engines``. What is damaged counts as absent, and is built again."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = cache_folder() / "engines" if folder is None else folder

    def get(self, key: EngineKey, build: Callable[[bytes], tuple[bytes, bytes]], usable: Callable[[bytes], bool]) -> bytes:
        """The engine of this key. build: timing cache (empty at first) → engine and timing cache; called where there is no engine, or none
        that is ``usable``. Of several processes one builds and the others wait for it. Raises BackendError where the folder cannot be
        used; a full disk only means that the engine is not kept, with a warning.
        """
        plan = self._read(key)
        if plan is not None and usable(plan):
            return plan
        with self.lock():
            plan = self._read(key)  # another process may have built it meanwhile
            if plan is not None and usable(plan):
                return plan
            timings = self._timings(key)
            start = perf_counter()
            plan, learnt = build(timings.read_bytes() if timings.is_file() else b"")
            took = perf_counter() - start
            entry = Entry(key.digest, key.as_json, len(plan), hashlib.sha256(plan).hexdigest(), build_seconds=took)
            try:
                write_bytes(self._plan(key.digest), plan)
                self._write(entry)  # last: an engine without it does not count
                write_bytes(timings, learnt)
            except BadInputError as error:
                LOG.warning("%s; the engine is used, but not kept", error)
            return plan

    def has(self, key: EngineKey) -> bool:
        """Whether the engine is there, whole."""
        return self._read(key) is not None

    def parity(self, key: EngineKey) -> float | None:
        """What `passed` noted; None where there is no such engine or it was not checked."""
        entry = self._entry(key.digest)
        return None if entry is None else entry.parity_db

    def build_seconds(self, key: EngineKey) -> float | None:
        """What building an engine took; None where there is no such engine, or nobody knows."""
        entry = self._entry(key.digest)
        return None if entry is None else entry.build_seconds

    def passed(self, key: EngineKey, parity_db: float) -> None:
        """Note how near an engine came to ONNX Runtime, so that it need not be checked when it is next opened."""
        entry = self._entry(key.digest)
        if entry is not None:
            try:
                self._write(Entry(**(asdict(entry) | {"parity_db": parity_db})))
            except BadInputError as error:
                LOG.warning("%s; the engine will be checked again", error)

    def remove(self, key: EngineKey) -> None:
        """Forget an engine."""
        self._sidecar(key.digest).unlink(missing_ok=True)
        self._plan(key.digest).unlink(missing_ok=True)

    def entries(self) -> list[Entry]:
        """All engines that are whole, by their bundle and name."""
        found = (self._entry(path.stem) for path in self.folder.glob("[!.]*.json"))
        return sorted((each for each in found if each is not None), key=lambda entry: (entry.key["bundle"], entry.digest))

    def clear(self) -> int:
        """Delete all engines and timing caches; returns how many bytes. Raises BackendError while another process builds."""
        freed = 0
        if self.folder.is_dir():
            with self.lock(wait=False):
                for path in self.folder.iterdir():
                    if path.suffix in (".json", ".engine", ".timing") or path.name.startswith("."):
                        freed += path.stat().st_size
                        path.unlink()
        return freed

    def lock(self, *, wait: bool = True) -> AbstractContextManager[Any]:
        """One process builds at a time, also because two on one GPU would spoil each other's timings. The system lets go of the lock
        of a process that died. Raises BackendError.
        """
        try:
            from filelock import FileLock, Timeout
        except ImportError as error:
            raise MissingExtraError('the engine cache needs filelock: pip install "fhrt[tensorrt]"') from error
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            return FileLock(self.folder / "lock").acquire(timeout=-1 if wait else 0)
        except Timeout as error:
            raise BackendError(f"another process builds engines in {self.folder}; try again when it is done") from error
        except OSError as error:
            reason = f"{self.folder}: {error.strerror}"
            raise BackendError(f"the engine cache cannot be used ({reason}); set FHRT_CACHE to another folder") from error

    def _plan(self, digest: str) -> Path:
        return self.folder / f"{digest}.engine"

    def _sidecar(self, digest: str) -> Path:
        return self.folder / f"{digest}.json"

    def _timings(self, key: EngineKey) -> Path:
        name = re.sub(r"[^\w.-]+", "_", f"{key.gpu}-{key.compute_capability}-{key.tensorrt}")
        return self.folder / f"{name}.timing"

    def _write(self, entry: Entry) -> None:
        write_bytes(self._sidecar(entry.digest), (json.dumps(asdict(entry), indent=2) + "\n").encode())

    def _entry(self, digest: str) -> Entry | None:
        try:
            entry = Entry(**json.loads(self._sidecar(digest).read_bytes()))
            whole = entry.digest == digest and entry.size == self._plan(digest).stat().st_size and "bundle" in entry.key
        except (OSError, ValueError, TypeError):
            return None
        return entry if whole else None

    def _read(self, key: EngineKey) -> bytes | None:
        entry = self._entry(key.digest)
        if entry is None or entry.key != key.as_json:
            return None
        try:
            plan = self._plan(key.digest).read_bytes()
        except OSError:
            return None
        return plan if hashlib.sha256(plan).hexdigest() == entry.sha256 else None


def has_engines(bundle: Bundle) -> bool:
    """Whether engines were built for this bundle, on whatever GPU."""
    return any(entry.key["bundle"] == bundle.sha256 for entry in EngineCache().entries())
