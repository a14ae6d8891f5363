"""Training batches on a device that holds all faces: the CPU draws a batch's numbers, the pictures never leave the device."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fhrt import ops
from fhrt.errors import BadInputError
from fhrt.protocols.archive import LOOSE, TIGHT
from fhrt.protocols.pairs import IDENTITY, PROTOCOLS, make_pairs
from fhrt.protocols.pose import invert_theta, random_theta
from fhrt.resample import resample_matrix
from training.data import Batch, Draw, draw, labels, pictures
from training.faces import FaceSet
from training.recipe import Mix

LOG = logging.getLogger("fhrt")
ROOM = 0.5  # of the device's free memory, that the faces may take
UNPOSED, POSED = ("aligned",), ("unaligned", "noisy")  # protocols whose LR faces are made here; the CPU makes those of the others
PAD = TIGHT // 4
THREADS = 8  # that prepare batches for a device


def check_device(device: str, devices: int = 1) -> None:
    """Raises BadInputError for a device that is none, or that this machine has not."""
    kind, _, number = device.partition(":")
    if kind not in ("cpu", "cuda") or (number and (not number.isdigit() or devices > 1)):
        raise BadInputError(f'device must be "cpu", "cuda" or, for one of several, "cuda:1"; not {device!r} with {devices} devices')
    if kind == "cuda" and not torch.cuda.is_available():
        raise BadInputError("device is cuda, and this machine has none that torch can use")


@cache
def computes_bf16(kind: str) -> bool:
    """Whether a device ("cpu", "cuda") computes in bfloat16 itself; says so in one line where not.

    A CPU that does not takes up to 200 times as long as in float32.
    """
    if kind != "cpu" or _bf16_of_cpu():
        return True
    LOG.warning("this CPU does not compute in bfloat16 itself: what would be in bf16 is in float32")
    return False


def _bf16_of_cpu() -> bool:
    if torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported():
        return True
    info = Path("/proc/cpuinfo")  # torch does not say it of an ARM processor
    return info.exists() and "bf16" in info.read_text().partition("\n\n")[0].split()


def in_bf16(kind: str) -> torch.autocast:
    """Autocast to bfloat16 on a device ("cpu", "cuda") that computes in it itself; elsewhere everything stays float32."""
    return torch.autocast(kind, torch.bfloat16, enabled=computes_bf16(kind))


def fits(faces: FaceSet, device: torch.device) -> bool:
    """Whether a CUDA device has room for the pictures."""
    return faces.pictures.nbytes < ROOM * torch.cuda.mem_get_info(device)[0]


def held(faces: FaceSet, device: torch.device) -> Tensor:
    """The pictures [N, 192, 192, 3] uint8 in the device's memory."""
    pictures = torch.empty(faces.pictures.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(faces), 1024):
        some = slice(start, start + 1024)
        pictures[some] = torch.from_numpy(np.array(faces.pictures[some]))
    return pictures


class OnDevice:
    """Batches of the faces that a device holds, with the same faces, poses and noise as `training.data.make_batch` draws.

    A `training.data.Source`. LR faces differ from those of the CPU by a grey level where a value lies between two.
    """

    def __init__(self, faces: FaceSet, device: torch.device) -> None:
        self._faces, self._device = faces, device
        self._pictures = held(faces, device)
        self._rows = torch.from_numpy(np.array(resample_matrix(TIGHT, PROTOCOLS["aligned"]))).to(device)

    def prepare(self, mix: Mix, count: int, rng: np.random.Generator) -> tuple[Draw, dict[str, Tensor | None], list[dict[str, Tensor]]]:
        """What has to be known of a batch, in memory that the device copies from by itself."""
        drawn = draw(len(self._faces), mix, count, rng)
        tables = None if drawn.tables is None else torch.from_numpy(drawn.tables)
        whole = {"index": torch.from_numpy(drawn.index), "mirrored": torch.from_numpy(drawn.mirrored), "tables": tables}
        whole |= dict(zip(("points", "visible", "identity"), labels(self._faces, drawn), strict=True))
        parts = []
        for protocol, start, end in drawn.parts:
            part: dict[str, Any] = {"theta": np.repeat(IDENTITY[None], end - start, 0)}
            if protocol in POSED:
                part["theta"] = random_theta(end - start, drawn.pose, rng)
                part["sampling"] = invert_theta(part["theta"]) * np.float32(TIGHT / (LOOSE + 2 * PAD))
                if protocol == "noisy":
                    part["noise"] = rng.standard_normal((end - start, 3, *(PROTOCOLS[protocol],) * 2), np.float32)
            elif protocol not in UNPOSED:
                pairs = make_pairs(pictures(self._faces, drawn, slice(start, end)), protocol, rng, drawn.pose)
                part |= {"lr": pairs.lr, "theta": pairs.theta}
            parts.append({name: self._pinned(torch.from_numpy(np.ascontiguousarray(value))) for name, value in part.items()})
        return drawn, {name: None if value is None else self._pinned(value) for name, value in whole.items()}, parts

    def finish(self, prepared: tuple[Draw, dict[str, Tensor | None], list[dict[str, Tensor]]]) -> Batch:
        """The batch, by work that the device has yet to do: nothing here waits for it."""
        drawn, whole, parts = prepared
        known = {name: None if value is None else self._moved(value) for name, value in whole.items()}
        loose = self._loose(known["index"], known["mirrored"], known["tables"])  # type: ignore[arg-type]
        side = 8 * PROTOCOLS[drawn.parts[0][0]]
        margin = (LOOSE - side) // 2
        hr = loose[:, :, margin : margin + side, margin : margin + side]
        lr, theta = [], []
        for (protocol, start, end), values in zip(drawn.parts, parts, strict=True):
            part = {name: self._moved(value) for name, value in values.items()}
            theta.append(part["theta"])
            if "lr" in part:
                lr.append(part["lr"].float())
                continue
            posed = hr[start:end] if protocol in UNPOSED else self._turned(loose[start:end], part["sampling"])
            small = _levels(self._rows @ posed @ self._rows.T)
            lr.append(_levels(small + 25.5 * part["noise"]) if "noise" in part else small)
        labels_ = (known[name] for name in ("points", "visible", "identity"))
        return Batch(torch.cat(lr) / 127.5 - 1, hr / 127.5 - 1, torch.cat(theta), *labels_)

    def _loose(self, index: Tensor, mirrored: Tensor, tables: Tensor | None) -> Tensor:
        """[N, 3, 192, 192] float32 on [0, 255], mirrored and with their tables applied."""
        chosen = self._pictures.index_select(0, index)
        chosen = torch.where(mirrored[:, None, None, None], chosen.flip(2), chosen)
        if tables is not None:
            chosen = tables.gather(1, chosen.reshape(len(chosen), -1).long()).view_as(chosen)
        return chosen.permute(0, 3, 1, 2).float()

    def _turned(self, loose: Tensor, sampling: Tensor) -> Tensor:
        """As `fhrt.protocols.pose.turn`."""
        padded = F.pad(loose, (PAD,) * 4, mode="reflect").contiguous()
        turned: Tensor = ops.stn_sample(padded, sampling, (TIGHT, TIGHT), padding="border")
        return turned

    def _pinned(self, tensor: Tensor) -> Tensor:
        return tensor.pin_memory() if self._device.type == "cuda" else tensor

    def _moved(self, tensor: Tensor) -> Tensor:
        return tensor.to(self._device, non_blocking=True)


def _levels(pictures: Tensor) -> Tensor:
    """Whole grey levels, as uint8 would hold them."""
    return pictures.round().clamp(0, 255)
