"""Test videos made on the fly, whose pictures carry their number, so that order and lag can be seen."""

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

BITS, CELL = 10, 16  # a number is a row of black and white squares, at the top left


def picture(number: int, width: int, height: int) -> NDArray[np.uint8]:
    y, x = np.mgrid[:height, :width]
    return numbered(np.stack([(x + 3 * number) % 256, (y + 2 * number) % 256, np.full_like(x, 128)], -1).astype(np.uint8), number)


def still(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """A picture in which nothing moves but its number: what a tracker finds again."""
    rough = np.random.default_rng(5).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return numbered(cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC).astype(np.uint8), number)


def numbered(image: NDArray[np.uint8], number: int) -> NDArray[np.uint8]:
    for bit in range(BITS):
        image[:CELL, CELL * bit : CELL * (bit + 1)] = 255 * (number >> bit & 1)
    return image


def number_in(image: NDArray[np.uint8]) -> int:
    """The number that a picture carries."""
    cells = image[:CELL, : BITS * CELL].reshape(CELL, BITS, CELL, 3).mean((0, 2, 3))
    return sum(int(cell > 127) << bit for bit, cell in enumerate(cells))


Draw = Callable[[int, int, int], NDArray[np.uint8]]
"""Number, width, height → a picture."""


def write_video(
    path: Path,
    count: int,
    size: tuple[int, int] = (320, 240),
    fps: int = 25,
    key_every: int = 10,
    draw: Draw = picture,
    aspect: Fraction | None = None,
) -> Path:
    """A file that the name's suffix tells the format of; a .units file holds H.264 access units, each after its length in four bytes."""
    container_path = path.with_suffix(".h264") if path.suffix == ".units" else path
    with av.open(container_path, "w") as container:
        stream = container.add_stream("libx264", rate=fps)
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        stream.codec_context.gop_size = key_every
        stream.codec_context.time_base = Fraction(1, fps)
        if aspect is not None:  # of a pixel
            stream.codec_context.sample_aspect_ratio = aspect
        stream.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "scenecut=0:repeat-headers=1:sliced-threads=0"}
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(draw(number, *size), "bgr24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    if path.suffix == ".units":
        with av.open(container_path) as container, path.open("wb") as file:
            for packet in container.demux(video=0):
                if packet.size:
                    file.write(packet.size.to_bytes(4, "big") + bytes(packet))
    return path


def read_units(path: Path) -> list[bytes]:
    data, units = path.read_bytes(), []
    while data:
        end = 4 + int.from_bytes(data[:4], "big")
        units.append(data[4:end])
        data = data[end:]
    return units


def with_tone(clip: Path, path: Path, codec: str = "aac", late: float = 0.0) -> Path:
    """A copy of a clip, in the format of the path's suffix, with 440 Hz on as long as the pictures; times begin at `late` seconds."""
    rate = 44100
    with av.open(clip) as source, av.open(path, "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        sound = container.add_stream(codec, rate=rate, layout="mono")
        done = 0
        for packet in source.demux(video=0):
            if packet.size:
                end = round(float((packet.dts + packet.duration) * packet.time_base) * rate)
                samples = 8000 * np.sin(2 * np.pi * 440 / rate * np.arange(done, end))
                form = sound.codec_context.format.name
                samples = (samples / 32768).astype(np.float32) if form.startswith("flt") else samples.astype(np.int16)
                frame = av.AudioFrame.from_ndarray(samples[None], form, "mono")
                frame.sample_rate, frame.pts, done = rate, done + round(late * rate), end
                container.mux(sound.encode(frame))
                packet.pts += round(late / packet.time_base)
                packet.dts += round(late / packet.time_base)
                packet.stream = stream
                container.mux(packet)
        container.mux(sound.encode())
    return path
