"""Turns: each lane with one worker at a time, what is begun first, new frames in turn, and nothing forgotten."""

import threading
import time
from collections import Counter

from fhrt.stream.turns import Turns

WAIT = 10  # seconds, for what takes none


class Lane:
    """Has frames to begin, and begun ones to finish."""

    def __init__(self, name: str = "") -> None:
        self.name, self.busy, self.line = name, False, None
        self.frames = self.begun = 0

    @property
    def finishing(self) -> bool:
        return self.begun > 0

    @property
    def ready(self) -> bool:
        return self.finishing or self.frames > 0


def taken(turns: Turns, count: int) -> str:
    return "".join(lane.name for lane in (turns.take(0) for _ in range(count)) if lane)


def test_what_is_begun_comes_first_and_the_rest_in_turn() -> None:
    turns, (a, b, c) = Turns(), (Lane(name) for name in "abc")
    for lane in (a, b, c):
        lane.frames = 1
        turns.call(lane)
        turns.call(lane)  # is in the line already
    c.begun = 1
    turns.call(c)
    assert taken(turns, 4) == "cab" and turns.busy == 3
    c.begun = 0
    for lane in (a, b, c):
        turns.leave(lane)
    assert taken(turns, 4) == "abc", "each still has its frame"


def test_a_lane_is_one_workers_until_he_leaves_it() -> None:
    turns, lane = Turns(), Lane("a")
    lane.frames = 1
    turns.call(lane)
    assert turns.take(0) is lane
    turns.call(lane)
    assert turns.take(0) is None
    lane.frames = 0
    turns.leave(lane)
    assert turns.take(0) is None and turns.busy == 0


def test_nobody_is_woken_for_a_lane_without_work() -> None:
    turns, lane = Turns(), Lane("a")
    threading.Timer(0.05, turns.call, [lane]).start()
    start = time.monotonic()
    assert turns.take(0.2) is None and time.monotonic() - start >= 0.15


def test_nothing_is_forgotten_between_threads() -> None:
    turns, lanes, done = Turns(), [Lane(str(number)) for number in range(5)], Counter()
    rounds, lock, ended = 200, threading.Lock(), threading.Event()

    def work() -> None:
        while not ended.is_set():
            if (lane := turns.take(1)) is None:
                continue
            with lock:
                assert not (lane.frames < 0 or done[lane.name] > rounds)
                if lane.begun:
                    lane.begun -= 1
                    done[lane.name] += 1
                elif lane.frames:
                    lane.frames -= 1
                    lane.begun += 1
            turns.leave(lane)

    workers = [threading.Thread(target=work) for _ in range(3)]
    for thread in workers:
        thread.start()
    for _ in range(rounds):
        for lane in lanes:
            with lock:
                lane.frames += 1
            turns.call(lane)
    until = time.monotonic() + WAIT
    while sum(done.values()) < rounds * len(lanes) and time.monotonic() < until:
        time.sleep(0.01)
    ended.set()
    turns.wake()
    for thread in workers:
        thread.join(WAIT)
    assert done == {lane.name: rounds for lane in lanes} and turns.busy == 0
