"""Pictures into H.264, and into a video file that is never half-written."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from fractions import Fraction
from itertools import count
from math import inf, isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2

from fhrt.errors import BackendError, BadInputError, OutputError
from fhrt.faces.inputs import Color, Picture
from fhrt.files import whole_file
from fhrt.machine import usable_cores
from fhrt.video.clock import Clock
from fhrt.video.redact import redact_address

if TYPE_CHECKING:
    from av.container import OutputContainer

CLOCK = 90000  # ticks per second: the times of 24, 25, 30 and 60 frames per second, and of RTP, are whole numbers of them
KEY_EVERY = 2.0  # seconds between key frames: what a viewer waits for at most, and what a killed process loses
AHEAD = 1.0  # seconds by which a file's pictures may lie before the audio that goes with them, or behind it
THREADS = 4  # of an encoder: more help little at 1080p, and there may be an encoder for each of many cameras
LARGEST = 16384  # pixels of a side, which libx264 takes at most
LONGEST = 3600 * CLOCK  # ticks that a picture is shown, and then once more: an mp4 has room for no more than 6.6 hours
FARTHEST = 30 * 86400.0  # seconds between two frames beyond which the time is damaged, and no camera that was gone so long
ANEW = 1.0  # seconds back from which on a file's times begin anew, rather than waver
HELD = 500  # packets that wait for the first picture of a recording that was joined to another
AAC_RATES = (8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000, 64000, 88200, 96000)
LATE = 10.0  # seconds of a first frame's time beyond which a file begins at 0 instead: broadcasts are recorded from any hour on

# An mp4 is written as fragments, which play up to the last whole one whatever happens, and becomes a plain one in the end (hybrid).
# Its index waits for the first packets (delay_moov) and counts in ticks, not milliseconds, or the start of AAC's priming would be rounded
# and shift the audio against the pictures.
FRAGMENTS = {
    "movflags": "hybrid_fragmented+frag_keyframe+delay_moov+default_base_moof",
    "movie_timescale": str(CLOCK),
    "flush_packets": "1",
}
FASTSTART = {"movflags": "faststart", "movie_timescale": str(CLOCK)}
FORMATS: dict[str, tuple[str, dict[str, str]]] = {".mp4": ("mp4", FRAGMENTS), ".mkv": ("matroska", {"flush_packets": "1"})}

_log = logging.getLogger("fhrt.video")


class Encoder:
    """An H.264 stream (yuv420p, BT.709) of an open container.

    Its pictures have the first one's size; others are scaled into it, with black borders, and an odd side gets one pixel more. live:
    without delay. Raises BadInputError for a first picture that is too large, and `av.FFmpegError` from all methods.
    """

    def __init__(self, container: OutputContainer, first: Picture, live: bool = False) -> None:
        from av.codec.context import Flags
        from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc

        height, width = first.shape[:2]
        check_size(width, height)
        stream = container.add_stream("libx264", rate=25)  # nominal: each frame has a time of its own
        stream.width, stream.height = width + width % 2, height + height % 2
        stream.pix_fmt = "yuv420p"
        codec = stream.codec_context
        codec.time_base = Fraction(1, CLOCK)
        codec.sample_aspect_ratio = Fraction(1)  # as `Frame.image` makes them
        codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
        codec.color_primaries, codec.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
        codec.flags |= Flags.frame_duration  # or the last one would be shown for a twenty-fifth of a second
        codec.thread_count = min(usable_cores(), THREADS)
        codec.thread_type = "SLICE" if live else "FRAME"
        # No B-frames: with irregular times an mp4 could not say when the last one ends. (A 1080p clip: 23 % more bytes, 31 % less work.)
        stream.options = {"preset": "veryfast", "crf": "20", "bf": "0", "rc-lookahead": "4", "forced-idr": "1"}
        if live:
            stream.options |= {"tune": "zerolatency"}
        self.stream = stream
        self._clock = Clock(live=False)
        self._time: float | None = None  # of the last picture, as it was given
        self._shown: Any = None  # the last picture, as it was encoded
        self._key = -CLOCK * 3600  # ticks of the last key frame
        self._step = CLOCK // 25

    def encode(self, picture: Picture, time: float, color: Color = "bgr") -> list[Any]:
        """The packets that are ready after one more picture, shown at `time` seconds; one that does not go on counts as the usual step.

        Raises BadInputError for one of another month.
        """
        import av
        from av.video.reformatter import ColorRange, Colorspace

        if self._time is not None and not time - self._time <= FARTHEST:
            raise BadInputError(f"a frame's time cannot be {time:g} s, after {self._time:g} s")
        self._time = time
        frame = av.VideoFrame.from_ndarray(fit(picture, self.stream.width, self.stream.height), f"{color}24")
        frame = frame.reformat(format="yuv420p", dst_colorspace=Colorspace.ITU709, dst_color_range=ColorRange.MPEG, threads=1)
        frame.time_base = Fraction(1, CLOCK)
        ticks = round(self._clock(time, 0.0) * CLOCK)
        packets = []
        if self._shown is not None:
            ticks = max(ticks, self._shown.pts + 1)
            while ticks - self._shown.pts > LONGEST:
                packets += self._show(self._shown, self._shown.pts + LONGEST)
            self._step = ticks - self._shown.pts
        return packets + self._show(frame, ticks)

    def _show(self, frame: Any, ticks: int) -> list[Any]:
        from av.video.frame import PictureType

        key = ticks - self._key >= KEY_EVERY * CLOCK
        frame.pict_type = PictureType.I if key else PictureType.NONE
        self._key = ticks if key else self._key
        frame.pts, frame.duration = ticks, self._step
        self._shown = frame
        return self.stream.encode(frame)

    def flush(self) -> list[Any]:
        """The last packets."""
        return self.stream.encode()


class VideoWriter:
    """One video file, .mp4 (its index in front, for browsers) or .mkv (which rounds times to milliseconds).

    audio: the file that the pictures come from; its audio goes with them, in step and as far as they go,
    as it is or, where the format cannot hold it, as AAC.
    Until `close`, all is in NAME.partial.mp4 beside it, which plays as far as it was written and stays when the process is killed or
    the disk is full. An mp4's index is kept in memory, 155 MB for a day at 25 frames per second: record weeks as .mkv, which takes 2 MB.
    Raises BadInputError for a path that cannot be written, OutputError when writing fails, and BackendError.
    """

    def __init__(self, path: str | Path, audio: Path | None = None) -> None:
        need_encoder()
        self.path = check_writable(Path(path))
        if self.path.suffix.lower() not in FORMATS:
            raise BadInputError(f"{self.path} must end with {' or '.join(FORMATS)}")
        if audio is not None and self.path.exists() and self.path.samefile(audio):
            raise BadInputError(f"{self.path} is the video that is read; name another file to write")
        self.partial: Path | None = None
        self._source = audio
        self._audio: _Audio | None = None
        self._container: OutputContainer | None = None
        self._encoder: Encoder | None = None
        self._origin = 0.0
        self._time = 0.0
        self._failure = ""
        self._closed = False

    def write(self, picture: Picture, time: float, color: Color = "bgr") -> None:
        """One more frame, uint8 `[H, W, 3]`, shown at `time` seconds."""
        import av

        if self._closed:
            raise BadInputError(f"{self.path} is closed")
        if self._failure:
            raise OutputError(self._failure)
        if not isfinite(time):
            raise BadInputError(f"a frame's time must be finite seconds, not {time}")
        try:
            if self._encoder is None:
                self._open(picture, time)
            assert self._container is not None and self._encoder is not None
            packets = self._encoder.encode(picture, time - self._origin, color)
            self._time = time
            if self._audio is not None:
                self._mux_audio(self._audio.until(time))
            self._container.mux(packets)
        except (av.FFmpegError, OSError) as error:
            self._fail(error)

    def close(self) -> None:
        """Finishes the file and moves it into its place; without a single frame there is none."""
        import av

        if self._closed or self._failure:
            return
        self._closed = True
        try:
            if self._container is not None:
                self._finish()
        except (av.FFmpegError, OSError) as error:
            self._fail(error)

    def _open(self, picture: Picture, time: float) -> None:
        import av

        check_size(picture.shape[1], picture.shape[0])  # before there is a file
        name, options = FORMATS[self.path.suffix.lower()]
        self.partial = _new_file(self.path)
        self._container = av.open(f"file:{self.partial}", "w", format=name, container_options=options)
        self._container.metadata["comment"] = "Faces super-resolved by fhrt: synthesised, no evidence of identity."
        self._encoder = Encoder(self._container, picture)
        self._origin = 0.0 if 0 <= time < LATE else time
        if self._source is not None:
            self._audio = _Audio.of(self._source, self._container, self._origin)

    def _finish(self) -> None:

        assert self._container is not None and self._encoder is not None and self.partial is not None
        self._container.mux(self._encoder.flush())
        if self._audio is not None:
            self._mux_audio(self._audio.rest(self._time))
        if self._audio is not None:
            self._audio.close()
        self._container.close()
        os.replace(self.partial, self.path)  # whole, whatever becomes of what follows
        if self.path.suffix.lower() == ".mp4":
            _index_first(self.path)

    def _mux_audio(self, packets: Iterable[Any]) -> None:
        """What the container does not take of it costs the rest of the audio, not the pictures."""
        import av

        assert self._container is not None and self._audio is not None
        try:
            self._container.mux(list(packets))
        except (av.error.ArgumentError, av.error.InvalidDataError) as error:
            _log.warning("%s: the audio ends at %.1f s: %s", self.path, self._time, error.strerror)
            self._audio.close()
            self._audio = None

    def _fail(self, error: Exception) -> None:
        import av

        self._failure = f"cannot write {self.path}: {getattr(error, 'strerror', None) or error}"
        if self._audio is not None:
            self._audio.close()
        if self._container is not None:
            with suppress(av.FFmpegError, OSError):
                self._container.close()
        if self.partial is not None:
            if self.partial.exists() and self.partial.stat().st_size:
                self._failure += f"; what was written until then is in {self.partial}"
            else:
                self.partial.unlink(missing_ok=True)
        raise OutputError(self._failure) from error


class _Audio:
    """The audio of a video file, packet by packet, for a container that gets the file's pictures anew."""

    def __init__(self, source: Any, streams: dict[int, Any], filters: dict[int, Any], origin: float) -> None:
        self._source = source
        self._streams = streams
        self._origin = origin
        self._filters = filters
        self._written: dict[int, int] = {}  # stream → the last time that was written of it
        self._pictures = source.streams.best("video")
        pictures = [self._pictures] if self._pictures else []
        self._packets = self._joined(source.demux([*pictures, *(source.streams[index] for index in streams)]))
        self._next: Any = None
        self._advance()

    @classmethod
    def of(cls, path: Path, target: OutputContainer, origin: float) -> _Audio | None:
        """None where the file has no audio that the container can be given."""
        import av
        from av.bitstream import BitStreamFilterContext

        try:
            source = av.open(f"file:{path}", metadata_errors="replace")
        except (av.FFmpegError, OSError):
            return None  # e.g. moved away in the meantime
        streams: dict[int, Any] = {}
        filters: dict[int, Any] = {}
        for stream in source.streams.audio:
            index, codec = stream.index, stream.codec_context
            if codec and codec.codec.name in target.supported_codecs:
                streams[index] = target.add_stream_from_template(stream)
                # MPEG-TS repeats AAC's parameters in every packet (ADTS); the muxers look for that too late for a fragmented mp4.
                if codec.name == "aac" and not codec.extradata:
                    filters[index] = BitStreamFilterContext("aac_adtstoasc", stream)
                continue
            try:
                filters[index] = _ToAac(stream, target)
                streams[index] = filters[index].stream
            except (AttributeError, ValueError, av.FFmpegError):  # no decoder
                name = codec.codec.name if codec else "of an unknown codec"
                _log.warning("%s: its audio (%s) is left out, %s cannot hold it", path, name, target.format.name)
        if not streams:
            source.close()
            return None
        return cls(source, streams, filters, origin)

    def until(self, time: float) -> Iterator[Any]:
        """The packets up to `time`, seconds of the source."""
        while self._next is not None and self._next.dts * self._next.time_base <= time:
            yield from self._taken()

    def rest(self, last: float) -> list[Any]:
        """The packets after the last picture, shown at `last`: as long as a frame if the file has further pictures, else all."""
        packets: list[Any] = []
        end = inf
        while self._next is not None and self._next.dts * self._next.time_base < end + AHEAD:
            if self._next.stream.index not in self._streams and (shown := self._next.pts * self._next.time_base) > last + 0.001:
                end = min(end, shown)
            packets += self._taken()
        for index, made in self._filters.items():
            packets += self._ready(index, made.filter(None)) if isinstance(made, _ToAac) else []
        return [packet for packet in packets if packet.dts * packet.time_base < end - self._origin]

    def close(self) -> None:
        self._source.close()

    def _taken(self) -> Iterator[Any]:
        """Hands the next packet over, if it is audio, and reads on."""
        packet, index = self._next, self._next.stream.index
        if index in self._streams:
            shift = round(self._origin / packet.time_base)
            packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
            yield from self._ready(index, self._filters[index].filter(packet) if index in self._filters else [packet])
        self._advance()

    def _ready(self, index: int, packets: list[Any]) -> Iterator[Any]:
        """For the container, which would be given up with a packet whose time does not go on."""
        for packet in packets:
            if packet.dts > self._written.get(index, packet.dts - 1):
                self._written[index] = packet.dts
                packet.stream = self._streams[index]
                yield packet

    def _advance(self) -> None:
        self._next = next(self._packets, None)

    def _joined(self, packets: Iterator[Any]) -> Iterator[Any]:
        """The packets, with times that go on where a file's begin anew (recordings joined by ``cat``), as its pictures' do in `Clock`.

        The sound is moved as far as the pictures are, and held until it is known how far that is.
        """
        import av

        shifts, part, last, held = [0.0], dict[int, int](), dict[int, float](), list[Any]()
        shown = 0.0  # when the last picture ends
        try:
            for packet in packets:
                if packet.pts is None or packet.dts is None:  # between others of a damaged file, or in the place of its end
                    continue
                index, seconds, tick = packet.stream.index, float(packet.dts * packet.time_base), float(packet.time_base)
                part[index] = part.get(index, 0) + (seconds < last.get(index, seconds) - ANEW)
                last[index] = seconds
                if index not in self._streams or self._pictures is None:
                    if part[index] == len(shifts):
                        shifts.append(shown - float(packet.pts * packet.time_base))
                    shown = max(shown, (packet.pts + (packet.duration or 0.04 / tick)) * tick + shifts[part[index]])
                held.append((packet, part[index]))
                if len(held) > HELD:  # the pictures' times do not begin anew: what goes back is left out
                    shifts.append(shifts[-1])
                while held and held[0][1] < len(shifts):
                    ready, number = held.pop(0)
                    shift = round(shifts[number] / float(ready.time_base))
                    ready.pts, ready.dts = ready.pts + shift, ready.dts + shift
                    yield ready
        except av.FFmpegError as error:
            _log.warning("%s: its audio ends early: %s", self._source.name, error.strerror)


class _ToAac:
    """An audio stream that the container cannot hold as it is (G.711 in an mp4), decoded and encoded again."""

    def __init__(self, source: Any, target: OutputContainer) -> None:
        from av.audio.resampler import AudioResampler

        self._decoder = source.codec_context
        rate = self._decoder.rate if self._decoder.rate in AAC_RATES else 48000
        layout = "mono" if self._decoder.layout.nb_channels == 1 else "stereo"
        self._resampler = AudioResampler("fltp", layout, rate, frame_size=1024)
        self.stream: Any = target.add_stream("aac", rate=rate, layout=layout)

    def filter(self, packet: Any) -> list[Any]:
        """The packets that are ready after one more; None: the last ones."""
        import av

        try:
            frames = [ready for frame in self._decoder.decode(packet) for ready in self._resampler.resample(frame)]
        except av.FFmpegError:
            frames = []  # a damaged packet
        if packet is None:
            frames += [frame for frame in self._resampler.resample(None) if frame.samples]
        return [ready for frame in frames for ready in self.stream.encode(frame)] + (self.stream.encode(None) if packet is None else [])


def need_encoder() -> None:
    """Raises BackendError where H.264 cannot be encoded."""
    import av

    if "libx264" not in av.codecs_available:
        raise BackendError("this PyAV was built without libx264, which encodes H.264; its wheels have it: pip install --force-reinstall av")


def _index_first(path: Path) -> None:
    """Rewrites an mp4, so that browsers can play it before they have all of it. Takes seconds per GB; the file is whole meanwhile."""
    import av

    try:
        with (
            whole_file(path) as temporary,
            av.open(f"file:{path}") as source,
            av.open(f"file:{temporary}", "w", "mp4", container_options=FASTSTART) as target,
        ):
            target.metadata.update(source.metadata)
            streams = [target.add_stream_from_template(stream) for stream in source.streams]
            for packet in source.demux():
                if packet.size:
                    packet.stream = streams[packet.stream.index]
                    target.mux(packet)
    except (av.FFmpegError, OSError) as error:  # e.g. no room for a second copy
        _log.warning("%s: its index stays at its end: %s", path, error.strerror)


def fit(picture: Picture, width: int, height: int) -> Picture:
    """The picture `[height, width, 3]`: as it is up to one pixel, repeated, at its sides; else scaled, between black borders."""
    h, w = picture.shape[:2]
    if (w, h) == (width, height):
        return picture
    border = cv2.BORDER_REPLICATE
    if not (0 <= width - w <= 1 and 0 <= height - h <= 1):
        border = cv2.BORDER_CONSTANT
        zoom = min(width / w, height / h)
        w, h = max(round(w * zoom), 1), max(round(h * zoom), 1)
        picture = cv2.resize(picture, (w, h), interpolation=cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR)  # type: ignore[assignment]
    top, left = (height - h) // 2, (width - w) // 2
    return cv2.copyMakeBorder(picture, top, height - h - top, left, width - w - left, border)  # type: ignore[return-value]


def check_writable(path: Path) -> Path:
    """The path of a file that can be made or replaced. Raises BadInputError."""
    if not path.parent.is_dir():
        shown, folder = redact_address(str(path)), redact_address(str(path.parent))  # an address with a slip of the pen, maybe
        raise BadInputError(f"cannot write {shown}: the folder {folder} does not exist")
    if path.is_dir():
        raise BadInputError(f"cannot write {path}: it is a folder")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise BadInputError(f"cannot write {path}: no permission")
    return path


def check_size(width: int, height: int) -> None:
    """Raises BadInputError for pictures that H.264 cannot hold."""
    if max(width, height) > LARGEST:
        raise BadInputError(f"a picture of {width}×{height} pixels is too large for H.264, which takes {LARGEST} a side")


def _new_file(path: Path) -> Path:
    """NAME.partial.mp4, empty; or with a number where there is one already, which a killed process may have left."""
    for number in count(1):
        partial = path.with_name(f"{path.stem}.partial{'' if number == 1 else f'-{number}'}{path.suffix}")
        with suppress(FileExistsError):
            partial.open("xb").close()
            return partial
    raise AssertionError
