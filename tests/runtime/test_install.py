"""Bundles that a user adds: checked first, put in place whole, found by name."""

import json
import shutil
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
    expected = load("lite").run(np.zeros((1, 3, 16, 16), np.float32)).sr
    for source in (mine, zipped(mine), zipped(mine, "some/folder/"), f"{server}/bundle.zip"):
        shutil.rmtree(own, ignore_errors=True)
        assert install(source).name == "mine"
        assert [card.name for card in list_models()] == sorted([*shipped, "mine"])
        np.testing.assert_array_equal(fhrt.Hallucinator("mine").engine.run(np.zeros((1, 3, 16, 16), np.float32)).sr, expected)
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
