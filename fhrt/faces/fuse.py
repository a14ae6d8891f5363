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
from fhrt.faces.detect import Detection

Crops = NDArray[np.float32]

TRACKS = 1024  # followed at most; the one that was updated longest ago is forgotten first
FLOAT32 = np.dtype(np.float32)


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

    crops: deque[Crops | None]
    places: NDArray[np.float64]  # [k, 3]: logarithm of the scale, x, y (pixels) about the middle, where each shows what the mean does
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
        pasts = [self._past(track_id, crop) for track_id, crop in zip(track_ids, crops, strict=True)]
        while len(self._tracks) > TRACKS:
            del self._tracks[next(iter(self._tracks))]
        places, weights = np.zeros((count, self.k, 3)), np.zeros((count, self.k))
        weights[:, 0] = qualities
        places[:, 1:] = [past.places[:-1] for past in pasts]
        weights[:, 1:] = [past.weights[:-1] for past in pasts]
        before = [None if self.k == 1 else past.mean for past in pasts]
        given = [crop for past in pasts for crop in past.crops]
        means, lr = _C.empty(crops.shape, FLOAT32), _C.empty((count, 3, height // 2, width // 2), FLOAT32)
        placed, back = np.empty((2, count, 2, 3), np.float32)
        _C.fuse_crops(before, given, places, weights, np.ascontiguousarray(transforms, np.float32), means, lr, placed, back)
        for past, *now in zip(pasts, means, places, weights, strict=True):
            past.mean, past.places, past.weights = now
        return Fused(lr, placed, back)

    def keep(self, track_ids: Iterable[int]) -> None:
        """Forgets all other tracks (those that `Tracker.track_ids` no longer holds)."""
        for track_id in self._tracks.keys() - set(track_ids):
            del self._tracks[track_id]

    def _past(self, track_id: int, crop: Crops) -> _Past:
        """A track's, to which the crop is added, and which from now on is the one that was updated last."""
        past = self._tracks.pop(track_id, None)
        if past is None or (past.mean is not None and past.mean.shape != crop.shape):
            past = _Past(deque([None] * self.k, self.k), np.zeros((self.k, 3)), np.zeros(self.k))
        past.crops.appendleft(crop)
        self._tracks[track_id] = past
        return past


def crop_quality(crops: Crops, detections: Sequence[Detection]) -> NDArray[np.float64]:
    """How much crops `[N, 3, 2h, 2w]` show of faces, above 0 to 1: detector score × size × sharpness × likeness to the mirror image."""
    looks = np.empty(len(crops))
    height, width = crops.shape[2:]
    _C.crop_looks(list(crops), height, width, looks)
    sure = np.array([one.score * min(one.width / (width // 2), 1.0) for one in detections])
    return np.maximum(sure * looks, 1e-3)


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
