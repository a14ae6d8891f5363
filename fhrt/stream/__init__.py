"""Faces of many cameras at once, and where the results go."""

from fhrt.stream.sinks import BestShots, Callback, JsonLines, RtspOut, Sink, VideoFile, open_sink

__all__ = ["BestShots", "Callback", "JsonLines", "RtspOut", "Sink", "VideoFile", "open_sink"]
