"""A training step as one CUDA graph: the host starts it with one call instead of some thousand, which at small batches take longer than the
device's work.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from training.data import Batch

LOG = logging.getLogger("training")
EAGER = 3  # calls before the capture: cuDNN chooses its algorithms, the optimisers make their state

Told = dict[str, Tensor]


@dataclass
class CapturedStep:
    """Calls ``update(batch, localise_only)``, whose tensors' shapes do not change, by a graph for each value of the latter.

    The first calls are made as they are. Where the capture fails, all are, and a warning says why.
    """

    update: Callable[[Batch, bool], Told]
    graphs: dict[bool, tuple[Batch, torch.cuda.CUDAGraph, Told]] = field(default_factory=dict)
    _calls: dict[bool, int] = field(default_factory=dict)
    _failed: bool = False

    def __call__(self, batch: Batch, localise_only: bool) -> Told:
        """The update's results, of which the next call leaves nothing changed."""
        self._calls[localise_only] = self._calls.get(localise_only, 0) + 1
        if not self._failed and self._calls[localise_only] == EAGER + 1:
            self._capture(batch, localise_only)
        if localise_only not in self.graphs:
            return self._as_it_is(batch, localise_only)
        held, graph, told = self.graphs[localise_only]
        for mine, given in zip(held, batch, strict=True):
            if mine is not None:
                mine.copy_(given)
        graph.replay()
        return {name: value.clone() for name, value in told.items()}

    def _as_it_is(self, batch: Batch, localise_only: bool) -> Told:
        """On a stream of its own, as a capture demands of what comes before it."""
        current, aside = torch.cuda.current_stream(), torch.cuda.Stream()
        aside.wait_stream(current)
        with torch.cuda.stream(aside):
            told = self.update(batch, localise_only)
        current.wait_stream(aside)
        return told

    def _capture(self, batch: Batch, localise_only: bool) -> None:
        """Records an update without making it."""
        held = Batch(*(None if each is None else each.clone() for each in batch))  # type: ignore[arg-type]
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        try:
            # thread_local: other threads allocate pinned memory for the next batches meanwhile.
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):
                told = self.update(held, localise_only)
        except RuntimeError as error:
            self._failed = True
            LOG.warning("the step cannot be captured, it runs as it is: %s", str(error).splitlines()[0])
        else:
            self.graphs[localise_only] = held, graph, told
