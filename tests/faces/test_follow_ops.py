"""The native work behind tracks, fused crops and steadied faces, against its definition in NumPy and OpenCV."""

import cv2
import numpy as np
import pytest

from fhrt import _C
from fhrt.ops import face_crop

UNMOVED = np.eye(2, 3)


def smooth(seed: int, height: int, width: int, channels: int = 3) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rough = rng.uniform(0, 255, (height // 3 + 2, width // 3 + 2, channels)).astype(np.float32)
    return np.clip(cv2.resize(rough, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).reshape(height, width, channels)


def keys(t: np.ndarray, a: float) -> np.ndarray:
    t = np.abs(t)
    inner, outer = ((a + 2) * t - (a + 3)) * t * t + 1, a * (((t - 5) * t + 8) * t - 4)
    return np.where(t < 1, inner, np.where(t < 2, outer, 0))


def moved(planes: np.ndarray, matrix: np.ndarray, a: float) -> np.ndarray:
    """Planes [C, h, w] read at `matrix` [2, 3] of each of their own pixels, float64."""
    height, width = planes.shape[1:]
    y, x = np.mgrid[:height, :width].astype(float)
    at = [row[0] * x + row[1] * y + row[2] for row in matrix.astype(float)]
    out = np.zeros(planes.shape)
    for r in range(-1, 3):
        for c in range(-1, 3):
            column, line = np.floor(at[0]) + c, np.floor(at[1]) + r
            weight = keys(at[0] - column, a) * keys(at[1] - line, a)
            out += weight * planes[:, np.clip(line, 0, height - 1).astype(int), np.clip(column, 0, width - 1).astype(int)]
    return out


def shifted(x: float, y: float) -> np.ndarray:
    return np.array([[1, 0, x], [0, 1, y]])


def matrix_of(place, height: int, width: int) -> np.ndarray:
    zoom = np.exp(place[0])
    return np.array([[zoom, 0, place[1] + (width - 1) / 2 * (1 - zoom)], [0, zoom, place[2] + (height - 1) / 2 * (1 - zoom)]])


def planes(picture: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(picture.transpose(2, 0, 1), np.float32)


@pytest.mark.parametrize(("side", "reach"), [(12, 6), (7, 3), (16, 9)])
def test_templates_are_found_where_opencv_finds_them(side: int, reach: int) -> None:
    frame = smooth(1, 240, 320).astype(np.uint8)
    size, count = side + 2 * reach, 9
    rng = np.random.default_rng(2)
    # Some at the border, some many pixels of the frame to one of the template's.
    squares = np.column_stack([rng.uniform(0, 320, count), rng.uniform(0, 240, count), rng.uniform(8, 130, count)])
    scale = squares[:, 2] / side
    windows = np.zeros((count, 2, 3), np.float32)
    windows[:, 0, 0] = windows[:, 1, 1] = scale
    windows[:, :, 2] = squares[:, :2] - 0.5 - (scale * (size / 2 - 0.5))[:, None]
    seen = face_crop(frame, windows, (size, size), 0, 1)[:, 1]
    cut = rng.integers(1, 2 * reach, (count, 2))
    templates = np.stack([one[y : y + side, x : x + side] for one, (x, y) in zip(seen, cut, strict=True)]) * 0.7 + 20
    templates += rng.normal(0, 2, templates.shape)
    templates[3] = 7  # flat
    templates[4] = rng.uniform(0, 255, (side, side))
    out = np.empty((count, 3), np.float32)
    _C.match_templates(frame, squares, templates.astype(np.float32), reach, 1.0, out)
    found = 0
    for n in range(count):
        likeness = cv2.matchTemplate(seen[n], templates[n].astype(np.float32), cv2.TM_CCOEFF_NORMED)
        y, x = np.unravel_index(likeness.argmax(), likeness.shape)
        if n == 3 or not (0 < x < 2 * reach and 0 < y < 2 * reach):
            assert (out[n] == 0).all()
            continue
        found += 1
        offsets = []
        for at, line in ((x, likeness[y, x - 1 : x + 2]), (y, likeness[y - 1 : y + 2, x])):
            before, middle, after = line.astype(float)
            offsets.append(at - reach + 0.5 * (before - after) / (before - 2 * middle + after))
        np.testing.assert_allclose(out[n], [*offsets, likeness[y, x]], atol=2e-3)
        if n != 4:
            np.testing.assert_allclose(out[n, :2], cut[n] - reach, atol=0.3)
    assert found >= 6


def registered(reference: np.ndarray, crop: np.ndarray) -> np.ndarray | None:
    """The definition: planes in, place out, float64."""
    height, width = reference.shape[1:]
    y, x = (np.arange(length) - (length - 1) / 2 for length in (height, width))
    target, grey = reference.astype(float).mean(0), crop.astype(float).mean(0)
    weight = np.exp(((2 * y[:, None] / height) ** 2 + (2 * x / width) ** 2) / (-2 * 0.6**2)).ravel()
    padded = np.pad(target, 1, "edge")
    along_x, along_y = (padded[1:-1, 2:] - padded[1:-1, :-2]) / 2, (padded[2:, 1:-1] - padded[:-2, 1:-1]) / 2
    rows = np.stack([along_x * x + along_y * y[:, None], along_x, along_y, target, np.ones_like(target)]).reshape(5, -1)
    square = (rows * weight) @ rows.T
    place = np.zeros(3)
    for _ in range(5):
        shown = moved(grey[None], matrix_of(place, height, width), -0.75).ravel()
        solution = np.linalg.solve(square + 1e-6 * np.trace(square) * np.eye(5), (rows * weight) @ shown)
        if solution[3] <= 0:
            return None
        step = solution[:3] / solution[3]
        zoom = np.exp(place[0] - step[0])
        place = np.array([place[0] - step[0], *(place[1:] - zoom * step[1:])])
        if abs(place[0]) > 0.2 or np.abs(place[1:]).max() > 0.2 * min(height, width):
            return None
        if np.abs(step[1:]).max() < 0.04:
            break
    rest, spread = shown - solution @ rows, shown - (weight @ shown) / weight.sum()
    return None if weight @ rest**2 > 0.6 * (weight @ spread**2) else place


def seen_from(place: np.ndarray, origin: np.ndarray) -> np.ndarray:
    growth = place[0] - origin[0]
    return np.array([growth, *(place[1:] - np.exp(growth) * origin[1:])])


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (12, 18)])
def test_crops_are_fused_as_defined(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(4)
    count, most = 14, 3
    before, crops = [], []
    for n in range(count):
        mean = planes(smooth(50 + n, *size))
        away = rng.uniform(-1, 1, 3) * (0.08, 2, 2)
        crop = moved(mean, matrix_of(away, *size), -0.75) * rng.uniform(0.6, 1.2) + rng.uniform(-20, 20) + rng.normal(0, 3, mean.shape)
        newest = 255 - mean if n == 5 else rng.uniform(0, 255, mean.shape) if n == 6 else crop
        before.append(np.full_like(mean, 9) if n == 7 else None if n == 8 else mean)
        crops.append([newest.astype(np.float32), planes(smooth(90 + n, *size)), None if n == 3 else planes(smooth(130 + n, *size))])
    places = rng.uniform(-1, 1, (count, most, 3)) * (0.1, 1, 1)
    weights = rng.uniform(0.1, 1, (count, most))
    weights[4, 2] = 0
    transforms = rng.normal(0, 5, (count, 2, 3)).astype(np.float32)
    means, halves = np.empty((count, 3, *size), np.float32), np.empty((count, 3, size[0] // 2, size[1] // 2), np.float32)
    placed, back = np.empty((2, count, 2, 3), np.float32)
    at, shares = places.copy(), weights.copy()
    _C.fuse_crops(before, [crop for one in crops for crop in one], at, shares, transforms, means, halves, placed, back)
    known = 0
    for n in range(count):
        found = None if before[n] is None else registered(before[n], crops[n][0])
        there = [k for k in range(most) if k == 0 or (found is not None and crops[n][k] is not None and weights[n, k] > 0)]
        assert (shares[n] > 0).nonzero()[0].tolist() == there
        wanted = {k: places[n, k] if k else np.zeros(3) if found is None else found for k in there}
        middle = np.mean(list(wanted.values()), axis=0)
        wanted = {k: seen_from(place, middle) for k, place in wanted.items()}
        for k, place in wanted.items():
            np.testing.assert_allclose(at[n, k], place, atol=2e-3)
        # What follows from the places is compared for those that were found: float32 steps end elsewhere by some thousandths of a pixel.
        mean = sum(weights[n, k] * moved(crops[n][k], matrix_of(at[n, k], *size), -0.75) for k in there) / weights[n, there].sum()
        np.testing.assert_allclose(means[n], mean, atol=1e-3)
        np.testing.assert_allclose(halves[n], mean.reshape(3, size[0] // 2, 2, size[1] // 2, 2).mean((2, 4)), atol=1e-3)
        to_newest = np.vstack([matrix_of(at[n, 0], *size), [0, 0, 1]]) @ [[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]]
        np.testing.assert_allclose(placed[n], transforms[n] @ to_newest, atol=1e-3)
        if found is None:
            assert np.isnan(back[n]).all()
            continue
        known += 1
        to_before = matrix_of(seen_from(np.zeros(3), middle) / (1, 2, 2), size[0] // 2, size[1] // 2)
        np.testing.assert_allclose(back[n], to_before, atol=2e-3)
    assert known >= 7


@pytest.mark.parametrize("size", [(32, 32), (48, 48), (10, 18), (4, 4)])
def test_looks_are_sharpness_times_symmetry(size: tuple[int, int]) -> None:
    crops = [planes(smooth(80 + n, *size)) for n in range(5)]
    crops[3] = (crops[3] + crops[3][:, :, ::-1]) / 2
    looks = np.empty(5)
    _C.crop_looks(crops, *size, looks)
    for crop, look in zip(crops, looks, strict=True):
        half = crop.mean(0).reshape(size[0] // 2, 2, size[1] // 2, 2).mean((1, 3))
        grey = cv2.GaussianBlur(half, (5, 5), 0.6).astype(float)
        grey -= grey.mean()
        power = (grey**2).sum() + 1e-6
        steps = (np.diff(grey, axis=0) ** 2).sum() + (np.diff(grey, axis=1) ** 2).sum()
        assert look == pytest.approx(min(steps / power, 1) * (1 + (grey * grey[:, ::-1]).sum() / power) / 2, abs=1e-4)


@pytest.mark.parametrize("size", [(128, 128), (40, 52), (7, 5)])
def test_means_are_moved_and_blended(size: tuple[int, int]) -> None:
    maps = [UNMOVED, shifted(0.3, -1.7)]
    for turn, grow in ((0.02, 1), (-0.05, 1.03), (0.2, 0.9), (1.5, 1.4), (0, 1e4)):
        cos, sin = grow * np.cos(turn), grow * np.sin(turn)
        middle = np.array([size[1] - 1, size[0] - 1]) / 2
        linear = np.array([[cos, -sin], [sin, cos]])
        maps.append(np.column_stack([linear, middle - linear @ middle + 0.4]))
    maps += [shifted(60, -500), UNMOVED]
    count = len(maps)
    before = [planes(smooth(n, *size)) for n in range(count)]
    now = np.stack([planes(smooth(30 + n, *size)) for n in range(count)])
    before[-1] = None
    weights = np.linspace(0.2, 0.9, count).astype(np.float32)
    out = np.empty_like(now)
    way = np.stack([UNMOVED] * count)
    _C.blend_moved(before, now, way, way, np.float32(maps), weights, out)
    np.testing.assert_array_equal(out[-1], now[-1])
    for n in range(count - 1):
        there = moved(before[n], np.float32(maps[n]), -0.5)
        # Positions are float32: far out of the picture they are no better than its pixels.
        np.testing.assert_allclose(out[n], there + weights[n] * (now[n] - there), atol=0.02 if abs(maps[n]).max() < 1e4 else 300)


def test_ways_of_a_mean_and_of_the_newest_are_one_map() -> None:
    """From the newest's pixels to its small picture's, to the small picture before, and back up to the mean."""
    rng = np.random.default_rng(4)
    before, now = [planes(smooth(1, 40, 40))] * 3, np.stack([planes(smooth(2, 40, 40))] * 3)
    up, down, back = (UNMOVED + rng.normal(0, 0.05, (3, 2, 3)) * [1, 1, 20] for _ in range(3))
    square = [np.stack([np.vstack([one, [0, 0, 1]]) for one in way]) for way in (up, np.float32(back), down)]
    together = (np.linalg.inv(square[0]) @ square[1] @ square[2])[:, :2]
    weights, out, expected = np.full(3, 0.25, np.float32), np.empty_like(now), np.empty_like(now)
    _C.blend_moved(before, now, up, down, np.float32(back), weights, out)
    still = np.stack([UNMOVED] * 3)
    _C.blend_moved(before, now, still, still, np.float32(together), weights, expected)
    np.testing.assert_allclose(out, expected, atol=0.01)
    assert np.abs(out - now).max() > 10


def test_what_would_reach_beyond_an_array_is_refused() -> None:
    crop, frame, still = np.zeros((3, 8, 8), np.float32), np.zeros((9, 9, 3), np.uint8), UNMOVED[None]
    out = np.empty((1, 3), np.float32)

    def fuse(**other):
        one = {"before": [crop], "crops": [crop, None], "places": np.zeros((1, 2, 3)), "weights": np.ones((1, 2))}
        one |= {"transforms": np.float32([UNMOVED]), "means": crop[None].copy(), "halves": np.empty((1, 3, 4, 4), np.float32)}
        one |= {name: np.empty((1, 2, 3), np.float32) for name in ("placed", "back")}
        _C.fuse_crops(*(one | other).values())

    fuse()
    blended = (crop[None], still, still, np.float32(still), np.ones(1, np.float32))
    bad = [
        lambda: _C.match_templates(frame, np.ones((1, 3)), np.zeros((2, 5, 5), np.float32), 2, 1.0, out),
        lambda: _C.match_templates(frame, np.full((1, 3), np.nan), np.zeros((1, 5, 5), np.float32), 2, 1.0, out),
        lambda: _C.match_templates(frame, np.ones((1, 3)), np.zeros((1, 5, 5), np.float32), 0, 1.0, out),
        lambda: _C.match_templates(frame[:, :, 0], np.ones((1, 3)), np.zeros((1, 5, 5), np.float32), 2, 1.0, out),
        lambda: _C.crop_looks([crop], 7, 8, np.empty(1)),
        lambda: _C.crop_looks([crop], 8, 8, np.empty(2)),
        lambda: fuse(before=[crop[:, :4]]),
        lambda: fuse(before=[]),
        lambda: fuse(crops=[None, crop]),
        lambda: fuse(crops=[crop]),
        lambda: fuse(places=np.zeros((1, 1, 3))),
        lambda: fuse(places=np.full((1, 2, 3), np.inf)),
        lambda: fuse(weights=np.zeros((1, 2))),
        lambda: fuse(halves=np.empty((1, 3, 4, 5), np.float32)),
        lambda: fuse(back=np.empty((1, 2, 3))),
        lambda: _C.blend_moved([crop], *blended, crop[None]),
        lambda: _C.blend_moved([crop[:, 1:]], *blended, crop[None].copy()),
        lambda: _C.blend_moved([], *blended, crop[None].copy()),
        lambda: _C.blend_moved([crop], crop[None], np.float32(still), *blended[2:], crop[None].copy()),
        lambda: _C.blend_moved([crop], *blended[:3], still, blended[4], crop[None].copy()),
    ]
    for call in bad:
        with pytest.raises(ValueError, match=r"must|overlaps|for each"):
            call()
