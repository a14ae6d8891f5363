"""One LR face out of the last few of a track: less noise, less flicker, steadier than its boxes; and the best shot of all.

Each new crop is registered to the mean of those before it (Lucas-Kanade: Baker & Matthews, 2004), and their mean is taken
where their boxes lie on average. What a crop shows of the face decides its weight. Crops come with twice the LR face's
rows and columns, because moving 16 pixels by parts of a pixel blurs them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from math import exp, isfinite

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BadInputError
from fhrt.faces.detect import Detection

Floats = NDArray[np.float32]
Crop = NDArray[np.uint8] | NDArray[np.float32]
Place = NDArray[np.float64]  # logarithm of the scale, x, y (pixels) about the middle: where a crop shows what the common one shows

STEPS = 5  # of the registration at most; it mostly stands still after three,
STILL = 0.04  # pixels per step: to go on from there gains nothing that PSNR would show
FOCUS = 0.6  # standard deviation of the registration's weight in half crops: the background moves otherwise than the face
FARTHEST = 0.2  # of the crop's side: a shift beyond is no jitter of a box
UNLIKE = 0.6  # part of a crop's variance that the others do not explain, above which it is not averaged with them
GREY = np.full(3, 1 / 3, np.float32)
TRACKS = 1024  # followed at most; the one that was updated longest ago is forgotten first


@dataclass(frozen=True)
class Fused:
    """An LR face that stands for several."""

    lr: Crop
    """`[h, w, 3]`, of the crops' dtype."""
    transform: Floats
    """`[2, 3]`, its pixels to the newest frame's: the boxes' jitter is averaged, too."""
    quality: float
    """Of the newest crop."""
    moved: Floats | None = None
    """`[2, 3]`, pixels of the LR face before to this one's, between which the same part of the face lies; None where it began anew."""


@dataclass
class _Past:
    crops: deque[tuple[Floats, Place, float]]  # with their weights
    mean: Floats | None = None
    best: Fused | None = None


class Fusion:
    """Fuses up to `k` crops of each track. Raises `BadInputError`."""

    def __init__(self, k: int = 4) -> None:
        if not isinstance(k, int) or k < 1:
            raise BadInputError(f"k must be a whole number from 1 on, not {k!r}")
        self.k = k
        self._tracks: dict[int, _Past] = {}

    def update(self, track_id: int, crop: Crop, transform: Floats, quality: float = 1.0) -> Fused:
        """Takes a track's next crop and gives the LR face of its last `k`.

        `crop` `[2h, 2w, 3]` uint8 or float32 (any range), `transform` `[2, 3]` from its pixels to the frame's (as
        `crop_transform` gives it), `quality` above 0 (as `crop_quality` gives it). A crop that does not look like those
        before it starts anew. Raises `BadInputError`.
        """
        _check(crop, transform, quality)
        past = self._tracks.pop(track_id, None) or _Past(deque(maxlen=self.k))
        self._tracks[track_id] = past
        if len(self._tracks) > TRACKS:
            del self._tracks[next(iter(self._tracks))]
        newest = crop.astype(np.float32)
        known = self.k > 1 and past.mean is not None and past.mean.shape == newest.shape
        found = register(past.mean, newest) if known and past.mean is not None else None
        if found is None:
            past.crops.clear()
        past.crops.append((newest, np.zeros(3) if found is None else found, quality))
        middle = np.mean([place for _, place, _ in past.crops], axis=0)
        past.crops = deque(((one, _relative(place, middle), weight) for one, place, weight in past.crops), self.k)
        moved = None if found is None else _matrix(_half_size(middle), (newest.shape[0] // 2, newest.shape[1] // 2))
        past.mean = _mean(past.crops)
        lr: Crop = _halved(past.mean)
        if crop.dtype == np.uint8:
            lr = np.clip(np.rint(lr), 0, 255).astype(np.uint8)
        placed = transform.astype(np.float64) @ np.vstack([_matrix(past.crops[-1][1], newest.shape), [0, 0, 1]])
        placed = placed @ [[2, 0, 0.5], [0, 2, 0.5], [0, 0, 1]]
        shot = Fused(lr, placed.astype(np.float32), quality, None if moved is None else moved.astype(np.float32))
        if past.best is None or quality > past.best.quality:
            past.best = shot
        return shot

    def best(self, track_id: int) -> Fused | None:
        """The fused LR face of the frame in which the track's quality was highest; None of a track that is not known."""
        past = self._tracks.get(track_id)
        return None if past is None else past.best

    def keep(self, track_ids: Iterable[int]) -> dict[int, Fused]:
        """Forgets all other tracks (those that `Tracker.track_ids` no longer holds) and gives the best shot of each."""
        ended = self._tracks.keys() - set(track_ids)
        shots = {track_id: self._tracks.pop(track_id).best for track_id in sorted(ended)}
        return {track_id: shot for track_id, shot in shots.items() if shot is not None}


def register(reference: Floats, crop: Floats) -> Place | None:
    """Place of `reference` in `crop`, both `[h, w, 3]`; None where they do not match.

    Inverse-compositional Lucas-Kanade for a shift and a scale, with the crop's brightness and contrast free.
    """
    height, width = reference.shape[:2]
    weight = _focus(height, width)
    y, x = (np.arange(length, dtype=np.float32) - (length - 1) / 2 for length in (height, width))
    rows = np.ones((5, height * width), np.float32)
    growth, gradient_x, gradient_y, target, _ = rows.reshape(5, height, width)
    np.matmul(reference, GREY, out=target)
    cv2.Sobel(target, cv2.CV_32F, 1, 0, gradient_x, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
    cv2.Sobel(target, cv2.CV_32F, 0, 1, gradient_y, ksize=1, scale=0.5, borderType=cv2.BORDER_REPLICATE)
    growth[:] = gradient_x * x + gradient_y * y[:, None]
    weighted = rows * weight
    square = (weighted @ rows.T).astype(np.float64)
    # The ridge keeps the face still where nothing tells: in a flat crop, or along edges that all run the same way.
    inverse = np.linalg.inv(square + 1e-6 * np.trace(square) * np.eye(5))
    grey = crop @ GREY
    place = np.zeros(3)
    for _ in range(STEPS):
        shown = _moved(grey, place).ravel()
        solution = inverse @ (weighted @ shown)
        if solution[3] <= 0:
            return None
        step = solution[:3] / solution[3]
        place = _relative(place, step)
        if abs(place[0]) > FARTHEST or np.abs(place[1:]).max() > FARTHEST * min(height, width):
            return None
        if np.abs(step[1:]).max() < STILL:
            break
    rest = shown - solution @ rows
    spread = shown - (weight @ shown) / weight.sum()
    return None if (weight * rest) @ rest > UNLIKE * ((weight * spread) @ spread) else place


def crop_quality(crop: Crop, detection: Detection) -> float:
    """How much a crop `[2h, 2w, 3]` shows of a face, above 0 to 1: detector score × size × sharpness × likeness to its mirror image."""
    grey = cv2.GaussianBlur(_halved(crop.astype(np.float32) @ GREY), (0, 0), 0.6)  # noise is not sharpness
    grey -= grey.mean()
    power = float((grey**2).sum()) + 1e-6
    steps = float((np.diff(grey, axis=0) ** 2).sum() + (np.diff(grey, axis=1) ** 2).sum())
    mirrored = float((grey * grey[:, ::-1]).sum())
    size = min(detection.width / grey.shape[1], 1.0)
    return max(detection.score * size * min(steps / power, 1.0) * (1 + mirrored / power) / 2, 1e-3)


def _mean(crops: Iterable[tuple[Floats, Place, float]]) -> Floats:
    total: float | Floats = 0.0
    weights = 0.0
    for crop, place, weight in crops:
        total = total + weight * (_moved(crop, place) if place.any() else crop)
        weights += weight
    mean: Floats = np.asarray(total / weights, np.float32)
    return mean


def _halved(picture: Floats) -> Floats:
    """The means of 2×2 pixels."""
    return np.asarray((picture[::2, ::2] + picture[1::2, ::2] + picture[::2, 1::2] + picture[1::2, 1::2]) / 4)


def _relative(place: Place, origin: Place) -> Place:
    """A place seen from where another place has its origin."""
    (growth, x, y), (growth_0, x_0, y_0) = place.tolist(), origin.tolist()
    zoom = exp(growth - growth_0)
    return np.array([growth - growth_0, x - zoom * x_0, y - zoom * y_0])


def _half_size(place: Place) -> Place:
    """The same place between pictures of half the size."""
    return place / (1, 2, 2)


def _matrix(place: Place, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """`[2, 3]`, pixel of the common crop to pixel of one that has this place."""
    growth, x, y = place.tolist()
    zoom = exp(growth)
    return np.array([[zoom, 0, x + (shape[1] - 1) / 2 * (1 - zoom)], [0, zoom, y + (shape[0] - 1) / 2 * (1 - zoom)]])


def _moved(picture: Floats, place: Place) -> Floats:
    """The part of the picture at that place."""
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    moved = cv2.warpAffine(picture, _matrix(place, picture.shape), picture.shape[1::-1], flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(moved, np.float32)


@lru_cache(maxsize=8)
def _focus(height: int, width: int) -> Floats:
    y, x = ((np.arange(length, dtype=np.float32) + 0.5) / length * 2 - 1 for length in (height, width))
    weights: Floats = np.exp((y[:, None] ** 2 + x**2) / (-2 * FOCUS**2)).ravel()
    return weights


def _check(crop: Crop, transform: Floats, quality: float) -> None:
    height, width, channels = crop.shape if crop.ndim == 3 else (0, 0, 0)
    if crop.dtype not in (np.uint8, np.float32) or channels != 3 or height % 2 or width % 2 or min(height, width) < 4:
        raise BadInputError(f"a crop must be uint8 or float32 [2h, 2w, 3] from 4x4 on, not {crop.dtype} {list(crop.shape)}")
    if not np.isfinite(crop).all():
        raise BadInputError("a crop holds NaN or infinity")
    if transform.shape != (2, 3):
        raise BadInputError(f"a crop's transform must have shape [2, 3], not {list(transform.shape)}")
    if not (isfinite(quality) and quality > 0):
        raise BadInputError(f"a crop's quality must be above 0, not {quality}")
