"""Counters, percentiles, Prometheus' format, logs, and what nobody may see."""

import json
import logging
import re
import threading
import time

import pytest

from fhrt.video import Health, JsonFormatter, State, prometheus, redact
from fhrt.video.health import SAMPLES, Window


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("cannot open 'rtsp://admin:hunter2@10.0.0.1:554/a' today", "cannot open 'rtsp://admin:***@10.0.0.1:554/a' today"),
        ("rtsp://admin:p@ss:w@rd@host/a", "rtsp://admin:***@host/a"),
        ("http://h/v?user=me&password=hunter2&x=1", "http://h/v?user=me&password=***&x=1"),
        ("rtsp://h/user=admin_password=tlJwpbo6", "rtsp://h/user=admin_password=***"),
        ("https://h/a.m3u8?Token=abc&api_key=def#x", "https://h/a.m3u8?Token=***&api_key=***"),
        ("rtsp://a:b@h1/ and rtsp://c:d@h2/", "rtsp://a:***@h1/ and rtsp://c:***@h2/"),
        ("rtsp://host:554/stream keeps=this monkey=banana", "rtsp://host:554/stream keeps=this monkey=banana"),
    ],
)
def test_redact(text: str, seen: str) -> None:
    assert redact(text) == seen


def test_json_logs_are_one_redacted_object_a_line() -> None:
    try:
        raise OSError("rtsp://u:hunter2@h/ went away\nreally")
    except OSError as error:
        record = logging.LogRecord(
            "fhrt.video", logging.WARNING, "", 0, "%s", ("rtsp://u:hunter2@h/",), (OSError, error, error.__traceback__)
        )
    record.camera = "rtsp://u:hunter2@h/"
    line = JsonFormatter().format(record)
    assert "hunter2" not in line and "\n" not in line
    entry = json.loads(line)
    assert (entry["level"], entry["camera"], entry["message"]) == ("warning", "rtsp://u:***@h/", "rtsp://u:***@h/")
    assert "went away" in entry["traceback"]


def test_a_state_has_a_time_and_a_redacted_reason(caplog: pytest.LogCaptureFixture) -> None:
    health = Health("door")
    first = health.snapshot().since
    time.sleep(0.01)
    health.change(State.OFFLINE, "rtsp://u:hunter2@h/\nrefused")
    lost = health.snapshot()
    assert (lost.state, lost.reason) == (State.OFFLINE, "rtsp://u:***@h/ refused") and lost.since > first
    health.change(State.OFFLINE, "once more")
    assert health.snapshot().since == lost.since and health.snapshot().reason == "once more"
    health.change(State.STALLED, only_from=State.LIVE)
    assert health.state is State.OFFLINE
    health.change(State.ENDED)
    health.change(State.LIVE)
    assert health.state is State.ENDED
    assert [record.message for record in caplog.records] == ["door is offline: rtsp://u:***@h/ refused"]


def test_percentiles_over_a_window_that_does_not_grow() -> None:
    health = Health("door")
    for value in range(1, 101):
        health.record("decode", value / 1000)
    took = health.snapshot().stages["decode"]
    assert (took.p50, took.p95, took.p99, took.samples) == pytest.approx((0.0505, 0.09505, 0.09901, 100))
    window = Window()
    for value in range(3 * SAMPLES):
        window.add(float(value), float(value))
    assert len(window.since(0.0)) == SAMPLES and window.since(0.0).min() == 2 * SAMPLES
    assert sorted(window.since(3 * SAMPLES - 2)) == [3 * SAMPLES - 2, 3 * SAMPLES - 1]


def test_counting_from_many_threads_loses_nothing() -> None:
    health = Health("door")

    def work() -> None:
        for _ in range(500):
            health.drop("late")
            health.frame(time.monotonic())
            health.record("age", 0.01)
            health.snapshot()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = health.snapshot()
    assert (seen.drops, seen.frames, seen.stages["age"].samples) == ({"late": 2000}, 2000, 2000)


def test_prometheus_text() -> None:
    health = Health('door "north"\\\n1')
    health.frame(time.monotonic())
    health.drop("late")
    health.record("decode", 0.004)
    text = prometheus([health.snapshot(), Health("hall").snapshot()])
    sample = re.compile(r'fhrt_camera_\w+\{(\w+="(?:[^"\\\n]|\\["\\n])*",?)+\} [-+.\de]+')
    lines = text.removesuffix("\n").split("\n")
    assert all(sample.fullmatch(line) for line in lines if not line.startswith("# "))
    assert r'fhrt_camera_drops_total{camera="door \"north\"\\\n1",cause="late"} 1' in lines
    assert 'fhrt_camera_state{camera="hall",state="connecting"} 1' in lines
    assert 'fhrt_camera_stage_seconds{camera="door \\"north\\"\\\\\\n1",stage="decode",quantile="0.99"} 0.004' in lines
    names = [line.split()[2] for line in lines if line.startswith("# TYPE")]
    assert len(names) == len(set(names)) == 9


def test_stages_are_recorded_together() -> None:
    health = Health("door")
    health.record_all({"track": 0.001, "crop": 0.002})
    health.record("crop", 0.004)
    stages = health.snapshot().stages
    assert {name: (took.p50, took.samples) for name, took in stages.items()} == {"track": (0.001, 1), "crop": (pytest.approx(0.003), 2)}
