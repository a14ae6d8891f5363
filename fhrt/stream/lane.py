"""One source's way from frames to results: detect now and then, track, crop, fuse, put together what the network made, and steady it."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from time import perf_counter

import numpy as np

from fhrt.faces.align import compose, lr_transform
from fhrt.faces.detect import Detection, Detector
from fhrt.faces.fuse import Fused, Fusion, crop_quality
from fhrt.faces.inputs import swap_channels
from fhrt.faces.steady import Steadying
from fhrt.faces.track import Track, Tracker
from fhrt.hallucinator import Hallucinator, as_pictures, crop_faces, make_faces
from fhrt.results import Face, Result
from fhrt.stream.batcher import Batcher, Job
from fhrt.stream.outlet import Finished, Outlet
from fhrt.video import Frame, Reader
from fhrt.video.policy import AHEAD

DEPTH = 2  # frames of a source between tracker and result: one in the network, one that is ready for it
REPLAYED = 8  # frames kept while the detector looks at an older one; when there are more, every second goes
WITH_FACES = ("track", "crop", "batch", "model", "assemble")  # stages that are recorded of a frame with faces


@dataclass
class Look:
    """A frame that the detector looks at, the tracker as it was before it, and the frames that came since. done: called when it has."""

    frame: Frame
    tracker: Tracker
    done: Callable[[], None] = lambda: None
    since: list[Frame] = field(default_factory=list)
    detections: list[Detection] | None = None
    """None until it has looked."""
    took: float = 0.0

    def keep(self, frame: Frame) -> None:
        self.since.append(frame)
        if len(self.since) > REPLAYED:
            del self.since[::2]

    def replay(self) -> Tracker:
        """The tracker as it would be now, had the detector been quick."""
        self.tracker.update(self.frame.time, self.detections, self.frame.image)
        for frame in self.since:
            self.tracker.update(frame.time, None, frame.image)
        return self.tracker


class Looker:
    """The detector, in a thread of its own, for one frame after the other. A source has one that waits at most, so none is passed over.

    failed: called with what the detector raised; the looker has ended then.
    """

    def __init__(self, detector: Detector, failed: Callable[[Exception], None]) -> None:
        self._detector, self._failed = detector, failed
        self._looks: queue.SimpleQueue[Look | None] = queue.SimpleQueue()
        self._closed = threading.Event()
        self.thread = threading.Thread(target=self._work, name="fhrt-detect", daemon=True)

    def close(self) -> None:
        """Ends it after the frame that it looks at."""
        self._closed.set()
        self._looks.put(None)

    def submit(self, look: Look) -> None:
        self._looks.put(look)

    def _work(self) -> None:
        while (look := self._looks.get()) is not None and not self._closed.is_set():
            start = perf_counter()
            try:
                detections = self._detector.detect(look.frame.image)
            except Exception as error:
                self._failed(error)
                return
            look.took = perf_counter() - start
            look.detections = detections
            look.done()


@dataclass
class _Step:
    """A frame between its tracks and its result. seconds: per stage."""

    frame: Frame
    tracks: list[Track]
    skipped: int
    track_ids: list[int]
    seconds: dict[str, float]
    started: float
    job: Job | None = None
    fused: Fused | None = None
    qualities: list[float] = field(default_factory=list)

    @property
    def done(self) -> bool:
        return self.job is None or self.job.output is not None


class Lane:
    """What one source needs: its tracks, the crops they leave behind, and its frames on their way, in order.

    Under ``all`` a frame waits for the detector, so that the same video gives the same results. Under the other policies none does: what
    the detector says of a frame is played through the frames since, of which the tracker has followed the known faces meanwhile.

    `advance` is for one thread at a time, whichever it is; `ready` says whether it is worth calling. call: called with the lane when that
    may have changed.
    """

    def __init__(
        self,
        reader: Reader,
        hallucinator: Hallucinator,
        looker: Looker,
        batcher: Batcher,
        outlets: Sequence[Outlet],
        call: Callable[[Lane], None],
        *,
        detect_every: int,
        fuse: int,
    ) -> None:
        self.reader = reader
        self.busy = False  # this, and the next, for `Turns`
        self.line: deque[Lane] | None = None
        self._hallucinator, self._looker, self._batcher = hallucinator, looker, batcher
        self._call = partial(call, self)
        self._closed = False
        self._detect_every = detect_every
        self._patient = reader.policy.name == "all"
        self._tracker, self._fusion, self._steadying = Tracker(), Fusion(fuse), Steadying(fuse)
        self._look: Look | None = None
        self._unlooked = detect_every  # frames since the last one that the detector got
        self._held: Frame | None = None  # under `all`, the one that the detector looks at
        self._steps: deque[_Step] = deque()
        self._queues = [outlet.queue(reader, self._call) for outlet in outlets]
        reader.watch(self._call)

    @property
    def finishing(self) -> bool:
        """Whether `advance` would hand out a result."""
        return bool(self._steps) and self._steps[0].done

    @property
    def ready(self) -> bool:
        """Whether there is something to do, if only to close it."""
        if self.finishing or self.ended:
            return not self._closed
        return self._looked if self._held is not None else self.reader.waiting > 0 and self._room

    @property
    def ended(self) -> bool:
        """Whether all is done and nothing will come."""
        return self.reader.ended and not self._steps and self._held is None

    def close(self) -> None:
        """After its end: those who use its results need not wait for more."""
        self._closed = True
        for queue_ in self._queues:
            queue_.close()

    def advance(self) -> None:
        """Hands out the results that are done, or else brings one frame into the network."""
        if self.finishing:
            while self.finishing:
                self._hand_out(self._steps.popleft())
        elif (held := self._held) is not None:
            if self._look is not None and self._looked:
                self._held = None
                self._follow(held, perf_counter() - self._look.took)
        elif self._room and (frame := self.reader.take(0)) is not None:
            self._admit(frame)

    @property
    def _looked(self) -> bool:
        return self._look is not None and self._look.detections is not None

    @property
    def _room(self) -> bool:
        if len(self._steps) >= DEPTH:
            return False
        return not self._patient or all(len(self._steps) + len(each) < AHEAD for each in self._queues)

    def _admit(self, frame: Frame) -> None:
        started = perf_counter()
        frame.image  # noqa: B018 - converted here, not where it would count as tracking
        self.reader.health.record("convert", perf_counter() - started)
        if not self._patient and self._look is not None and self._looked:
            look, self._look = self._look, None
            self.reader.health.record("detect", look.took)
            self._tracker = look.replay()
        self._unlooked += 1
        if self._look is None and self._unlooked >= self._detect_every:
            self._unlooked = 0
            self._look = Look(frame, self._tracker if self._patient else self._tracker.copy(), self._call)
            self._looker.submit(self._look)
            if self._patient:
                self._held = frame
                return
        self._follow(frame, started)

    def _follow(self, frame: Frame, started: float) -> None:
        """Tracks, crops and fuses the faces of a frame, and sends them into the network."""
        seconds = dict.fromkeys(("detect", "track", "crop", "batch", "model", "assemble"), 0.0)
        begun = perf_counter()
        detections = None
        if self._patient and self._look is not None:
            detections, seconds["detect"], self._look = self._look.detections, self._look.took, None
            self.reader.health.record("detect", seconds["detect"])
        found = self._tracker.update(frame.time, detections, frame.image)
        if self._look is not None and self._look.frame is not frame:
            self._look.keep(frame)
        tracks = [track for track in found if track.detection.width <= self._hallucinator.max_face]
        track_ids = self._tracker.track_ids
        self._fusion.keep(track_ids)
        tracked = perf_counter()
        step = _Step(frame, tracks, len(found) - len(tracks), track_ids, seconds, started)
        if tracks:
            self._crop(step)
        seconds |= {"track": tracked - begun, "crop": perf_counter() - tracked}
        if step.fused is not None:
            step.job = self._batcher.submit(frame.source, step.fused.lr, self._call)
        self._steps.append(step)

    def _crop(self, step: _Step) -> None:
        detections = [track.detection for track in step.tracks]
        batch, transforms = crop_faces(step.frame.image, detections, self._hallucinator.engine.card, "bgr", finer=2)
        qualities = crop_quality(batch, detections)
        step.qualities = qualities.tolist()
        step.fused = self._fusion.update([track.track_id for track in step.tracks], batch, transforms, qualities)

    def _hand_out(self, step: _Step) -> None:
        frame, color, begun = step.frame, self._hallucinator.color, perf_counter()
        faces: list[Face] = []
        self._steadying.keep(step.track_ids)
        if step.job is not None and step.job.output is not None and step.fused is not None:
            output, fused = step.job.output, step.fused
            to_lr = lr_transform(output.theta, fused.lr.shape[2:], output.sr.shape[2:])
            sr = self._steadying.update([track.track_id for track in step.tracks], output.sr, to_lr, fused.back)
            to_frame = compose(fused.transforms, to_lr).astype(np.float32)
            pictures = as_pictures(fused.lr, color), as_pictures(sr, color)
            coarser = (None if each is None else as_pictures(each, color) for each in (output.sr_2x, output.sr_4x))
            faces = make_faces([track.detection for track in step.tracks], *pictures, to_frame, output.heatmaps, *coarser)
            for face, track, quality in zip(faces, step.tracks, step.qualities, strict=True):
                face.track_id, face.quality = track.track_id, quality
            step.seconds |= {"batch": step.job.waited, "model": step.job.took}
        step.seconds["assemble"] = perf_counter() - begun
        self.reader.health.record_all({stage: step.seconds[stage] for stage in (WITH_FACES if faces else ("track",))})
        timings = {stage: 1000 * seconds for stage, seconds in (step.seconds | {"total": perf_counter() - step.started}).items()}
        picture = frame.image if color == "bgr" else swap_channels(frame.image)
        result = Result(picture, faces, timings, color, step.skipped, frame.source, frame.number, frame.time, step.track_ids)
        finished = Finished(result, frame.arrival, self.reader.health)
        for each in self._queues:
            each.put(finished)
