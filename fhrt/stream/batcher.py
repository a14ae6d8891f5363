"""Faces of all sources through one network: they share batches, under a deadline, and each source gets its fair part of them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt.runtime import Output
from fhrt.runtime.engine import MAX_BATCH

ARRAYS = tuple(one.name for one in fields(Output))


class Job:
    """The faces of one frame on their way through the network: ``lr`` `[N, 3, h, w]`, N from 1 on.

    output: None until all are through, when `done` is called. waited: seconds from `Batcher.submit` until its last batch began. took:
    seconds of its batches.
    """

    def __init__(self, lr: NDArray[np.float32], done: Callable[[], None]) -> None:
        self.lr = lr
        self.done = done
        self.output: Output | None = None
        self.waited = self.took = 0.0
        self.since = time.monotonic()
        self.taken = 0  # faces that are in a batch, or were
        self.parts: list[Output] = []

    def add(self, part: Output, rows: slice, began: float, took: float) -> None:
        """Takes its rows of a batch's output."""
        whole = rows.stop - rows.start == len(part.sr)
        self.parts.append(part if whole else _made_of([part], lambda arrays: arrays[0][rows]))
        self.waited, self.took = began - self.since, self.took + took
        if sum(len(one.sr) for one in self.parts) == len(self.lr):
            self.output = self.parts[0] if len(self.parts) == 1 else _made_of(self.parts, np.concatenate)
            self.done()


class Batcher:
    """Runs the network in a thread of its own, one batch after the other.

    A batch is begun when it is full, when its oldest face has waited for `max_wait` seconds, or when `coming` says, after a job was
    submitted, that no other is on its way. run: what the engine's `run` is. failed: called with what `run` raised; the batcher has ended
    then.
    """

    def __init__(
        self,
        run: Callable[[NDArray[np.float32]], Output],
        failed: Callable[[Exception], None],
        *,
        max_wait: float = 0.005,
        coming: Callable[[], bool] = lambda: True,
    ) -> None:
        self.batches = self.faces = 0
        self._run, self._failed, self._max_wait, self._coming = run, failed, max_wait, coming
        self._changed = threading.Condition()
        self._jobs: OrderedDict[str, deque[Job]] = OrderedDict()  # by source, the one first that was served longest ago
        self._waiting = 0  # faces
        self._complete = False  # they need not wait for more
        self._closed = False
        self.thread = threading.Thread(target=self._work, name="fhrt-network", daemon=True)

    def close(self) -> None:
        """Ends it after the batch that runs; jobs that wait get no output."""
        with self._changed:
            self._closed = True
            self._changed.notify()

    def submit(self, source: str, lr: NDArray[np.float32], done: Callable[[], None] = lambda: None) -> Job:
        """Faces `[N, 3, h, w]` of a source's next frame. Jobs of one source are done in this order. done: see Job."""
        job = Job(lr, done)
        with self._changed:
            first = not self._waiting
            self._jobs.setdefault(source, deque()).append(job)
            self._waiting += len(lr)
            self._complete = self._waiting >= MAX_BATCH or not self._coming()
            if first or self._complete:  # else the thread waits for its deadline, and need not be woken
                self._changed.notify()
        return job

    def _work(self) -> None:
        while parts := self._collect():
            lr = [job.lr[rows] for job, rows in parts]
            began = time.monotonic()
            try:
                output = self._run(lr[0] if len(lr) == 1 else np.concatenate(lr))
            except Exception as error:
                self._failed(error)
                return
            took = time.monotonic() - began
            at = 0
            for (job, _), faces in zip(parts, lr, strict=True):
                job.add(output, slice(at, at + len(faces)), began, took)
                at += len(faces)
            self.batches, self.faces = self.batches + 1, self.faces + at

    def _collect(self) -> list[tuple[Job, slice]]:
        """Waits for the next batch: jobs, and which of their faces; none at the end."""
        with self._changed:
            while not self._closed:
                if self._waiting:
                    left = min(jobs[0].since for jobs in self._jobs.values()) + self._max_wait - time.monotonic()
                    if left <= 0 or self._complete:
                        return self._fair_part()
                    self._changed.wait(left)
                else:
                    self._changed.wait()
            return []

    def _fair_part(self) -> list[tuple[Job, slice]]:
        """A face of each source in turn, until the batch is full."""
        first: dict[Job, int] = {}
        for _ in range(min(self._waiting, MAX_BATCH)):
            source, jobs = self._jobs.popitem(last=False)
            job = jobs[0]
            first.setdefault(job, job.taken)
            job.taken += 1
            if job.taken == len(job.lr):
                jobs.popleft()
            if jobs:
                self._jobs[source] = jobs
        parts = [(job, slice(start, job.taken)) for job, start in first.items()]
        self._waiting -= sum(rows.stop - rows.start for _, rows in parts)
        self._complete = self._complete and self._waiting > 0
        return parts


def _made_of(parts: list[Output], make: Callable[[list[Any]], Any]) -> Output:
    """An output of which each array is made of the parts' arrays of that name, where the network has it."""
    arrays: dict[str, Any] = {name: [getattr(part, name) for part in parts] for name in ARRAYS}
    made: dict[str, Any] = {name: None if found[0] is None else make(found) for name, found in arrays.items()}
    return Output(**made)
