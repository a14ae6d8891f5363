"""What many tests share: the checkout on the path, and a small archive of made-up 192×192 "faces".

The faces are smooth colour fields with two dark eyes, so that turning them is visible.
"""

import atexit
import io
import os
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

# The tests run side by side already; more threads in each would only fight over the cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# What the tests measure and build is not the user's.
os.environ["FHRT_CACHE"] = tempfile.mkdtemp(prefix="fhrt-tests-")
atexit.register(shutil.rmtree, os.environ["FHRT_CACHE"], ignore_errors=True)

# For training/ and benchmarks/, which are not installed. At the end of the path, so that `fhrt` is the installed package.
sys.path.append(str(Path(__file__).parent.parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="also run the tests marked slow, which take minutes")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        slow = [item for item in items if item.get_closest_marker("slow")]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]


def made_up_faces(count: int, seed: int = 0) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    faces = []
    for _ in range(count):
        coarse = rng.integers(60, 220, (6, 6, 3)).astype(np.uint8)
        face = cv2.resize(coarse, (192, 192), interpolation=cv2.INTER_CUBIC)
        for x in (73, 119):
            cv2.circle(face, (x, 86), 8, (20, 20, 20), -1)
        faces.append(cv2.GaussianBlur(face, (0, 0), 2))
    return np.stack(faces)


def write_shard(path: Path, faces: NDArray[np.uint8]) -> None:
    with tarfile.open(path, "w") as tar:
        for number, face in enumerate(faces):
            data = cv2.imencode(".png", face[..., ::-1])[1].tobytes()
            info = tarfile.TarInfo(f"{path.stem}_{number:05d}.png")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


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
