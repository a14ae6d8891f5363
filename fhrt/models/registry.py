"""The systems of `fhrt.systems` as torch modules, each imported only when it is created."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from torch import nn

from fhrt.errors import BadInputError
from fhrt.systems import SYSTEMS, System, system_name


def names() -> list[str]:
    """Names that `create` knows."""
    return list(SYSTEMS)


def system(name: str) -> System:
    """Raises UnknownModelError."""
    return SYSTEMS[system_name(name)]


def create(name: str, **hparams: Any) -> nn.Module:
    """A freshly initialised network. Raises UnknownModelError, or BadInputError for hyper-parameters that it does not take."""
    module, _, attribute = system(name).home.partition(":")
    try:
        network: nn.Module = getattr(import_module(f"fhrt.models.{module}"), attribute)(**hparams)
    except TypeError as error:
        raise BadInputError(f"{name}: {error}") from error
    return network
