"""Training batches made on the fly: faces kept as uint8 in memory, poses and damage drawn anew for every batch."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fhrt.protocols.pairs import Pairs, make_pairs
from fhrt.protocols.pose import PoseRange
from training.faces import FaceSet
from training.recipe import Mix


class Batch(NamedTuple):
    """lr [N, 3, s, s] and hr [N, 3, 8s, 8s] float32 in [-1, 1]; theta [N, 2, 3]; of `Landmarks`, points and visible, and of
    `People`, identity, where known.
    """

    lr: Tensor
    hr: Tensor
    theta: Tensor
    points: Tensor | None = None
    visible: Tensor | None = None
    identity: Tensor | None = None

    def to(self, device: torch.device) -> Batch:
        return Batch(*(None if each is None else each.to(device, non_blocking=True) for each in self))  # type: ignore[arg-type]


def make_batch(faces: FaceSet, mix: Mix, count: int, rng: np.random.Generator) -> Batch:
    """A batch of ``count`` random faces in the mix's shares, mirrored at random."""
    index = rng.integers(len(faces), size=count)
    mirrored = rng.random((count, 1, 1, 1)) < 0.5
    chosen = faces.pictures[index]
    chosen = np.where(mirrored, chosen[:, :, ::-1], chosen)
    if mix.jitter:
        chosen = _jitter(chosen, mix.jitter, rng)
    shares = mix.shares()
    edges = np.rint(np.cumsum([0, *shares.values()]) / sum(shares.values()) * count).astype(int)
    pose = PoseRange(shift=mix.shift)
    parts = [
        make_pairs(chosen[start:end], protocol, rng, pose)
        for protocol, start, end in zip(shares, edges[:-1], edges[1:], strict=True)
        if end > start
    ]
    lr, hr, theta = (torch.cat(part) for part in zip(*map(_tensors, parts), strict=True))
    batch = Batch(lr, hr, theta)
    if faces.landmarks is not None:
        landmarks = faces.landmarks[index].mirrored(mirrored.ravel())
        batch = batch._replace(points=torch.from_numpy(landmarks.points), visible=torch.from_numpy(landmarks.visible))
    if faces.people is not None:
        batch = batch._replace(identity=torch.from_numpy(faces.people.identity[index]))
    return batch


def _jitter(faces: NDArray[np.uint8], amount: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Contrast about mid-grey and brightness, each ± ``amount``, by a table per face."""
    levels = np.arange(256, dtype=np.float32) - 127.5
    out = np.empty_like(faces)
    for index, face in enumerate(faces):
        contrast, brightness = rng.uniform(1 - amount, 1 + amount), rng.uniform(-amount, amount) * 127.5
        out[index] = np.clip(np.rint(levels * contrast + 127.5 + brightness), 0, 255).astype(np.uint8)[face]
    return out


def _tensors(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    lr, hr = (torch.from_numpy(np.ascontiguousarray(x)).float().div_(127.5).sub_(1) for x in (pairs.lr, pairs.hr))
    return lr, hr, torch.from_numpy(pairs.theta)


class Batches:
    """An endless iterator of batches, made ahead by threads; batch number n depends on (seed, n) alone, so a run can resume.

    first, every: the numbers that it goes through, so that several processes share them.
    """

    def __init__(self, faces: FaceSet, mix: Mix, count: int, seed: int, first: int = 0, every: int = 1, ahead: int = 4) -> None:
        self._faces, self._mix, self._count, self._seed, self._every = faces, mix, count, seed, every
        self._queue: queue.Queue[Batch] = queue.Queue(ahead)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._produce, args=(first,), daemon=True)
        self._error: BaseException | None = None
        self._thread.start()

    def _produce(self, number: int) -> None:
        try:
            while not self._stop.is_set():
                batch = make_batch(self._faces, self._mix, self._count, np.random.default_rng((self._seed, number)))
                number += self._every
                while not self._stop.is_set():
                    try:
                        self._queue.put(batch, timeout=0.2)
                        break
                    except queue.Full:
                        continue
        except Exception as error:
            self._error = error

    def __iter__(self) -> Iterator[Batch]:
        while True:
            try:
                yield self._queue.get(timeout=1.0)
            except queue.Empty:
                if self._error is not None:
                    raise self._error from None

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
