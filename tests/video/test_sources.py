"""What a user may name, and what is said about the rest."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from fhrt.errors import BadInputError
from fhrt.stream.sinks import open_sink
from fhrt.video import find_sources
from fhrt.video.push import check_address
from fhrt.video.sources import find_pictures


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for name in ("10.png", "2.png", "1.JPG"):
        cv2.imwrite(str(tmp_path / name), np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "notes.txt").write_text("no picture")
    return tmp_path


def test_addresses_lose_their_password() -> None:
    (one,) = find_sources("rtsp://admin:p%40ss@10.0.0.7:554/stream?token=abc&channel=1")
    assert (one.kind, one.live, one.name) == ("rtsp", True, "rtsp://10.0.0.7:554/stream?token=***&channel=1")
    assert "p%40ss" in one.address
    assert "p%40ss" not in repr(one) and "abc" not in repr(one)
    assert find_sources("https://[::1]:8080/live.m3u8")[0].name == "https://[::1]:8080/live.m3u8"


@pytest.mark.parametrize(
    "login",
    # What comes before a # ? or / would be the host, if it were a user and a port; a quote or blank would end what is redacted.
    [
        *(f"admin:2580{mark}secret" for mark in "#?/ \n'\"["),
        "admin:secret#1",
        "admin:a@2580/secret",
        "ad/min:secret",
        "12#secret",
        "a:b@c:1?secret",
    ],
)
@pytest.mark.parametrize("take", [find_sources, check_address], ids=["read", "push"])
def test_a_password_that_ends_the_host_is_refused_and_not_shown(take: Callable[[str], object], login: str) -> None:
    with pytest.raises(BadInputError, match=r"# .*%23") as caught:
        take(f"rtsp://{login}@10.0.0.7:554/stream")
    said = str(caught.value)
    assert "2580" not in said and "secret" not in said and "\n" not in said


@pytest.mark.parametrize("address", ["rtsp:/admin:2580#@10.0.0.7/s", "rtsp//admin:2580@10.0.0.7/s", "admin:25:80@10.0.0.7/s"])
@pytest.mark.parametrize(
    "take", [find_sources, check_address, open_sink, lambda named: find_pictures([Path(named)])], ids=["read", "push", "write", "pictures"]
)
def test_an_address_with_a_slip_shows_no_password(take: Callable[[str], object], address: str) -> None:
    with pytest.raises(BadInputError) as caught:
        take(address)
    assert "25" not in str(caught.value) and "@10.0.0.7/s" in str(caught.value)


def test_the_address_of_a_camera_shows_no_password_where_a_picture_is_asked_for() -> None:
    with pytest.raises(BadInputError, match=r"@10\.0\.0\.7/s does not exist") as caught:
        find_pictures([Path("rtsp://admin:2580@10.0.0.7/s")])
    assert "2580" not in str(caught.value)


def test_an_at_sign_that_ends_no_login_is_taken() -> None:
    for address in ("rtsp://admin:a@b@10.0.0.7/s", "http://example.org/@user/clip.mp4", "rtsp://u:p%23@h/s?mail=a%40b"):
        assert find_sources(address)[0].address == address


def test_pictures_of_a_folder_or_glob_are_one_source_in_natural_order(pictures: Path) -> None:
    (one,) = find_sources(pictures)
    assert (one.kind, one.live) == ("pictures", False)
    assert [path.name for path in one.pictures] == ["1.JPG", "2.png", "10.png"]
    assert [path.name for path in find_sources(f"{pictures}/*.png")[0].pictures] == ["2.png", "10.png"]
    assert [path.name for path in find_sources(str(pictures / "2.png"))[0].pictures] == ["2.png"]


def test_each_video_is_a_source_with_a_name_of_its_own(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mkv", "c.dat"):
        (tmp_path / name).write_bytes(b"x")
    assert [Path(one.address).name for one in find_sources(tmp_path)] == ["a.mp4", "b.mkv"]
    twice = find_sources([tmp_path / "c.dat", str(tmp_path / "c.dat")])
    assert [one.name for one in twice] == [str(tmp_path / "c.dat"), f"{tmp_path / 'c.dat'} (2)"]


@pytest.mark.skipif("sys.platform != 'linux'", reason="webcams are read on Linux only")
def test_webcams() -> None:
    assert [one.address for one in find_sources([0, "2", "/dev/video1"])] == ["/dev/video0", "/dev/video2", "/dev/video1"]


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("rtsp:///stream", "names no host"),
        ("rtsp://user:secret@/stream", "names no host"),
        ("rtsp://user:sec/ret@host/stream", "%2F"),
        ("rtsp://user:secret", "no address"),
        ("rtsp://user:secret@host:99999/", "no address"),
        ("ftp://user:secret@host/clip.mp4", "known are rtsp"),
        ("no/such/file.mp4", "does not exist"),
        ("", "empty"),
        ([], "no source"),
    ],
)
def test_what_is_refused(named: str, said: str) -> None:
    with pytest.raises(BadInputError, match=said) as caught:
        find_sources(named)
    assert "secret" not in str(caught.value) and "ret@" not in str(caught.value)
    assert caught.value.__cause__ is None  # urllib's own text quotes the password


def test_a_folder_without_anything_to_read(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="holds no pictures"):
        find_sources(tmp_path)


def test_pictures_of_folders_are_found_with_their_place(pictures: Path) -> None:
    for name in ("b/x.png", "b/c/x.png", "a/y.jpg", "results/x.png"):
        (pictures / name).parent.mkdir(parents=True, exist_ok=True)
        (pictures / name).write_bytes(b"x")
    (pictures / "link").symlink_to(pictures)
    flat = find_pictures([pictures / "b/x.png", pictures], leave_out=pictures / "results")
    assert flat.files == [(pictures / name, Path()) for name in ("b/x.png", "1.JPG", "10.png", "2.png")]
    assert flat.passed_over == [f"{pictures}: 3 subfolders were not looked into; --recursive does"]
    deep = find_pictures([pictures], recursive=True, leave_out=pictures / "results")
    below = [("a/y.jpg", "a"), ("b/x.png", "b"), ("b/c/x.png", "b/c")]
    assert deep.files[3:] == [(pictures / name, Path(place)) for name, place in below] and len(deep.files) == 6
    assert deep.passed_over == [f"{pictures}: 1 subfolder was not looked into, being links"]
    named = find_pictures([pictures / "results"], leave_out=pictures / "results")
    assert [path.name for path, _ in named.files] == ["x.png"], "what is named is looked into"


def test_a_stream_of_a_folder_says_what_it_leaves_out(pictures: Path, caplog: pytest.LogCaptureFixture) -> None:
    (pictures / "deeper").mkdir()
    (pictures / "deeper/3.png").write_bytes(b"x")
    for _ in range(2):
        find_sources(pictures)
    assert caplog.messages == [f"{pictures}: 1 subfolder was not looked into; {pictures}/** names what is in them, too"]
    assert len(find_sources(f"{pictures}/**")[0].pictures) == 4
