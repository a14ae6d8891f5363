"""Built engines on disk: found again, shared between processes, and never broken by what happens to the files."""

import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from fhrt import files
from fhrt.errors import BackendError
from fhrt.runtime.bundle import open_bundle
from fhrt.runtime.engine_cache import EngineCache, EngineKey, has_engines

KEY = EngineKey("b" * 64, "g" * 64, {"lr": (8, 3, 16, 16)}, {"lr": "float32"}, "fp16", "n" * 64, "8.6.0.12", "Some GPU", "9.0", ("FP16",))
OTHERS = {
    "bundle": "c" * 64,
    "graph": "h" * 64,
    "profiles": {"lr": (4, 3, 16, 16)},
    "io_types": {"lr": "float16"},
    "precision": "fp32",
    "native": "o" * 64,
    "tensorrt": "8.6.0.13",
    "gpu": "Other GPU",
    "compute_capability": "8.9",
    "flags": (),
}


class Builder:
    def __init__(self, plan: bytes = b"an engine") -> None:
        self.plan, self.timings = plan, []

    def __call__(self, timings: bytes) -> tuple[bytes, bytes]:
        self.timings.append(timings)
        return self.plan, timings + b"learnt."


def get(cache: EngineCache, builder: Builder, key: EngineKey = KEY, usable: bool = True) -> bytes:
    return cache.get(key, builder, lambda plan: usable or plan != b"an engine")


@pytest.fixture
def cache(tmp_path: Path) -> EngineCache:
    return EngineCache(tmp_path / "engines")


def test_an_engine_is_built_once_and_is_the_very_file(cache: EngineCache) -> None:
    builder = Builder()
    assert get(cache, builder) == get(EngineCache(cache.folder), builder) == b"an engine"
    assert len(builder.timings) == 1
    (entry,) = cache.entries()
    assert (cache.folder / f"{entry.digest}.engine").read_bytes() == b"an engine"
    assert entry.key["gpu"] == "Some GPU" and entry.size == 9


@pytest.mark.parametrize("field", OTHERS)
def test_whatever_an_engine_depends_on_asks_for_another(field: str, cache: EngineCache) -> None:
    assert set(OTHERS) == {name for name in EngineKey.__dataclass_fields__}
    builder = Builder()
    get(cache, builder)
    get(cache, builder, replace(KEY, **{field: OTHERS[field]}))
    assert len(builder.timings) == 2 == len(cache.entries())


def test_the_timing_cache_serves_the_same_gpu_and_version(cache: EngineCache) -> None:
    builder = Builder()
    for change in ({}, {"precision": "fp32"}, {"gpu": "Other/GPU"}, {"tensorrt": "10.9"}):
        get(cache, builder, replace(KEY, **change))
    assert builder.timings == [b"", b"learnt.", b"", b""]


@pytest.mark.parametrize("damage", ["truncated", "altered", "no engine", "no sidecar", "torn sidecar", "list", "other key"])
def test_what_is_damaged_is_built_again(damage: str, cache: EngineCache) -> None:
    builder = Builder()
    get(cache, builder)
    engine, sidecar = cache.folder / f"{KEY.digest}.engine", cache.folder / f"{KEY.digest}.json"
    if damage in ("no engine", "no sidecar"):
        (engine if damage == "no engine" else sidecar).unlink()
    elif damage in ("truncated", "altered"):
        engine.write_bytes(b"an eng" if damage == "truncated" else b"an Engine")
    elif damage == "other key":
        sidecar.write_text(json.dumps(json.loads(sidecar.read_text()) | {"key": replace(KEY, gpu="Other GPU").as_json}))
    else:
        sidecar.write_text("{" if damage == "torn sidecar" else "[1]")
    assert not cache.has(KEY)
    assert get(cache, builder) == b"an engine" and cache.has(KEY) and len(builder.timings) == 2


def test_what_does_not_deserialise_is_built_again(cache: EngineCache) -> None:
    get(cache, Builder())
    assert get(cache, Builder(b"a better one"), usable=False) == b"a better one" == get(cache, Builder())


def test_a_full_disk_leaves_no_half_entry(cache: EngineCache, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "replace", full)
    assert get(cache, Builder()) == b"an engine"
    assert "No space left on device; the engine is used, but not kept" in caplog.text
    monkeypatch.undo()
    assert [path.name for path in cache.folder.iterdir()] == ["lock"] and not cache.has(KEY)
    get(cache, Builder())
    assert cache.has(KEY)


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    builder = Builder()
    with pytest.raises(BackendError, match="set FHRT_CACHE to another folder"):
        get(EngineCache(tmp_path / "file" / "engines"), builder)
    assert not builder.timings and not EngineCache(tmp_path / "file").entries()


def test_parity_is_noted_and_goes_with_the_engine(cache: EngineCache) -> None:
    get(cache, Builder())
    assert cache.parity(KEY) is None
    cache.passed(KEY, 61.5)
    assert cache.parity(KEY) == 61.5 and get(cache, Builder()) == b"an engine"
    cache.remove(KEY)
    assert cache.parity(KEY) is None and not cache.has(KEY)


def test_clearing(cache: EngineCache) -> None:
    assert cache.clear() == 0
    get(cache, Builder())
    (cache.folder / "notes.txt").write_text("someone's own")
    assert cache.clear() > 9 and not cache.entries()
    assert sorted(path.name for path in cache.folder.iterdir()) == ["lock", "notes.txt"]


PROCESS = """
import sys, time
from pathlib import Path
from fhrt.runtime.engine_cache import EngineCache
sys.path.insert(0, {tests!r})
from test_engine_cache import KEY
def build(timings):
    print("building", flush=True)
    time.sleep({seconds})
    return b"of a process", b""
print(EngineCache(Path({folder!r})).get(KEY, build, lambda plan: True).decode(), flush=True)
"""


def process(cache: EngineCache, seconds: float) -> subprocess.Popen[str]:
    code = PROCESS.format(tests=str(Path(__file__).parent), seconds=seconds, folder=str(cache.folder))
    return subprocess.Popen([sys.executable, "-P", "-c", code], stdout=subprocess.PIPE, text=True)


def test_of_two_processes_one_builds(cache: EngineCache) -> None:
    both = [process(cache, 1.0) for _ in range(2)]
    outputs = [each.communicate(timeout=60)[0].split("\n") for each in both]
    assert sorted(len(lines) for lines in outputs) == [2, 3]  # one says that it builds
    assert all("of a process" in lines for lines in outputs)


def test_the_lock_of_a_dead_process_is_taken_over(cache: EngineCache) -> None:
    owner = process(cache, 600)
    assert owner.stdout is not None and owner.stdout.readline() == "building\n"
    with pytest.raises(BackendError, match="another process builds"):
        cache.clear()
    os.kill(owner.pid, signal.SIGKILL)
    owner.wait()
    start = time.monotonic()
    assert get(cache, Builder()) == b"an engine" and time.monotonic() - start < 5


def test_whether_a_bundle_has_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHRT_CACHE", str(tmp_path))
    bundle = open_bundle("lite")
    get(EngineCache(), Builder())
    assert not has_engines(bundle)
    get(EngineCache(), Builder(), replace(KEY, bundle=bundle.sha256))
    assert has_engines(bundle)
