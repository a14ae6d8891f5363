"""Scores a model under the protocols: PSNR, SSIM and time per face, beside bicubic enlargement."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fhrt import ops
from fhrt.errors import BadInputError
from fhrt.metrics import psnr, ssim
from fhrt.protocols.archive import read_faces
from fhrt.protocols.pairs import PROTOCOLS, Pairs, bicubic_hr, make_pairs
from fhrt.protocols.resample import to_uint8
from fhrt.runtime import Engine

SEED = 2018  # of the poses and the camera damage: every model gets the same LR faces
BATCH = 32


@dataclass(frozen=True)
class Row:
    """One protocol's figures: means over ``n`` faces, RGB on [0, 255]; ``ms_per_face`` in batches of 32."""

    protocol: str
    n: int
    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float
    ms_per_face: float


def evaluate(
    engine: Engine,
    data: Path,
    protocols: Sequence[str] | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Score ``engine`` on the archive's test split, a row per protocol; ``progress(done, total)`` counts faces.

    protocols: names; all that have LR faces of the model's size when left out.
    Raises BadInputError for an unknown protocol, a missing archive or a model of another input size.
    """
    side = engine.card.input_size[0]
    protocols = [name for name in PROTOCOLS if PROTOCOLS[name] == side] if protocols is None else protocols
    for name in protocols:
        if name not in PROTOCOLS:
            raise BadInputError(f"unknown protocol {name!r}; there are: {', '.join(PROTOCOLS)}")
        if PROTOCOLS[name] != side:
            raise BadInputError(f"protocol {name} has faces of {PROTOCOLS[name]}×{PROTOCOLS[name]}; {engine.card.name} takes {side}×{side}")
    faces = read_faces(data, "test", limit)
    rows = []
    for number, name in enumerate(protocols):
        rng = np.random.default_rng(SEED)
        scores: list[NDArray[np.float64]] = []  # [4, n] per batch: PSNR, SSIM, and the same of bicubic
        spent = 0.0
        for start in range(0, len(faces), BATCH):
            pairs = make_pairs(faces[start : start + BATCH], name, rng)
            began = time.perf_counter()
            sr = engine.run(pairs.lr.astype(np.float32) / 127.5 - 1).sr
            spent += time.perf_counter() - began
            truth = _pictures(pairs.hr)
            pictures = (_pictures(to_uint8((sr + 1) * 127.5)), _pictures(to_uint8(baseline(pairs))))
            scores.append(np.stack([metric(picture, truth) for picture in pictures for metric in (psnr, ssim)]))
            if progress is not None:
                progress(number * len(faces) + start + len(pairs.lr), len(protocols) * len(faces))
        mean_psnr, mean_ssim, bicubic_psnr, bicubic_ssim = np.concatenate(scores, axis=1).mean(axis=1).tolist()
        ms_per_face = 1000 * spent / len(faces)
        rows.append(Row(name, len(faces), mean_psnr, mean_ssim, bicubic_psnr, bicubic_ssim, ms_per_face))
    return rows


def baseline(pairs: Pairs) -> NDArray[np.float32]:
    """Bicubic enlargement ``[N, 3, 8s, 8s]`` on [0, 255], turned upright by the **true** transform (border replicated)."""
    return ops.stn_sample(bicubic_hr(pairs.lr), pairs.theta, padding="border")


def _pictures(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """NCHW → NHWC."""
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
