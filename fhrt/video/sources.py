"""What a user may name as a source, checked before anything is opened."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cache
from glob import glob
from pathlib import Path
from typing import Literal
from urllib.parse import SplitResult, urlsplit, urlunsplit

from fhrt.errors import BadInputError
from fhrt.video.redact import redact, redact_address

PICTURES = frozenset((".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"))
VIDEOS = frozenset((".avi", ".flv", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".ts", ".webm", ".wmv"))

Transport = Literal["tcp", "udp"]
LOG = logging.getLogger("fhrt")
ESCAPES = "within a user's name or password write # ? / @ : % and blanks as %23 %3F %2F %40 %3A %25 and %20, elsewhere @ as %40"


@dataclass(frozen=True)
class Source:
    """Where frames come from.

    kind: ``rtsp``; ``url`` (HTTP, HLS); ``webcam``; ``file``; ``pictures``. name: shown to people, holds no password.
    address: what is opened; it may hold one. pictures: the files of a sequence of pictures.
    """

    name: str
    kind: Literal["rtsp", "url", "webcam", "file", "pictures"]
    address: str = field(repr=False)
    pictures: tuple[Path, ...] = field(default=(), repr=False)
    transport: Transport = "tcp"

    @property
    def live(self) -> bool:
        """Whether it goes on without us, so that frames are lost and it is opened again when it fails.

        An HTTP address counts as live until it turns out to be a recording.
        """
        return self.kind in ("rtsp", "url", "webcam")

    @property
    def segmented(self) -> bool:
        """Whether it is HLS, which comes in bursts of several seconds."""
        return self.kind == "url" and urlsplit(self.address).path.endswith(".m3u8")


def find_sources(named: Iterable[str | int | Path] | str | int | Path) -> list[Source]:
    """The sources that a user named, each under a name of its own.

    Each is the address of a camera or stream (``rtsp://``, ``rtsps://``, ``http://``, ``https://``), a video file, a webcam (its number
    or ``/dev/videoN``), a picture, a folder of pictures or videos, or a glob of them. The pictures of one folder or glob are
    one source, each video is one. Raises BadInputError, in which passwords are redacted.
    """
    if isinstance(named, (str, int, Path)):
        named = [named]
    sources: list[Source] = []
    taken: set[str] = set()
    for source in (source for one in named for source in _find(one)):
        name, number = source.name, 2
        while name in taken:
            name, number = f"{source.name} ({number})", number + 1
        taken.add(name)
        sources.append(replace(source, name=name))
    if not sources:
        raise BadInputError("no source was named")
    return sources


def _find(named: str | int | Path) -> list[Source]:
    text = str(named).strip()
    if isinstance(named, int) or text.isdecimal() or re.fullmatch(r"/dev/video\d+", text):
        return [_webcam(text if text.startswith("/") else f"/dev/video{text}")]  # may be plugged in later
    if "://" in text:
        return [_stream(text)]
    try:
        path = Path(named).expanduser()
    except RuntimeError as error:
        raise BadInputError(f"{named}: there is no such home folder") from error
    if not text:
        raise BadInputError("the name of a source is empty")
    if path.is_dir():
        inside = sorted(path.iterdir(), key=_natural)
        if folders := sum(map(Path.is_dir, inside)):
            _warn(f"{path}: {_subfolders(folders)} not looked into; {path / '**'} names what is in them, too")
        return _files(path, inside)
    if path.is_file():
        return _files(path, [path], chosen=True)
    if matches := sorted(map(Path, glob(str(path), recursive=True)), key=_natural):
        return _files(path, matches)
    if path.exists():
        raise BadInputError(f"{path} is neither a file nor a folder")
    raise BadInputError(f"{redact_address(str(path))} does not exist")


@dataclass(frozen=True)
class Pictures:
    """Picture files that were found.

    files: each with the folder in which it lies below the one that was named, ``.`` where it lies in that, or was named itself.
    passed_over: folders that were not looked into, a line each. unreadable: folders that could not be, a line each.
    """

    files: list[tuple[Path, Path]] = field(default_factory=list)
    passed_over: list[str] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)


def find_pictures(named: Iterable[Path], recursive: bool = False, leave_out: Path | None = None) -> Pictures:
    """The picture files that are named, and those of the named folders, by name; of all folders below these, too, where it is `recursive`.

    leave_out: a folder below them that is none of them, that of the results. Links to folders are not followed. Raises BadInputError for
    what does not exist, and for a folder without pictures.
    """
    found = Pictures()
    for path in named:
        if path.is_dir():
            _walk(path, recursive, leave_out and leave_out.resolve(), found)
        elif path.exists():
            found.files.append((path, Path()))
        else:
            raise BadInputError(f"{redact_address(str(path))} does not exist")
    return found


def _walk(top: Path, recursive: bool, leave_out: Path | None, found: Pictures) -> None:
    before = len(found.files)
    skipped = links = 0
    walk = os.walk(top, onerror=lambda error: found.unreadable.append(f"cannot look into {error.filename}: {error.strerror}"))
    for folder, names, files in walk:
        inside = Path(folder)
        pictures = (inside / name for name in sorted(files) if Path(name).suffix.lower() in PICTURES)
        found.files.extend((picture, inside.relative_to(top)) for picture in pictures if picture.is_file())
        names[:] = sorted(name for name in names if (inside / name).resolve() != leave_out)
        links += sum((inside / name).is_symlink() for name in names) if recursive else 0
        if not recursive:
            skipped = len(names)
            break
    hint = f"{_subfolders(skipped)} not looked into; --recursive does" if skipped else ""
    if len(found.files) == before and not found.unreadable:
        raise BadInputError(f"{top} holds no pictures ({', '.join(sorted(PICTURES))})" + (f": {hint}" if hint else ""))
    if hint:
        found.passed_over.append(f"{top}: {hint}")
    if links:
        found.passed_over.append(f"{top}: {_subfolders(links)} not looked into, being links")


def _subfolders(count: int) -> str:
    return "1 subfolder was" if count == 1 else f"{count} subfolders were"


@cache
def _warn(line: str) -> None:
    """Once: sources are looked up by the outputs, too."""
    LOG.warning("%s", line)


def _webcam(device: str) -> Source:
    if not sys.platform.startswith("linux"):
        raise BadInputError("webcams are read through V4L2, which only Linux has; name an address or a file instead")
    return Source(device, "webcam", device)


def _stream(address: str) -> Source:
    parts = split_address(address)
    shown = redact_address(address)
    if parts.scheme not in ("rtsp", "rtsps", "http", "https"):
        raise BadInputError(f"{shown} begins with {parts.scheme}://; known are rtsp, rtsps, http and https")
    if not parts.hostname:
        raise BadInputError(f"{shown} names no host")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    bare = urlunsplit((parts.scheme, host if parts.port is None else f"{host}:{parts.port}", parts.path, parts.query, ""))
    return Source(redact(bare), "rtsp" if parts.scheme.startswith("rtsp") else "url", address)


def split_address(address: str) -> SplitResult:
    """An address's parts. Raises BadInputError, with nothing of a password, where it may mean another than the one that is written.

    A ``#``, ``?`` or ``/`` ends the host, also where a password should hold it: then what comes before it would be taken for the host, and
    what is behind it shown.
    """
    before = address.partition("://")[2].rpartition("@")[0]
    good = "#" not in before and not (":" in before and re.search("[/?]", before)) and not re.search(r"[\x00-\x20\x7f'\"]", address)
    try:
        parts = urlsplit(address)
        parts.port  # noqa: B018 - raises for one that is no number; the error's text may quote a password
    except ValueError:
        good = False
    if not good:
        raise BadInputError(f"{' '.join(redact_address(address).split())} is no address; {ESCAPES}")
    return parts


def _files(named: Path, files: list[Path], chosen: bool = False) -> list[Source]:
    """The pictures among these files as one source, and each video as one; a file that was `chosen` is a video unless it is a picture."""
    pictures = tuple(file for file in files if file.suffix.lower() in PICTURES and file.is_file())
    videos = [file for file in files if file not in pictures and file.is_file() and (chosen or file.suffix.lower() in VIDEOS)]
    sources = [Source(str(named), "pictures", str(named), pictures)] if pictures else []
    sources += [Source(str(file), "file", str(file)) for file in videos]
    if not sources:
        raise BadInputError(f"{named} holds no pictures ({', '.join(sorted(PICTURES))}) and no videos ({', '.join(sorted(VIDEOS))})")
    return sources


def _natural(path: Path) -> list[str | tuple[int, str]]:
    """Sorts 2.png before 10.png."""
    return [part.zfill(20) if part.isdecimal() else part for part in re.split(r"(\d+)", str(path))]
