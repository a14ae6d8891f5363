"""A model's card: what a bundle holds and how well it does."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Int8(BaseModel):
    """What a bundle's INT8 form is worth, as ``fhrt quantise`` measured it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    loss: dict[str, float]
    """Protocol → PSNR of the fp32 form less that of this one, dB, mean over ``faces`` faces of the validation split; of a detector,
    "average precision" → what it lost of it."""
    saturating: dict[str, float] = {}
    """The same on x86-64 processors without VNNI, where sums of two products saturate, on up to 100 of the faces: computed, on whatever
    processor. Empty in the cards of forms that were made before it was measured."""
    faces: int
    backend: str
    """Which computed the pictures."""

    @property
    def worst(self) -> float:
        """The loss under the protocol, and on the kind of processor, that suffers most; infinite where none was measured."""
        return max([*self.loss.values(), *self.saturating.values()], default=float("inf"))


class Card(BaseModel):
    """``card.json`` of a bundle. Sizes are (height, width) in pixels."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    title: str
    version: int = 1
    input_size: tuple[int, int]
    output_size: tuple[int, int]
    """Of a detector: of the pieces that make up a frame, and of the maps of such a piece."""
    outputs: tuple[str, ...]
    """Names of the graph's outputs: those of `fhrt.runtime.Output` that the network has."""
    hparams: dict[str, bool | int | float | str | list[int]] = {}
    parameters: int
    """Of a neighbour embedding: all numbers that it keeps, its dictionary included."""
    gflops: float
    """Of one face, a multiply-add counted as two; of a detector, of a frame of 640×480."""
    training: str
    """What the weights were trained on, and how long."""
    licence: str
    scores: dict[str, dict[str, float]] = {}
    """Protocol → metric → value, as ``fhrt eval`` measured them."""
    int8: Int8 | None = None
    """Of the INT8 form; None where the bundle has none."""
    sha256: dict[str, str]
    """File name → checksum, for the graph and the weights of each form, and for the probe."""

    @property
    def sizes(self) -> tuple[str, str]:
        """What goes in and what comes out, in words: a detector takes frames of any size, made up of pieces."""
        taken, given = ("×".join(map(str, size)) for size in (self.input_size, self.output_size))
        return (f"frames in pieces of {taken}", f"maps, {given} for a piece") if "heat" in self.outputs else (taken, given)

    @property
    def scale(self) -> int:
        """Magnification: output height over input height."""
        return self.output_size[0] // self.input_size[0]

    @property
    def scales(self) -> tuple[int, ...]:
        """Magnifications of all pictures that the network makes: C-SRIP's are 2, 4 and 8."""
        coarser = (int(name[3:-1]) for name in self.outputs if name.startswith("sr_"))
        return (*sorted(coarser), self.scale)
