"""torch module → bundle. Needs torch and onnx (``pip install "fhrt[train]"``)."""

from fhrt.export.bundle import export

__all__ = ["export"]
