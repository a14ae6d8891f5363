"""Which systems there are, what each is, and how a name finds one whatever its spelling. Reading this list needs no torch."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from fhrt.errors import UnknownModelError

COMPONENTS = ("eyes", "nose", "mouth", "chin")
"""Of a face, in the order of MTUN's heatmaps."""


@dataclass(frozen=True)
class System:
    """What can be said of a system before it is trained.

    home: "module:class" in `fhrt.models`. outputs: of its graph, `fhrt.runtime.Output`'s names. protocol: under which its paper reports it.
    made: the command of ``python -m training`` that makes it.
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


def system_name(name: str) -> str:
    """The name in `SYSTEMS` of a system, whatever its spelling. Raises UnknownModelError."""
    found = find_name(name, SYSTEMS)
    if found is None:
        raise UnknownModelError(unknown(name, SYSTEMS, SYSTEMS))
    return found


def how_to_make(name: str) -> str:
    """The command that trains a system, or fills its dictionary; in a checkout."""
    return f"python -m training {SYSTEMS[name].made} {name}"


def find_name(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that is meant: itself, or the only one that differs in case, spaces and punctuation alone."""
    names = list(names)
    if name in names:
        return name
    alike = [each for each in names if _bare(each) == _bare(name)]
    return alike[0] if len(alike) == 1 and _bare(name) else None


def unknown(name: str, names: Iterable[str], listed: Iterable[str], what: str = "model") -> str:
    """What to say of a name that is none of `names`: those that come near it, or else the `listed` ones."""
    bare = {_bare(each): each for each in names}
    near = [repr(bare[each]) for each in get_close_matches(_bare(name), bare, 2, 0.66)]
    return f"unknown {what} {name!r}; " + (f"did you mean {' or '.join(near)}?" if near else f"there are: {', '.join(listed) or 'none'}")


def _bare(name: str) -> str:
    """Letters and digits in lower case: UR-DGN is urdgn."""
    return re.sub(r"[\W_]", "", name.casefold())
