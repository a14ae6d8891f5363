"""What happens to frames that come in faster than they are used: three policies, and the queue that obeys one of them."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Literal, Protocol, TypeVar

from fhrt.errors import BadInputError

AHEAD = 8  # frames that `all` decodes ahead: enough against jitter, and few where a frame is 25 MB (4K)
MOST = 64  # frames that `budget` holds, whatever the frame rate


@dataclass(frozen=True)
class Policy:
    """``latest``: the newest frame wins. ``all``: every frame; the source waits. ``budget``: in order, none older than `budget` seconds."""

    name: Literal["latest", "all", "budget"]
    budget: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Policy:
        """From ``latest``, ``all`` or ``budget=SECONDS``. Raises BadInputError."""
        name, equals, seconds = text.partition("=")
        if name in ("latest", "all") and not equals:
            return cls(name)  # type: ignore[arg-type]
        try:
            budget = float(seconds) if name == "budget" else 0.0
        except ValueError:
            budget = 0.0
        if not 0 < budget < float("inf"):
            raise BadInputError(f"policy must be latest, all or budget=SECONDS (above 0), not {text!r}")
        return cls("budget", budget)


class Aged(Protocol):
    def age(self) -> float:
        """Seconds since the frame came in."""
        ...


T = TypeVar("T", bound=Aged)


class FrameQueue(Generic[T]):
    """Between the thread that makes a source's frames, or what was made of them, and the one that uses them.

    drop: called with the cause for each frame that is thrown away. tell: called when a frame comes in and none waited, when one is taken
    and more wait, and when the queue closes; it may look at the queue, but neither put nor take.
    """

    def __init__(self, policy: Policy, drop: Callable[[str], None], tell: Callable[[], None] = lambda: None) -> None:
        self.policy = policy
        self.tell = tell
        self._drop = drop
        self._changed = threading.Condition()
        self._frames: deque[T] = deque()
        self._closed = False

    def __len__(self) -> int:
        return len(self._frames)

    @property
    def ended(self) -> bool:
        """Whether no frame is left and none will come."""
        return self._closed and not self._frames

    def put(self, frame: T) -> None:
        """Adds a frame; under `all` waits for room. A closed queue takes none."""
        with self._changed:
            if self.policy.name == "all":
                self._changed.wait_for(lambda: self._closed or len(self._frames) < AHEAD)
            if self._closed:
                return
            told = bool(self._frames)
            self._frames.append(frame)  # before others go: who looks meanwhile, without the lock, must not find it empty and go to sleep
            if self.policy.name == "latest":
                self._shed(1, "superseded")
            elif self.policy.name == "budget":
                self._shed_late()
                self._shed(MOST, "full")
            self._changed.notify_all()
            if not told:
                self.tell()

    def take(self, timeout: float | None = None) -> T | None:
        """The next frame; None after `timeout` seconds without one, or when the queue has ended."""
        until = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while True:
                self._shed_late()
                if self._frames:
                    frame = self._frames.popleft()
                    self._changed.notify_all()
                    if self._frames:
                        self.tell()
                    return frame
                left = None if until is None else until - time.monotonic()
                if self._closed or (left is not None and left <= 0):
                    return None
                self._changed.wait(left)

    def close(self) -> None:
        """No more frames come; those that wait can still be taken."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self.tell()

    def _shed_late(self) -> None:
        while self.policy.name == "budget" and self._frames and self._frames[0].age() > self.policy.budget:
            self._frames.popleft()
            self._drop("late")

    def _shed(self, keep: int, cause: str) -> None:
        while len(self._frames) > keep:
            self._frames.popleft()
            self._drop(cause)
