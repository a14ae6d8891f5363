"""Bundles that a user adds: checked first, put in place whole, found by name."""

import json
import re
import shutil
import socket
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import fhrt
from fhrt.cli import app
from fhrt.errors import WeightsError
from fhrt.runtime import install, list_models, load
from fhrt.runtime.bundle import SHIPPED


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FHRT_MODELS", str(tmp_path / "own"))
    return tmp_path / "own"


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """The shipped bundle under a name of one's own."""
    folder = Path(shutil.copytree(SHIPPED / "lite", tmp_path / "somewhere"))
    rename(folder, "mine")
    return folder


def rename(folder: Path, name: str) -> None:
    card = json.loads((folder / "card.json").read_text())
    (folder / "card.json").write_text(json.dumps(card | {"name": name}))


def zipped(folder: Path, inside: str = "") -> Path:
    path = folder.parent / "bundle.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for file in folder.iterdir():
            archive.write(file, inside + file.name)
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as http:
        threading.Thread(target=http.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{http.server_port}"
        http.shutdown()


def test_a_folder_an_archive_or_an_address(mine: Path, server: str, own: Path) -> None:
    shipped = [card.name for card in list_models()]
    lr, way = np.zeros((1, 3, 16, 16), np.float32), {"backend": "onnxruntime", "precision": "fp32", "plan": "whole"}
    expected = load("lite", **way).run(lr).sr
    for source in (mine, zipped(mine), zipped(mine, "some/folder/"), f"{server}/bundle.zip"):
        shutil.rmtree(own, ignore_errors=True)
        assert install(source).name == "mine"
        assert [card.name for card in list_models()] == sorted([*shipped, "mine"])
        np.testing.assert_array_equal(fhrt.Hallucinator("mine", **way).engine.run(lr).sr, expected)
        assert [path.name for path in own.iterdir()] == ["mine"]


def test_a_newer_one_replaces_it(mine: Path) -> None:
    install(mine)
    card = json.loads((mine / "card.json").read_text())
    (mine / "card.json").write_text(json.dumps(card | {"version": 7}))
    install(mine)
    assert [card.version for card in list_models() if card.name == "mine"] == [7]


def test_what_is_refused_changes_nothing(mine: Path, tmp_path: Path, server: str, own: Path) -> None:
    install(mine)
    before = {path: path.read_bytes() for path in sorted(own.rglob("*")) if path.is_file()}
    weights = (mine / "model.safetensors").read_bytes()
    (mine / "model.safetensors").write_bytes(weights[:-1] + b"x")
    with pytest.raises(WeightsError, match="damaged"):
        install(zipped(mine))
    (mine / "model.safetensors").unlink()
    with pytest.raises(WeightsError, match=r"holds no model\.safetensors"):
        install(zipped(mine))
    (mine / "model.safetensors").write_bytes(weights)
    for name, words in (("../up", "a model's name"), ("lite", "comes with fhrt")):
        rename(mine, name)
        with pytest.raises(WeightsError, match=words):
            install(mine)
    (tmp_path / "text.zip").write_text("no archive")
    with pytest.raises(WeightsError, match="no zip archive"):
        install(tmp_path / "text.zip")
    with pytest.raises(WeightsError, match="cannot be had: File not found"):
        install(f"{server}/nothing.zip?key=secret")
    with pytest.raises(WeightsError, match="cannot be had"):
        install("http://[no/bundle.zip")
    with pytest.raises(WeightsError, match="cannot be had") as caught:
        install("http://name:secret@127.0.0.1:1/bundle.zip?key=secret")
    assert "secret" not in str(caught.value)
    assert {path: path.read_bytes() for path in sorted(own.rglob("*")) if path.is_file()} == before


def archive(mine: Path, kind: str) -> bytes:
    """Of the bundle, in a form that Python does not unpack, or damaged."""
    path = mine.parent / "deflated.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for each in sorted(mine.iterdir()):
            file.write(each, each.name)
    data = bytearray(path.read_bytes())
    places = {head: [match.start() for match in re.finditer(re.escape(head), bytes(data))] for head in (b"PK\x03\x04", b"PK\x01\x02")}
    for head, (flags, method) in {b"PK\x03\x04": (6, 8), b"PK\x01\x02": (8, 10)}.items():
        for place in places[head]:
            data[place + flags] |= kind == "encrypted"
            data[place + method] = 9 if kind == "Deflate64" else 14 if kind == "no LZMA" else data[place + method]
    if kind == "damaged":
        data[200:260] = bytes(60)
    return bytes(data[: len(data) // 2] if kind == "cut" else data)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("encrypted", "is encrypted; unpack it"),
        ("Deflate64", "in a way that"),
        ("no LZMA", "no zip"),
        ("damaged", "no zip"),
        ("cut", "no zip"),
    ],
)
def test_an_archive_that_cannot_be_unpacked(mine: Path, server: str, own: Path, kind: str, said: str) -> None:
    (mine.parent / "odd.zip").write_bytes(archive(mine, kind))
    for source in (str(mine.parent / "odd.zip"), f"{server}/odd.zip"):
        refused = CliRunner().invoke(app, ["models", "add", source])
        assert refused.exit_code == 2 and said in refused.output and refused.output.startswith(source), refused.output
        assert refused.output.count("\n") == 1 and not list(own.iterdir())


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\nPK\x03\x04abc", "the answer was cut off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5000\r\n\r\nPK\x03\x04abc", "cut off after 7 of 5000 bytes"),
        (b"garbage\r\n\r\n", "does not answer in HTTP"),
        (b"", "cannot be had"),
        (b"HTTP/1.1 200 OK\r\n" + b"x: y\r\n" * 999 + b"\r\n", "cannot be had"),
        (b"HTTP/1.1 302 Found\r\nLocation: ftp://x/y?key=secret\r\n\r\n", "cannot be had"),
        (b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\n\r\n", "cannot be had"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nPK\x03\x04abc", "no zip archive"),
    ],
)
def test_an_answer_that_is_none(own: Path, answer: bytes, said: str) -> None:
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            connection.recv(9999)
            connection.sendall(answer)

    threading.Thread(target=serve, daemon=True).start()
    address = f"http://127.0.0.1:{listener.getsockname()[1]}/m.zip"
    refused = CliRunner().invoke(app, ["models", "add", f"{address}?key=secret"])
    listener.close()
    assert refused.exit_code == 2 and said in refused.output and refused.output.startswith(address), refused.output
    assert refused.output.count("\n") == 1 and "secret" not in refused.output and not list(own.iterdir())


def test_an_address_with_blanks(mine: Path, server: str, own: Path) -> None:
    zipped(mine).rename(mine.parent / "my übung %.zip")
    assert install(f"{server}/my übung %25.zip").name == "mine"


@pytest.mark.parametrize("login", ["name:secret", "name:se/cret", "name:12#secret", "name:1?secret", "secret"])
def test_a_login_is_refused_and_not_shown(login: str) -> None:
    with pytest.raises(WeightsError, match=r"^http://127\.0\.0\.1:1/m\.zip cannot be had") as caught:
        install(f"http://{login}@127.0.0.1:1/m.zip?key=secret")
    assert "secret" not in str(caught.value) and "cret" not in str(caught.value)


@pytest.mark.parametrize("address", ["https:/name:secret@h/m.zip", "http//name:secret@h/m.zip"])
def test_an_address_with_a_slip_is_not_shown(address: str) -> None:
    with pytest.raises(WeightsError, match="must start with http:// or https://") as caught:
        install(address)
    assert "secret" not in str(caught.value)


def test_a_folder_that_cannot_be_made(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("FHRT_MODELS", str(tmp_path / "file" / "models"))
    with pytest.raises(WeightsError, match=r"cannot install to .*file/models: .*FHRT_MODELS names another"):
        install(mine)


def test_the_command(mine: Path) -> None:
    added = CliRunner().invoke(app, ["models", "add", str(mine)])
    assert added.exit_code == 0 and "mine is installed" in added.stdout
    listed = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["models"])
    assert listed.exit_code == 0 and "mine" in listed.stdout and "lite" in listed.stdout
    wrong = CliRunner().invoke(app, ["models", "add", str(mine / "nothing")])
    assert wrong.exit_code == 2 and "no bundle folder" in wrong.output
