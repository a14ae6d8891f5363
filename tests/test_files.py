"""Files appear whole or not at all, whichever way a program ends."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fhrt.errors import BadInputError
from fhrt.files import whole_file, write_bytes


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"before")
    with whole_file(path) as temporary:
        temporary.write_bytes(b"after")
        assert path.read_bytes() == b"before" and temporary.parent == tmp_path
    assert path.read_bytes() == b"after" and os.listdir(tmp_path) == ["a"]


def test_what_fails_leaves_what_was_there(tmp_path: Path) -> None:
    path = write_bytes(tmp_path / "a", b"before")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise KeyboardInterrupt
    assert path.read_bytes() == b"before" and os.listdir(tmp_path) == ["a"]
    with pytest.raises(BadInputError, match=r"cannot write .*missing/a: No such file or directory"):
        write_bytes(tmp_path / "missing" / "a", b"")


def test_a_program_that_ends_leaves_nothing_of_its_daemon_threads(tmp_path: Path) -> None:
    code = """if True:
        import sys, threading, time
        from pathlib import Path
        from fhrt.files import whole_file
        begun = threading.Event()
        def write():
            with whole_file(Path(sys.argv[1])) as temporary:
                temporary.write_bytes(b"half")
                begun.set()
                time.sleep(60)
        threading.Thread(target=write, daemon=True).start()
        begun.wait()
        assert len(list(Path(sys.argv[1]).parent.iterdir())) == 1
    """
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "a")], check=True, timeout=60)
    assert os.listdir(tmp_path) == []


HOMELESS = """
import os, pwd
def unknown(*_): raise KeyError("unknown user")
pwd.getpwuid = pwd.getpwnam = unknown
from fhrt.cli import app
import sys
app(sys.argv[1:])
"""


@pytest.mark.parametrize(
    "command", [["models"], ["demo", "-o", "out.png", "--backend", "onnxruntime"], ["engines", "list"], ["models", "add", "none.zip"]]
)
def test_a_user_without_a_home_has_what_ships(tmp_path: Path, command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "HOME" and not name.startswith(("XDG_", "FHRT_"))}
    done = subprocess.run([sys.executable, "-c", HOMELESS, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
    refused = command[:2] == ["models", "add"]
    assert done.returncode == (2 if refused else 0), done.stderr
    lines = done.stderr.strip().splitlines()
    assert len(lines) == 1 + refused and "has no home folder" in lines[0]
    assert "FHRT_MODELS names another folder" in lines[-1] or not refused
    assert [path.name for path in tmp_path.iterdir()] == (["out.png"] if "demo" in command else [])
