"""Which systems there are and what each is. Its torch module is imported only when it is created."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from torch import nn

from fhrt.errors import BadInputError, UnknownModelError


@dataclass(frozen=True)
class System:
    """What can be said of a system before it is trained.

    home: "module:class". outputs: of its graph, `fhrt.runtime.Output`'s names. protocol: under which its paper reports it. made: the
    command of ``python -m training`` that makes it.
    """

    home: str
    title: str
    outputs: tuple[str, ...]
    protocol: str
    lr_side: int = 16
    made: str = "fit"

    @property
    def sr_side(self) -> int:
        """All systems magnify 8 times."""
        return 8 * self.lr_side


SYSTEMS = {
    "lite": System("lite:Lite", "lite: fhrt's own network for CPUs", ("sr", "theta"), "camera"),
    "urdgn": System("urdgn:URDGN", "UR-DGN (Yu & Porikli, ECCV 2016)", ("sr",), "aligned"),
    "tdn": System("tdn:TDN", "TDN (Yu & Porikli, AAAI 2017)", ("sr", "theta"), "unaligned"),
    "tdae": System("tdae:TDAE", "TDAE (Yu & Porikli, CVPR 2017)", ("sr", "theta"), "unaligned"),
    "mtun": System("mtun:MTUN", "MTUN (Yu, Fernando, Ghanem, Porikli & Hartley, ECCV 2018)", ("sr", "theta", "heatmaps"), "unaligned"),
    "csrip": System("csrip:CSRIP", "C-SRIP (Grm, Scheirer & Štruc)", ("sr", "sr_2x", "sr_4x"), "loose", lr_side=24),
    "srcnn": System("srcnn:SRCNN", "SRCNN (Dong, Loy, He & Tang, ECCV 2014)", ("sr",), "aligned"),
    "vdsr": System("vdsr:VDSR", "VDSR (Kim, Lee & Lee, CVPR 2016)", ("sr",), "aligned"),
    "srgan": System("srgan:SRGAN", "SRGAN (Ledig et al., CVPR 2017)", ("sr",), "aligned"),
    "lp": System("lp:LP", "Perceptual loss network (Johnson, Alahi & Fei-Fei, ECCV 2016)", ("sr",), "aligned"),
    "mnce": System("mnce:MNCE", "Deep denoiser + MNCE (Jiang, Yu, Hu, Tang & Ma, IJCAI 2018)", ("sr",), "aligned", made="dictionary"),
    "mnce-ridge": System(
        "mnce:MNCERidge",
        "fhrt's ridge regression + position patches, after MNCE (Jiang, Yu, Hu, Tang & Ma, IJCAI 2018)",
        ("sr",),
        "aligned",
        made="dictionary",
    ),
    "lle": System("neighbours:LLE", "Neighbour embedding, LLE (Chang, Yeung & Xiong, CVPR 2004)", ("sr",), "aligned", made="dictionary"),
    "lcr": System("neighbours:LCR", "LcR position patches (Jiang, Hu, Wang & Han, 2014)", ("sr",), "aligned", made="dictionary"),
}


def names() -> list[str]:
    """Names that `create` knows."""
    return list(SYSTEMS)


def system(name: str) -> System:
    """Raises UnknownModelError."""
    if name not in SYSTEMS:
        raise UnknownModelError(f"unknown model {name!r}; there are: {', '.join(SYSTEMS)}")
    return SYSTEMS[name]


def create(name: str, **hparams: Any) -> nn.Module:
    """A freshly initialised network. Raises UnknownModelError, or BadInputError for hyper-parameters that it does not take."""
    module, _, attribute = system(name).home.partition(":")
    try:
        network: nn.Module = getattr(import_module(f"fhrt.models.{module}"), attribute)(**hparams)
    except TypeError as error:
        raise BadInputError(f"{name}: {error}") from error
    return network
