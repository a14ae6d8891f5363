"""What travels to a lent machine and back stays within its limits, and nothing is lost or taken twice on the way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from archives import write_shard
from numpy.typing import NDArray
from typer.testing import CliRunner

from benchmarks import freight
from benchmarks.__main__ import app
from fhrt.errors import BadInputError
from fhrt.protocols.archive import walk_faces


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    subprocess.run(["git", "init", "-q", str(root)], check=True)
    (root / ".gitignore").write_text("runs/\n")
    (root / "code.py").write_bytes(bytes(1000))
    (root / "weights.bin").write_bytes(bytes(50_000))
    return root


@pytest.fixture
def data(tmp_path: Path, faces: NDArray[np.uint8]) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    write_shard(folder / "train-00.tar", faces[:5])
    write_shard(folder / "train-01.tar", faces[5:])
    write_shard(folder / "val.tar", faces[:3])
    (folder / "index.csv").write_text("key,split\n")
    (folder / "landmarks.npz").write_bytes(b"points")
    return folder


def test_every_face_goes_along_once(checkout: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shards are cut where a job's room ends; the machine has all of them after the last, and reads them as the archive."""
    wheels, out, there = tmp_path / "wheels", checkout / "runs" / "carry", tmp_path / "there"
    wheels.mkdir()
    (wheels / "some.whl").write_bytes(bytes(2000))
    face = (data / "train-00.tar").stat().st_size // 5
    monkeypatch.setattr(freight, "SPARE", 1000)
    monkeypatch.setattr(freight, "ALONG", 51_000 + 2000 + 1000 + (data / "val.tar").stat().st_size + 40_000 + 3 * face)
    told = freight.pack(checkout, data, wheels, out, range(1, 5))
    assert freight.pack(checkout, data, wheels, out, range(1, 5)) == told, "what was packed before is no part of the checkout"
    for job in range(1, 5):
        carried = sum(path.stat().st_size for path in (out / str(job)).rglob("*") if path.is_file())
        assert carried + 51_000 <= freight.ALONG - freight.SPARE
        assert (out / str(job) / "wheels" / "some.whl").is_file()
        assert (out / str(job) / "faces" / "landmarks.npz").is_file() == (job == 1)
        freight.take_in(out / str(job), there)
    assert [key for key, _ in walk_faces(there, "train")] == [key for key, _ in walk_faces(data, "train")]
    assert [key for key, _ in walk_faces(there, "val")] == [key for key, _ in walk_faces(data, "val")]
    assert sum(bool(list((out / str(job)).rglob("train-*.tar"))) for job in range(1, 5)) > 1 and "12.0" not in told[1]
    few = freight.pack(checkout, data, None, out, [3], 2)
    assert few[3].endswith("2 more training faces") and len(list(walk_faces(out / "3" / "faces", "val"))) == 2


def test_what_does_not_fit_is_refused(checkout: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freight, "ALONG", 1_060_000)
    with pytest.raises(BadInputError, match=r"job 1 would carry .* MiB too much.*largest files are weights.bin, code.py"):
        freight.pack(checkout, data, None, tmp_path / "carry", [1, 2])
    with pytest.raises(BadInputError, match="no face shards"):
        freight.pack(checkout, tmp_path, None, tmp_path / "carry", [1])


def test_what_comes_back_keeps_the_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In order, a smaller file before one that has no room left; the rest with the next jobs, and each of them once."""
    monkeypatch.setattr(freight, "BACK", 100)
    monkeypatch.setattr(freight, "BACK_FILE", 40)
    monkeypatch.setattr(freight, "BACK_FILES", 4)
    sizes = {"a": 40, "b": 30, "c": 35, "d": 5, "e": 41, "f": 1}
    files = {f"net/{name}": tmp_path / name for name in [*sizes, "missing"]}
    for name, size in sizes.items():
        (tmp_path / name).write_bytes(bytes(size))
    sent = tmp_path / "state" / "sent.json"

    def job(number: int) -> tuple[list[str], dict[str, str]]:
        out = tmp_path / f"out{number}-{len(list(tmp_path.iterdir()))}"
        out.mkdir()
        (out / "summary.md").write_bytes(bytes(10))
        copied, left = freight.bring(number, files, out, sent)
        there = [path for path in out.rglob("*") if path.is_file()]
        assert len(there) == len(copied) + 1 <= 4 and sum(path.stat().st_size for path in there) <= 100
        assert all((out / name).read_bytes() == files[name].read_bytes() for name in copied)
        return [name[4:] for name in copied], {name[4:]: why.split()[0] for name, why in left.items()}

    assert job(3) == (["a", "b", "d"], {"c": "waits", "e": "larger", "f": "waits"})
    assert job(3) == (["a", "b", "d"], {"c": "waits", "e": "larger", "f": "waits"}), "a job made again brings its own again"
    assert job(4) == (["c", "f"], {"e": "larger"})
    os.utime(tmp_path / "b", (1, 1))  # trained further meanwhile
    assert job(5) == (["b"], {"e": "larger"})


def test_a_report_that_is_too_large_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(freight, "BACK_FILE", 10)
    (tmp_path / "log.txt").write_bytes(bytes(11))
    assert freight.bring(1, {}, tmp_path, tmp_path / "state" / "sent.json") == ([], {"log.txt": "larger than the 0 MiB of a file"})


def test_a_bare_machine_can_begin() -> None:
    """A job installs what comes along by itself, so it needs nothing of it."""
    root = Path(freight.__file__).parent.parent
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import benchmarks.gpu_jobs; assert 'platformdirs' not in sys.modules"
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)


def test_figures_that_came_back_are_kept_with_their_device(tmp_path: Path) -> None:
    results = {"title": "Job 1", "facts": {"device": "some GPU, 1.2"}, "reports": {"kernels": {"benchmark": "kernels", "rows": [1]}}}
    came = tmp_path / "results.json"

    def kept() -> tuple[int, str]:
        came.write_text(json.dumps(results))
        done = CliRunner().invoke(app, ["keep", str(came), "--out", str(tmp_path)])
        return done.exit_code, done.output

    assert kept() == (0, f"{tmp_path / 'kernels-cuda.json'}\n")
    written = json.loads((tmp_path / "kernels-cuda.json").read_text())
    assert written == {"benchmark": "kernels", "rows": [1], "facts": {"device": "some GPU, 1.2"}}
    results["facts"] = {"device": "none"}
    assert kept()[0] == 2 and "without a device (Job 1)" in kept()[1]
    del results["reports"]
    assert kept()[0] == 2 and "holds no results of a check" in kept()[1]
