"""Which source a worker turns to next."""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fhrt.stream.lane import Lane


class Turns:
    """Lanes with something to do, each for one worker at a time.

    What is begun is finished first: where there is too much to do, frames are fewer, but no older. New frames are begun in turn. A lane
    calls whenever it may have got something to do, and is asked again when its worker leaves it; between, workers sleep.
    """

    def __init__(self) -> None:
        self.busy = 0  # workers that are with a lane
        self._changed = threading.Condition(threading.Lock())
        self._begun: deque[Lane] = deque()
        self._fresh: deque[Lane] = deque()

    def call(self, lane: Lane) -> None:
        """There may be something to do for this lane."""
        with self._changed:
            if not lane.busy and self._line_up(lane):
                self._changed.notify()

    def take(self, timeout: float) -> Lane | None:
        """The next lane, for the caller alone until he leaves it; None after `timeout` seconds, and when woken for nothing."""
        with self._changed:
            if not (self._begun or self._fresh):
                self._changed.wait(timeout)
            line = self._begun or self._fresh
            if not line:
                return None
            lane = line.popleft()
            lane.line, lane.busy = None, True
            self.busy += 1
            return lane

    def leave(self, lane: Lane) -> None:
        """The worker looks for more by himself, so nobody else is woken for what is left."""
        with self._changed:
            lane.busy = False
            self.busy -= 1
            self._line_up(lane)

    def wake(self) -> None:
        """All who wait look again whether there is an end."""
        with self._changed:
            self._changed.notify_all()

    def _line_up(self, lane: Lane) -> bool:
        """Whether it has come into a line, or into a better one."""
        line = self._begun if lane.finishing else self._fresh if lane.ready else None
        if line is None or line is lane.line or lane.line is self._begun:
            return False
        if lane.line is not None:
            lane.line.remove(lane)
        line.append(lane)
        lane.line = line
        return True
