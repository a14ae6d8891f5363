"""A model's card: what a bundle holds and how well it does."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Card(BaseModel):
    """``card.json`` of a bundle. Sizes are (height, width) in pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    version: int = 1
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    outputs: tuple[str, ...]
    """Names of the graph's outputs: those of `fhrt.runtime.Output` that the network has."""
    hparams: dict[str, bool | int | float | str] = {}
    parameters: int
    """Of a neighbour embedding: all numbers that it keeps, its dictionary included."""
    gflops: float
    """Of one face, a multiply-add counted as two."""
    training: str
    """What the weights were trained on, and how long."""
    licence: str
    scores: dict[str, dict[str, float]] = {}
    """Protocol → metric → value, as ``fhrt eval`` measured them."""
    sha256: dict[str, str]
    """File name → checksum, for the graph and the weights."""

    @property
    def scale(self) -> int:
        """Magnification: output height over input height."""
        return self.output_size[0] // self.input_size[0]
