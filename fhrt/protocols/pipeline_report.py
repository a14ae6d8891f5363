"""The report on the whole pipeline: what detectors cost beside perfect boxes and perfect eyes. Needs matplotlib."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fhrt import machine
from fhrt.protocols.pipeline import ANGLE, BICUBIC, BOXES, EYES, SEED, PipelineScore
from fhrt.protocols.report import (
    PACKAGES,
    Pictures,
    bracketed,
    condition_lines,
    draw_columns,
    interval,
    require_matplotlib,
    table_lines,
    write_files,
)

Numbers = dict[str, Any]

NOTES = (
    "PSNR over the 128×128 pixels of the HR face, in the place of the frame where it was set. Means over the faces that the detector",
    "found; what perfect boxes, perfect eyes and bicubic reach is told of the same faces. Perfect eyes give the angle too. Lost: the same",
    "less the detector's, face by face; in brackets the 95 % confidence interval.",
)


def summarise(score: PipelineScore) -> list[Numbers]:
    """Per detector, of each size and of all: how many faces were found, and of these the PSNR and what the detector lost, in dB.

    "psnr" and "lost" are empty where no face was found. "every" holds the PSNR of all faces, found or not, without a detector.
    """
    numbers = []
    for detector in score.detectors:
        found = ~np.isnan(score.psnr[detector])
        for size in (*np.unique(score.size).tolist(), "all"):
            here = np.ones_like(found) if size == "all" else score.size == size
            both = here & found
            psnr = {name: values[both] for name, values in score.psnr.items() if name in (EYES, BOXES, BICUBIC, detector)}
            numbers.append(
                {
                    "detector": detector,
                    "size": size,
                    "faces": int(here.sum()),
                    "not_found": int((here & ~found).sum()),
                    "psnr": {name: interval(values) for name, values in psnr.items()} if both.any() else {},
                    "lost": {name: interval(psnr[name] - psnr[detector]) for name in (BOXES, EYES)} if both.any() else {},
                    "every": {name: interval(score.psnr[name][here]) for name in (EYES, BOXES, BICUBIC)},
                }
            )
    return numbers


def tabulate(numbers: Sequence[Numbers]) -> list[list[str]]:
    """A row per detector and size below the head."""
    rows = [["detector", "size, px", "faces", "not found", "PSNR dB", BOXES, "lost dB", EYES, "lost dB", BICUBIC]]
    for one in numbers:
        row = [one["detector"], str(one["size"]), str(one["faces"]), f"{one['not_found']} ({one['not_found'] / one['faces']:.1%})"]
        if one["psnr"]:
            mean = {name: f"{value['mean']:.2f}" for name, value in one["psnr"].items()}
            row += [mean[one["detector"]], mean[BOXES], bracketed(one["lost"][BOXES], "+.2f")]
            row += [mean[EYES], bracketed(one["lost"][EYES], "+.2f"), mean[BICUBIC]]
        rows.append(row + ["–"] * (len(rows[0]) - len(row)))
    return rows


def write_pipeline_report(
    folder: Path, score: PipelineScore, numbers: Sequence[Numbers], conditions: Mapping[str, object] | None = None
) -> list[Path]:
    """Write ``pipeline.json``, ``pipeline.md`` and ``sheet.png``.

    ``numbers``: of the score, by `summarise`. ``conditions``: what the figures rest on beside the machine; values that JSON holds. The
    folder is made when it is missing. Returns the files, numbers first. Raises BadInputError when the folder cannot be written,
    MissingExtraError without matplotlib.
    """
    require_matplotlib()
    about = {**machine.describe(PACKAGES), "seed": SEED, "angle": f"±{ANGLE:g}°", **(conditions or {})}
    columns: list[tuple[str, str, Pictures, list[str]]] = []
    for name, values in score.psnr.items():
        captions = [f"{value:.2f} dB" if not np.isnan(value) else "not found" for value in values[score.shown_faces]]
        columns.append((name, f"{score.size[score.shown_faces[0]]} px", score.shown[name], captions))
    columns.append(("HR", "", score.shown["HR"], [""] * len(score.shown_faces)))
    lines = ["# Pipeline", "", *condition_lines(about), "", *table_lines(tabulate(numbers)), "", *NOTES, ""]
    lines += ["![What becomes of some faces](sheet.png)", ""]
    text = json.dumps({"conditions": about, "rows": list(numbers)}, indent=2)
    return write_files(
        folder, {"pipeline.json": text.encode(), "pipeline.md": "\n".join(lines).encode(), "sheet.png": draw_columns(columns)}
    )
