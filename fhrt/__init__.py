"""fhrt: face hallucination, real time. ``fhrt.Hallucinator("lite").run(frame)`` super-resolves a picture's tiny faces."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Face", "Hallucinator", "Result", "__version__"]

if TYPE_CHECKING:
    from fhrt.hallucinator import Hallucinator
    from fhrt.results import Face, Result

# ONNX Runtime's own switch, read when it is first imported: without it every session is reported, and a device id kept in the home folder.
# Who wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

_HOMES = {"Hallucinator": "fhrt.hallucinator", "Face": "fhrt.results", "Result": "fhrt.results"}


def __getattr__(name: str) -> Any:
    """The public objects, imported when first used: ``import fhrt`` itself stays light."""
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'fhrt' has no attribute {name!r}")


def __dir__() -> list[str]:
    """With the public objects, also those that were not used yet."""
    return sorted({*globals(), *__all__})
