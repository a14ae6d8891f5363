"""Bundles made executable. Knows nothing of faces in frames."""

from fhrt.runtime.bundle import list_models
from fhrt.runtime.card import Card
from fhrt.runtime.engine import Engine, Output, load

__all__ = ["Card", "Engine", "Output", "list_models", "load"]
