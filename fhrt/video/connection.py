"""One opening of a source: whole pictures of a believable size, with their times."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from fhrt.errors import BadInputError, SourceError
from fhrt.faces.inputs import check_pixels, most_pixels, read_picture
from fhrt.machine import usable_cores
from fhrt.video.hardware import Decode, hardware
from fhrt.video.health import Health
from fhrt.video.redact import redact
from fhrt.video.sources import Source

if TYPE_CHECKING:
    import av

PICTURE_TIME = 1 / 25  # seconds that the pictures of a folder are apart
MOST_THREADS = 16  # of a decoder, as FFmpeg has it, which does not see a container's quota
PATIENCE = 30.0  # seconds without a whole picture although packets come: longer than cameras wait between key frames


class Picture(NamedTuple):
    """picture: as it was decoded. seconds: the source's own time. capture: Unix time, by the camera. arrival: monotonic. aspect: a
    pixel's width over its height."""

    picture: Any  # an av.VideoFrame, or an array from a picture file
    seconds: float | None
    capture: float | None
    arrival: float
    aspect: float = 1.0


class SizeGate:
    """Believes a picture size that the camera announced, or that two key frames in a row have.

    A damaged parameter set decodes to whole pictures, not marked as damaged, of a size that nobody sent, until the next key frame.
    """

    def __init__(self, announced: tuple[int, int]) -> None:
        self._believed = announced if all(announced) else None
        self._seen: tuple[int, int] | None = None

    def __call__(self, size: tuple[int, int], key_frame: bool) -> bool:
        """Whether a picture of this size may go on."""
        if self._believed is None or (key_frame and size == self._seen):
            self._believed = size
        if size == self._believed:
            self._seen = None
        elif key_frame:
            self._seen = size
        return size == self._believed


class Connection:
    """A video or a camera, opened.

    timeout: seconds that a camera may be silent. Raises `av.FFmpegError` (its text may hold a password), BadInputError for frames
    that are too large, and SourceError where there is no video inside. recording: whether it has an end. heard: when a packet last came,
    monotonic; pictures come seconds later where the camera's key frames are far apart.
    """

    def __init__(self, source: Source, decode: Decode, timeout: float, health: Health) -> None:
        import av
        from av.stream import Disposition

        self._live = source.live
        self._health = health
        options, form = _options(source)
        self._timeout = timeout if source.live else float("inf")
        self._silence = f"no answer for {timeout:g} s"
        limit = timeout if source.live else None
        self.heard = asked = time.monotonic()
        try:
            self._container = av.open(
                # A file by that protocol: what stands before a colon in its name (12:30:00.mp4) would be taken for another.
                f"file:{source.address}" if source.kind == "file" else source.address,
                format=form,
                options=options,
                timeout=limit,
                metadata_errors="replace",
                hwaccel=hardware(decode),
            )
        except (av.error.ExitError, av.error.InvalidDataError) as error:
            if isinstance(error, av.error.ExitError) or time.monotonic() - asked >= self._timeout:
                raise SourceError(self._silence) from None
            raise
        except RuntimeError as error:  # PyAV's own, where the card was asked for by name
            if decode != "nvdec" or isinstance(error, av.FFmpegError):
                raise
            raise SourceError(f"NVDEC does not know its codec: {redact(error)}") from None
        try:
            stream = self._container.streams.best("video")
            if stream is None or stream.disposition & Disposition.attached_pic:  # the latter is a song's cover
                raise SourceError("it holds no video")
            if stream.codec_context is None:
                raise SourceError("there is no decoder for its codec")
            self._stream = cast("av.VideoStream", stream)
            codec = self._stream.codec_context
            check_pixels(codec.width, codec.height, "a frame")
            codec.options |= {"max_pixels": str(most_pixels())}  # of the frames that follow
            self.recording = not source.live or (source.kind == "url" and bool(self._container.duration))
            if self.recording:
                codec.thread_type = "AUTO"
                codec.thread_count = min(usable_cores() + (usable_cores() > 1), MOST_THREADS)
            else:  # frame threads would delay by a frame each, and a core decodes several cameras
                codec.thread_type, codec.thread_count = "SLICE", 1
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Gives everything back."""
        self._container.close()

    def pictures(self) -> Iterator[Picture]:
        """What is decoded, without frames that are known to be damaged. Ends with the recording, or when a camera hangs up."""
        import av

        to_unix: float | None = None
        codec, time_base = self._stream.codec_context, float(self._stream.time_base or 0)
        announced = codec.sample_aspect_ratio, self._stream.sample_aspect_ratio  # the latter also by the container, which then has its way
        believable = SizeGate((codec.width, codec.height))
        last = time.monotonic()
        for packet in self._packets():
            arrival = time.monotonic()
            if packet is not None:
                to_unix = self._to_unix(packet, to_unix)
            try:
                frames = self._stream.decode(packet)
            except av.FFmpegError:
                self._health.drop("undecodable")
                frames = []
            if frames:
                self._health.record("decode", (time.monotonic() - arrival) / len(frames))
            for frame in frames:
                if frame.is_corrupt:
                    self._health.drop("corrupt")
                    continue
                if not self.recording and not believable((frame.width, frame.height), frame.key_frame):
                    self._health.drop("size")
                    continue
                last = arrival
                seconds = None if frame.pts is None else frame.pts * time_base  # a flushed frame does not know its own
                capture = None if seconds is None or to_unix is None else to_unix + seconds
                aspect = codec.sample_aspect_ratio if announced[0] == announced[1] else announced[1]
                yield Picture(frame, seconds, capture, arrival, float(aspect or 1))
            if not self.recording and arrival - last > PATIENCE:
                raise SourceError(f"packets come, but no whole picture for {PATIENCE:g} s")

    def _packets(self) -> Iterator[av.Packet | None]:
        """Packets with something in them, and None where a recording's end lets the decoder give its last frames."""
        empty = 0
        asked = time.monotonic()
        for packet in self._container.demux(self._stream):
            if time.monotonic() - asked >= self._timeout:
                # The first read that times out gives the packet that the parser had kept, only the second would say so.
                raise SourceError(self._silence)
            if packet.size == 0:
                empty += 1
            else:
                self.heard = time.monotonic()
                yield packet
            asked = time.monotonic()
        for _ in range(empty - 1):  # the last one only stands for the end
            self._health.drop("empty")
        if self.recording:
            yield None

    def _to_unix(self, packet: av.Packet, before: float | None) -> float | None:
        """What turns this stream's seconds into Unix time, where the camera says it: with the packet, or once at its start."""
        if not self._live:
            return None
        if packet.pts is not None and packet.has_sidedata("prft"):
            wallclock = int.from_bytes(bytes(packet.get_sidedata("prft"))[:8], "little", signed=True)
            return wallclock / 1e6 - float(packet.pts * packet.time_base)
        if before is None and (start := self._container.start_time_realtime):
            return start / 1e6
        return before


def read_pictures(source: Source, health: Health) -> Iterator[Picture]:
    """The pictures of a folder or glob; a damaged one is counted and left out."""
    for number, path in enumerate(source.pictures):
        start = time.monotonic()
        try:
            picture = read_picture(path)
        except BadInputError:
            health.drop("undecodable")
            continue
        health.record("decode", time.monotonic() - start)
        yield Picture(picture, number * PICTURE_TIME, None, start)


def _options(source: Source) -> tuple[dict[str, str], str | None]:
    if source.kind == "rtsp":
        # Without fflags=nobuffer, which throws the key frame away that the analysis read: a second to the first frame, or ten.
        options = {"rtsp_transport": source.transport, "allowed_media_types": "video", "flags": "low_delay"}
        return options | {"probesize": "500000", "analyzeduration": "100000"}, "rtsp"
    if source.kind == "webcam":
        return {"fflags": "nobuffer"}, "video4linux2,v4l2"
    return {}, None
