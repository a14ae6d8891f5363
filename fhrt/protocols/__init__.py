"""How LR faces are made from HR ones, and how models, face detectors and both together are scored."""

from fhrt.protocols.detector_report import write_detector_report
from fhrt.protocols.detectors import create_detectors, score_detectors
from fhrt.protocols.evaluate import Row, compare, evaluate
from fhrt.protocols.frames import walk_frames
from fhrt.protocols.pairs import PROTOCOLS, Pairs, make_pairs
from fhrt.protocols.pipeline import score_pipeline
from fhrt.protocols.pipeline_report import write_pipeline_report
from fhrt.protocols.report import write_report

__all__ = [
    "PROTOCOLS",
    "Pairs",
    "Row",
    "compare",
    "create_detectors",
    "evaluate",
    "make_pairs",
    "score_detectors",
    "score_pipeline",
    "walk_frames",
    "write_detector_report",
    "write_pipeline_report",
    "write_report",
]
