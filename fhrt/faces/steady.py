"""SR faces of a track that hold still: each is averaged with what was shown of the face before, moved to where it is now.

A running mean of the network's output loses less than the same mean of its input (`fhrt.faces.fuse`): what the network makes
of noise is different in each frame, what it makes of the face is not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.faces.align import UNMOVED, Floats

Faces = NDArray[np.float32]
FLOAT32 = np.dtype(np.float32)


@dataclass
class _Shown:
    face: Faces  # [C, H, W]
    to_lr: NDArray[np.float64]  # [2, 3], its pixels to its LR face's
    count: int  # faces in it


class Steadying:
    """Running means of the SR faces of tracks, over about `k` frames each."""

    def __init__(self, k: int) -> None:
        self.k = k
        self._tracks: dict[int, _Shown] = {}

    def update(self, track_ids: Sequence[int], sr: Faces, to_lr: Floats, back: Floats) -> Faces:
        """The next SR faces `[N, C, H, W]` float32 of tracks, averaged.

        `to_lr` `[N, 2, 3]` or, for all, `[2, 3]`: their pixels to their LR faces'. `back` `[N, 2, 3]`: pixels of these to those of the
        LR face before (as `Fused.back`); NaN: begin anew. Raises `BadInputError`.
        """
        if not len(sr) == len(track_ids) == len(back) or to_lr.shape not in (back.shape, back.shape[1:]):
            raise BadInputError("each SR face needs a track, the way to its LR face, and from there to the one before")
        if self.k == 1:
            return sr
        fresh = np.isnan(back[:, 0, 0]).tolist()
        known = [None if new else self._tracks.get(track_id) for track_id, new in zip(track_ids, fresh, strict=True)]
        last = [None if one is None or one.face.shape != sr.shape[1:] else one for one in known]
        counts = [1 if one is None else min(one.count + 1, self.k) for one in last]
        before, now = np.array([UNMOVED if one is None else one.to_lr for one in last]), np.empty(back.shape)
        now[:] = to_lr
        weights = np.array([1 / count for count in counts], np.float32)
        means: Faces = _C.empty(sr.shape, FLOAT32)
        faces = [None if one is None else one.face for one in last]
        _C.blend_moved(faces, np.ascontiguousarray(sr, np.float32), before, now, np.ascontiguousarray(back, np.float32), weights, means)
        self._tracks.update(zip(track_ids, map(_Shown, means, now, counts), strict=True))
        return means

    def keep(self, track_ids: Iterable[int]) -> None:
        """Forgets all other tracks."""
        for track_id in self._tracks.keys() - set(track_ids):
            del self._tracks[track_id]
