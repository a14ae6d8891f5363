"""Many cameras through one stream: how old frames are when they come out, and what is spent beside decoding, detecting and the network."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
import psutil
from numpy.typing import NDArray

from fhrt.faces.detect import Detection
from fhrt.hallucinator import Hallucinator
from fhrt.runtime import Output
from fhrt.video import Reader, State

sys.path.append(str(Path(__file__).parent.parent / "tests" / "video"))
from clips import write_video
from servers import GstServer

SIZE, FPS = (640, 480), 25
FRAMES = 100  # of the film that each camera shows, again and again
WARMUP = 5.0  # seconds, after the last camera went live
GROUPS = {"fhrt-run": "decode", "fhrt-watch": "watch", "fhrt-detect": "detect", "fhrt-worker": "worker", "fhrt-network": "network"}

Row = dict[str, Any]


class StubEngine:
    """A network that takes `seconds` for any batch, on a processor that is not ours."""

    backend, precision = "stub", "none"

    def __init__(self, card: Any, seconds: float) -> None:
        self.card, self._seconds = card, seconds
        self._sr = np.zeros((32, 3, *card.output_size), np.float32)

    def run(self, lr: NDArray[np.float32]) -> Output:
        time.sleep(self._seconds)
        return Output(self._sr[: len(lr)])


class StubDetector:
    """Finds `count` faces in a row in any frame, in `seconds`."""

    def __init__(self, count: int, seconds: float) -> None:
        self._seconds = seconds
        self._found = [
            Detection((x, y, x + 24, y + 30), 0.9) for x, y in ((40.0 + 60 * (n % 9), 60.0 + 60 * (n // 9)) for n in range(count))
        ]

    def detect(self, frame_bgr: NDArray[np.uint8]) -> list[Detection]:
        time.sleep(self._seconds)
        return self._found


def cameras(
    hallucinator: Hallucinator, counts: Sequence[int], seconds: float, *, server: bool, detect_every: int, fuse: int
) -> Iterator[Row]:
    """A row per number of cameras, 640×480 at 25 fps: what came out, and at which age; seconds per stage; cores per kind of thread, and
    of those that track, crop, fuse and steady the CPU time per frame.

    server: GStreamer's RTSP server shows them, else they are files played at their own speed.
    """
    with TemporaryDirectory() as folder:
        film = write_video(
            Path(folder, "film.units" if server else "film.mp4"), FRAMES if server else _length(seconds), SIZE, FPS, draw=_pan
        )
        for count in counts:
            with _shown(film, count, server) as sources:
                yield _watch(hallucinator, sources, seconds, server, {"detect_every": detect_every, "fuse": fuse})


def has_server() -> bool:
    """Whether GStreamer's RTSP server is installed."""
    try:
        with GstServer({}):
            return True
    except (OSError, ValueError):  # no Python of the system's, or no answer from it
        return False


def overhead(hallucinator: Hallucinator, clip: Path, *, detect_every: int, fuse: int, runs: int) -> Row:
    """CPU seconds of a film under ``all``: decoding to BGR, detecting and the network by themselves, and what a stream spends beside.

    In the stream the detector's answers are played back: what its threads take differs from run to run by more than all the rest.
    share: what is left, as a part of the three; medians over the runs. real_time: the film under ``latest``, at its own speed, for which
    nothing is played back.
    """
    detector, engine, options = hallucinator.detector, hallucinator.engine, {"detect_every": detect_every, "fuse": fuse}
    with Reader(clip) as reader:
        images = [frame.image for frame in reader if frame.number % detect_every == 0]
    rounds: list[Row] = []
    for _ in range(runs + 1):
        lap = _laps()
        found = [detector.detect(image) for image in images]
        detect = lap()
        with Reader(clip) as reader:  # keeps no picture: fresh memory would cost more than some of what is measured
            frames = sum(1 for frame in reader if frame.image.size)
        decode = lap()
        batches: list[NDArray[np.float32]] = []
        hallucinator.detector, hallucinator.engine = _PlayedBack(found), _Recorded(engine, batches)
        results = sum(1 for _ in hallucinator.stream(clip, policy="all", **options))
        stream = lap()
        hallucinator.detector, hallucinator.engine = detector, engine
        for batch in batches:
            engine.run(batch)
        network = lap()
        left = stream - decode - network
        row = {"frames": frames, "results": results, "faces": sum(map(len, batches)), "decode": decode, "detect": detect}
        rounds.append(row | {"network": network, "left": left, "share": left / (decode + detect + network)})
    del rounds[0]  # in which libraries and memory warm up
    medians = {name: float(np.median([one[name] for one in rounds])) for name in rounds[0]}
    return {"clip": clip.name, **medians, "real_time": _real_time(hallucinator, clip, options)}


def _laps() -> Callable[[], float]:
    """CPU seconds of the whole process since the last call."""
    before = time.process_time()

    def lap() -> float:
        nonlocal before
        now = time.process_time()
        took, before = now - before, now
        return took

    return lap


def _real_time(hallucinator: Hallucinator, clip: Path, options: dict[str, int]) -> Row:
    start = time.monotonic()
    with hallucinator.stream(clip, policy="latest", **options) as stream:
        ages = [result.latency or 0.0 for result in stream]
        camera = stream.cameras()[0]
    return {"wall": time.monotonic() - start, "results": len(ages), "drops": camera.drops, "age_ms": _percentiles(ages)}


class _PlayedBack:
    """A detector whose answers are known."""

    def __init__(self, found: list[list[Detection]]) -> None:
        self._found = iter(found)

    def detect(self, frame_bgr: NDArray[np.uint8]) -> list[Detection]:
        return next(self._found)


class _Recorded:
    """An engine that keeps the batches that it was given."""

    def __init__(self, engine: Any, batches: list[NDArray[np.float32]]) -> None:
        self.card, self._engine, self._batches = engine.card, engine, batches

    def run(self, lr: NDArray[np.float32]) -> Output:
        self._batches.append(lr)
        output: Output = self._engine.run(lr)
        return output


def _watch(hallucinator: Hallucinator, sources: list[str], seconds: float, server: bool, options: dict[str, int]) -> Row:
    ages: defaultdict[str, list[float]] = defaultdict(list)
    faces = 0
    process = psutil.Process()
    with hallucinator.stream(sources, policy="latest", **options) as stream:
        began: float | None = None
        deadline = time.monotonic() + 60
        spent: Counter[str] = Counter()
        drops: Counter[str] = Counter()
        ended = stop = 0.0
        for result in stream:
            now = time.monotonic()
            if began is None:
                if now > deadline or all(camera.state is State.LIVE for camera in stream.cameras()):
                    began, stop = now + WARMUP, now + WARMUP + seconds
            elif now >= began:
                if not ages:
                    spent, drops = _cpu(process), _drops(stream)
                if now >= stop:
                    ended = now
                    break
                ages[result.source].append(result.latency or 0.0)
                faces += len(result.faces)
        assert began is not None, "no result came"
        used = _cpu(process)
        used.subtract(spent)
        dropped = _drops(stream)
        dropped.subtract(drops)
        snapshots = stream.cameras()
        batches, batched = stream.batches
    took = ended - began if ended else seconds
    stages = {name for camera in snapshots for name in camera.stages}
    return {
        "cameras": len(sources),
        "from": "RTSP" if server else "files",
        "fps_least": min(len(ages[source.name]) for source in snapshots) / took,
        "fps_mean": sum(map(len, ages.values())) / len(sources) / took,
        "faces_per_second": faces / took,
        "faces_per_batch": batched / max(batches, 1),
        "age_ms": _percentiles([age for one in ages.values() for age in one]),
        "stages_p99_ms": {
            stage: 1000 * max(camera.stages[stage].p99 for camera in snapshots if stage in camera.stages) for stage in sorted(stages)
        },
        "drops": {cause: count for cause, count in dropped.items() if count},
        "cores": {group: ticks / took for group, ticks in sorted(used.items())},
        "worker_ms_per_frame": 1000 * used["worker"] / sum(map(len, ages.values())),
        "memory_mib": process.memory_info().rss / 2**20,
    }


def _drops(stream: Any) -> Counter[str]:
    return sum((Counter(camera.drops) for camera in stream.cameras()), Counter())


def _cpu(process: psutil.Process) -> Counter[str]:
    """CPU seconds so far per kind of thread; libraries: those that Python did not start."""
    names = {thread.native_id: thread.name for thread in threading.enumerate()}
    spent: Counter[str] = Counter()
    for thread in process.threads():
        name = names.get(thread.id, "libraries")
        group = next((group for prefix, group in GROUPS.items() if name.startswith(prefix)), "consumer" if name == "MainThread" else name)
        spent[group] += thread.user_time + thread.system_time
    return spent


def _percentiles(seconds: Sequence[float]) -> dict[str, float]:
    p50, p95, p99 = (1000 * np.percentile(seconds, (50, 95, 99))).tolist()
    return {"p50": p50, "p95": p95, "p99": p99, "max": 1000 * max(seconds)}


def _length(seconds: float) -> int:
    return int((seconds + 4 * WARMUP) * FPS)


def _pan(number: int, width: int, height: int) -> NDArray[np.uint8]:
    """A photograph that moves: what a decoder, and a tracker, gets from a camera."""
    with resources.as_file(resources.files("fhrt") / "assets" / "crowd.png") as path:
        photograph = cv2.imread(str(path))
    photograph = cv2.resize(photograph, None, fx=1.1 * width / photograph.shape[1], fy=1.1 * height / photograph.shape[0])
    x = round((photograph.shape[1] - width) * (0.5 + 0.5 * np.sin(2 * np.pi * number / FRAMES)))
    y = round((photograph.shape[0] - height) / 2)
    return np.ascontiguousarray(photograph[y : y + height, x : x + width], np.uint8)


@contextmanager
def _shown(film: Path, count: int, server: bool) -> Iterator[list[str]]:
    if server:
        with GstServer({f"camera{number}": film for number in range(count)}, FPS) as gst:
            yield [gst.address(f"camera{number}") for number in range(count)]
    else:
        yield [str(film)] * count
