"""Where results go: video files, an RTSP server, the best picture of each face, JSON lines, a function."""

from __future__ import annotations

import json
import os
import re
import stat
import time
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from io import FileIO
from itertools import count
from pathlib import Path, PurePath
from typing import Any, Protocol
from urllib.parse import quote

from fhrt.errors import BadInputError, NobodyReadsError, OutputError
from fhrt.faces.inputs import swap_channels
from fhrt.results import Face, Result, write_picture
from fhrt.stream.view import View
from fhrt.video.push import RtspPush, check_address
from fhrt.video.reader import STOP
from fhrt.video.redact import redact, redact_address
from fhrt.video.sources import PICTURES, VIDEOS, Source
from fhrt.video.writer import FORMATS, VideoWriter, check_size, check_writable, need_encoder

SOURCE = "{source}"  # in a path or an address: the source's name
INDEX = "index.jsonl"


class Sink(Protocol):
    """What results are handed to, by one thread, those of a source in order, those of several sources in turns.

    Both raise FhrtError; an error is about the result at hand, or the source that it is of, and later results may be written all the same.
    A `name`, without passwords, is shown to people where a sink has one.
    """

    def write(self, result: Result) -> None: ...

    def close(self) -> None:
        """Finishes what was written. A second time it does nothing."""


def shows_pictures(named: str) -> bool:
    """Whether what a user named is a video file or a server's address: a place for pictures of whole frames."""
    return "://" in named or (PurePath(named).suffix.lower() in FORMATS and not Path(named).is_dir())


def open_sink(named: str, *, paste: int | None = None, sources: Sequence[str] = ()) -> Sink:
    """The sink that a user named.

    named: a video file (.mp4, .mkv), an RTSP server's address, JSON lines (.jsonl, or ``-`` for standard output), or a folder for the
    best picture of each face (it exists, or its name ends with a slash). In a video's name or an address, ``{source}`` stands for the
    source's name. paste: see VideoFile. sources: names of those that will be written, where they are known, so that several into one
    video are refused at once. Raises BadInputError.
    """
    if shows_pictures(named):
        sink: Sink = RtspOut(named, paste=paste) if "://" in named else VideoFile(named, paste=paste)
        if len(sources) > 1:
            _refuse_several(named)
        return sink
    if named == "-" or (PurePath(named).suffix.lower() == ".jsonl" and not Path(named).is_dir()):
        _refuse_source(named, "JSON lines hold all sources in one file")
        return JsonLines(named)
    if named.endswith("/") or (named and Path(named).is_dir()):
        _refuse_source(named, "a folder holds the best pictures of all sources")
        return BestShots(named)
    raise BadInputError(
        f'"{redact_address(named)}" is no place for results: name a video (.mp4, .mkv), an address (rtsp://…), JSON lines (.jsonl, or - '
        "for standard output), or a folder for the best pictures (ending with a slash)"
    )


def check_outputs(outputs: Sequence[str], sources: Sequence[Source]) -> None:
    """Raises BadInputError where two outputs that a user named are one file, however it is spelled, or one is a file that is read."""
    read: set[Hashable] = set()
    for source in sources:
        if source.kind in ("file", "pictures"):
            read |= {_identity(path) for path in source.pictures or [source.address]}
    taken: set[Hashable] = set()
    for named in outputs:
        names = _Names(named)
        own: set[Hashable] = set()
        for place in sorted({names.of(source.name) for source in sources}) if SOURCE in named else [named]:
            files = _files_of(place)
            if files & read:
                raise BadInputError(f"{place} is a file that is read; name another one to write")
            if files & taken:
                raise BadInputError(f"named twice as an output: {redact(place)}")
            own |= files
        taken |= own


class VideoFile:
    """A video file per source, as VideoWriter writes it: H.264, with the source's times and, where a video file is the source, its audio.

    path: .mp4 or .mkv; ``{source}`` in it stands for the source's name, without which there can be only one. paste: the frame, enlarged
    so many times, with the SR faces in place, instead of the frame with numbered boxes above a strip of LR and SR faces. A camera's audio
    is left out, since `Reader` does not ask for it. Raises BadInputError and OutputError.
    """

    def __init__(self, path: str | Path, *, paste: int | None = None) -> None:
        self._path = self.name = str(path)
        need_encoder()
        check_writable(Path(self._path.replace(SOURCE, "source")))
        if Path(self._path).suffix.lower() not in FORMATS:
            raise BadInputError(f"{self._path} must end with {' or '.join(FORMATS)}")
        self._names = _Names(self._path)
        self._draw = _Drawing(paste)
        self._writers: dict[str, VideoWriter] = {}
        self._closed = False

    def write(self, result: Result) -> None:
        if self._closed:
            raise BadInputError(f"{self._path} is closed")
        if result.source not in self._writers:
            path = self._names.of(result.source)
            for other in self._writers:  # its own source is VideoWriter's affair
                if _identity(path) == _identity(other):
                    raise BadInputError(f"{path} is a file that is read; name another one to write")
            source = Path(result.source)
            self._writers[result.source] = VideoWriter(path, source if result.source and source.is_file() else None)
        self._writers[result.source].write(self._draw(result), result.time)

    def close(self) -> None:
        self._closed = True
        errors = []
        for writer in self._writers.values():
            try:
                writer.close()
            except OutputError as error:
                errors.append(error)
        if errors:
            raise errors[0]


class RtspOut:
    """A stream per source to an RTSP server, which must accept RECORD (MediaMTX, GStreamer's, …). The newest picture wins.

    address: ``rtsp://user:password@host:port/path``; ``{source}`` and `paste` as in VideoFile. A server that is slow or gone holds up
    nobody, and raises nothing before `close`, which says what keeps pictures from it in the end: `pushes` has the `health` of each
    stream. Raises BadInputError and OutputError.
    """

    def __init__(self, address: str, *, paste: int | None = None) -> None:
        need_encoder()
        check_address(address.replace(SOURCE, "source"))
        self.name = redact(address)
        self._names = _Names(address)
        self._draw = _Drawing(paste)
        self._closed = False
        self.pushes: dict[str, RtspPush] = {}
        """Source → its stream."""

    def write(self, result: Result) -> None:
        if self._closed:
            raise BadInputError(f"{self.name} is closed")
        if result.source not in self.pushes:
            self.pushes[result.source] = RtspPush(self._names.of(result.source))
        push = self.pushes[result.source]
        if push.ready:
            push.write(self._draw(result), result.time)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        lost = [f"{push.health.name.removeprefix('to ')} takes nothing: {push.problem}" for push in self.pushes.values() if push.problem]
        for push in self.pushes.values():
            push.close(wait=0)
        until = time.monotonic() + STOP
        for push in self.pushes.values():
            push.close(wait=max(until - time.monotonic(), 0))
        if lost:
            raise OutputError(lost[0] if len(lost) == 1 else f"{lost[0]} (and {len(lost) - 1} more)")


class BestShots:
    """The best picture of each track, in a folder: SOURCE-000123.png (SR), SOURCE-000123-lr.png, and a line in index.jsonl.

    The best is that of the highest `quality`, or score where there is none. It is written when the track has ended, and in the end. What
    the folder holds already stays. Raises BadInputError and OutputError.
    """

    def __init__(self, folder: str | Path) -> None:
        self.name = str(folder)
        self.folder = Path(folder)
        try:
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            raise BadInputError(f"cannot make the folder {self.folder}: {error.strerror}") from error
        self._index = _Lines(self.folder / INDEX, "a")
        self._names = _Names(SOURCE)
        self._best: dict[str, dict[int, _Shot]] = {}

    def write(self, result: Result) -> None:
        shots = self._best.setdefault(result.source, {})
        ended = [shots.pop(track) for track in set(shots) - set(result.track_ids)]
        for face in result.faces:
            if face.track_id is not None:
                shot = _Shot.of(face, result)
                if face.track_id not in shots or shot.quality > shots[face.track_id].quality:
                    shots[face.track_id] = shot
        self._save(ended)

    def close(self) -> None:
        shots = [shot for tracks in self._best.values() for shot in tracks.values()]
        self._best = {}
        try:
            self._save(shots)
        finally:
            self._index.close()

    def _save(self, shots: list[_Shot]) -> None:
        for shot in shots:
            name = self._free_name(f"{self._names.of(shot.source)}-{shot.face.track_id:06d}")
            try:
                write_picture(self.folder / f"{name}-lr.png", shot.face.lr)
                write_picture(self.folder / f"{name}.png", shot.face.sr)
            except BadInputError as error:
                raise OutputError(str(error)) from error
            self._index.write(
                {
                    "file": f"{name}.png",
                    "source": shot.source,
                    "track_id": shot.face.track_id,
                    "time": shot.time,
                    "box": shot.face.box,
                    "quality": shot.face.quality,
                    "score": shot.face.score,
                }
            )

    def _free_name(self, name: str) -> str:
        """Track numbers begin anew with every run, and when a camera is opened anew."""
        names = (name if number == 1 else f"{name}-{number}" for number in count(1))
        return next(name for name in names if not any((self.folder / f"{name}{end}.png").exists() for end in ("", "-lr")))


class JsonLines:
    """One JSON object per frame: source, number, time, latency, faces (track_id, box, score, quality, transform), timings. No pictures.

    path: a file, replaced with the first result if it exists, or ``-`` for standard output. Each line is written at once, whole or not
    at all. Raises BadInputError and OutputError.
    """

    def __init__(self, path: str | Path) -> None:
        self.name = "standard output" if str(path) == "-" else str(path)
        self._lines = _Lines(None if str(path) == "-" else Path(path), "w")

    def write(self, result: Result) -> None:
        faces = [
            {
                "track_id": face.track_id,
                "box": face.box,
                "score": face.score,
                "quality": face.quality,
                "transform": face.transform.tolist(),
            }
            for face in result.faces
        ]
        self._lines.write(
            {
                "source": result.source,
                "number": result.number,
                "time": result.time,
                "latency": result.latency,
                "faces": faces,
                "timings": result.timings,
            }
        )

    def close(self) -> None:
        self._lines.close()


class Callback:
    """Calls a function with each result."""

    def __init__(self, function: Callable[[Result], object]) -> None:
        self.name = getattr(function, "__name__", "callback")
        self._function = function

    def write(self, result: Result) -> None:
        self._function(result)

    def close(self) -> None:
        """Has nothing to finish."""


@dataclass(frozen=True)
class _Shot:
    face: Face
    source: str
    time: float
    quality: float

    @classmethod
    def of(cls, face: Face, result: Result) -> _Shot:
        """With pictures of its own, BGR: a face's are parts of a batch, which would stay in memory as long as the track."""
        lr, sr = (swap_channels(picture) if result.color == "rgb" else picture.copy() for picture in (face.lr, face.sr))
        own = replace(face, lr=lr, sr=sr, heatmaps=None, sr_2x=None, sr_4x=None)
        return cls(own, result.source, result.time, face.score if face.quality is None else face.quality)


class _Lines:
    """JSON lines into a file, or standard output, each of them whole or not at all.

    A file that is replaced (mode ``w``) stays as it is until the first line, or the end: until then the run may yet be refused.
    """

    def __init__(self, path: Path | None, mode: str) -> None:
        self._name = "standard output" if path is None else str(path)
        self._path = None if path is None else check_writable(path)
        self._mode = mode
        self._file: FileIO | None = None
        self._regular = self._closed = False
        if path is None or mode != "w":
            try:
                self._open()
            except OutputError as error:
                raise BadInputError(str(error)) from error

    def write(self, line: dict[str, Any]) -> None:
        if self._closed:
            raise BadInputError(f"{self._name} is closed")
        # A file's name may hold bytes that are no UTF-8, which Python has as lone surrogates: they become JSON's own \udcff.
        data = json.dumps(line, ensure_ascii=False, default=float).encode(errors="backslashreplace") + b"\n"
        file = self._file or self._open()
        begin = os.fstat(file.fileno()).st_size
        try:
            while data:  # a full disk or a pipe may take a part
                data = data[file.write(data) :]
        except OSError as error:
            if self._regular:
                file.truncate(begin)
                file.seek(begin)
            gone = isinstance(error, BrokenPipeError) and file.fileno() == 1  # a named pipe may find another reader
            raise (NobodyReadsError if gone else OutputError)(f"cannot write {self._name}: {error.strerror}") from error

    def close(self) -> None:
        """A file without a line is empty then."""
        if not self._closed:
            self._closed = True
            (self._file or self._open()).close()

    def _open(self) -> FileIO:
        try:
            self._file = FileIO(1 if self._path is None else self._path, self._mode, closefd=self._path is not None)
        except OSError as error:
            raise OutputError(f"cannot write {self._name}: {error.strerror}") from error
        self._regular = self._path is not None and stat.S_ISREG(os.fstat(self._file.fileno()).st_mode)
        return self._file


class _Drawing:
    """What is seen of a result, BGR: see VideoFile."""

    def __init__(self, paste: int | None) -> None:
        if paste is not None and (not isinstance(paste, int) or paste < 1):
            raise BadInputError(f"paste must be a whole number from 1 on, not {paste!r}")
        self._paste = paste
        self._views: dict[str, View] = {}

    def __call__(self, result: Result) -> Any:
        if self._paste is None:
            return self._views.setdefault(result.source, View()).draw(result)
        height, width = result.frame.shape[:2]
        check_size(width * self._paste, height * self._paste)  # rather than to fill the memory with it first
        pasted = result.paste(self._paste)
        return pasted if result.color == "bgr" else swap_channels(pasted)


class _Names:
    """Where each source goes: its name in the place of ``{source}``, made fit for a file, and not the same for two."""

    def __init__(self, template: str) -> None:
        self._template = template
        self._taken: dict[str, str] = {}  # name → source

    def of(self, source: str) -> str:
        """Raises BadInputError for a second source where the template has no place for its name."""
        name = ""
        if SOURCE in self._template:
            plain = safe_name(source)
            names = (plain if number == 1 else f"{plain}-{number}" for number in count(1))
            name = next(name for name in names if self._taken.get(name, source) == source)
        elif self._taken.get(name, source) != source:
            _refuse_several(self._template)
        self._taken[name] = source
        return self._template.replace(SOURCE, quote(name) if "://" in self._template else name)


def safe_name(source: str) -> str:
    """A source's name as a part of a file's or an address's: a file's name without its folder and ending, an address without its scheme."""
    path = PurePath(source)
    if "://" in source:
        source = source.partition("://")[2]
    elif path.suffix.lower() in VIDEOS | PICTURES or "/" in source:
        source = path.stem if path.suffix.lower() in VIDEOS | PICTURES else path.name
    return re.sub(r"[^\w.-]+", "_", source).strip("._")[:60] or "source"


def _files_of(place: str) -> set[Hashable]:
    """What an output writes to. A folder's index stands for its pictures, which take free names; of a file it is nothing that exists."""
    return {place} if place == "-" or "://" in place else {_identity(place), _identity(os.path.join(place, INDEX))}


def _identity(path: str | Path) -> Hashable:
    """The same for all spellings of one file, and for all links to it where it exists."""
    try:
        status = os.stat(path)
    except OSError:
        return os.path.realpath(path)
    return status.st_dev, status.st_ino


def _refuse_several(named: str) -> None:
    if SOURCE not in named:
        path = PurePath(named)
        better = f"{named.rstrip('/')}/{SOURCE}" if "://" in named else str(path.with_name(f"{path.stem}-{SOURCE}{path.suffix}"))
        raise BadInputError(f"{redact(named)} can hold one source only; write {redact(better)} for one each")


def _refuse_source(named: str, because: str) -> None:
    if SOURCE in named:
        raise BadInputError(f"{named} cannot be one for each source: {because}; leave {SOURCE} out")
