"""Dictionaries of the neighbour embeddings (MNCE, mnce-ridge, LLE, LcR) made from the face shards, and the denoiser of the first two."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from torch import Tensor

from fhrt.errors import BadInputError, WeightsError
from fhrt.export.rewrite import rewrite
from fhrt.metrics import psnr, ssim
from fhrt.models.denoiser import Denoiser, regularise
from fhrt.models.mnce import MNCE, MNCERidge
from fhrt.models.neighbours import LCR, LLE
from fhrt.protocols.archive import read_faces
from fhrt.protocols.pairs import make_pairs
from fhrt.resample import resize, to_uint8
from training import checkpoint
from training.device import in_bf16
from training.faces import describe
from training.unfold import bundle_weights, unfold

MNCES: dict[str, type[MNCE]] = {"mnce": MNCE, "mnce-ridge": MNCERidge}
EMBEDDINGS: dict[str, type[LLE] | type[LCR]] = {"lle": LLE, "lcr": LCR}
SIGMA = 50.0  # of the denoiser's Gaussian noise, at most, on [0, 255]
_CHUNK = 64  # faces at a time

Told = Callable[[int], None]


def hyper_parameters(name: str, settings: Sequence[str]) -> dict[str, Any]:
    """Hyper-parameters of the dictionary ``name`` from texts "KEY=VALUE", each of its default's type.

    Raises BadInputError for a name that is no dictionary, and for keys and values that it does not take.
    """
    homes: dict[str, type[torch.nn.Module]] = {**MNCES, **EMBEDDINGS}
    if name not in homes:
        raise BadInputError(f"name must be one of {', '.join(homes)}, not {name!r}")
    defaults = {key: each.default for key, each in inspect.signature(homes[name]).parameters.items()}
    values: dict[str, Any] = {}
    for setting in settings:
        key, _, text = setting.partition("=")
        if key not in defaults:
            raise BadInputError(f"{name} has no hyper-parameter {key!r}; there are: {', '.join(defaults)}")
        kind = type(defaults[key])
        try:
            values[key] = kind(text)
        except ValueError as error:
            raise BadInputError(f"{key} must be {'a whole number' if kind is int else 'a number'}, not {text!r}") from error
    return values


def read_pairs(data: Path, split: str, side: int, limit: int | None = None) -> tuple[Tensor, Tensor]:
    """Aligned faces of a split on [-1, 1]: lr [N, 3, 16, 16] float32 and the truth at ``side``, [N, 3, side, side] float16."""
    faces = read_faces(data, split, limit)
    lr, truth = [], torch.empty(len(faces), 3, side, side, dtype=torch.float16)
    for start in range(0, len(faces), _CHUNK):
        pairs = make_pairs(faces[start : start + _CHUNK], "aligned", np.random.default_rng(0))
        hr = pairs.hr.astype(np.float32)
        lr.append(_unit(pairs.lr))
        truth[start : start + _CHUNK] = _unit(hr if side == hr.shape[-1] else resize(hr, (side, side)))
    return torch.cat(lr), truth


def train_denoiser(
    denoiser: Denoiser, faces: Tensor, steps: int, batch: int = 8, seed: int = 0, told: Told | None = None, device: str = "cpu"
) -> None:
    """Teach the denoiser Gaussian noise of σ uniform on [0, `SIGMA`] on faces [N, 3, H, W] in [-1, 1], flipped at random.

    On a device the faces are held and the noise is made there; the denoiser is given back on the CPU. Mean squared error, Adam with 1e-3
    and a cosine decay; in bf16, which is three times as fast on a CPU that has it. ``told`` gets the number of steps done. Raises
    BadInputError when there is no face or no step.
    """
    if len(faces) == 0 or steps < 1:
        raise BadInputError(f"the denoiser needs faces and steps, not {len(faces)} and {steps}")
    random = torch.Generator().manual_seed(seed)
    noises = random if device == "cpu" else torch.Generator(device).manual_seed(seed)
    torch.backends.cudnn.benchmark = device != "cpu"
    faces = faces.to(device)
    denoiser.train().to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.Adam(denoiser.parameters(), 1e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, 1e-5)
    for step in range(steps):
        index = torch.randint(len(faces), (batch,), generator=random)
        clean = faces[(index if device == "cpu" else index.pin_memory()).to(device, non_blocking=True)].float()
        if torch.rand((), generator=random) < 0.5:
            clean = clean.flip(3)
        sigma = torch.rand(batch, 1, 1, 1, generator=noises, device=device) * SIGMA / 127.5
        noisy = clean + sigma * torch.randn(clean.shape, generator=noises, device=device)
        with in_bf16(clean.device.type):
            noise = denoiser.layers(noisy.contiguous(memory_format=torch.channels_last))
        loss = (noisy - noise.float() - clean).square().mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        if told is not None:
            told(step + 1)
    denoiser.to("cpu").eval()


@torch.no_grad()
def regularise_all(model: MNCE, lr: Tensor, told: Told | None = None) -> Tensor:
    """f(y) of all faces [N, 3, 16, 16] → [N, 3, side, side] float16, with the denoiser folded and in bf16: half the time."""
    folded = rewrite(model.denoiser).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def denoise(x: Tensor) -> Tensor:
        with in_bf16("cpu"):
            return x - folded.layers(x.contiguous(memory_format=torch.channels_last)).float()

    out = torch.empty(len(lr), 3, model.reduction.side, model.reduction.side, dtype=torch.float16)
    for start in range(0, len(lr), _CHUNK):
        some = lr[start : start + _CHUNK]
        out[start : start + _CHUNK] = regularise(some, denoise, model.reduction, model.strength, model.steps)
        if told is not None:
            told(start + len(some))
    return out


def build_mnce(
    data: Path,
    out: Path,
    limit: int | None = None,
    denoiser_steps: int = 1100,
    denoiser: str | Path | None = None,
    seed: int = 0,
    device: str = "cpu",
    batch: int = 8,
    name: str = "mnce",
    **hparams: Any,
) -> Path:
    """Train the denoiser, regularise the training faces, fit a system to them; writes ``out/NAME.safetensors`` and returns it.

    limit: training faces to use. device, batch: of the denoiser's training. denoiser: a file that this function or `build_denoiser` wrote,
    or a bundle's name or folder, to take its denoiser in place of training one. name: "mnce" or "mnce-ridge". hparams: of `MNCE` or
    `MNCERidge`. mnce-ridge with 24,000 faces: about 10 GB of memory. Prints what each step of the method makes of the validation split.
    Raises BadInputError for hyper-parameters that do not fit, or fewer faces than the dictionary is to hold; WeightsError and
    UnknownModelError where there is no such denoiser.
    """
    torch.manual_seed(seed)
    model = MNCES[name](**hparams).eval()
    with _bar() as told:
        told("reading the faces", None)
        lr, truth = read_pairs(data, "train", model.reduction.side, limit)
        chosen = _choose(len(lr), model.faces, seed)
        if denoiser is not None:
            _take_denoiser(model, denoiser, lr[:_CHUNK])
        elif model.steps > 0:
            _denoise(model, truth, denoiser_steps, seed, batch, device, told)
        used = len(lr)
        if model.first is None:  # nothing looks at the faces that are not in the dictionary
            lr, truth, chosen = lr[chosen], truth[chosen], torch.arange(len(chosen))
        x = regularise_all(model, lr, told("regularising the faces", len(lr)))
        told("filling the dictionary", None)
        model.build(x, truth, chosen)
    return _save(model, name, data, out, hparams, used)


def build_denoiser(
    data: Path, out: Path, limit: int | None = None, steps: int = 1100, seed: int = 0, device: str = "cpu", batch: int = 8
) -> Path:
    """Train MNCE's denoiser alone; writes ``out/denoiser.safetensors``, which `build_mnce` takes, and returns it.

    For a machine with a GPU: the dictionary is filled on the CPU, which takes minutes and much memory. Arguments as of `build_mnce`.
    """
    torch.manual_seed(seed)
    model, path = MNCE(), out / "denoiser.safetensors"
    with _bar() as told:
        told("reading the faces", None)
        _, truth = read_pairs(data, "train", model.reduction.side, limit)
        _denoise(model, truth, steps, seed, batch, device, told)
    about = {"model": "mnce", "part": "denoiser", "data": describe(data, "train", len(truth)), "step": steps}
    checkpoint.save(path, checkpoint.pack("denoiser", model.denoiser.state_dict()), about)
    return path


def _take_denoiser(model: MNCE, source: str | Path, lr: Tensor) -> None:
    """lr [N, 3, 16, 16]: of some faces, for `unfold`. Raises UnknownModelError, or WeightsError where there is no such denoiser."""
    if Path(source).is_file():
        saved = checkpoint.unpack("denoiser", checkpoint.load(Path(source))[0])
        try:
            model.denoiser.load_state_dict(saved)
        except RuntimeError as error:
            raise WeightsError(f"{source} holds no denoiser") from error
        return
    weights = checkpoint.unpack("denoiser", bundle_weights(source))
    model.denoiser = unfold(Denoiser(), weights, model.reduction.enlarge(lr)).eval()  # type: ignore[assignment]


def _denoise(model: MNCE, truth: Tensor, steps: int, seed: int, batch: int, device: str, told: Callable[[str, int | None], Told]) -> None:
    line = told("training the denoiser", steps)
    train_denoiser(model.denoiser, truth, steps, seed=seed, batch=batch, device=device, told=line)


def build_embedding(name: str, data: Path, out: Path, limit: int | None = None, seed: int = 0, **hparams: Any) -> Path:
    """Fill the dictionary of the baseline ``name``, "lle" or "lcr"; writes ``out/NAME.safetensors`` and returns it.

    Raises BadInputError for another name, for hyper-parameters that do not fit, or fewer faces than the dictionary is to hold.
    """
    if name not in EMBEDDINGS:
        raise BadInputError(f"name must be one of {', '.join(EMBEDDINGS)}, not {name!r}")
    model = EMBEDDINGS[name](**hparams).eval()
    with _bar() as told:
        told("reading the faces", None)
        lr, truth = read_pairs(data, "train", model.hr_components.side, limit)
        chosen = _choose(len(lr), model.faces, seed)
        told("filling the dictionary", None)
        model.build(lr[chosen], truth[chosen].float())
    return _save(model, name, data, out, hparams, len(lr))


def _choose(available: int, wanted: int, seed: int) -> Tensor:
    """Indices [wanted] int64 of random faces, none twice."""
    if wanted > available:
        raise BadInputError(f"the dictionary is to hold {wanted} faces, but there are {available}")
    return torch.from_numpy(np.random.default_rng(seed).permutation(available)[:wanted])


def _unit(pictures: NDArray[Any]) -> Tensor:
    """[0, 255] of any dtype → [-1, 1] float32."""
    return torch.from_numpy(np.ascontiguousarray(pictures, dtype=np.float32)).div_(127.5).sub_(1)


def _save(model: MNCE | LLE | LCR, name: str, data: Path, out: Path, hparams: dict[str, Any], used: int) -> Path:
    """Floats in fp16 (the scales of the codes stay float32), codes in uint8, the validation split's PSNR in the description."""
    model.load_state_dict({key: _narrow(key, value) for key, value in model.state_dict().items()})
    scores = _validate(model.eval(), data)
    last = list(scores.values())[-1]
    path = out / f"{name}.safetensors"
    tensors = {key: _narrow(key, value) for key, value in model.state_dict().items()}
    about = {"model": name, "hparams": hparams, "data": describe(data, "train", used), "entries": model.faces}
    about["validation"] = {"aligned_psnr": last[0], "steps": scores}
    checkpoint.save(path, tensors, about)
    if len(scores) > 1:
        table = Table("step", "PSNR", "SSIM", title="validation split, aligned")
        for step, (decibels, structure) in scores.items():
            table.add_row(step, f"{decibels:.2f}", f"{structure:.4f}")
        Console().print(table)
    Console().print(f"{path}: {path.stat().st_size / 1e6:.1f} MB, validation {last[0]:.3f} dB")
    return path


@torch.no_grad()
def _validate(model: MNCE | LLE | LCR, data: Path) -> dict[str, tuple[float, float]]:
    """Mean PSNR (dB) and SSIM of the validation split under `aligned`, by step of the method; the last step's are the system's."""
    pairs = make_pairs(read_faces(data, "val"), "aligned", np.random.default_rng(0))
    scores: dict[str, list[NDArray[np.float64]]] = {}
    for start in range(0, len(pairs.lr), _CHUNK):
        lr, hr = _unit(pairs.lr[start : start + _CHUNK]), pairs.hr[start : start + _CHUNK]
        made = model.stages(lr) if isinstance(model, MNCE) else {"sr": model(lr).sr}
        truth = np.ascontiguousarray(hr.transpose(0, 2, 3, 1))
        for step, picture in made.items():
            sr = np.ascontiguousarray(to_uint8((picture.numpy() + 1) * 127.5).transpose(0, 2, 3, 1))
            scores.setdefault(step, []).append(np.stack([psnr(sr, truth), ssim(sr, truth)]))
    means = {step: np.concatenate(each, axis=1).mean(axis=1).tolist() for step, each in scores.items()}
    return {step: (decibels, structure) for step, (decibels, structure) in means.items()}


def _narrow(key: str, value: Tensor) -> Tensor:
    return value.half() if value.dtype == torch.float32 and not key.endswith("scale") else value


@contextmanager
def _bar() -> Iterator[Callable[[str, int | None], Told]]:
    """Gives a function that starts a line of the progress bar (of unknown length for None) and returns what moves it."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:

        def line(description: str, total: int | None) -> Told:
            task = progress.add_task(description, total=total)
            return lambda done: progress.update(task, completed=done)

        yield line
