"""The report on detectors: average precision and recall by size, curves, and what was found and missed. Needs matplotlib."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from fhrt import machine
from fhrt.errors import BadInputError
from fhrt.metrics import Matches, average_precision, confidence, match, precision_recall, recall_at, resample
from fhrt.metrics.detection import LEAST, OVERLAP, box_sizes
from fhrt.protocols.detectors import DetectorScore, Shown
from fhrt.protocols.report import PACKAGES, condition_lines, new_figure, png, require_matplotlib, table_lines, write_files

EDGES = (LEAST, 12, 16, 24, 32, 64, np.inf)
"""Of the ranges of sizes (roots of the boxes' areas, pixels)."""
PER_IMAGE = (0.1, 0.5, 1)
"""False positives per photograph at which recall is told."""
THRESHOLD = 1  # one of them: where the sheet is drawn

# Of the sheet, BGR; its photographs are enlarged to about this width.
FOUND, MISSED, FALSE, IGNORED = (90, 220, 60), (0, 190, 255), (60, 60, 255), (150, 150, 150)
SHEET_WIDTH = 1280

NOTES = (
    f"A face is found by a detection that overlaps it by {OVERLAP} of their union; the best score chooses first, and a face is found once.",
    "Sizes are roots of the boxes' areas in pixels. AP is the area under the precision-recall curve, all points; of a range of sizes it",
    "counts the faces and the false positives of that range. Recall is told at the lowest score with at most so many false positives (FP)",
    "per photograph, of whatever size; where a detector returns fewer, it is the recall of everything that it returns. In brackets: 95 %",
    "confidence intervals (bootstrap over the photographs). Times are medians, the detectors taking turns.",
)

Floats = NDArray[np.float64]
Numbers = dict[str, Any]


def summarise(score: DetectorScore) -> Numbers:
    """A detector's figures, as JSON holds them: None where there is no face of a size."""
    matches = score.matches
    ranges = [("all", LEAST, np.inf), *((_range(*edges), *edges) for edges in pairwise(EDGES))]
    sizes = []
    for name, low, high in ranges:
        faces = int(matches.counted(low, high).sum())
        sizes.append(
            {
                "size": name,
                "faces": faces,
                "ap": _with_interval(matches.images, partial(average_precision, matches, low, high)),
                "recall": {f"{many:g}": _with_interval(matches.images, partial(_recall, matches, many, low, high)) for many in PER_IMAGE},
                "recall_of_everything": float(matches.hits(low, high).sum() / faces) if faces else None,
            }
        )
    false = matches.false_positives()
    low, high = confidence(false)
    return {
        "name": score.name,
        "photographs": matches.images,
        "sizes": sizes,
        "score_at": {f"{many:g}": _finite(recall_at(matches, many)[1]) for many in PER_IMAGE},
        "false_positives": {"value": float(false.mean()), "low": low, "high": high},
        "ms": score.ms,
    }


def overview(numbers: Sequence[Numbers]) -> list[list[str]]:
    """A row per detector below the head."""
    times = list(numbers[0]["ms"])
    head = ["detector", "AP %", *(f"recall % at {many:g} FP" for many in PER_IMAGE), f"score at {THRESHOLD} FP"]
    rows = [[*head, "recall % of everything", "FP per photograph", *(f"ms, {what}" for what in times)]]
    for one in numbers:
        every = one["sizes"][0]
        score = one["score_at"][f"{THRESHOLD:g}"]
        row = [one["name"], _percent(every["ap"]), *_recalls(every)]
        row += ["–" if score is None else f"{score:.3f}", _percent({"value": every["recall_of_everything"]})]
        false = one["false_positives"]
        row += [f"{false['value']:.2f} [{false['low']:.2f}, {false['high']:.2f}]", *(f"{one['ms'][what]:.1f}" for what in times)]
        rows.append(row)
    return rows


def by_size(numbers: Numbers) -> list[list[str]]:
    """A row per range of sizes below the head."""
    rows = [["size, px", "faces", "AP %", *(f"recall % at {many:g} FP" for many in PER_IMAGE), "recall % of everything"]]
    for one in numbers["sizes"]:
        rows.append([one["size"], str(one["faces"]), _percent(one["ap"]), *_recalls(one), _percent({"value": one["recall_of_everything"]})])
    return rows


def write_detector_report(
    folder: Path, scores: Sequence[DetectorScore], numbers: Sequence[Numbers], conditions: Mapping[str, object] | None = None
) -> list[Path]:
    """Write ``detectors.json``, ``detectors.md``, ``curves.png`` and, per detector, ``sheet-NAME.png``.

    ``numbers``: of the scores, by `summarise`. ``conditions``: what the figures rest on beside the machine; values that JSON holds. The
    folder is made when it is missing. Returns the files, numbers first. Raises BadInputError when there is nothing to report or the folder
    cannot be written, MissingExtraError without matplotlib.
    """
    require_matplotlib()
    if not scores or len(scores) != len(numbers):
        raise BadInputError(f"a report needs the numbers of each detector, at least one: {len(scores)} scores, {len(numbers)} numbers")
    about = {**machine.describe(PACKAGES), **(conditions or {})}
    sheets = {"sheet-" + re.sub(r"[^\w-]", "_", score.name) + ".png": draw_shown(score) for score in scores}
    lines = ["# Detectors", "", *condition_lines(about), f"- photographs: {scores[0].matches.images}", "", *table_lines(overview(numbers))]
    lines += ["", *NOTES, "", "![Precision over recall, by size](curves.png)"]
    for one, sheet in zip(numbers, sheets, strict=True):
        lines += ["", f"## {one['name']}", "", *table_lines(by_size(one)), "", f"![What was found, missed and false]({sheet})"]
    text = json.dumps({"conditions": about, "detectors": list(numbers)}, indent=2)
    files = {"detectors.json": text.encode(), "detectors.md": "\n".join([*lines, ""]).encode(), "curves.png": draw_curves(scores)}
    return write_files(folder, files | sheets)


def draw_curves(scores: Sequence[DetectorScore]) -> bytes:
    """PNG of the precision-recall curves, a panel per range of sizes, a colour per detector."""
    figure = new_figure(1280, 720)
    panels = figure.subplots(2, 4, sharex=True, sharey=True).ravel()
    for axes, (low, high) in zip(panels, [(LEAST, np.inf), *pairwise(EDGES)], strict=False):
        for score in scores:
            curve = precision_recall(score.matches, low, high)
            found = average_precision(score.matches, low, high)
            recall, precision = [0, *curve.recall], [*curve.precision[:1], *curve.precision]
            axes.plot(recall[: len(precision)], precision, linewidth=1.2, label=f"{score.name}  AP {100 * found:.1f} %")
        faces = int(scores[0].matches.counted(low, high).sum())
        axes.set_title(f"{_range(low, high)} px, {faces} faces", fontsize=8)
        axes.legend(fontsize=6, loc="lower left")
    for axes in panels:
        axes.set(xlim=(0, 1), ylim=(0, 1.02))
        axes.tick_params(labelsize=6)
        axes.grid(alpha=0.3)
    panels[-1].set_axis_off()
    figure.supxlabel("recall", fontsize=8)
    figure.supylabel("precision", fontsize=8)
    figure.tight_layout()
    return png(figure)


def draw_shown(score: DetectorScore) -> bytes:
    """PNG of some photographs: faces found, missed and ignored, and false positives, at `THRESHOLD` false positives per photograph."""
    threshold = float(recall_at(score.matches, THRESHOLD)[1])
    drawn = [_draw(one, threshold) for one in score.shown]
    width = max(picture.shape[1] for picture in drawn)
    row_heights = [max(picture.shape[0] for picture in drawn[row : row + 2]) for row in range(0, len(drawn), 2)]
    gap, head = 8, 48
    total_w, total_h = gap + min(len(drawn), 2) * (width + gap), head + sum(row_heights) + len(row_heights) * gap
    figure = new_figure(total_w, total_h)
    top = head
    for index, picture in enumerate(drawn):
        figure.figimage(picture[..., ::-1], gap + index % 2 * (width + gap), total_h - top - picture.shape[0], origin="upper")
        if index % 2:
            top += row_heights[index // 2] + gap
    x = gap
    for text, colour in (
        (f"{score.name}, from score {threshold:.3f} on:", (0, 0, 0)),
        ("found", FOUND),
        ("missed", MISSED),
        ("false", FALSE),
        (f"under {LEAST:g} px", IGNORED),
    ):
        shade = tuple(part / 255 * 0.85 for part in colour[::-1])
        label = figure.text(x / total_w, 1 - head / 2 / total_h, text, fontsize=14, color=shade, weight="bold", va="center")
        x += int(label.get_window_extent().width) + 24
    return png(figure)


def _draw(shown: Shown, threshold: float) -> NDArray[np.uint8]:
    kept = [one for one in shown.detections if one.score >= threshold]
    boxes = np.array([one.box for one in kept], np.float64).reshape(-1, 4)
    found = match(boxes, [one.score for one in kept], shown.faces)
    zoom = max(1, round(SHEET_WIDTH / shown.picture.shape[1]))
    picture = cv2.resize(shown.picture, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    small = box_sizes(shown.faces) < LEAST
    missed = np.setdiff1d(np.arange(len(shown.faces)), found)
    layers = [(shown.faces[index], IGNORED if small[index] else MISSED) for index in missed]
    layers += [(box, FALSE if face < 0 else IGNORED if small[face] else FOUND) for box, face in zip(boxes, found, strict=True)]
    for box, colour in layers:
        x1, y1, x2, y2 = np.rint(box * zoom).astype(int).tolist()
        cv2.rectangle(picture, (x1, y1), (x2, y2), colour, 2, cv2.LINE_AA)
    return picture.astype(np.uint8, copy=False)


def _range(low: float, high: float) -> str:
    return f"{low:g}–{high:g}" if np.isfinite(high) else f"from {low:g}"


def _recall(matches: Matches, per_image: float, low: float, high: float, weights: Floats | None) -> Floats:
    return recall_at(matches, per_image, low, high, weights)[0]


def _with_interval(images: int, statistic: Callable[[Floats | None], Floats]) -> Numbers:
    """A figure of the photographs and its bootstrap interval over them; the statistic is told how often each photograph counts."""
    low, high = resample(statistic, images)
    return {"value": _finite(statistic(None)), "low": _finite(low), "high": _finite(high)}


def _finite(value: Any) -> float | None:
    return float(value) if np.isfinite(value) else None


def _recalls(numbers: Numbers) -> list[str]:
    """The interval only where the sheet is drawn: tables shall be read."""
    return [_percent(figure if many == f"{THRESHOLD:g}" else {"value": figure["value"]}) for many, figure in numbers["recall"].items()]


def _percent(figure: Numbers) -> str:
    if figure["value"] is None:
        return "–"
    interval = f" [{100 * figure['low']:.1f}, {100 * figure['high']:.1f}]" if figure.get("low") is not None else ""
    return f"{100 * figure['value']:.1f}{interval}"
