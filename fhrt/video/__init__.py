"""Cameras and videos in: sources, the threads that read them, and how they do."""

from fhrt.video.cameras import Cameras
from fhrt.video.frame import Frame
from fhrt.video.health import Health, Percentiles, Snapshot, State, prometheus
from fhrt.video.policy import Policy
from fhrt.video.reader import Reader
from fhrt.video.redact import JsonFormatter, redact
from fhrt.video.sources import Source, find_sources

__all__ = [
    "Cameras",
    "Frame",
    "Health",
    "JsonFormatter",
    "Percentiles",
    "Policy",
    "Reader",
    "Snapshot",
    "Source",
    "State",
    "find_sources",
    "prometheus",
    "redact",
]
