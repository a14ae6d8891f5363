"""A decoder's planes as a picture, against the definition."""

import numpy as np
import pytest

from fhrt import ops
from fhrt.errors import BadInputError
from fhrt.ops.nv12 import LUMA_SHARES

RNG = np.random.default_rng(0)


def planes(height: int, width: int, filler: int = 0) -> list[np.ndarray]:
    """Of random bytes; filler: bytes behind each row."""
    sizes = [(height, width)] + [((height + 1) // 2, (width + 1) // 2)] * 2
    return [RNG.integers(0, 256, (h, w + filler), np.uint8)[:, :w] for h, w in sizes]


def wanted(luma: np.ndarray, cb: np.ndarray, cr: np.ndarray, matrix: str, full_range: bool) -> np.ndarray:
    """ITU-R BT.709-6 and BT.601-7, item 3; levels, not rounded."""
    red, blue = LUMA_SHARES[matrix]
    y = luma.astype(float) if full_range else (luma - 16.0) * 255 / 219
    u, v = (np.kron(plane - 128.0, np.ones((2, 2)))[: luma.shape[0], : luma.shape[1]] for plane in (cb, cr))
    if not full_range:
        u, v = u * 255 / 224, v * 255 / 224
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    return np.clip(np.stack([b, g, r], -1), 0, 255)


@pytest.mark.parametrize("full_range", [False, True])
@pytest.mark.parametrize("matrix", ["bt709", "bt601"])
@pytest.mark.parametrize(("height", "width", "filler"), [(1, 1, 0), (2, 3, 0), (33, 65, 0), (48, 130, 7), (720, 1280, 32)])
def test_the_definition(height: int, width: int, filler: int, matrix: str, full_range: bool) -> None:
    given = planes(height, width, filler)
    picture = ops.yuv_to_bgr(*given, matrix, full_range)
    assert picture.shape == (height, width, 3) and picture.dtype == np.uint8 and picture.flags.c_contiguous
    assert np.abs(picture - wanted(*given, matrix, full_range)).max() < 0.56  # half of it from rounding to bytes


def test_the_ends_of_the_range() -> None:
    grey = np.full((8, 8), 128, np.uint8)
    for luma, full_range, level in ((16, False, 0), (235, False, 255), (255, False, 255), (0, False, 0), (0, True, 0), (255, True, 255)):
        picture = ops.yuv_to_bgr(np.full((16, 16), luma, np.uint8), grey, grey, "bt709", full_range)
        assert (picture == level).all()


def test_the_planes_stay_and_pictures_are_apart() -> None:
    given = planes(480, 640)
    before = [plane.copy() for plane in given]
    first = ops.yuv_to_bgr(*given)
    copy, second = first.copy(), ops.yuv_to_bgr(*(255 - plane for plane in given))
    assert np.array_equal(first, copy) and not np.shares_memory(first, second)
    assert all(map(np.array_equal, given, before))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: [*p[:2], p[2][1:]], r"must be \[3, 4\] of luma \[6, 8\]"),
        (lambda p: [p[0].astype(np.int16), *p[1:]], "must be uint8"),
        (lambda p: [p[0][:0], *p[1:]], "with pixels"),
        (lambda p: [p[0][None], *p[1:]], "must be uint8"),
        (lambda p: [*p, "bt2020"], "bt709 or bt601"),
    ],
)
def test_refusals(change: object, words: str) -> None:
    with pytest.raises(BadInputError, match=words):
        ops.yuv_to_bgr(*change(planes(6, 8)))  # type: ignore[operator]


def test_planes_of_any_layout() -> None:
    luma, cb, cr = planes(6, 8)
    expected = ops.yuv_to_bgr(luma, cb, cr)
    assert np.array_equal(ops.yuv_to_bgr(np.asfortranarray(luma), np.stack([cb, cr], -1)[..., 0], cr), expected)
    assert np.array_equal(ops.yuv_to_bgr(luma[::-1][::-1], cb, np.asfortranarray(cr)), expected)
