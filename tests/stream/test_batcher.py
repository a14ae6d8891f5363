"""Batches: what is in them, when they begin, and whose faces come first."""

import threading
import time

import numpy as np
import pytest

from fhrt.runtime import Output
from fhrt.runtime.engine import MAX_BATCH
from fhrt.stream.batcher import Batcher, Job

WAIT = 10  # seconds, for what takes none


def faces(*values: float) -> np.ndarray:
    return np.array(values, np.float32)[:, None, None, None] * np.ones((3, 2, 2), np.float32)


class Network:
    """Doubles what it is given; the first batch is held until `go` is set."""

    def __init__(self) -> None:
        self.batches: list[list[float]] = []
        self.go = threading.Event()

    def run(self, lr: np.ndarray) -> Output:
        assert self.go.wait(WAIT)
        self.batches.append(lr[:, 0, 0, 0].tolist())
        return Output(2 * lr, theta=lr[:, 0, :, :1].repeat(3, 2))


class Waiting:
    """A batcher, and how to wait for its jobs."""

    def __init__(self, **options) -> None:
        self.network, self.errors = Network(), []
        self._changed = threading.Condition()
        self.batcher = Batcher(self.network.run, self._fail, **options)
        self.batcher.thread.start()

    def _wake(self) -> None:
        with self._changed:
            self._changed.notify_all()

    def _fail(self, error: Exception) -> None:
        self.errors.append(error)
        self._wake()

    def submit(self, source: str, lr: np.ndarray) -> Job:
        return self.batcher.submit(source, lr, self._wake)

    def done(self, *jobs: Job) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: all(job.output is not None for job in jobs), WAIT)

    def batches(self) -> list[list[float]]:
        return self.network.batches


@pytest.fixture
def waiting():
    made = []

    def build(**options) -> Waiting:
        made.append(Waiting(**options))
        return made[-1]

    yield build
    for one in made:
        one.network.go.set()
        one.batcher.close()
        one.batcher.thread.join(WAIT)
        assert not one.batcher.thread.is_alive()


def test_every_job_gets_its_own_rows(waiting) -> None:
    one = waiting(max_wait=0.0)
    given = [faces(*np.arange(100 * source, 100 * source + count)) for source, count in enumerate((3, 70, 1, 32))]
    jobs = [one.submit(str(source), lr) for source, lr in enumerate(given)]
    one.network.go.set()
    one.done(*jobs)
    for lr, job in zip(given, jobs, strict=True):
        np.testing.assert_array_equal(job.output.sr, 2 * lr)
        np.testing.assert_array_equal(job.output.theta[:, 0, 0], lr[:, 0, 0, 0])
        assert job.output.heatmaps is None
    assert max(map(len, one.batches())) <= MAX_BATCH
    assert sum(map(len, one.batches())) == one.batcher.faces == 106


def test_a_source_with_many_faces_does_not_starve_one_with_few(waiting) -> None:
    one = waiting(max_wait=0.0)
    first = one.submit("first", faces(-1))  # held in the network while the others come
    while one.batcher._waiting:
        time.sleep(0.001)
    many = [one.submit("many", faces(*range(100))) for _ in range(2)]
    few = one.submit("few", faces(1000))
    some = one.submit("some", faces(*range(2000, 2020)))
    one.network.go.set()
    one.done(first, few, some, *many)
    second = one.batches()[1]
    assert 1000 in second, "the one face is in the next batch"
    assert sum(value >= 2000 for value in second) == 15 and sum(value < 1000 for value in second) == 16, "the rest is halved"
    assert few.output is not None and all(len(batch) == MAX_BATCH for batch in one.batches()[1:-1])


def test_jobs_of_a_source_are_done_in_order(waiting) -> None:
    one = waiting(max_wait=0.0)
    jobs = [one.submit("a", faces(*range(10 * number, 10 * number + 7))) for number in range(30)]
    one.network.go.set()
    one.done(*jobs)
    seen = [value for batch in one.batches() for value in batch]
    assert seen == sorted(seen)


def test_faces_wait_for_others_until_the_deadline(waiting) -> None:
    one = waiting(max_wait=0.3)
    one.network.go.set()
    early = one.submit("a", faces(1))
    time.sleep(0.05)
    late = one.submit("b", faces(2))
    one.done(early, late)
    assert one.batches() == [[1, 2]]
    assert 0.29 < early.waited < 5 and late.waited < early.waited


def test_nothing_is_waited_for_when_nothing_comes_or_the_batch_is_full(waiting) -> None:
    alone = waiting(max_wait=60, coming=lambda: False)
    full = waiting(max_wait=60)
    for one, count in ((alone, 1), (full, MAX_BATCH)):
        one.network.go.set()
        one.done(one.submit("a", faces(*range(count))))
    assert (alone.batches(), [len(batch) for batch in full.batches()]) == ([[0]], [MAX_BATCH])


def test_what_the_network_raises_is_told_once(waiting) -> None:
    one = waiting(max_wait=0.0)
    one.network.go.set()
    one.batcher._run = lambda lr: 1 / 0
    job = one.submit("a", faces(1))
    one.batcher.thread.join(WAIT)
    assert [type(error) for error in one.errors] == [ZeroDivisionError] and job.output is None
