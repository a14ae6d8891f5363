"""Validation while training: PSNR on fixed LR faces of every protocol that the recipe trains for, and a sheet of pictures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fhrt.models.layers import ModelOutput
from fhrt.protocols.pairs import Pairs, bicubic_hr, gaussian_lr, make_pairs
from fhrt.resample import resize, to_uint8
from training.recipe import Recipe

SHEET_FACES = 8

Forward = Callable[[Tensor], ModelOutput]


class Validation:
    """Fixed pairs of each protocol with a share in the recipe's mix."""

    def __init__(self, faces: NDArray[np.uint8], recipe: Recipe) -> None:
        self.pairs: dict[str, Pairs] = {name: make_pairs(faces, name, np.random.default_rng(1)) for name in recipe.mix.shares()}

    def score(self, forward: Forward, device: torch.device) -> dict[str, float]:
        """Mean PSNR in dB over RGB on [0, 255] per protocol, of the pictures at smaller scales too (``_2x``, ``_4x``), and the mean
        |θ − θ*| where the model has a θ.
        """
        scores: dict[str, float] = {}
        for name, pairs in self.pairs.items():
            (sr, *coarser), theta = _run(forward, pairs.lr, device)
            scores[f"{name}_psnr"] = _psnr(sr, reduced(pairs.hr, sr.shape[2]))
            for each in coarser:
                target = gaussian_lr(pairs.hr.astype(np.float32), pairs.hr.shape[2] // each.shape[2])
                scores[f"{name}_{each.shape[2] // pairs.lr.shape[2]}x"] = _psnr(each, target)
            if theta is not None:
                scores[f"{name}_theta"] = float(np.abs(theta - pairs.theta).mean())
        return scores

    def sheet(self, forward: Forward, device: torch.device, path: Path) -> None:
        """A row per protocol and face: LR enlarged bicubically, SR, HR."""
        rows = []
        for pairs in self.pairs.values():
            lr, hr = pairs.lr[:SHEET_FACES], pairs.hr[:SHEET_FACES]
            sr, _ = run(forward, lr, device)
            sr = to_uint8(resize(sr.astype(np.float32), hr.shape[2:]))
            triples = np.concatenate([to_uint8(bicubic_hr(lr, pairs.phase)), sr, hr], axis=2)
            rows.append(np.concatenate(list(triples), axis=2))
        picture = np.concatenate(rows, axis=1).transpose(1, 2, 0)
        cv2.imwrite(str(path), picture[..., ::-1])


def reduced(hr: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """HR faces [N, 3, H, W] at ``side`` pixels: antialiased bicubic where that is fewer."""
    return hr if hr.shape[2] == side else to_uint8(resize(hr.astype(np.float32), (side, side)))


def run(forward: Forward, lr: NDArray[np.uint8], device: torch.device) -> tuple[NDArray[np.uint8], NDArray[np.float32] | None]:
    """The network's uint8 pictures ``[N, 3, 8s, 8s]`` and thetas for LR faces ``[N, 3, s, s]`` uint8."""
    (sr, *_), theta = _run(forward, lr, device)
    return sr, theta


@torch.no_grad()
def _run(
    forward: Forward, lr: NDArray[np.uint8], device: torch.device, batch: int = 32
) -> tuple[list[NDArray[np.uint8]], NDArray[np.float32] | None]:
    """The same with the pictures at smaller scales behind the first."""
    pictures, thetas = [], []
    for start in range(0, len(lr), batch):
        x: Tensor = torch.from_numpy(lr[start : start + batch]).to(device).float().div_(127.5).sub_(1)
        output = forward(x)
        pictures.append([to_uint8((each.float().cpu().numpy() + 1) * 127.5) for each in (output.sr, *output.coarser)])
        if output.theta is not None:
            thetas.append(output.theta.float().cpu().numpy())
    return [np.concatenate(each) for each in zip(*pictures, strict=True)], np.concatenate(thetas) if thetas else None


def _psnr(pictures: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    error = ((pictures.astype(np.float64) - truth) ** 2).mean(axis=(1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / np.maximum(error, 1e-9))))
