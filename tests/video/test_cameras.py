"""The YAML of cameras: what it may say, and how it is kept up with."""

import os
import time
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pytest
from servers import raw_server, wait_for

from fhrt.errors import BadInputError
from fhrt.video import Cameras, State


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhrt.video.cameras.POLL", 0.03)
    monkeypatch.setattr("fhrt.video.reader.STOP", 0.2)  # the cameras here hang


def rewrite(path: Path, text: str) -> None:
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)


def test_short_and_long_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOOR_PASSWORD", "hunter2")
    path = tmp_path / "cameras.yaml"
    path.write_text(
        "cameras:\n  hall: rtsp://10.0.0.1/a\n  desk: 0\n"
        "  door: {source: 'rtsp://u:${DOOR_PASSWORD}@10.0.0.2/a', policy: budget=0.5, transport: udp, timeout: 2}\n"
    )
    readers = Cameras(path).readers
    assert list(readers) == ["hall", "desk", "door"]
    door = readers["door"]
    assert (door.source.address, door.source.transport) == ("rtsp://u:hunter2@10.0.0.2/a", "udp")
    assert (door.policy.name, door.policy.budget) == ("budget", 0.5)
    assert "hunter2" not in repr(readers["door"].source)


@pytest.mark.parametrize("value", ["plain", "p@ss", "a/b", "a#b", "12#4", "50%off", "a b", "a:b", "x?y", "it's", "a&b=c", "ü[é]"])
def test_a_variable_is_a_password_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv("DOOR", value)
    monkeypatch.setenv("LOGIN", f"viewer:{value}")
    path = tmp_path / "cameras.yaml"
    for source in ("rtsp://viewer:${DOOR}@10.0.0.2:1/a", "rtsp://${LOGIN}@10.0.0.2:1/a", "http://10.0.0.2:1/a?user=b&password=${DOOR}&x=1"):
        path.write_text(f"cameras:\n  door: {source}\n")
        parts = urlsplit(Cameras(path).readers["door"].source.address)
        assert (parts.hostname, parts.port, parts.path) == ("10.0.0.2", 1, "/a")
        if parts.username:
            assert (parts.username, unquote(parts.password or "")) == ("viewer", value)
        else:
            assert parse_qsl(parts.query) == [("user", "b"), ("password", value), ("x", "1")]


def test_a_variable_may_be_an_address_or_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOST", "10.0.0.2:8554")
    monkeypatch.setenv("DOOR", "rtsp://u:p%23@10.0.0.2/a?x=1")
    path = tmp_path / "cameras.yaml"
    path.write_text("cameras:\n  hall: rtsp://u:p@${HOST}/a\n  door: ${DOOR}\n")
    addresses = [reader.source.address for reader in Cameras(path).readers.values()]
    assert addresses == ["rtsp://u:p@10.0.0.2:8554/a", "rtsp://u:p%23@10.0.0.2/a?x=1"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "cameras.yaml: the file"),
        ("cameras: [1, 2]", "cameras: "),
        ("cameras: {a: 'rtsp://u:hunter2@/x'}", "names no host"),
        ("cameras: {a: {source: 'rtsp://h/', polcy: all}}", r"cameras\.a\.polcy"),
        ("cameras: {a: {source: 'rtsp://u:hunter2@h/', policy: newest}}", r"cameras\.a\.policy: policy must be latest"),
        ("cameras: {a: {source: 'rtsp://h/', timeout: -1}}", r"cameras\.a\.timeout"),
        ("cameras: {a: 'rtsp://u:${NOT_SET_ANYWHERE}@h/'}", "NOT_SET_ANYWHERE"),
        ("cameras:\n  a: rtsp://h/1\n  a: rtsp://h/2\n", "a is there twice, again in line 3"),
        ("cameras:\n  a: 'rtsp://u:hunter2@h/\n", "is not a list of cameras: .* line"),
        ("cameras: \x00", "is not a list of cameras"),
        ("cameras: {a: 2024-13-01}", "is not a list of cameras"),
        ("[" * 10000, "is not a list of cameras"),
    ],
)
def test_a_damaged_file_is_named_with_its_place_and_without_passwords(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "cameras.yaml"
    path.write_text(text)
    with pytest.raises(BadInputError, match=said) as caught:
        Cameras(path)
    assert "hunter2" not in str(caught.value) and "\n" not in str(caught.value)
    with pytest.raises(BadInputError, match="No such file"):
        Cameras(tmp_path / "none.yaml")


def test_cameras_come_go_and_change_while_the_rest_goes_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "cameras.yaml"
    with raw_server(answer=False) as silent:
        entry = f"rtsp://u:hunter2@127.0.0.1:{silent}"
        path.write_text(f"cameras: {{a: '{entry}/a', b: '{entry}/b', c: '{entry}/c'}}")
        with Cameras(path) as cameras:
            first = cameras.readers
            rewrite(path, f"cameras: {{a: '{entry}/a', b: '{entry}/other', d: '{entry}/d'}}")
            wait_for(lambda: list(cameras.readers) == ["a", "b", "d"], 5)
            second = cameras.readers
            assert second["a"] is first["a"] and second["b"] is not first["b"]
            assert first["a"].health.state is State.CONNECTING
            wait_for(lambda: {first[name].health.state for name in "bc"} == {State.ENDED}, 5)

            rewrite(path, "cameras: {a: nonsense.mp4}")
            wait_for(lambda: "nonsense.mp4 does not exist" in cameras.problem, 5)
            assert cameras.readers == second and second["b"].health.state is State.CONNECTING
            path.unlink()
            wait_for(lambda: "No such file" in cameras.problem, 5)
            assert cameras.readers == second

            rewrite(path, f"cameras: {{a: '{entry}/a'}}")
            wait_for(lambda: list(cameras.readers) == ["a"], 5)
            assert cameras.problem == "" and cameras.readers["a"] is first["a"]
    assert "the cameras stay as they are" in caplog.text and "hunter2" not in caplog.text
    assert first["a"].health.state is State.ENDED


def test_a_file_that_is_still_being_written_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("fhrt.video.cameras.POLL", 0.4)
    path = tmp_path / "cameras.yaml"
    whole = "cameras:\n  a: rtsp://127.0.0.1:9/a\n  b: rtsp://127.0.0.1:9/b\n"
    path.write_text(whole)
    with Cameras(path) as cameras:
        first = cameras.readers
        for end in range(12, len(whole), 3):  # each half is a YAML of its own, and some are valid
            path.write_text(whole[:end])
            time.sleep(0.05)
        path.write_text(whole)
        wait_for(lambda: cameras._version == cameras._look(), 5)
        assert cameras.readers == first and cameras.problem == ""
    assert "stay as they are" not in caplog.text
