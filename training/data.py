"""Training batches made on the fly: faces kept as uint8 in memory, poses and damage drawn anew for every batch."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fhrt.protocols.pairs import Pairs, make_pairs, reduction_matrix
from fhrt.protocols.pose import PoseRange
from training.faces import FaceSet
from training.recipe import Mix

AHEAD = 4  # batches that are made while one is used


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


class Draw(NamedTuple):
    """Which faces [N], which of them mirrored [N], a table [N, 256] of grey levels where there is jitter, and the protocols' parts of the
    batch, each from a start to an end.
    """

    index: NDArray[np.int64]
    mirrored: NDArray[np.bool_]
    tables: NDArray[np.uint8] | None
    parts: list[tuple[str, int, int]]
    pose: PoseRange


def draw(faces: int, mix: Mix, count: int, rng: np.random.Generator) -> Draw:
    """``count`` of ``faces`` at random, in the mix's shares."""
    index = rng.integers(faces, size=count)
    mirrored = rng.random((count, 1, 1, 1)) < 0.5
    tables = _tables(count, mix.jitter, rng) if mix.jitter else None
    shares = mix.shares()
    edges = np.rint(np.cumsum([0, *shares.values()]) / sum(shares.values()) * count).astype(int)
    parts = [(name, int(start), int(end)) for name, start, end in zip(shares, edges[:-1], edges[1:], strict=True) if end > start]
    return Draw(index, mirrored.ravel(), tables, parts, PoseRange(shift=mix.shift))


def _tables(count: int, amount: float, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Contrast about mid-grey and brightness, each ± ``amount``, as a table [N, 256] of grey levels."""
    drawn = rng.uniform((1 - amount, -amount), (1 + amount, amount), (count, 2)) * (1, 127.5)
    contrast, brightness = np.split(drawn.astype(np.float32), 2, axis=1)
    levels = np.arange(256, dtype=np.float32) - np.float32(127.5)
    return np.clip(np.rint(levels * contrast + np.float32(127.5) + brightness), 0, 255).astype(np.uint8)


def make_batch(faces: FaceSet, mix: Mix, count: int, rng: np.random.Generator) -> Batch:
    """A batch of ``count`` random faces in the mix's shares, mirrored at random."""
    drawn = draw(len(faces), mix, count, rng)
    chosen = pictures(faces, drawn)
    parts = [make_pairs(chosen[start:end], protocol, rng, drawn.pose) for protocol, start, end in drawn.parts]
    lr, hr, theta = (torch.cat(part) for part in zip(*map(_tensors, parts), strict=True))
    return Batch(lr, hr, theta, *labels(faces, drawn))


def pictures(faces: FaceSet, drawn: Draw, part: slice = slice(None)) -> NDArray[np.uint8]:
    """[N, 192, 192, 3], mirrored and with their tables applied."""
    chosen = faces.pictures[drawn.index[part]]
    chosen = np.where(drawn.mirrored[part, None, None, None], chosen[:, :, ::-1], chosen)
    if drawn.tables is not None:
        chosen = drawn.tables[part][np.arange(len(chosen))[:, None, None, None], chosen]
    return chosen


def labels(faces: FaceSet, drawn: Draw) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
    """points, visible and identity of a `Batch`."""
    points = visible = identity = None
    if faces.landmarks is not None:
        landmarks = faces.landmarks[drawn.index].mirrored(drawn.mirrored)
        points, visible = torch.from_numpy(landmarks.points), torch.from_numpy(landmarks.visible)
    if faces.people is not None:
        identity = torch.from_numpy(faces.people.identity[drawn.index])
    return points, visible, identity


def decimated(faces: Tensor, side: int) -> Tensor:
    """HR faces [N, 3, H, H] at ``side`` pixels, H / ``side`` a whole number: blurred and decimated as the loose LR faces are, and in phase
    with them (`fhrt.protocols.pairs.reduction_matrix`).
    """
    if side == faces.shape[2]:
        return faces
    matrix = _reduction(faces.shape[2], side, faces.device)
    return matrix @ faces @ matrix.T


@lru_cache(maxsize=8)
def _reduction(source: int, target: int, device: torch.device) -> Tensor:
    """Made once: a captured step must find it on its device."""
    return torch.tensor(reduction_matrix(source, source // target), device=device)


def _tensors(pairs: Pairs) -> tuple[Tensor, Tensor, Tensor]:
    lr, hr = (torch.from_numpy(np.ascontiguousarray(x)).float().div_(127.5).sub_(1) for x in (pairs.lr, pairs.hr))
    return lr, hr, torch.from_numpy(pairs.theta)


class Source(Protocol):
    """Where batches come from: ``prepare`` in a thread, ahead of its use, and ``finish`` where the batch is used."""

    def prepare(self, mix: Mix, count: int, rng: np.random.Generator) -> Any: ...

    def finish(self, prepared: Any) -> Batch: ...


class FromMemory(NamedTuple):
    """Batches made as a whole by `make_batch`."""

    faces: FaceSet

    def prepare(self, mix: Mix, count: int, rng: np.random.Generator) -> Batch:
        return make_batch(self.faces, mix, count, rng)

    def finish(self, prepared: Batch) -> Batch:
        return prepared


class Batches:
    """An endless iterator of batches, prepared ahead by threads; batch number n depends on (seed, n) alone, so a run can resume.

    first, every: the numbers that it goes through, so that several processes share them.
    """

    def __init__(self, source: Source, mix: Mix, count: int, seed: int, first: int = 0, every: int = 1, threads: int = 1) -> None:
        self._source, self._mix, self._count, self._seed = source, mix, count, seed
        self._numbers, self._ahead = range(first, sys.maxsize, every), AHEAD * threads
        self._pool = ThreadPoolExecutor(threads, "batches")

    def _prepare(self, number: int) -> Any:
        return self._source.prepare(self._mix, self._count, np.random.default_rng((self._seed, number)))

    def __iter__(self) -> Iterator[Batch]:
        waiting: deque[Future[Any]] = deque()
        for number in self._numbers:
            waiting.append(self._pool.submit(self._prepare, number))
            if len(waiting) > self._ahead:
                yield self._source.finish(waiting.popleft().result())

    def close(self) -> None:
        self._pool.shutdown(cancel_futures=True)
