"""Typed errors of fhrt. Each message is one plain line that says what is wrong and, where there is one, what to do."""


class FhrtError(Exception):
    """Base of every error that fhrt raises on purpose."""


class BadInputError(FhrtError, ValueError):
    """A picture, box, array or parameter that cannot be used."""


class UnknownModelError(FhrtError, LookupError):
    """A model name that is neither shipped nor a bundle folder."""


class WeightsError(FhrtError):
    """A bundle that is missing, truncated, altered (sha256) or malformed."""


class MissingExtraError(FhrtError, ImportError):
    """An optional dependency is not installed; the message holds the command that adds it."""


class BackendError(FhrtError, RuntimeError):
    """A backend, device or thread setting that was asked for by name and cannot be had."""


class SourceError(FhrtError):
    """A camera or video that cannot be opened, read or decoded."""


class OutputError(FhrtError):
    """A file or stream of results that cannot be written any further: a disk that is full, a folder that went."""


class NobodyReadsError(OutputError):
    """Whoever read standard output has gone, for good: ``| head``."""
