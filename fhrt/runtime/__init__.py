"""Bundles made executable. Knows nothing of faces in frames."""

from fhrt.runtime.bundle import list_models
from fhrt.runtime.card import Card
from fhrt.runtime.engine import Engine, FrameEngine, Output, PlanMode, build, load, load_frames
from fhrt.runtime.install import install

__all__ = ["Card", "Engine", "FrameEngine", "Output", "PlanMode", "build", "install", "list_models", "load", "load_frames"]
