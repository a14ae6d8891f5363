"""Crops of NV12 frames: against the picture that the planes were made of, and OpenCV's conversion."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import pytest
import torch
from crops import resampled_nv12
from numpy.typing import NDArray

from fhrt import ops
from fhrt.errors import BadInputError

SHARES = {"bt709": (0.2126, 0.0722), "bt601": (0.299, 0.114)}
TRANSFORMS = np.float32([[[0.5, 0.1, 20], [-0.1, 0.5, 30]], [[3, 0.3, 5], [-0.3, 3, 9]], [[1, 0, -10], [0, 1, -8]]])
STAY = np.float32([[[1, 0, 0], [0, 1, 0]]])


def picture(height: int, width: int) -> NDArray[np.uint8]:
    noise = cv2.GaussianBlur(np.random.default_rng(3).random((height, width, 3)), (0, 0), 8)
    return cv2.normalize(noise, None, 20, 235, cv2.NORM_MINMAX).round().astype(np.uint8)


def planes(rgb: NDArray[np.uint8], matrix: str, full_range: bool) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """As a camera makes them: chroma filtered (1, 2, 1) along the rows on the even columns, and averaged over pairs of rows."""
    red, blue = SHARES[matrix]
    r, g, b = np.moveaxis(rgb.astype(np.float64), 2, 0)
    y = red * r + (1 - red - blue) * g + blue * b
    chroma = np.stack([(b - y) / (2 - 2 * blue), (r - y) / (2 - 2 * red)], 2)
    chroma = np.pad(chroma, ((0, len(y) % 2), (1, 1), (0, 0)), "edge")
    chroma = (chroma[:, :-2] + 2 * chroma[:, 1:-1] + chroma[:, 2:])[:, ::2] / 4
    chroma = (chroma[0::2] + chroma[1::2]) / 2
    if not full_range:
        y, chroma = 16 + y * 219 / 255, chroma * 224 / 255
    return np.clip(np.rint(y), 0, 255).astype(np.uint8), np.clip(np.rint(chroma + 128), 0, 255).astype(np.uint8)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", SHARES)
@pytest.mark.parametrize("size", [(120, 160), (119, 161)])
def test_crops_are_those_of_the_picture(matrix: Any, full_range: bool, size: tuple[int, int]) -> None:
    rgb = picture(*size)
    expected = ops.face_crop(rgb, TRANSFORMS, (20, 24), (100, 110, 120), (50, 60, 70))
    frame = ops.Nv12(*planes(rgb, matrix, full_range), matrix, full_range)
    ours = ops.face_crop(frame, TRANSFORMS, (20, 24), (100, 110, 120), (50, 60, 70))
    assert ours.shape == expected.shape
    levels = np.abs(ours - expected) * np.float32([50, 60, 70])[:, None, None]
    assert levels.max() < 4 and levels.mean() < 0.5  # half a level of rounding in each plane, and what subsampling loses


def test_opencv_converts_alike() -> None:
    stacked = np.concatenate([part.reshape(-1, 160) for part in planes(picture(120, 160), "bt601", False)])
    crop = ops.face_crop(ops.Nv12.stacked(stacked, "bt601"), STAY, (120, 160), 0, 1)[0].transpose(1, 2, 0)
    theirs = cv2.cvtColor(stacked, cv2.COLOR_YUV2RGB_NV12)  # the nearest chroma, where ours is interpolated
    assert np.abs(crop - theirs).mean() < 1.5
    grey = np.full((120, 160), 128, np.uint8)
    grey[:40], grey[40:80] = np.arange(160), np.arange(96, 256)  # every level, also those beyond the legal ones, which are clamped
    theirs = cv2.cvtColor(grey, cv2.COLOR_YUV2RGB_NV12)
    crop = ops.face_crop(ops.Nv12(grey[:80], np.full((40, 80, 2), 128, np.uint8)), STAY, (80, 160), 0, 1)[0].transpose(1, 2, 0)
    assert np.abs(crop - theirs).max() < 1.01


def test_chroma_is_sited_on_even_columns_between_rows() -> None:
    chroma = np.full((8, 10, 2), 128, np.uint8)
    chroma[..., 1] = 50 + 8 * np.arange(10) + 12 * np.arange(8)[:, None]  # Cr rises 4 per column and 6 per row of luma
    frame = ops.Nv12(np.full((16, 20), 100, np.uint8), chroma, full_range=True)
    red = ops.face_crop(frame, STAY, (16, 20), 0, 1)[0, 0]
    rows, columns = 6 * np.arange(16)[:, None] - 3, 4 * np.arange(20)
    inner = np.s_[4:-4, 4:-4]  # a cubic keeps a ramp where all that it reads is one
    np.testing.assert_allclose(red[inner], np.clip(100 + 1.5748 * (50 - 128 + rows + columns), 0, 255)[inner], atol=1e-3)


@pytest.mark.parametrize("size", [(31, 45), (30, 44)])
def test_each_plane_is_the_antialiased_cubic(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(1)
    luma, chroma = rng.integers(0, 256, size, np.uint8), rng.integers(90, 160, (-(-size[0] // 2), -(-size[1] // 2), 2), np.uint8)
    frame = ops.Nv12(luma, chroma, "bt601")
    transforms = np.concatenate([TRANSFORMS, rng.normal(0, 4, (3, 2, 3)).astype(np.float32)])
    expected = resampled_nv12(luma[..., None], chroma, frame.to_rgb, transforms, (6, 17)).clip(0, 255)
    assert np.mean((expected > 0) & (expected < 255)) > 0.2
    np.testing.assert_allclose(ops.face_crop(frame, transforms, (6, 17), 0, 1), expected, atol=0.01)


def test_padded_rows_other_libraries_and_out() -> None:
    luma, chroma = planes(picture(64, 96), "bt709", False)
    expected = ops.face_crop(ops.Nv12(luma, chroma), TRANSFORMS, (9, 17), 127.5, 127.5)
    wide, wide_chroma = np.pad(luma, ((0, 0), (0, 32)))[:, :96], np.pad(chroma, ((0, 0), (0, 16), (0, 0)))[:, :48]
    pitched = np.pad(np.concatenate([luma, chroma.reshape(32, 96)]), ((0, 0), (0, 32)))[:, :96]
    apart = np.ascontiguousarray(chroma.transpose(2, 0, 1)).transpose(1, 2, 0)
    for frame in (ops.Nv12(wide, wide_chroma), ops.Nv12.stacked(pitched), ops.Nv12(luma, apart), ops.Nv12(luma[:, ::1], chroma)):
        np.testing.assert_array_equal(ops.face_crop(frame, TRANSFORMS, (9, 17), 127.5, 127.5), expected)
        tensors = ops.Nv12(torch.from_numpy(frame.luma), torch.from_numpy(frame.chroma))
        np.testing.assert_array_equal(ops.face_crop(tensors, torch.from_numpy(TRANSFORMS), (9, 17), 127.5, 127.5).numpy(), expected)
    assert np.shares_memory(ops.Nv12.stacked(pitched).chroma, pitched)
    np.testing.assert_array_equal(ops.Nv12.stacked(torch.from_numpy(pitched)).chroma.numpy(), chroma)
    out = np.full_like(expected, np.nan)
    assert ops.face_crop_out(ops.Nv12(luma, chroma), TRANSFORMS, out, 127.5, 127.5) is out
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (3, 5)])
def test_the_smallest_frames(size: tuple[int, int]) -> None:
    luma, chroma = np.full(size, 126, np.uint8), np.full((-(-size[0] // 2), -(-size[1] // 2), 2), 128, np.uint8)
    crop = ops.face_crop(ops.Nv12(luma, chroma), np.float32([[[1, 0, -2], [0, 1, -2]]]), (8, 19), 0, 1)
    np.testing.assert_allclose(crop, (126 - 16) * 255 / 219, rtol=1e-6)


def test_bad_planes() -> None:
    luma, chroma = np.zeros((6, 8), np.uint8), np.zeros((3, 4, 2), np.uint8)
    for call in (
        lambda: ops.Nv12(luma[..., None], chroma),
        lambda: ops.Nv12(luma, chroma[:2]),
        lambda: ops.Nv12(luma[:0], chroma[:0]),
        lambda: ops.Nv12(luma, chroma.reshape(3, 8)),
        lambda: ops.Nv12(luma.astype(np.float32), chroma),
        lambda: ops.Nv12(luma, chroma.astype(np.int16)),
        lambda: ops.Nv12(luma, torch.from_numpy(chroma)),
        lambda: ops.Nv12(luma, chroma, "bt2020"),  # type: ignore[arg-type]
        lambda: ops.Nv12(None, chroma),
        lambda: ops.Nv12.stacked(np.zeros((10, 8), np.uint8)),
        lambda: ops.Nv12.stacked(np.zeros((9, 7), np.uint8)),
    ):
        with pytest.raises(BadInputError, match=r"^Nv12: (luma|chroma|frame|matrix)( and chroma)? must be"):
            call()
    for call in (
        lambda: ops.face_crop(ops.Nv12(luma, chroma), torch.zeros(1, 2, 3), (4, 4), 0, 1),
        lambda: ops.face_crop(ops.Nv12(luma, chroma), STAY, (4, 4), (0, 0), 1),
        lambda: ops.face_crop(ops.Nv12(torch.from_numpy(luma).to("meta"), torch.from_numpy(chroma)), torch.zeros(1, 2, 3), (4, 4), 0, 1),
        lambda: ops.face_crop(ops.Nv12(luma, chroma), STAY * np.nan, (4, 4), 0, 1),
        lambda: ops.face_crop_out(ops.Nv12(luma, chroma), STAY, np.zeros((1, 1, 4, 4), np.float32), 0, 1),
    ):
        with pytest.raises(BadInputError, match=r"^face_crop: "):
            call()


def test_out_may_not_lie_in_the_chroma() -> None:
    memory = np.zeros(4 * 64, np.uint8)
    frame = ops.Nv12(np.zeros((16, 16), np.uint8), memory[:128].reshape(8, 8, 2))
    with pytest.raises(BadInputError, match="overlap"):
        ops.face_crop_out(frame, STAY, memory[64:160].view(np.float32).reshape(1, 3, 2, 4), 0, 1)
