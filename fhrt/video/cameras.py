"""A YAML list of cameras, kept up with while it runs."""

from __future__ import annotations

import logging
import os
import re
import threading
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from fhrt.errors import BadInputError, FhrtError
from fhrt.video.policy import Policy
from fhrt.video.reader import Reader, stop_all
from fhrt.video.redact import redact
from fhrt.video.sources import Source, Transport, find_sources

POLL = 1.0  # seconds between looks at the file

_log = logging.getLogger("fhrt.video")


class Camera(BaseModel):
    """One entry: what `find_sources` takes, and how it is read. ``${NAME}`` in `source` stands for an environment variable."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    source: str | int = Field(repr=False)
    policy: str | None = None
    transport: Transport = "tcp"
    decode: Literal["auto", "cpu", "nvdec"] = "auto"
    timeout: float = Field(5.0, gt=0, le=600)

    @field_validator("policy")
    @classmethod
    def _known(cls, policy: str | None) -> str | None:
        if policy is not None:
            Policy.parse(policy)
        return policy

    def reader(self, name: str) -> Reader:
        """A reader of this camera. Raises BadInputError and BackendError."""
        found = find_sources(_filled(self.source))
        if len(found) > 1:
            raise BadInputError(f"{redact(self.source)} holds {len(found)} videos; a camera is one")
        source = Source(name, found[0].kind, found[0].address, found[0].pictures, self.transport)
        return Reader(source, policy=self.policy, decode=self.decode, timeout=self.timeout)


class CameraList(BaseModel):
    """The file: ``cameras:`` with an entry per name, which may be short, only a source."""

    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    cameras: dict[str, Camera]

    @field_validator("cameras", mode="before")
    @classmethod
    def _short(cls, cameras: Any) -> Any:
        if not isinstance(cameras, dict):
            return cameras
        return {str(name): {"source": entry} if isinstance(entry, (str, int)) else entry for name, entry in cameras.items()}


class Cameras:
    """The cameras of a YAML file, each with its reader.

    While it runs, the file is looked at again: new cameras are started, missing ones stopped, changed ones replaced, the rest goes on
    undisturbed. A version that is damaged changes nothing; `problem` and the log say what is wrong with it. Raises BadInputError and
    BackendError for the first version.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.problem = ""
        self._lock = threading.Lock()
        self._version = self._look()
        self._cameras: dict[str, Camera] = read_cameras(self.path)
        self._readers = {name: camera.reader(name) for name, camera in self._cameras.items()}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="fhrt-cameras", daemon=True)

    @property
    def readers(self) -> dict[str, Reader]:
        """Name → reader, as of now."""
        with self._lock:
            return dict(self._readers)

    def start(self) -> Cameras:
        """Begins to read the cameras, and to look at the file."""
        for reader in self._readers.values():
            reader.start()
        self._thread.start()
        return self

    def stop(self) -> None:
        """Ends all readers, within two seconds together."""
        with self._lock:  # so that no camera starts any more
            self._stopping.set()
        stop_all(self._readers.values())

    def __enter__(self) -> Cameras:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _follow(self) -> None:
        seen = self._version
        while not self._stopping.wait(POLL):
            version = self._look()
            if version != self._version and version == seen:  # has rested for one look: nobody is still writing it
                self._version = version
                self._reload()
            seen = version

    def _look(self) -> tuple[int, ...]:
        try:
            status = self.path.stat()
        except OSError:
            return ()
        return status.st_mtime_ns, status.st_size, status.st_ino

    def _reload(self) -> None:
        try:
            cameras = read_cameras(self.path)
            fresh = {name: one.reader(name) for name, one in cameras.items() if self._cameras.get(name) != one}
        except FhrtError as error:
            self.problem = redact(error)
            _log.error("the cameras stay as they are: %s", self.problem)
            return
        with self._lock:
            if self._stopping.is_set():
                return
            old = {name: reader for name, reader in self._readers.items() if name in fresh or name not in cameras}
            self._readers = {name: fresh.get(name) or self._readers[name] for name in cameras}
            for reader in fresh.values():
                reader.start()
        self._cameras, self.problem = cameras, ""
        _log.info("%s: %d cameras, %d of them new or changed, %d stopped", self.path, len(cameras), len(fresh), len(old))
        stop_all(old.values())


def read_cameras(path: Path) -> dict[str, Camera]:
    """Name → camera of a YAML file. Raises BadInputError that says where it is wrong, in one line without passwords."""
    try:
        listed = CameraList.model_validate(yaml.load(path.read_text(encoding="utf-8"), _Loader))
    except (OSError, UnicodeDecodeError) as error:
        raise BadInputError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is not UTF-8 text'}") from None
    except yaml.MarkedYAMLError as error:  # its own text quotes the file, passwords and all
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise BadInputError(f"{path} is not a list of cameras: {error.problem} in line {line}") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the file"
        raise BadInputError(redact(f"{path}: {place}: {first['msg'].removeprefix('Value error, ')}")) from None
    except (yaml.YAMLError, ValueError, RecursionError):  # forbidden characters, a 13th month, ten thousand brackets
        raise BadInputError(f"{path} is not a list of cameras: it cannot be parsed as YAML") from None
    return listed.cameras


class _Loader(yaml.SafeLoader):
    """Refuses a name that is given twice, of which YAML would silently forget one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        names: list[Any] = []
        for key, _ in node.value:
            name = self.construct_object(key, deep=True)
            if name in names:
                raise yaml.constructor.ConstructorError(None, None, f"{name} is there twice, again", key.start_mark)
            names.append(name)
        return super().construct_mapping(node, deep)


def _filled(source: str | int) -> str | int:
    """With the environment's variables in the place of ``${NAME}``, percent-encoded where they are a login, or a value of the query.

    A login may be one variable: ``${LOGIN}@`` of ``user:password``. Elsewhere a variable may be more than one part, or the whole address.
    """
    if not isinstance(source, str):
        return source
    begin = source.find("://") + 3
    login, end = (begin, at) if begin > 2 and (at := source.rfind("@")) > begin else (0, 0)

    def value(match: re.Match[str]) -> str:
        if match[1] not in os.environ:
            raise BadInputError(f"{redact(source)} needs the environment variable {match[1]}")
        given, before = os.environ[match[1]], source[: match.start()]
        if login <= match.start() < end:
            return quote(given, safe=":" if match.span() == (login, end) else "")
        return quote(given, safe="") if begin > 2 and before.endswith("=") and "?" in before else given

    return re.sub(r"\$\{(\w+)\}", value, source)
