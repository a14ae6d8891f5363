"""What all tests share: the checkout on the path, a cache of their own, the flag `--long`, and a small archive of made-up faces."""

import atexit
import fcntl
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from archives import made_up_faces, write_shard
from numpy.typing import NDArray

# The tests run side by side already; more threads in each would only fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What the tests measure and build is not the user's.
os.environ["FHRT_CACHE"] = tempfile.mkdtemp(prefix="fhrt-tests-")
atexit.register(shutil.rmtree, os.environ["FHRT_CACHE"], ignore_errors=True)

# For training/, benchmarks/ and tools/, which are not installed. At the end of the path, so that `fhrt` is the installed package.
sys.path.append(str(Path(__file__).parent.parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests marked slow, which take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


@pytest.fixture(autouse=True)
def _room(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """While a test marked `alone` runs, the other processes' tests wait.

    The room is shared by all tests and taken whole by one that is `alone`. All pass the gate one by one, so that who waits for the whole
    room is not overtaken for ever.
    """
    shared = tmp_path_factory.getbasetemp().parent  # by all processes of a run
    with open(shared / "gate", "a") as gate, open(shared / "room", "a") as room:
        fcntl.flock(gate, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if request.node.get_closest_marker("alone") else fcntl.LOCK_SH)
        fcntl.flock(gate, fcntl.LOCK_UN)
        yield


@pytest.fixture(scope="session")
def faces() -> NDArray[np.uint8]:
    return made_up_faces(12)


@pytest.fixture(scope="session")
def archive(tmp_path_factory: pytest.TempPathFactory, faces: NDArray[np.uint8]) -> Path:
    folder = tmp_path_factory.mktemp("archive")
    write_shard(folder / "train-00.tar", faces[:5])
    write_shard(folder / "train-01.tar", faces[5:])
    write_shard(folder / "val.tar", faces)
    write_shard(folder / "test.tar", faces)
    return folder
