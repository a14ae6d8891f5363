"""One LR face out of the last few crops of a track: less noise, less flicker, steadier than its boxes.

Each new crop is registered to the mean of those before it (Lucas-Kanade: Baker & Matthews, 2004), and their mean is taken
where their boxes lie on average. What a crop shows of the face decides its weight. Crops come with twice the LR face's
rows and columns, because moving 16 pixels by parts of a pixel blurs them.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.faces.align import compose
from fhrt.faces.detect import Detection

Crops = NDArray[np.float32]
# Of crops: logarithm of the scale, x, y (pixels) about the middle, where each shows what the common one shows.
Places = NDArray[np.float64]

TRACKS = 1024  # followed at most; the one that was updated longest ago is forgotten first
HALVED = np.array([[2, 0, 0.5], [0, 2, 0.5]])  # pixels of an LR face to those of its crop


@dataclass(frozen=True)
class Fused:
    """LR faces that each stand for several crops."""

    lr: Crops
    """`[N, 3, h, w]`."""
    transforms: NDArray[np.float32]
    """`[N, 2, 3]`, their pixels to the newest frame's: the boxes' jitter is averaged, too."""
    back: NDArray[np.float32]
    """`[N, 2, 3]`, their pixels to those of the track's LR face before, where the same part of the face lies; NaN where one began anew."""


@dataclass
class _Past:
    """A track's crops, the newest first, and their mean. Of crops that are not there yet the weights are 0."""

    crops: deque[Crops]
    places: Places  # [k, 3]
    weights: NDArray[np.float64]  # [k]
    mean: Crops | None = None


class Fusion:
    """Fuses up to `k` crops of each track. Raises `BadInputError`."""

    def __init__(self, k: int = 4) -> None:
        if not isinstance(k, int) or k < 1:
            raise BadInputError(f"k must be a whole number from 1 on, not {k!r}")
        self.k = k
        self._tracks: dict[int, _Past] = {}

    def update(self, track_ids: Sequence[int], crops: Crops, transforms: NDArray[np.float32], qualities: NDArray[np.float64]) -> Fused:
        """Takes the next crop of each of N tracks and gives the LR faces of their last `k`.

        `crops` `[N, 3, 2h, 2w]` float32 (any range), `transforms` `[N, 2, 3]` from their pixels to the frame's (as `crop_transforms`
        gives them), `qualities` `[N]` above 0 (as `crop_quality` gives them). A crop that does not look like those of its track before
        starts anew. The crops are kept. Raises `BadInputError`.
        """
        _check(track_ids, crops, transforms, qualities)
        count, _, height, width = crops.shape
        pasts = [self._past(track_id) for track_id in track_ids]
        while len(self._tracks) > TRACKS:
            del self._tracks[next(iter(self._tracks))]
        found = np.full((count, 3), np.nan)
        known = [] if self.k == 1 else [n for n, past in enumerate(pasts) if past.mean is not None and past.mean.shape == crops.shape[1:]]
        if known:
            places = np.empty((len(known), 3))
            _C.register_crops([pasts[n].mean for n in known], [crops[n] for n in known], height, width, places)
            found[known] = places
        anew = np.isnan(found[:, 0])
        for n in np.flatnonzero(anew).tolist():
            pasts[n].crops.clear()
        for past, crop in zip(pasts, crops, strict=True):
            past.crops.appendleft(crop)

        places, weights = np.zeros((count, self.k, 3)), np.zeros((count, self.k))
        places[:, 0], weights[:, 0] = np.where(anew[:, None], 0, found), qualities
        places[:, 1:] = [past.places[:-1] for past in pasts]
        weights[:, 1:] = [past.weights[:-1] for past in pasts]
        weights[anew, 1:] = 0
        there = weights > 0
        middle = (places * there[:, :, None]).sum(1) / there.sum(1)[:, None]
        places = np.where(there[:, :, None], _seen_from(middle[:, None], places), 0)

        means: Crops = _C.empty(crops.shape, crops.dtype)
        lr: Crops = _C.empty((count, 3, height // 2, width // 2), crops.dtype)
        given = [crop for past in pasts for crop in (*past.crops, *[None] * (self.k - len(past.crops)))]
        _C.average_crops(given, places, weights, means, lr)
        for past, *now in zip(pasts, means, places, weights, strict=True):
            past.mean, past.places, past.weights = now
        placed = compose(compose(transforms, _matrices(places[:, 0], (height, width))), HALVED)
        back = _matrices(_seen_from(middle, np.zeros(3)) / (1, 2, 2), (height // 2, width // 2))
        back[anew] = np.nan
        return Fused(lr, placed.astype(np.float32), back.astype(np.float32))

    def keep(self, track_ids: Iterable[int]) -> None:
        """Forgets all other tracks (those that `Tracker.track_ids` no longer holds)."""
        for track_id in self._tracks.keys() - set(track_ids):
            del self._tracks[track_id]

    def _past(self, track_id: int) -> _Past:
        """A track's, which from now on is the one that was updated last."""
        past = self._tracks.pop(track_id, None) or _Past(deque(maxlen=self.k), np.zeros((self.k, 3)), np.zeros(self.k))
        self._tracks[track_id] = past
        return past


def crop_quality(crops: Crops, detections: Sequence[Detection]) -> NDArray[np.float64]:
    """How much crops `[N, 3, 2h, 2w]` show of faces, above 0 to 1: detector score × size × sharpness × likeness to the mirror image."""
    looks = np.empty(len(crops))
    height, width = crops.shape[2:]
    _C.crop_looks(list(crops), height, width, looks)
    sure = np.array([one.score * min(one.width / (width // 2), 1.0) for one in detections])
    return np.maximum(sure * looks, 1e-3)


def _seen_from(origin: Places, places: Places) -> Places:
    """Places `[..., 3]` as they are seen from where another place has its origin."""
    seen: Places = places - origin
    seen[..., 1:] = places[..., 1:] - np.exp(seen[..., :1]) * origin[..., 1:]
    return seen


def _matrices(places: Places, shape: tuple[int, int]) -> NDArray[np.float64]:
    """`[N, 2, 3]`, pixel of the common crop to pixel of those that have these places `[N, 3]`."""
    matrices = np.zeros((len(places), 2, 3))
    matrices[:, 0, 0] = matrices[:, 1, 1] = zoom = np.exp(places[:, 0])
    middle = np.array([shape[1] - 1, shape[0] - 1]) / 2
    matrices[:, :, 2] = places[:, 1:] + middle * (1 - zoom)[:, None]
    return matrices


def _check(track_ids: Sequence[int], crops: Crops, transforms: NDArray[np.float32], qualities: NDArray[np.float64]) -> None:
    count, channels, height, width = crops.shape if crops.ndim == 4 else (0, 0, 0, 0)
    if crops.dtype != np.float32 or channels != 3 or height % 2 or width % 2 or min(height, width) < 4 or not crops.flags.c_contiguous:
        raise BadInputError(f"crops must be contiguous float32 [N, 3, 2h, 2w] from 4x4 on, not {crops.dtype} {list(crops.shape)}")
    if not np.isfinite(crops).all():
        raise BadInputError("a crop holds NaN or infinity")
    if len(track_ids) != count or len(set(track_ids)) != count:
        raise BadInputError(f"each of {count} crops must belong to a track of its own")
    if transforms.shape != (count, 2, 3):
        raise BadInputError(f"the crops' transforms must have shape [{count}, 2, 3], not {list(transforms.shape)}")
    if np.shape(qualities) != (count,) or not (np.isfinite(qualities) & (np.asarray(qualities) > 0)).all():
        raise BadInputError(f"the crops' qualities must be {count} numbers above 0, not {qualities}")
