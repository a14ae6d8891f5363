"""Clips that several test files share."""

from pathlib import Path

import pytest
from clips import write_video


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("clips")


@pytest.fixture(scope="session")
def clip(folder: Path) -> Path:
    """40 frames, 320×240, 25 per second."""
    return write_video(folder / "clip.mp4", 40)


@pytest.fixture(scope="session")
def units(folder: Path) -> Path:
    """100 frames of 320×240 as H.264 access units, a key frame every 10."""
    return write_video(folder / "clip.units", 100)
