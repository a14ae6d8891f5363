"""The networks as torch modules, one file per system. Needs torch (``pip install "fhrt[train]"``)."""

from fhrt.models.registry import create, names

__all__ = ["create", "names"]
