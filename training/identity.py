"""Networks that tell people apart: C-SRIP's three, which look at what a Gaussian takes away from a face and are then frozen as a prior, and
the recognition network by which reports say whether a hallucinated face still looks like the person.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from fhrt.errors import BadInputError, WeightsError
from fhrt.models.recognition import SIDE, shrink
from fhrt.models.squeezenet import SIGMAS, SqueezeNet, residual_image
from fhrt.protocols.archive import LOOSE, MARGIN, TIGHT
from training import checkpoint
from training.data import decimated
from training.device import fits, held, in_bf16
from training.faces import FaceSet

LR, DECAY, DECAY_EPOCHS = 1e-4, 1 / 3, 20  # C-SRIP §3.4
SHIFT = 6  # pixels of the 192×192 face that a random crop moves it by, at most
HELD_BACK = 4  # an identity with at least so many faces gives one to validation


def at_scale(faces: Tensor, scale: int) -> Tensor:
    """Residual images [N, 3, 24·scale, 24·scale] of faces [N, 3, 192, 192] in [-1, 1]: what the network of that scale looks at."""
    return residual_image(decimated(faces, LOOSE * scale // 8), SIGMAS[scale])


def tight_view(faces: Tensor) -> Tensor:
    """The central 128×128 of faces [N, 3, 192, 192] as the recognition network looks at it."""
    return shrink(faces[:, :, MARGIN : MARGIN + TIGHT, MARGIN : MARGIN + TIGHT])


@dataclass(frozen=True)
class View:
    """What a network looks at: ``look`` makes pictures [N, 3, size, size] of faces [N, 3, 192, 192] in [-1, 1]. name: of its file."""

    name: str
    size: int
    look: Callable[[Tensor], Tensor]


RESIDUALS = {scale: View(f"identity-{scale}x", LOOSE * scale // 8, partial(at_scale, scale=scale)) for scale in SIGMAS}
RECOGNITION = View("recognition", SIDE, tight_view)


class IdentityPrior(nn.Module):
    """The three frozen networks, from a folder with ``identity-2x.safetensors``, ``-4x`` and ``-8x``: C-SRIP's identity term.

    Raises WeightsError where one is missing or is something else, or where they do not know the same people.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.networks = nn.ModuleDict({str(scale): load_network(folder, view) for scale, view in RESIDUALS.items()})
        people = {network.classifier.out_features for network in self.networks.values()}  # type: ignore[union-attr]
        if len(people) > 1:
            raise WeightsError(f"the identity networks in {folder} were trained on different faces: {sorted(people)} identities")
        self.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> IdentityPrior:
        """Frozen: stays as it is."""
        return super().train(False)

    def forward(self, pictures: dict[int, Tensor], identity: Tensor) -> Tensor:
        """Cross-entropy summed over the scales; pictures: scale → [N, 3, 24·scale, 24·scale]; identity [N], -1 where nobody knows."""
        known = (identity >= 0).sum().clamp(min=1)  # not asked for: the host would wait for the device
        losses = [
            F.cross_entropy(self.networks[str(scale)](residual_image(picture, SIGMAS[scale])), identity, ignore_index=-1, reduction="sum")
            for scale, picture in pictures.items()
        ]
        return torch.stack(losses).sum() / known


def load_network(folder: Path, view: View) -> SqueezeNet:
    """The network of a view that `train_identity` wrote to ``folder``. Raises WeightsError where it is missing or is something else."""
    path = folder / f"{view.name}.safetensors"
    tensors, about = checkpoint.load(path)
    if about.get("model") != "squeezenet" or about.get("view") != view.name:
        raise WeightsError(f"{path} is not the network {view.name}")
    network = SqueezeNet(**about["hparams"])
    network.load_state_dict(tensors)
    return network


def train_identity(
    faces: FaceSet,
    view: View,
    out: Path,
    *,
    epochs: int = 60,
    seconds: float = math.inf,
    batch: int = 128,
    patience: int = 10,
    device: str = "cpu",
    seed: int = 0,
) -> float:
    """Train the network of a view and write ``out/NAME.safetensors``; returns its accuracy on faces held back.

    Adam 1e-4, a third of it every 20 epochs, mirrors and random crops, stops after ``patience`` epochs without a better one (C-SRIP
    §3.4), or after the epoch that ends later than ``seconds``. In bf16, which with channels last is three times as fast on a CPU that has
    it. On a device that has room for the faces they are held there. Raises BadInputError where fewer than two identities are known.
    """
    if faces.people is None or faces.people.count < 2:
        raise BadInputError("fewer than two identities are known")
    people, place = faces.people, torch.device(device)
    rng = np.random.default_rng(seed)
    on_device = place.type == "cuda" and fits(faces, place)
    pictures = held(faces, place) if on_device else None
    torch.manual_seed(seed)
    train, held_back = _split(people.identity)
    torch.backends.cudnn.benchmark = place.type == "cuda"  # the last batch of an epoch alone is of another size
    network = SqueezeNet(people.count, view.size).to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.Adam(network.parameters(), LR)
    schedule = torch.optim.lr_scheduler.StepLR(optimiser, DECAY_EPOCHS, DECAY)
    console, best, best_epoch, began = Console(), -math.inf, 0, time.monotonic()
    for epoch in range(epochs):
        network.train()
        order = rng.permutation(train)
        for start in track(range(0, len(order), batch), f"{view.name}, epoch {epoch}", console=console, transient=True):
            some = order[start : start + batch]
            moves = _moves(len(some), rng)
            moved = _augmented(faces.pictures[some], *moves).to(device) if pictures is None else _augmented_there(pictures, some, *moves)
            seen = view.look(moved).contiguous(memory_format=torch.channels_last)
            with in_bf16(place.type):
                logits = network(seen)
            loss = F.cross_entropy(logits.float(), torch.from_numpy(people.identity[some]).to(device))
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        schedule.step()
        accuracy = _accuracy(network, faces, held_back, view, device, batch)
        console.print(f"epoch {epoch}  loss {loss.item():.3f}  accuracy {accuracy:.3f}")
        if accuracy > best:
            best, best_epoch = accuracy, epoch
            about: dict[str, Any] = {"model": "squeezenet", "view": view.name, "accuracy": accuracy, "epoch": epoch}
            about["hparams"] = {"classes": people.count, "size": view.size}
            checkpoint.save(out / f"{view.name}.safetensors", network.state_dict(), about)
        if epoch - best_epoch >= patience or time.monotonic() - began > seconds:
            break
    return best


@torch.no_grad()
def verification(network: SqueezeNet, faces: FaceSet, batch: int = 64) -> float:
    """Area under the ROC curve of the recognition network: how often two pictures of one person are more alike than two of different ones.

    faces: of people that it was not trained on. Raises BadInputError where no two pictures show the same person, or all do.
    """
    if faces.people is None:
        raise BadInputError("nobody knows who these faces are")
    rows = np.flatnonzero(faces.people.identity >= 0)
    first, second = np.triu_indices(len(rows), 1)
    same = faces.people.identity[rows[first]] == faces.people.identity[rows[second]]
    if same.all() or not same.any():
        raise BadInputError(f"verification needs pairs of one person and of two, not {same.sum()} of {same.size} pairs of one")
    network.eval()
    parts = [network.embedding(tight_view(_tensor(faces.pictures[some]))) for some in np.array_split(rows, -(-len(rows) // batch))]
    embedding = torch.cat(parts).numpy()
    alike = (embedding @ embedding.T)[first, second]
    rank = np.searchsorted(np.sort(alike[~same]), alike[same])  # how many strangers' pairs each pair of one person surpasses
    return float(rank.mean() / (~same).sum())


def _split(identity: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows to train on, and one row of every identity that has enough of them."""
    rows = [np.flatnonzero(identity == person) for person in np.unique(identity[identity >= 0])]
    held_back = np.array([row[-1] for row in rows if len(row) >= HELD_BACK], np.int64)
    return np.setdiff1d(np.concatenate(rows), held_back), held_back


def _moves(count: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Pixels across and down [N, 2] that faces are moved by, and which of them are mirrored [N]."""
    moves = [(rng.integers(-SHIFT, SHIFT + 1, 2), rng.random() < 0.5) for _ in range(count)]
    return np.array([each[0] for each in moves]), np.array([each[1] for each in moves])


def _augmented(pictures: NDArray[np.uint8], shift: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> Tensor:
    """[N, 3, 192, 192] in [-1, 1]: moved and mirrored, what falls outside reflected."""
    moved = np.empty_like(pictures)
    for index, (picture, (across, down)) in enumerate(zip(pictures, shift, strict=True)):
        padded = np.pad(picture, ((SHIFT, SHIFT), (SHIFT, SHIFT), (0, 0)), "reflect")
        crop = padded[SHIFT + down : SHIFT + down + LOOSE, SHIFT + across : SHIFT + across + LOOSE]
        moved[index] = crop[:, ::-1] if mirrored[index] else crop
    return _tensor(moved)


def _augmented_there(pictures: Tensor, rows: NDArray[np.int64], shift: NDArray[np.int64], mirrored: NDArray[np.bool_]) -> Tensor:
    """The same of the ``rows`` of all pictures [N, 192, 192, 3] uint8 that a device holds, without waiting for it."""
    index = np.abs(np.arange(LOOSE) + shift[:, :, None])  # [N, across and down, 192], reflected at both ends
    index = np.where(index < LOOSE, index, 2 * (LOOSE - 1) - index)
    index[:, 0] = np.where(mirrored[:, None], index[:, 0, ::-1], index[:, 0])
    where = torch.from_numpy(np.concatenate([rows, index.ravel()]))
    where = (where.pin_memory() if pictures.is_cuda else where).to(pictures.device, non_blocking=True)
    which, (across, down) = where[: len(rows)], where[len(rows) :].view(len(rows), 2, LOOSE).unbind(1)
    moved = pictures[which[:, None, None], down[:, :, None], across[:, None, :]]
    return moved.permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def _tensor(pictures: NDArray[np.uint8]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pictures.transpose(0, 3, 1, 2))).float().div_(127.5).sub_(1)


@torch.no_grad()
def _accuracy(network: nn.Module, faces: FaceSet, rows: NDArray[np.int64], view: View, device: str, batch: int) -> float:
    if len(rows) == 0:
        return 0.0
    assert faces.people is not None
    network.eval()
    right = 0
    for start in range(0, len(rows), batch):
        some = rows[start : start + batch]
        logits = network(view.look(_tensor(faces.pictures[some]).to(device)))
        right += int((logits.argmax(1).cpu().numpy() == faces.people.identity[some]).sum())
    return right / len(rows)
