"""Which torch modules there are. Each is imported only when it is created."""

from __future__ import annotations

from importlib import import_module

from torch import nn

from fhrt.errors import BadInputError, UnknownModelError

_HOMES = {"lite": "fhrt.models.lite:Lite", "urdgn": "fhrt.models.urdgn:URDGN", "tdn": "fhrt.models.tdn:TDN"}


def names() -> list[str]:
    """Names that `create` knows."""
    return list(_HOMES)


def create(name: str, **hparams: int) -> nn.Module:
    """A freshly initialised network. Raises UnknownModelError, or BadInputError for hyper-parameters that it does not take."""
    if name not in _HOMES:
        raise UnknownModelError(f"unknown model {name!r}; there are: {', '.join(_HOMES)}")
    module, _, attribute = _HOMES[name].partition(":")
    try:
        network: nn.Module = getattr(import_module(module), attribute)(**hparams)
    except TypeError as error:
        raise BadInputError(f"{name}: {error}") from error
    return network
