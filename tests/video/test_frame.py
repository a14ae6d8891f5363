"""A decoded picture as BGR: our conversion is FFmpeg's, up to the levels that FFmpeg's cuts off; what ours does not know is left to it."""

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from fhrt.video.frame import Frame

BT709, UNSAID, BT2020, LIMITED, FULL = 1, 2, 9, 1, 2
RNG = np.random.default_rng(0)


def picture(pixel_format: str, colorspace: int, color_range: int, size: tuple[int, int]) -> av.VideoFrame:
    smooth = np.repeat(np.repeat(RNG.integers(0, 256, (size[0] // 16 + 1, size[1] // 16 + 1, 3), np.uint8), 16, 0), 16, 1)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(smooth[: size[0], : size[1]]), "bgr24").reformat(format=pixel_format)
    frame.colorspace, frame.color_range = colorspace, color_range
    return frame


def converted(frame: av.VideoFrame) -> NDArray[np.int64]:
    return Frame("", 0, 0.0, 0.0, None, frame).image.astype(int)


@pytest.mark.parametrize("size", [(96, 160), (90, 162), (480, 640)], ids=str)
@pytest.mark.parametrize("colorspace", [BT709, UNSAID])
@pytest.mark.parametrize(("pixel_format", "color_range"), [("yuv420p", LIMITED), ("yuv420p", FULL), ("yuvj420p", FULL)])
def test_as_ffmpeg_converts(pixel_format: str, color_range: int, colorspace: int, size: tuple[int, int]) -> None:
    frame = picture(pixel_format, colorspace, color_range, size)
    mine, theirs = converted(frame), frame.to_ndarray(format="bgr24", threads=1).astype(int)
    assert mine.shape == (*size, 3)
    assert np.abs(mine - theirs).max() <= 4 and abs((mine - theirs).mean()) < 1.6


@pytest.mark.parametrize(
    ("pixel_format", "colorspace"), [("yuv444p", BT709), ("yuv420p10le", BT709), ("gray", UNSAID), ("yuv420p", BT2020)]
)
def test_other_formats_are_left_to_ffmpeg(pixel_format: str, colorspace: int) -> None:
    frame = picture(pixel_format, colorspace, LIMITED, (96, 160))
    assert np.array_equal(converted(frame), frame.to_ndarray(format="bgr24", threads=1))
