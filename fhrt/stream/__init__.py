"""Live cameras joined to faces: one detector, one network, many sources and sinks."""

from fhrt.stream.outlet import SinkSnapshot
from fhrt.stream.pipeline import Stream

__all__ = ["SinkSnapshot", "Stream"]
