"""Which of several ways to execute a bundle is taken here: what each makes of the bundle's probe and how long it takes, found out once.

The first time that a bundle, a backend, its version, a processor or device and a number of threads come together, the backend's answer is
compared with the probe's (fhrt/runtime/probe.py); where several ways are to choose from, they are timed, taking turns. Both is remembered
(fhrt/runtime/verdicts.py).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from time import perf_counter, process_time
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import BackendError, FhrtError, WeightsError
from fhrt.runtime.bundle import PROBE, Bundle
from fhrt.runtime.verdicts import Memory, Verdict

if TYPE_CHECKING:
    from fhrt.runtime.probe import Probe

LOG = logging.getLogger("fhrt")
BUDGET = 1.0
"""Seconds after which no further way is opened to measure it: opening a model stays quick. INT8 is always compared with one other."""
TURNS = 0.3
"""Seconds of calls that are timed,"""
ROUNDS = (3, 10)
"""in so many rounds at least, unless three take longer than `BUDGET`, and at most."""
GAIN = 0.97
"""A way must take less than this part of the time of one that comes before it: closer than that is chance."""
WORTH = 1.5
"""So many times as fast as the quickest other way INT8 must be to be taken: for less nobody wants its rounding."""
FRAME = (240, 320)
"""Size of the frame on which detectors are timed."""
BUSY = 0.8
"""Processor seconds per second under which other processes have kept this one waiting, so that its times are none."""


@dataclass(frozen=True)
class Candidate:
    """A way to execute a bundle. name: of backend, form and plan. version: see `fhrt.runtime.verdicts.version_of`. make: opens the engine;
    raises FhrtError where it cannot.
    """

    name: str
    version: str
    make: Callable[[], Any]

    @property
    def int8(self) -> bool:
        return "int8" in self.name.split()


def choose(bundle: Bundle, candidates: Sequence[Candidate], threads: int | None) -> Any:
    """The engine of the quickest candidate whose answer is right; candidates are given in the order in which they are preferred.

    Says in one warning each which are wrong, and which cannot be opened. Raises WeightsError for a probe that does not fit the bundle's
    graph; where no candidate is right and can be opened, BackendError, or what the only one raised.
    """
    memory = Memory(bundle, threads)
    trial = _Trial(bundle, threads, memory.read({each.name: each.version for each in candidates}))
    unknown = _unknown(candidates, trial.verdicts)
    if unknown:
        trial.look(unknown)
        timed = len(candidates) > 1 and bool(trial.opened)
        if timed:
            trial.look([each for each in candidates if each not in unknown])
            trial.time()
        # Of what was timed on a busy machine only what was expected is believed.
        memory.write(trial.verdicts, believed=not (timed and trial.busy) or _best(candidates, trial) == trial.first(candidates))
    while (best := _best(candidates, trial)) is not None:
        try:
            engine = trial.opened[best.name] if best.name in trial.opened else best.make()
        except FhrtError as error:
            trial.failed[best.name] = error
            continue
        for reason in trial.reasons(candidates):
            LOG.warning("%s runs %s, passing over %s", best.name, bundle.card.name, reason)
        _explained[engine] = best, tuple(candidates), trial.verdicts
        return engine
    for failure in trial.failed.values():
        if len(candidates) == 1 or isinstance(failure, WeightsError):
            raise failure
    said = f"{bundle.card.name} is not run by" if len(candidates) == 1 else f"nothing here runs {bundle.card.name}:"
    raise BackendError(f"{said} {'; '.join(trial.reasons(candidates))}")


_explained: WeakKeyDictionary[Any, tuple[Candidate, tuple[Candidate, ...], Mapping[str, Verdict]]] = WeakKeyDictionary()


def explain(engine: Any) -> str:
    """What was measured of the candidates that an engine was chosen from, its own first, in one line; "" where it was not chosen.

    How far the answer is from the fp32 form's, and how many times the time of the engine that was chosen it takes.
    """
    if engine not in _explained:
        return ""
    from fhrt.runtime.probe import told

    best, candidates, verdicts = _explained[engine]
    texts = []
    for each in sorted(candidates, key=lambda each: each is not best):
        verdict = verdicts.get(each.name)
        if verdict is None or verdict.figures is None:
            continue
        facts = [told(name, figure) for name, figure in verdict.figures.items()]
        if each is best:
            facts[-1] += " from fp32"
        least = verdicts[best.name].milliseconds
        if verdict.milliseconds and each is not best and least:
            facts.append(f"{verdict.milliseconds / least:.1f} times the time")
        quicker = verdict.milliseconds is not None and least is not None and verdict.milliseconds < least
        if verdict.right and quicker and each.int8 and not best.int8:
            facts.append(f"INT8 is taken from {WORTH} times the speed on")
        texts.append(f"{each.name}{' is wrong' if verdict.wrong else ''}: {', '.join(facts)}")
    return "; ".join(texts)


def _unknown(candidates: Sequence[Candidate], verdicts: Mapping[str, Verdict]) -> list[Candidate]:
    """Those that must be looked at before one can be chosen."""
    known = [verdicts.get(each.name) for each in candidates]
    alone, timed = len(known) == 1, any(verdict is not None and verdict.milliseconds is not None for verdict in known)

    def settled(verdict: Verdict | None) -> bool:
        if verdict is None or verdict.wrong:
            return verdict is not None
        if verdict.figures is None:
            return timed  # what was left out once stays so, unless nothing else is there
        return alone or verdict.milliseconds is not None

    return [each for each, verdict in zip(candidates, known, strict=True) if not settled(verdict)]


def _best(candidates: Sequence[Candidate], trial: _Trial) -> Candidate | None:
    """The one to take of those that are right; None where there is none."""
    if len(candidates) == 1:
        return trial.first(candidates)
    times = {each: time for each in trial.right(candidates) if (time := trial.verdicts[each.name].milliseconds) is not None}
    plain, quantised = (_quickest({each: time for each, time in times.items() if each.int8 == int8}) for int8 in (False, True))
    if plain is None or quantised is None:
        return plain or quantised
    return quantised if WORTH * times[quantised] <= times[plain] else plain


def _quickest(times: Mapping[Candidate, float]) -> Candidate | None:
    best: Candidate | None = None
    for each, time in times.items():
        if best is None or time < GAIN * times[best]:
            best = each
    return best


@dataclass
class _Trial:
    """What is found out about candidates. opened: engines whose answers are right. failed: why others could not be opened. busy: whether
    other processes kept this one waiting while it was timed.
    """

    bundle: Bundle
    threads: int | None
    verdicts: dict[str, Verdict]
    opened: dict[str, Any] = field(default_factory=dict)
    failed: dict[str, FhrtError] = field(default_factory=dict)
    busy: bool = False

    def look(self, candidates: Sequence[Candidate]) -> None:
        """Open them and compare their answers, as far as `BUDGET` allows; those that are known to be wrong are passed over."""
        start, plain = _Clock(), False
        for each in candidates:
            known = self.verdicts.get(each.name)
            if known is not None and known.wrong:
                continue
            if plain and start.since > BUDGET:
                self.verdicts.setdefault(each.name, Verdict(version=each.version))
                continue
            try:
                engine = each.make()
            except FhrtError as error:
                if self.opened:  # one that is preferred works: that this one does not, need not be said at each start
                    self.verdicts.setdefault(each.name, Verdict(version=each.version))
                else:
                    self.failed[each.name] = error
                continue
            if known is None or known.figures is None:
                known = self._compare(each, engine)
            if known is not None:
                self.verdicts[each.name] = known
                if not known.wrong:
                    self.opened[each.name] = engine
                    plain = plain or not each.int8

    def _compare(self, candidate: Candidate, engine: Any) -> Verdict | None:
        """What the engine makes of the bundle's probe; None where it fails. Raises WeightsError for a probe that does not fit."""
        from fhrt.runtime.probe import compare, complaint  # imports the backends' common parts

        probe = self._probe
        try:
            figures = compare(probe, engine)
        except WeightsError as error:
            raise WeightsError(f"{self.bundle.folder}: {error}") from error
        except Exception as error:  # a backend's own
            self.failed[candidate.name] = BackendError(f"it fails: {(str(error) or type(error).__name__).splitlines()[0]}")
            return None
        return Verdict(version=candidate.version, figures=figures, wrong=complaint(figures, engine.precision, probe.int8))

    @cached_property
    def _probe(self) -> Probe:
        """The bundle's, or one that is made here."""
        from fhrt.runtime.probe import make_probe, read_probe, synthetic

        probe = read_probe(self.bundle)
        if probe is None:
            LOG.warning("%s has no %s; its backends are compared with ONNX Runtime this once", self.bundle.folder, PROBE)
            return make_probe(self.bundle, synthetic(self.bundle), self.threads)
        if probe.int8 is None and self.bundle.card.int8 is not None:
            return replace(probe, int8=make_probe(self.bundle, probe.given, self.threads).int8)
        return probe

    def time(self) -> None:
        """Milliseconds of a call, the least of several, into the verdicts of the engines that are open. They take turns."""
        given = self._timed_with()
        least: dict[str, float] = {}
        start = _Clock()
        for number in range(ROUNDS[1]):
            if number and start.since * (number + 1) / number > (BUDGET if number < ROUNDS[0] else TURNS):
                break
            for name, engine in self.opened.items():
                begin = perf_counter()
                engine.run(given)
                took = 1000 * (perf_counter() - begin)
                least[name] = min(took, least.get(name, took))
        self.busy = start.busy
        for name, took in least.items():
            self.verdicts[name] = self.verdicts[name].model_copy(update={"milliseconds": round(took, 3)})

    def _timed_with(self) -> NDArray[Any]:
        """A face [1, 3, h, w], or a frame of `FRAME`."""
        from fhrt.runtime.probe import synthetic

        given = synthetic(self.bundle)
        if given.ndim == 4:
            return given[:1].astype(np.float32) / 127.5 - 1
        height, width = FRAME
        return np.ascontiguousarray(np.tile(given, (-(-height // given.shape[0]), -(-width // given.shape[1]), 1))[:height, :width])

    def right(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those whose answers are right, and that could be opened or were not tried."""
        return [
            each for each in candidates if each.name not in self.failed and each.name in self.verdicts and self.verdicts[each.name].right
        ]

    def first(self, candidates: Sequence[Candidate]) -> Candidate | None:
        return next(iter(self.right(candidates)), None)

    def reasons(self, candidates: Sequence[Candidate]) -> list[str]:
        """Why those that are wrong or could not be opened are not taken."""
        found = []
        for each in candidates:
            if each.name in self.failed:
                found.append(f"{each.name}: {self.failed[each.name]}")
            elif each.name in self.verdicts and self.verdicts[each.name].wrong:
                found.append(f"{each.name}: its answer is too far from fp32's ({self.verdicts[each.name].wrong})")
        return found


class _Clock:
    """Since it was made."""

    def __init__(self) -> None:
        self._start, self._process = perf_counter(), process_time()

    @property
    def since(self) -> float:
        """Seconds, or where others keep the machine busy those that this process was given: that is no reason to measure less."""
        return min(perf_counter() - self._start, process_time() - self._process)

    @property
    def busy(self) -> bool:
        return process_time() - self._process < BUSY * (perf_counter() - self._start)
