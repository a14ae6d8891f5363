"""Trains the detector of tiny faces on scenes: what each cell shall say, the loss, and the loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fhrt.errors import BadInputError, WeightsError
from fhrt.export.detector import OUTPUTS
from fhrt.faces.centres import decode, probability, score_features
from fhrt.files import make_folder
from fhrt.metrics.detection import LEAST, Matches, match_all, recall_at
from fhrt.models.detector import COARSEST, STRIDE, UNIT, Detector, Maps
from fhrt.protocols.frames import HELD_BACK, walk_frames
from fhrt.runtime.bundle import open_bundle
from training import checkpoint
from training.device import check_device, in_bf16
from training.faces import describe, load_faces
from training.loop import DivergedError
from training.scenes import SIDE, Photograph, Scene, make_scene
from training.unfold import bundle_weights, unfold

CELLS = SIDE // STRIDE
SPREAD, LEAST_SPREAD = 0.07, 0.55  # standard deviation of a face's peak: parts of its box, and cells
NEAR = 0.2  # of a peak's height from which on a cell answers for the face's geometry
WEIGHTS = {"heat": 1.0, "box": 2.0, "place": 1.0, "eyes": 1.0}
SAVE_SECONDS, LOG_EVERY = 240.0, 50
UNFOLD_WITH = 64  # scenes


class Targets(NamedTuple):
    """Of a batch of scenes, [N, C, 64, 64]. heat: 1 at a face's centre, less around it. geometry: as `Maps`. weight: of a cell's geometry.
    seen: whether its eyes are known. counted: 0 in cells that may say what they like.
    """

    frame: Tensor
    heat: Tensor
    geometry: Tensor
    weight: Tensor
    seen: Tensor
    counted: Tensor


def targets(scene: Scene) -> Targets:
    """What the network shall say of one scene."""
    heat, weight = np.zeros((CELLS, CELLS), np.float32), np.zeros((CELLS, CELLS), np.float32)
    geometry, seen = np.zeros((8, CELLS, CELLS), np.float32), np.zeros((CELLS, CELLS), np.float32)
    counted = np.ones((CELLS, CELLS), np.float32)
    for x1, y1, x2, y2 in scene.ignored / STRIDE:
        counted[int(y1) : int(np.ceil(y2)), int(x1) : int(np.ceil(x2))] = 0
    middles = np.arange(CELLS) + 0.5
    for box, eyes in zip(scene.boxes, scene.eyes, strict=True):
        size = box[2:] - box[:2]
        centre = (box[:2] + box[2:]) / 2
        place = centre / STRIDE
        cell = np.clip(place, 0, CELLS - 1).astype(int)
        across, down = (
            np.exp(-0.5 * ((middles - cell[axis] - 0.5) / max(LEAST_SPREAD, SPREAD * size[axis] / STRIDE)) ** 2) for axis in (0, 1)
        )
        peak = (down[:, None] * across).astype(np.float32)
        counted[peak > NEAR] = 1
        nearest = (peak > NEAR) & (peak > weight)
        weight[nearest] = peak[nearest]
        np.maximum(heat, peak, out=heat)
        rows, columns = np.nonzero(nearest)
        geometry[0, rows, columns], geometry[1, rows, columns] = place[0] - columns - 0.5, place[1] - rows - 0.5
        geometry[2:4, rows, columns] = np.log(size / UNIT)[:, None]
        known = not np.isnan(eyes).any()
        seen[rows, columns] = known
        geometry[4:, rows, columns] = ((eyes - centre) / np.sqrt(size.prod())).ravel()[:, None] if known else 0
    frame = torch.from_numpy(np.ascontiguousarray(scene.picture.transpose(2, 0, 1)))
    return Targets(frame, *(torch.from_numpy(each.reshape(-1, CELLS, CELLS)) for each in (heat, geometry, weight, seen, counted)))


def losses(maps: Maps, wanted: Targets) -> dict[str, Tensor]:
    """Heat: focal loss by the distance from a peak (CenterNet, eq. 1). Box: generalised IoU (Rezatofighi et al., 2019). Place: smooth L1 of
    what makes the box. Eyes: smooth L1 where they are known. Each by `WEIGHTS`, and over the number of faces.
    """
    heat = maps.heat.float().sigmoid().clamp(1e-5, 1 - 1e-5)
    peak = wanted.heat == 1
    right = torch.where(peak, (1 - heat) ** 2 * heat.log(), (1 - wanted.heat) ** 4 * heat**2 * (1 - heat).log())
    faces = peak.sum().clamp(min=1)
    terms = {"heat": -(right * wanted.counted).sum() / faces}
    total = wanted.weight.sum().clamp(min=1)
    cells = wanted.weight[:, 0] > 0
    weight, seen = wanted.weight[:, 0][cells], wanted.seen[:, 0][cells]
    ours, theirs = (each.permute(0, 2, 3, 1)[cells].float() for each in (maps.geometry, wanted.geometry))
    terms["box"] = (weight * (1 - _overlap(ours, theirs))).sum() / total
    apart = F.smooth_l1_loss(ours, theirs, reduction="none", beta=0.1)
    terms["place"] = (weight[:, None] * apart[:, :4]).sum() / total
    terms["eyes"] = 4 * ((weight * seen)[:, None] * apart[:, 4:]).sum() / (weight * seen).sum().clamp(min=1)
    return {name: WEIGHTS[name] * term for name, term in terms.items()}


def _overlap(ours: Tensor, theirs: Tensor) -> Tensor:
    """Generalised intersection over union of boxes, each given as a cell's geometry [N, 8]."""
    (low, high), (low_0, high_0) = (_corners(each) for each in (ours, theirs))
    area, area_0 = ((b - a).prod(1) for a, b in ((low, high), (low_0, high_0)))
    common = (torch.minimum(high, high_0) - torch.maximum(low, low_0)).clamp(min=0).prod(1)
    hull = (torch.maximum(high, high_0) - torch.minimum(low, low_0)).prod(1)
    union = area + area_0 - common
    return common / union - (hull - union) / hull


def _corners(geometry: Tensor) -> tuple[Tensor, Tensor]:
    middle, half = geometry[:, :2] * STRIDE, geometry[:, 2:4].clamp(-3, 4).exp() * (UNIT / 2)
    return middle - half, middle + half


class _Scenes(Dataset[Targets]):
    """Batches by their number: the same number gives the same scenes."""

    def __init__(self, photographs: list[Photograph], data: Path, cache: Path, batch: int, seed: int, first: int, last: int) -> None:
        self.photographs, self.batch, self.seed, self.first, self.last = photographs, batch, seed, first, last
        self.faces = load_faces(data, "train", cache, landmarks=True)

    def __len__(self) -> int:
        return self.last - self.first

    def __getitem__(self, index: int) -> Targets:
        cv2.setNumThreads(1)
        rng = np.random.default_rng([self.seed, self.first + index])
        each = [targets(make_scene(self.photographs, self.faces, rng)) for _ in range(self.batch)]
        return Targets(*(torch.stack(parts) for parts in zip(*each, strict=True)))


def load_photographs(frames: Path, split: str) -> list[Photograph]:
    """All of a split, in memory (about 1 MB each)."""
    return [Photograph(np.ascontiguousarray(picture[..., ::-1]), boxes) for _, picture, boxes in walk_frames(frames, split)]


def train_detector(
    data: Path, frames: Path, out: Path, *, steps: int = 20000, batch: int = 16, lr: float = 2e-3, workers: int = 1,
    validate_every: int = 1000, resume: bool = False, start: Path | None = None, device: str = "cpu", seed: int = 1,
) -> dict[str, float]:  # fmt: skip
    """Train `Detector` in the folder ``out`` (``last.safetensors``, ``best.safetensors``) to its last step; gives its best recalls.

    AdamW, warm-up and cosine decay to 0 from ``lr``, moving average, `in_bf16`. Stops at Ctrl-C; ``resume`` goes on, ``start`` begins with
    the weights of a bundle folder. Raises BadInputError for what the archives' readers refuse and for a folder that holds a run which is
    not resumed, WeightsError for a bundle or checkpoint that is damaged or another network's, UnknownModelError where there is no such
    bundle, DivergedError.
    """
    check_device(device)
    if resume and start is not None:
        raise BadInputError("--resume goes on with a run and --start begins one: choose one of them")
    if not resume:
        checkpoint.refuse_to_overwrite(out)
    torch.set_flush_denormal(True)
    torch.manual_seed(seed)
    photographs = load_photographs(frames, "train")
    if len(photographs) <= HELD_BACK:
        raise BadInputError(f"{frames} has {len(photographs)} photographs to train with; {HELD_BACK} of them validate")
    make_folder(out)
    facts = {"model": "detector"}
    model = Detector()
    if start is not None:
        seen = _Scenes(photographs[:-HELD_BACK], data, out.parent / "faces", UNFOLD_WITH, seed + 1, 0, 1)
        model = from_bundle(start, seen[0].frame.float() / 255)
        facts["start"] = open_bundle(start).card.training
    model = model.to(device, memory_format=torch.channels_last)
    optimiser = torch.optim.AdamW(model.parameters(), lr, weight_decay=0.01)
    average, step, best = checkpoint.plain_state(model), 0, 0.0
    if resume:
        path = out / "last.safetensors"
        tensors, about = checkpoint.load(path)
        if about.get("model") != facts["model"]:
            raise WeightsError(f"{path} is another model's: of {about.get('model')!r}, not of {facts['model']!r}")
        if about["step"] >= steps:
            raise BadInputError(f"{path} is at step {about['step']} already; its last step shall be {steps}")
        model.load_state_dict(checkpoint.unpack("model", tensors))
        average = {key: value.to(device) for key, value in checkpoint.unpack("average", tensors).items()}
        checkpoint.unpack_optimiser(optimiser, "optimiser", tensors)
        step, best = about["step"], about["best"]
        if "start" in about:
            facts["start"] = about["start"]
    scenes = _Scenes(photographs[:-HELD_BACK], data, out.parent / "faces", batch, seed, step, steps)
    facts["data"] = f"{describe(data, 'train', len(scenes.faces))}; {len(photographs) - HELD_BACK} photographs"

    def save() -> None:
        tensors = checkpoint.pack("model", model.state_dict()) | checkpoint.pack("average", average)
        checkpoint.save(
            out / "last.safetensors", tensors | checkpoint.pack_optimiser(optimiser, "optimiser"), facts | {"step": step, "best": best}
        )

    loader: Iterator[Targets] = iter(DataLoader(scenes, batch_size=None, num_workers=workers, prefetch_factor=4 if workers else None))
    console, saved, recalls = Console(), time.monotonic(), dict[str, float]()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=console) as progress:
            task = progress.add_task("detector", total=steps, completed=step)
            for wanted in loader:
                wanted = Targets(*(each.to(device) for each in wanted))
                frame = (wanted.frame.float() / 255).to(memory_format=torch.channels_last)
                with in_bf16(frame.device.type):
                    maps = model(frame)
                terms = losses(maps, wanted)
                loss = torch.stack(list(terms.values())).sum()
                for group in optimiser.param_groups:
                    group["lr"] = lr * min((step + 1) / 200, 0.01 + 0.99 * 0.5 * (1 + np.cos(np.pi * step / steps)))
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 10.0)
                if not torch.isfinite(norm):
                    raise DivergedError(f"the gradient is {norm.item()} at step {step}; resume from last.safetensors with a lower lr")
                optimiser.step()
                checkpoint.follow(average, model, min(0.999, (1 + step) / (10 + step)))
                step += 1
                if step % LOG_EVERY == 0:
                    told = "  ".join(f"{name} {term.item():.3f}" for name, term in terms.items())
                    progress.update(task, completed=step, description=told)
                    with (out / "log.txt").open("a") as log:
                        log.write(f"step {step}  {told}\n")
                validated = step % validate_every == 0 or step == steps
                if validated:
                    recalls, calibration = validate(average, photographs[-HELD_BACK:], device)
                    told = "  ".join(f"{name} {value:.3f}" for name, value in recalls.items())
                    console.print(f"step {step}  {told}")
                    with (out / "log.txt").open("a") as log:
                        log.write(f"step {step}  {told}\n")
                    mean = float(np.mean(list(recalls.values())))
                    if mean > best or step == steps:  # the figure is noisy; once the rate has come down, the last weights are the best
                        best = mean
                        checkpoint.save(
                            out / "best.safetensors", average, facts | {"step": step, "validation": recalls, "calibration": calibration}
                        )
                if validated or time.monotonic() - saved > SAVE_SECONDS:  # a run that has a best.safetensors can be resumed
                    save()
                    saved = time.monotonic()
    except KeyboardInterrupt:
        console.print(f"stopped at step {step}; continue with --resume")
    save()
    return recalls


def from_bundle(folder: Path, frames: Tensor) -> Detector:
    """The network of a bundle folder, to go on training; frames [N, 3, H, W], RGB in [0, 1]: see `unfold`. Raises as `bundle_weights`."""
    card = open_bundle(folder).card
    if card.outputs != OUTPUTS:
        raise WeightsError(f"{folder} is a bundle of {card.name}, not of fhrt's detector")
    model, weights = Detector(), bundle_weights(folder)
    try:
        weights["stem.0.0.weight"] = weights["stem.0.0.weight"].flip(1) * 255  # the bundle takes bytes in BGR
        unfold(model, weights, frames)
    except (KeyError, WeightsError) as error:
        raise WeightsError(f"{folder} is not a bundle of fhrt's detector: {error}") from error
    return model


def validate(weights: dict[str, Tensor], photographs: list[Photograph], device: str) -> tuple[dict[str, float], list[float]]:
    """Recall at one false positive per photograph by size of face, and the calibration that it was measured with."""
    model = Detector().to(device).eval()
    model.load_state_dict(weights)
    found = []
    for photograph in photographs:
        height, width = photograph.picture.shape[:2]
        rows, columns = (-length % COARSEST for length in (height, width))
        frame = np.pad(photograph.picture, ((0, rows), (0, columns), (0, 0)))
        with torch.no_grad():
            maps = model(torch.from_numpy(frame.transpose(2, 0, 1)[None].astype(np.float32) / 255).to(device))
        boxes, scores, _ = decode(maps.heat[0, 0].sigmoid().cpu().numpy(), maps.geometry[0].cpu().numpy(), least=0.03)
        found.append((boxes, scores))
    faces = [photograph.boxes for photograph in photographs]
    calibration = calibrate(match_all(found, faces))
    matches = match_all([(boxes, probability(scores, boxes, calibration)) for boxes, scores in found], faces)
    ranges = ((LEAST, 12), (12, 16), (16, 24), (24, 64))
    return {f"{low:.0f}-{high}": float(recall_at(matches, 1.0, low, high)[0]) for low, high in ranges}, calibration


def calibrate(matches: Matches) -> list[float]:
    """What makes probabilities of the network's scores, by size (`fhrt.faces.centres.probability`): logistic regression (Platt, 1999).

    At the same score many more of the tiny boxes are wrong than of the large ones, so one threshold would serve neither.
    """
    known = (matches.face < 0) | (np.append(matches.face_size, 0)[matches.face] >= LEAST)
    features, right = score_features(matches.score[known], matches.size[known]), matches.face[known] >= 0
    weights = np.zeros(features.shape[1])
    for _ in range(25):  # Newton's method; the ridge decides where the photographs do not
        guess = 1 / (1 + np.exp(-features @ weights))
        curvature = (features * (guess * (1 - guess))[:, None]).T @ features + 1e-2 * np.eye(len(weights))
        weights += np.linalg.solve(curvature, features.T @ (right - guess) - 1e-2 * weights)
    return [round(float(weight), 4) for weight in weights]
