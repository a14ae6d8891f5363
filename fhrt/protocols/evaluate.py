"""Scores models under the protocols: PSNR, SSIM and time per face, beside bicubic enlargement."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fhrt import ops
from fhrt.errors import BadInputError
from fhrt.metrics import Recognition, fsim, psnr, ssim
from fhrt.protocols.archive import TIGHT, read_faces, spread, tight
from fhrt.protocols.pairs import PROTOCOLS, Pairs, bicubic_hr, make_pairs
from fhrt.protocols.report import ProtocolResult, Scores, SystemResult
from fhrt.resample import to_uint8
from fhrt.runtime import Engine

SEED = 2018  # of the poses and the camera damage: every model gets the same LR faces
BATCH = 32
SHEET_FACES = 8


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
    rows = []
    names = _protocols([engine], protocols)
    faces = read_faces(data, "test", limit)
    for number, name in enumerate(names):
        scores: list[NDArray[np.float64]] = []  # [4, n] per batch: PSNR, SSIM, and the same of bicubic
        spent = 0.0
        for start, pairs in _batches(faces, name):
            sr, seconds = _upscale(engine, pairs)
            spent += seconds
            truth = _pictures(pairs.hr)
            pictures = (sr, _pictures(to_uint8(baseline(pairs))))
            scores.append(np.stack([metric(picture, truth) for picture in pictures for metric in (psnr, ssim)]))
            if progress is not None:
                progress(number * len(faces) + start + len(pairs.lr), len(names) * len(faces))
        mean_psnr, mean_ssim, bicubic_psnr, bicubic_ssim = np.concatenate(scores, axis=1).mean(axis=1).tolist()
        ms_per_face = 1000 * spent / len(faces)
        rows.append(Row(name, len(faces), mean_psnr, mean_ssim, bicubic_psnr, bicubic_ssim, ms_per_face))
    return rows


def compare(
    engines: Sequence[Engine],
    data: Path,
    protocols: Sequence[str] | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    recognition: Recognition | None = None,
) -> list[ProtocolResult]:
    """Score several models on the same faces, face by face, for `write_report`; as `evaluate` otherwise, with FSIM, and with identity
    similarity where the recognition network is given.

    A protocol is scored with the models that take LR faces of its size.
    """
    names = _protocols(engines, protocols)
    faces = read_faces(data, "test", limit)
    shown = np.array(spread(len(faces), SHEET_FACES))
    results = []
    for number, name in enumerate(names):
        systems = [engine for engine in engines if engine.card.input_size[0] == PROTOCOLS[name]]
        scores: list[list[NDArray[np.float64]]] = [[] for _ in range(len(systems) + 1)]
        kept: list[list[NDArray[np.uint8]]] = [[] for _ in range(len(systems) + 3)]  # LR, HR, bicubic, the systems
        spent = np.zeros(len(systems))
        for start, pairs in _batches(faces, name):
            made = [_upscale(engine, pairs) for engine in systems]
            spent += [seconds for _, seconds in made]
            truth = _pictures(pairs.hr)
            pictures = [_pictures(to_uint8(baseline(pairs))), *(sr for sr, _ in made)]
            for values, picture in zip(scores, pictures, strict=True):
                measured = [psnr(picture, truth), ssim(picture, truth), fsim(picture, truth)]
                if recognition is not None:
                    measured.append(recognition.similarity(*(each if each.shape[1] == TIGHT else tight(each) for each in (picture, truth))))
                values.append(np.stack(measured))
            here = shown[(shown >= start) & (shown < start + len(truth))] - start
            for some, picture in zip(kept, (_pictures(pairs.lr), truth, *pictures), strict=True):
                some.append(picture[here])
            if progress is not None:
                progress(number * len(faces) + start + len(truth), len(names) * len(faces))
        lr, hr, *rest = (np.concatenate(some) for some in kept)
        each = [Scores(*np.concatenate(values, axis=1)) for values in scores]
        results.append(
            ProtocolResult(
                name,
                lr,
                hr,
                SystemResult("bicubic", each[0], rest[0]),
                [
                    SystemResult(engine.card.name, one, picture, 1000 * seconds / len(faces), engine.card.gflops, engine.card.parameters)
                    for engine, one, picture, seconds in zip(systems, each[1:], rest[1:], spent, strict=True)
                ],
            )
        )
    return results


def baseline(pairs: Pairs) -> NDArray[np.float32]:
    """Bicubic enlargement ``[N, 3, 8s, 8s]`` on [0, 255] in the LR faces' phase, turned upright by the **true** transform (border
    replicated).
    """
    return ops.stn_sample(bicubic_hr(pairs.lr, pairs.phase), pairs.theta, padding="border")


def _protocols(engines: Sequence[Engine], wanted: Sequence[str] | None) -> list[str]:
    """The protocols to score, each with a model of its size. Raises BadInputError for an unknown one, or one without a model."""
    sides = {engine.card.input_size[0] for engine in engines}
    if wanted is None:
        return [name for name, side in PROTOCOLS.items() if side in sides]
    for name in wanted:
        if name not in PROTOCOLS:
            raise BadInputError(f"unknown protocol {name!r}; there are: {', '.join(PROTOCOLS)}")
        if PROTOCOLS[name] not in sides:
            models = ", ".join(f"{engine.card.name} takes {engine.card.input_size[0]}×{engine.card.input_size[1]}" for engine in engines)
            raise BadInputError(f"protocol {name} has faces of {PROTOCOLS[name]}×{PROTOCOLS[name]}; {models}")
    return list(wanted)


def _batches(faces: NDArray[np.uint8], protocol: str) -> Iterator[tuple[int, Pairs]]:
    """(first face, pairs), with the same random draws every time."""
    rng = np.random.default_rng(SEED)
    for start in range(0, len(faces), BATCH):
        yield start, make_pairs(faces[start : start + BATCH], protocol, rng)


def _upscale(engine: Engine, pairs: Pairs) -> tuple[NDArray[np.uint8], float]:
    """SR faces ``[N, H, W, 3]`` uint8, and the seconds that the network took."""
    began = time.perf_counter()
    sr = engine.run(pairs.lr.astype(np.float32) / 127.5 - 1).sr
    seconds = time.perf_counter() - began
    return _pictures(to_uint8((sr + 1) * 127.5)), seconds


def _pictures(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """NCHW → NHWC."""
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
