"""What `fhrt stream` does: a stream to its end, with its status on the screen, its metrics served, and its logs in order."""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.logging import RichHandler
from rich.markup import escape
from rich.table import Table

from fhrt.errors import BadInputError, FhrtError
from fhrt.stream.metrics import MetricsServer
from fhrt.stream.pipeline import Stream, camera_list
from fhrt.video import JsonFormatter, Percentiles, State, find_sources
from fhrt.video.cameras import read_cameras

if TYPE_CHECKING:
    from fhrt.stream.sinks import Sink

COLOURS = {State.LIVE: "green", State.CONNECTING: "yellow", State.ENDED: "dim"}


def follow(stream: Stream, say: Callable[[str], None], *, status: Console | None = None, metrics: str | None = None) -> None:
    """Runs a stream to its end, to Ctrl-C or until nobody reads standard output, and says what came of it in one line.

    status: where its table is shown meanwhile. metrics: see MetricsServer. Raises what iterating over the stream raises.
    """
    results = faces = 0
    start = time.monotonic()
    with ExitStack() as stack:
        if metrics is not None:
            server = stack.enter_context(MetricsServer(stream, metrics))
            say(f"metrics at http://{server.address}/metrics")
        if status is not None:
            stack.enter_context(Live(get_renderable=lambda: status_table(stream), console=status, refresh_per_second=1, transient=True))
        stack.enter_context(stream)
        try:
            for result in stream:
                results, faces = results + 1, faces + len(result.faces)
                if stream.useless:
                    break
        except KeyboardInterrupt:
            say("stopping")
    took = time.monotonic() - start
    dropped = sum(sum(camera.drops.values()) for camera in stream.cameras())
    line = f"{results} frames with {faces} faces in {took:.1f} s, {dropped} dropped"
    problems = [f"{sink.name}: {sink.problem}" for sink in stream.sinks() if sink.problem]
    say("; ".join([line, *problems]))


def open_sinks(outputs: Sequence[str], sources: str | list[str], paste: int | None) -> list[Sink]:
    """The sinks that a user named, for sources that are named as `Stream` takes them. Raises BadInputError."""
    if not outputs and paste is None:
        return []
    from fhrt.stream.sinks import check_outputs, open_sink, shows_pictures

    if paste is not None and not any(map(shows_pictures, outputs)):
        raise BadInputError("--paste is about the pictures of a video; name one with -o, .mp4 or .mkv, or an rtsp:// address")
    path = camera_list(sources)
    found = [camera.reader(name).source for name, camera in read_cameras(path).items()] if path else find_sources(sources)
    check_outputs(outputs, found)
    return [open_sink(text, paste=paste, sources=[source.name for source in found]) for text in outputs]


def status_table(stream: Stream) -> Table:
    """A row per camera, and one per sink."""
    table = Table("camera", "state", "fps", "age, ms: p50 (p99)", "detect", "track", "crop", "model", "reconnects", "dropped")
    for camera in stream.cameras():
        state = f"[{COLOURS.get(camera.state, 'red')}]{camera.state}[/]"
        if camera.reason:
            state += f" {escape(camera.reason)}"
        stages = (_milliseconds(camera.stages.get(stage)) for stage in ("age", "detect", "track", "crop", "model"))
        table.add_row(escape(camera.name), state, f"{camera.fps:.1f}", *stages, str(camera.reconnects), _counts(camera.drops))
    for sink in stream.sinks():
        state = f"[red]{escape(sink.problem)}[/]" if sink.problem else f"{sink.results} written, {_milliseconds(sink.writing)} ms each"
        drops: dict[str, int] = {}
        for (_, cause), count in sink.drops.items():
            drops[cause] = drops.get(cause, 0) + count
        table.add_row(f"→ {escape(sink.name)}", state, "", _milliseconds(sink.age), "", "", "", "", "", _counts(drops))
    if stream.problem:
        table.caption = f"[red]{escape(stream.problem)}[/]"
    return table


@contextmanager
def logging_to(err: Console, *, as_json: bool) -> Iterator[Callable[[str], None]]:
    """fhrt's log lines on stderr: warnings in plain words; or as_json everything from info on, each line of stderr a JSON object.

    Yields what puts a line of one's own among them: outputs may have standard output for themselves. As JSON, errors are logged here, and
    end the program with code 2.
    """
    logger = logging.getLogger("fhrt")
    before, propagated = logger.level, logger.propagate
    with ExitStack() as stack:
        handler: logging.Handler
        if as_json:
            handler = logging.StreamHandler(stack.enter_context(_stderr_as_log()))
            handler.setFormatter(JsonFormatter())
            logging.captureWarnings(True)
            stack.callback(logging.captureWarnings, False)
            logging.getLogger().addHandler(handler)  # of other libraries
            stack.callback(logging.getLogger().removeHandler, handler)
        else:
            handler = RichHandler(logging.WARNING, console=err, show_path=False)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO if as_json else logging.WARNING)
        logger.propagate = False
        try:
            yield logger.info if as_json else partial(err.print, highlight=False, markup=False, soft_wrap=True)
        except Exception as error:
            if not as_json or isinstance(error, BrokenPipeError):
                raise
            expected = isinstance(error, (FhrtError, OSError))
            logger.error("%s", error, exc_info=None if expected else error)
            raise SystemExit(2 if expected else 1) from error
        finally:
            logger.removeHandler(handler)
            logger.setLevel(before)
            logger.propagate = propagated


@contextmanager
def _stderr_as_log() -> Iterator[TextIO]:
    """Whatever is written to standard error, by C++ too, is a warning of the logger ``stderr`` meanwhile. Yields the real one."""
    try:
        number = sys.stderr.fileno()
    except (AttributeError, OSError, ValueError):  # a program's own, which only Python writes to
        yield sys.stderr
        return
    sys.stderr.flush()
    real = os.dup(number)
    end, begin = os.pipe()
    os.dup2(begin, number)
    os.close(begin)

    def read() -> None:
        with open(end, encoding="utf-8", errors="backslashreplace") as lines:
            for line in lines:
                if line.strip():
                    logger.warning("%s", line.rstrip())

    logger = logging.getLogger("stderr")
    logger.propagate = False
    thread = threading.Thread(target=read, name="fhrt-stderr", daemon=True)
    with open(real, "w", encoding="utf-8", errors="backslashreplace") as stderr:
        handler = logging.StreamHandler(stderr)
        handler.setFormatter(JsonFormatter())
        logger.addHandler(handler)
        thread.start()
        try:
            yield stderr
        finally:
            sys.stderr.flush()
            os.dup2(real, number)
            thread.join(1)  # it does not end where another program has inherited standard error
            logger.removeHandler(handler)


def _milliseconds(took: Percentiles | None) -> str:
    return f"{1000 * took.p50:.1f} ({1000 * took.p99:.0f})" if took is not None and took.samples else "–"


def _counts(drops: dict[str, int]) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in sorted(drops.items())) or "0"
