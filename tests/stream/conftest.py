"""What the streams are tested with: clips and servers of tests/video, and a hallucinator of which the outcome is known."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent.parent / "video"))

from clips import still, write_video
from known import KnownDetector, KnownEngine

import fhrt.runtime
from fhrt.hallucinator import Hallucinator


@pytest.fixture
def make(monkeypatch):
    def build(engine=None, detector=None, **options):
        monkeypatch.setattr(fhrt.runtime, "load", lambda *args, **kwargs: engine or KnownEngine())
        return Hallucinator("known", detector=detector or KnownDetector(), **options)

    return build


@pytest.fixture(scope="session")
def clips(tmp_path_factory):
    """Four videos of 40 frames, 320×240, which carry their frames' numbers."""
    folder = tmp_path_factory.mktemp("streams")
    return [write_video(folder / f"{name}.mp4", 40, draw=still) for name in "abcd"]


@pytest.fixture(scope="session")
def minute(tmp_path_factory):
    """A video of 60 s."""
    return write_video(tmp_path_factory.mktemp("long") / "minute.mp4", 1500, draw=still)


@pytest.fixture(scope="session")
def units(tmp_path_factory):
    """100 frames of 320×240 as H.264 access units."""
    return write_video(tmp_path_factory.mktemp("units") / "clip.units", 100)
