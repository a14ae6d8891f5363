"""The networks as torch modules, one file per system. Needs torch (``pip install "fhrt[train]"``)."""

from fhrt.models.registry import System, create, names, system

__all__ = ["System", "create", "names", "system"]
