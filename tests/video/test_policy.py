"""Three policies: what is kept, what is dropped and why."""

import threading
import time
from collections import Counter
from functools import partial
from queue import SimpleQueue

import numpy as np
import pytest

from fhrt.errors import BadInputError
from fhrt.video import Frame, Policy
from fhrt.video.policy import AHEAD, MOST, FrameQueue


def frame(number: int, age: float = 0.0) -> Frame:
    return Frame("x", number, float(number), time.monotonic() - age, None, np.zeros((1, 1, 3), np.uint8))


def queue(policy: str) -> tuple[FrameQueue, Counter[str]]:
    drops: Counter[str] = Counter()
    return FrameQueue(Policy.parse(policy), lambda cause: drops.update([cause])), drops


def numbers(frames: FrameQueue) -> list[int]:
    return [one.number for one in iter(lambda: frames.take(0), None)]


def test_latest_keeps_the_newest() -> None:
    frames, drops = queue("latest")
    for number in range(5):
        frames.put(frame(number))
    assert numbers(frames) == [4]
    assert drops == {"superseded": 4}


def test_all_waits_for_room_and_loses_nothing() -> None:
    frames, drops = queue("all")
    thread = threading.Thread(target=lambda: [frames.put(frame(number)) for number in range(3 * AHEAD)])
    thread.start()
    time.sleep(0.1)
    assert len(frames) == AHEAD and thread.is_alive()
    assert [one.number for one in (frames.take(1) for _ in range(3 * AHEAD)) if one] == list(range(3 * AHEAD))
    thread.join(1)
    assert not thread.is_alive() and not drops


def test_budget_drops_what_is_late_or_too_much() -> None:
    frames, drops = queue("budget=0.2")
    for number, age in enumerate((0.5, 0.3, 0.1, 0.0)):
        frames.put(frame(number, age))
    assert numbers(frames) == [2, 3]
    assert drops == {"late": 2}
    for number in range(MOST + 3):
        frames.put(frame(number))
    assert len(frames) == MOST and drops["full"] == 3
    time.sleep(0.25)
    assert frames.take(0) is None
    assert drops["late"] == 2 + MOST


@pytest.mark.parametrize(("policy", "kept", "age"), [("latest", 1, 0.0), ("budget=5", MOST, 0.0), ("budget=0.5", 1, 0.6)])
def test_a_full_queue_never_looks_empty(policy: str, kept: int, age: float) -> None:
    """A stream's worker that looks at the wrong moment, sees nothing and sleeps would be told of no frame ever again."""
    lengths: list[int] = []
    frames: FrameQueue[Frame] = FrameQueue(Policy.parse(policy), lambda _: lengths.append(len(frames)))
    for number in range(kept):
        frames.put(frame(number))
    time.sleep(age)
    frames.put(frame(kept))
    assert lengths == [kept]


def test_closing_wakes_both_sides_and_leaves_what_waits() -> None:
    frames, _ = queue("all")
    for number in range(AHEAD):
        frames.put(frame(number))
    blocked = threading.Thread(target=frames.put, args=(frame(99),))
    blocked.start()
    frames.close()
    blocked.join(1)
    assert not blocked.is_alive() and not frames.ended
    assert numbers(frames) == list(range(AHEAD))
    assert frames.ended
    start = time.monotonic()
    assert frames.take() is None and time.monotonic() - start < 0.5


@pytest.mark.parametrize("policy", ["latest", "all", "budget=5"])
def test_queues_that_tell_one_listener_are_waited_for_together(policy: str) -> None:
    told: SimpleQueue[FrameQueue] = SimpleQueue()
    a, b = (FrameQueue(Policy.parse(policy), lambda _: None) for _ in range(2))
    for one in (a, b):
        one.tell = partial(told.put, one)
    threading.Timer(0.05, b.put, [frame(7)]).start()
    assert told.get(timeout=2) is b and b.take(0).number == 7
    for number in range(3):
        a.put(frame(number))
    kept = len(a)
    assert kept == (1 if policy == "latest" else 3)
    assert [told.get(timeout=0).take(0).number for _ in range(kept)] == list(range(3))[-kept:], "told once for each that can be taken"
    assert told.empty()
    a.close()
    assert told.get(timeout=0).ended


@pytest.mark.parametrize("text", ["", "newest", "budget", "budget=", "budget=0", "budget=-1", "budget=nan", "budget=inf", "latest=1"])
def test_policies_that_there_are_not(text: str) -> None:
    with pytest.raises(BadInputError, match="policy must be"):
        Policy.parse(text)
