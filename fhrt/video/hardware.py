"""Decoding by the video card: asked for by name or had when it is there."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Literal

from fhrt.errors import BackendError, BadInputError

if TYPE_CHECKING:
    from av.codec.hwaccel import HWAccel

Decode = Literal["auto", "cpu", "nvdec"]

_log = logging.getLogger("fhrt.video")


def hardware(decode: Decode) -> HWAccel | None:
    """The video card's decoder, or None for the processor's.

    ``auto`` takes NVDEC where this machine has it, and otherwise says once in the log why not; a codec that the card does not know falls
    back too. ``nvdec`` takes it or raises BackendError.
    """
    if decode not in ("auto", "cpu", "nvdec"):
        raise BadInputError(f"decode must be auto, cpu or nvdec, not {decode!r}")
    if decode == "cpu" or (decode == "auto" and _reason_without()):
        return None
    if reason := _reason_without():
        raise BackendError(f"NVDEC cannot be had: {reason}; decode=auto or decode=cpu goes without")
    return _nvdec(fallback=decode == "auto")


def _nvdec(fallback: bool) -> HWAccel:
    from av.codec.hwaccel import HWAccel

    # The card's primary context, one for all decoders: a context each would cost some hundred MB per camera.
    return HWAccel("cuda", allow_software_fallback=fallback, options={"primary_ctx": "1"})


@cache
def _reason_without() -> str | None:
    """Why there is no NVDEC; None where there is. Found out once, by making one."""
    import av

    try:
        _nvdec(fallback=False).create(av.Codec("h264", "r"))
    except (av.FFmpegError, RuntimeError, ValueError) as error:
        reason = "no NVIDIA driver or card answers" if isinstance(error, av.FFmpegError) else "this PyAV is built without it"
        _log.info("decoding on the processor: %s", reason)
        return reason
    return None
