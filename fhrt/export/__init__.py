"""torch module → bundle, and its INT8 form. Needs torch and onnx (``pip install "fhrt[train]"``)."""

from fhrt.export.bundle import export
from fhrt.export.detector import export_detector
from fhrt.export.probe import add_probe
from fhrt.export.quantise import quantise

__all__ = ["add_probe", "export", "export_detector", "quantise"]
