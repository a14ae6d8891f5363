"""Presentation times that only grow, whatever the clock of a camera does."""

from __future__ import annotations

JUMP = 10.0  # seconds that a camera's clock may run ahead of this machine's between two frames, e.g. after a stall


class Clock:
    """Turns the times of a source into its presentation times.

    live: a camera's, whose times start at 0, go on across reconnections and are checked against this machine's clock; a file's
    times are kept as they are unless they jump backwards. `jumps` counts what had to be repaired.
    """

    def __init__(self, live: bool) -> None:
        self.jumps = 0
        self._live = live
        self._offset: float | None = None if live else 0.0
        self._last: float | None = None
        self._arrival = 0.0
        self._step = 0.04  # between the last two frames that had times
        self._untimed = False

    def restart(self) -> None:
        """The source was opened again: its times start anew."""
        if self._live:
            self._offset = None

    def __call__(self, seconds: float | None, arrival: float) -> float:
        """The presentation time of a frame with the time `seconds` (None: it has none) that came in at `arrival`, monotonic."""
        passed = self._step
        if self._live and not (self._untimed and seconds is not None):  # the first frames may lack times, and come as a burst
            passed = max(arrival - self._arrival, 0.001)
        expected = 0.0 if self._last is None else self._last + passed
        time = expected
        if seconds is not None:
            if self._offset is None:
                self._offset = expected - seconds
            time = seconds + self._offset
            if self._last is not None and (time <= self._last or (self._live and abs(time - expected) > JUMP)):
                self.jumps += 1
                self._offset, time = expected - seconds, expected
            elif self._last is not None and not self._untimed:
                self._step = time - self._last
        self._untimed = seconds is None
        self._last, self._arrival = time, arrival
        return time
