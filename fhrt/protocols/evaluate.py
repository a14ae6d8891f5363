"""Scores models under the protocols: PSNR, SSIM and time per face, beside bicubic enlargement."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fhrt import ops
from fhrt.errors import BadInputError
from fhrt.metrics import Recognition, fsim, psnr, ssim
from fhrt.protocols.archive import TIGHT, read_faces, spread, tight
from fhrt.protocols.pairs import PROTOCOLS, Pairs, bicubic_hr, gaussian_lr, make_pairs
from fhrt.protocols.report import ProtocolResult, Scores, SystemResult
from fhrt.resample import resize, to_uint8
from fhrt.runtime import Engine

SEED = 2018  # of the poses and the camera damage: every model gets the same LR faces
BATCH = 32
SHEET_FACES = 8
FULL = 8  # times as large as an LR face its HR face is


@dataclass(frozen=True)
class Row:
    """One protocol's figures: means over ``n`` faces, RGB on [0, 255]; ``ms_per_face`` in batches of 32.

    scale: how many times larger than the LR faces the pictures are that were scored; the time is that of all pictures of a face.
    """

    protocol: str
    n: int
    psnr: float
    ssim: float
    bicubic_psnr: float
    bicubic_ssim: float
    ms_per_face: float
    scale: int = FULL


def evaluate(
    engine: Engine,
    data: Path,
    protocols: Sequence[str] | None = None,
    limit: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Score ``engine`` on the archive's test split, a row per protocol and picture; ``progress(done, total)`` counts faces.

    A network's pictures at twice and four times the LR faces' size are scored as `truth` says, after its SR faces.
    protocols: names; all that have LR faces of the model's size when left out.
    Raises BadInputError for an unknown protocol, a missing archive or a model of another input size.
    """
    rows = []
    names = _protocols([engine], protocols)
    faces = read_faces(data, "test", limit)
    for number, name in enumerate(names):
        scores: dict[int, list[NDArray[np.float64]]] = {}  # of a scale [4, n] per batch: PSNR, SSIM, and the same of bicubic
        spent = 0.0
        for start, pairs in _batches(faces, name):
            made, seconds = _upscale(engine, pairs)
            spent += seconds
            for scale, pictures in made.items():
                known, both = truth(pairs, scale), (pictures, _bicubic(pairs, scale))
                scores.setdefault(scale, []).append(np.stack([metric(each, known) for each in both for metric in (psnr, ssim)]))
            if progress is not None:
                progress(number * len(faces) + start + len(pairs.lr), len(names) * len(faces))
        for scale, batches in scores.items():
            mean_psnr, mean_ssim, bicubic_psnr, bicubic_ssim = np.concatenate(batches, axis=1).mean(axis=1).tolist()
            rows.append(Row(name, len(faces), mean_psnr, mean_ssim, bicubic_psnr, bicubic_ssim, 1000 * spent / len(faces), scale))
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
    similarity of the SR faces where the recognition network is given.

    A protocol is scored with the models that take LR faces of its size. Pictures at a smaller scale make a result of their own,
    ``loose-2x``.
    """
    names = _protocols(engines, protocols)
    faces = read_faces(data, "test", limit)
    shown = np.array(spread(len(faces), SHEET_FACES))
    results = []
    for number, name in enumerate(names):
        systems = [engine for engine in engines if engine.card.input_size[0] == PROTOCOLS[name]]
        scales = sorted({scale for engine in systems for scale in engine.card.scales}, reverse=True)
        tables = [_Table(scale, systems) for scale in scales]
        spent = np.zeros(len(systems))
        for start, pairs in _batches(faces, name):
            made, seconds = zip(*(_upscale(engine, pairs) for engine in systems), strict=True)
            spent += seconds
            here = shown[(shown >= start) & (shown < start + len(pairs.lr))] - start
            for table in tables:
                table.add(pairs, made, here, recognition)
            if progress is not None:
                progress(number * len(faces) + start + len(pairs.lr), len(names) * len(faces))
        results += [table.result(name, 1000 * spent / len(faces)) for table in tables]
    return results


class _Table:
    """What the systems make at one scale under one protocol, gathered batch by batch."""

    def __init__(self, scale: int, systems: Sequence[Engine]) -> None:
        self.scale = scale
        self._systems = {index: engine.card for index, engine in enumerate(systems) if scale in engine.card.scales}
        self._scores: list[list[NDArray[np.float64]]] = [[] for _ in range(len(self._systems) + 1)]  # bicubic's, the systems'
        self._kept: list[list[NDArray[np.uint8]]] = [[] for _ in range(len(self._systems) + 3)]  # LR, HR, bicubic, the systems

    def add(
        self, pairs: Pairs, made: Sequence[Mapping[int, NDArray[np.uint8]]], here: NDArray[np.intp], recognition: Recognition | None
    ) -> None:
        """made: each system's pictures by scale; here: the faces whose pictures are kept."""
        known = truth(pairs, self.scale)
        pictures = [_bicubic(pairs, self.scale), *(made[index][self.scale] for index in self._systems)]
        for values, picture in zip(self._scores, pictures, strict=True):
            measured = [psnr(picture, known), ssim(picture, known), fsim(picture, known)]
            if recognition is not None and self.scale == FULL:
                measured.append(recognition.similarity(*(each if each.shape[1] == TIGHT else tight(each) for each in (picture, known))))
            values.append(np.stack(measured))
        for some, picture in zip(self._kept, (_pictures(pairs.lr), known, *pictures), strict=True):
            some.append(picture[here])

    def result(self, protocol: str, ms_per_face: NDArray[np.float64]) -> ProtocolResult:
        """ms_per_face: of each system."""
        lr, hr, *rest = (np.concatenate(some) for some in self._kept)
        each = [Scores(*np.concatenate(values, axis=1)) for values in self._scores]
        systems = [
            SystemResult(card.name, scores, pictures, float(ms_per_face[index]), card.gflops, card.parameters)
            for (index, card), scores, pictures in zip(self._systems.items(), each[1:], rest[1:], strict=True)
        ]
        name = protocol if self.scale == FULL else f"{protocol}-{self.scale}x"
        return ProtocolResult(name, lr, hr, SystemResult("bicubic", each[0], rest[0]), systems)


def truth(pairs: Pairs, scale: int = FULL) -> NDArray[np.uint8]:
    """What pictures ``[N, H, W, 3]`` uint8 at ``scale`` times the LR faces' size are compared with: the HR faces, or these reduced as the
    LR faces are (C-SRIP).
    """
    return _pictures(pairs.hr if scale == FULL else gaussian_lr(pairs.hr.astype(np.float32), FULL // scale))


def baseline(pairs: Pairs, scale: int = FULL) -> NDArray[np.float32]:
    """Bicubic enlargement ``[N, 3, scale·s, scale·s]`` on [0, 255], in phase with `truth`, turned upright by the **true** transform (border
    replicated).
    """
    size = (scale * pairs.lr.shape[2], scale * pairs.lr.shape[3])
    # Smaller targets lie as far from the middle as the LR faces do, in HR pixels: between those two there is no shift.
    enlarged = bicubic_hr(pairs.lr, pairs.phase) if scale == FULL else resize(pairs.lr.astype(np.float32), size)
    return ops.stn_sample(enlarged, pairs.theta, padding="border")


def _bicubic(pairs: Pairs, scale: int) -> NDArray[np.uint8]:
    return _pictures(to_uint8(baseline(pairs, scale)))


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


def _upscale(engine: Engine, pairs: Pairs) -> tuple[dict[int, NDArray[np.uint8]], float]:
    """The network's pictures ``[N, H, W, 3]`` uint8 by their scale, the largest first, and the seconds that it took."""
    began = time.perf_counter()
    output = engine.run(pairs.lr.astype(np.float32) / 127.5 - 1)
    seconds = time.perf_counter() - began
    made = {FULL: output.sr, 4: output.sr_4x, 2: output.sr_2x}
    return {scale: _pictures(to_uint8((each + 1) * 127.5)) for scale, each in made.items() if each is not None}, seconds


def _pictures(planes: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """NCHW → NHWC."""
    return np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
