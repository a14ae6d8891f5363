"""Live cameras joined to faces: one detector, one network, many sources, and where the results go."""

from fhrt.stream.outlet import SinkSnapshot
from fhrt.stream.pipeline import Stream
from fhrt.stream.sinks import BestShots, Callback, JsonLines, RtspOut, Sink, VideoFile, open_sink

__all__ = ["BestShots", "Callback", "JsonLines", "RtspOut", "Sink", "SinkSnapshot", "Stream", "VideoFile", "open_sink"]
