"""What was found out of the ways to execute a bundle, and the files that remember it: by bundle, machine and number of threads."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, TypeAdapter

from fhrt import _C, machine
from fhrt.errors import BadInputError
from fhrt.files import NOWHERE, cache_folder, write_bytes
from fhrt.runtime.bundle import Bundle

LOG = logging.getLogger("fhrt")
PACKAGES = {"openvino": "openvino", "torch": "torch", "tensorrt": "tensorrt"}
"""Backend → package that executes bundles for it; of all others onnxruntime."""
FORCED = ("FHRT_ISA", "ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Environment variables that change which instructions are used."""


class Verdict(BaseModel):
    """What was found out of a way. version: see `version_of`. figures: see `fhrt.runtime.probe`; None: it was left out, because ways before
    it had used up the time, or because it could not be opened. wrong: what is wrong with its answer; "": nothing. milliseconds: of a call
    with one face or a small frame; None: it was not timed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, ser_json_inf_nan="constants")

    version: str
    figures: dict[str, float] | None = None
    wrong: str = ""
    milliseconds: NonNegativeFloat | None = None

    @property
    def right(self) -> bool:
        return self.figures is not None and not self.wrong


@cache
def version_of(backend: str) -> str:
    """Of the package that executes bundles for a backend, and of the devices and the driver that it may use."""
    package = PACKAGES.get(backend, "onnxruntime")
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return ""
    # Also onnxruntime_gpu-….dist-info. importlib.metadata takes several milliseconds.
    installed = sorted(folder.stem for folder in Path(spec.origin).parents[1].glob(f"{package}*.dist-info"))
    found = ", ".join(installed) or str(Path(spec.origin).stat().st_mtime_ns)
    devices = "" if backend in ("openvino", "onnxruntime") else machine.gpus()
    return f"{found}, {devices}" if devices else found


_ALL = TypeAdapter(dict[str, Verdict])
_unwritten: dict[Path, dict[str, Verdict]] = {}
"""What is not in the file that it belongs to, for as long as the process lives."""


class Memory:
    """Verdicts by names of ways. What cannot be read or written is one warning, and is only measured again."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        native = Path(_C.__file__).stat()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        forced = {name: os.environ[name] for name in FORCED if os.environ.get(name)}
        self._about = {"model": bundle.card.name, "bundle": bundle.whole_sha256, "cores": cores, "threads": threads, **forced}
        key = json.dumps([self._about, machine.processor(), native.st_size, native.st_mtime_ns], sort_keys=True)
        self.path = cache_folder() / "verdicts" / f"{hashlib.sha256(key.encode()).hexdigest()}.json"

    def read(self, versions: Mapping[str, str]) -> dict[str, Verdict]:
        """Of the ways (name → version) that were looked at in these versions."""
        return {name: verdict for name, verdict in self._all().items() if versions.get(name) == verdict.version}

    def write(self, verdicts: Mapping[str, Verdict], *, believed: bool = True) -> None:
        """Add these, or put them in place of older ones; with ``believed`` off what was timed is kept for this process only."""
        every = self._all(quietly=True) | dict(verdicts)
        lasting = every if believed else {name: verdict.model_copy(update={"milliseconds": None}) for name, verdict in every.items()}
        if not believed:
            _unwritten[self.path] = every
        content = {"for": self._about, "processor": machine.processor(), "verdicts": _ALL.dump_python(lasting, mode="json")}
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            write_bytes(self.path, json.dumps(content, indent=2).encode())
        except (OSError, BadInputError) as error:
            if self.path not in _unwritten and not self.path.is_relative_to(NOWHERE):
                LOG.warning("what was measured cannot be kept, the next process measures it again: %s", error)
            _unwritten[self.path] = every

    def _all(self, *, quietly: bool = False) -> dict[str, Verdict]:
        if self.path in _unwritten:
            return _unwritten[self.path]
        try:
            return _ALL.validate_python(json.loads(self.path.read_bytes())["verdicts"])
        except OSError:
            return {}
        except (ValueError, TypeError, LookupError):
            if not quietly:
                LOG.warning("%s is damaged; what it held is measured again", self.path)
            return {}
