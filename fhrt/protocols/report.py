"""The report that sets systems side by side: tables, comparison sheets, score distributions, and all of it as numbers.

It is drawn from plain arrays and knows no engine; `evaluate` and the command line bring the figures. Needs matplotlib.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from fhrt import machine
from fhrt.errors import BadInputError, MissingExtraError
from fhrt.files import write_bytes
from fhrt.metrics import psnr
from fhrt.metrics.bootstrap import confidence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Values = NDArray[np.floating[Any]]
Pictures = NDArray[np.uint8]

METRICS = ("psnr", "ssim", "fsim", "identity")
PACKAGES = ("fhrt", "numpy", "opencv-python-headless", "onnxruntime", "openvino", "torch", "matplotlib")

# Of the drawings. A power of two: sizes in inches times this give whole pixels again, so that the sheet's pictures stay as they are.
DPI = 128
GAP, HEAD, CAPTION = 8, 40, 18  # pixels: between pictures, above the columns, below each picture
MUTED = "0.35"


@dataclass(frozen=True)
class Scores:
    """One value per face, float [N] each, N ≥ 1: ``psnr`` in dB, ``ssim``, ``fsim``; ``identity`` is the similarity of face features.

    Raises BadInputError for arrays of unequal length, and for NaN or infinity.
    """

    psnr: Values
    ssim: Values
    fsim: Values
    identity: Values | None = None

    def __post_init__(self) -> None:
        for name, values in self.items():
            if values.ndim != 1 or values.size == 0 or len(values) != len(self.psnr):
                raise BadInputError(f"{name} must be [N], one value per face as in psnr, not {list(values.shape)}")
            if not np.isfinite(values).all():
                raise BadInputError(f"{name} holds NaN or infinity")

    def items(self) -> list[tuple[str, Values]]:
        """(metric, values) of what was measured."""
        return [(name, getattr(self, name)) for name in METRICS if getattr(self, name) is not None]


@dataclass(frozen=True)
class SystemResult:
    """What one system, or bicubic enlargement, made under one protocol.

    pictures: uint8 [K, H, W, 3] RGB, of the K faces on the sheet. gflops: of one face, a multiply-add counted as two.
    """

    name: str
    scores: Scores
    pictures: Pictures
    ms_per_face: float | None = None
    gflops: float | None = None
    parameters: int | None = None


@dataclass(frozen=True)
class ProtocolResult:
    """All systems on the same faces. lr: uint8 [K, h, w, 3]; hr: uint8 [K, H, W, 3], H and W whole multiples of h and w; RGB, K ≥ 1.

    protocol: the name, of letters, digits, ``-`` and ``_``, since files are named after it. Raises BadInputError for another name and for
    results that do not belong together.
    """

    protocol: str
    lr: Pictures
    hr: Pictures
    bicubic: SystemResult
    systems: Sequence[SystemResult]

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[\w-]+", self.protocol):
            raise BadInputError(f"protocol must be letters, digits, - and _, not {self.protocol!r}")
        for name, pictures in (("lr", self.lr), ("hr", self.hr)):
            if pictures.dtype != np.uint8 or pictures.ndim != 4 or pictures.shape[-1] != 3 or pictures.size == 0:
                raise BadInputError(f"{name} must be uint8 [K, height, width, 3], not {pictures.dtype} {list(pictures.shape)}")
        if len(self.lr) != len(self.hr) or self.hr.shape[1] % self.lr.shape[1] or self.hr.shape[2] % self.lr.shape[2]:
            raise BadInputError(f"hr must be as many pictures as lr, a whole number of times larger: {self.hr.shape}, {self.lr.shape}")
        for result in self.results:
            if result.pictures.dtype != np.uint8 or result.pictures.shape != self.hr.shape:
                raise BadInputError(f"pictures of {result.name} must be uint8 {list(self.hr.shape)}, not {list(result.pictures.shape)}")
            if len(result.scores.psnr) != len(self.bicubic.scores.psnr):
                raise BadInputError(f"{result.name} was not scored on the faces that bicubic was scored on")

    @property
    def results(self) -> list[SystemResult]:
        """Bicubic, then the systems."""
        return [self.bicubic, *self.systems]


@dataclass(frozen=True)
class Published:
    """A paper's table: PSNR in dB, SSIM and FSIM, as far as it gives them.

    protocol: which one of ours comes nearest. side: of the LR faces, in pixels. systems: by the names that fhrt gives them.
    """

    paper: str
    source: str
    dataset: str
    protocol: str
    side: int
    bicubic: tuple[float, ...]
    systems: Mapping[str, tuple[float, ...]]


# A system's own paper comes before the papers that compare with it: `published` takes the first.
PUBLISHED = (
    Published("UR-DGN", "Yu & Porikli, ECCV 2016", "CelebA", "aligned", 16, (23.22, 0.67), {"urdgn": (24.82, 0.70)}),
    Published("TDN", "Yu & Porikli, AAAI 2017", "CelebA", "unaligned", 16, (18.41, 0.54), {"tdn": (22.66, 0.66)}),
    Published(
        "MTUN",
        "Yu, Fernando, Ghanem, Porikli & Hartley, ECCV 2018",
        "Menpo and CelebA",
        "unaligned",
        16,
        (18.83, 0.57),
        {"mtun": (23.14, 0.68), "tdae": (21.39, 0.62), "tdae as released": (18.87, 0.52)},
    ),
    Published(
        "MNCE",
        "Jiang, Yu, Hu, Tang & Ma, IJCAI 2018",
        "CelebA",
        "aligned",
        16,
        (22.61, 0.6134, 0.7541),
        {
            "lle": (23.08, 0.6208, 0.8118),
            "lcr": (23.11, 0.6542, 0.7843),
            "srcnn": (23.27, 0.6463, 0.7828),
            "vdsr": (22.65, 0.6128, 0.7558),
            "lcge": (23.35, 0.6673, 0.8257),
            "urdgn": (23.55, 0.6696, 0.8309),
            "mnce": (24.34, 0.6883, 0.8375),
        },
    ),
    Published(
        "C-SRIP",
        "Grm, Scheirer & Štruc; LR faces blurred and decimated",
        "LFW",
        "loose",
        24,
        (24.256, 0.7060),
        {
            "nbsrf": (25.092, 0.7268),
            "srcnn": (24.812, 0.7187),
            "vdsr": (25.415, 0.7411),
            "perceptual": (26.985, 0.7903),
            "srgan": (25.669, 0.6993),
            "urdgn": (25.575, 0.7516),
            "csrip": (27.164, 0.8171),
        },
    ),
    Published(
        "newer systems",
        "their papers; Y channel, 8 border pixels cut, 168,000 training faces",
        "CelebA",
        "aligned",
        16,
        (23.58, 0.6285),
        {
            "srcnn": (23.93,),
            "fsrnet": (26.66, 0.7714),
            "edsr": (26.84, 0.7787),
            "dic": (27.37, 0.8022),
            "sparnet": (27.42, 0.8036),
            "sfmnet": (27.56, 0.8047),
            "resfmnet": (27.70, 0.8126),
        },
    ),
)


def published(system: str, protocol: str, side: int) -> tuple[Published, tuple[float, ...]] | None:
    """The table with a system's published figures under a protocol with LR faces of ``side`` pixels, and the figures.

    From its own paper where that has any. Case and punctuation of the name do not matter.
    """
    name = re.sub(r"[^a-z0-9]", "", system.lower())
    fitting = (table for table in PUBLISHED if (table.protocol, table.side) == (protocol, side))
    return next(((table, table.systems[name]) for table in fitting if name in table.systems), None)


def write_report(folder: Path, results: Sequence[ProtocolResult], conditions: Mapping[str, object] | None = None) -> list[Path]:
    """Write ``scores.json``, ``report.md`` and, per protocol, ``sheet-<protocol>.png`` and ``distribution-<protocol>.png``.

    ``conditions``: what the figures rest on beside the machine, such as data, seed and threads; values that JSON holds. The folder is made
    when it is missing. Returns the files, numbers first. Raises BadInputError when there is nothing to report, two results are of one
    protocol or the folder cannot be written, MissingExtraError without matplotlib (before anything is written).
    """
    require_matplotlib()
    names = [result.protocol for result in results]
    if not names or len(set(names)) < len(names):
        raise BadInputError(f"results must be of one protocol each, at least one: {', '.join(names) or 'there are none'}")
    about = {**machine.describe(PACKAGES), **(conditions or {})}
    numbers = {"conditions": about, "protocols": {result.protocol: _numbers(result) for result in results}}
    files = {"scores.json": (json.dumps(numbers) + "\n").encode(), "report.md": _markdown(numbers, results).encode()}
    for result in results:
        files[f"sheet-{result.protocol}.png"] = draw_sheet(result)
        files[f"distribution-{result.protocol}.png"] = draw_distribution(result)
    return write_files(folder, files)


def write_files(folder: Path, files: Mapping[str, bytes]) -> list[Path]:
    """Write a report's files, names and contents, to a folder, which is made when it is missing. Raises BadInputError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise BadInputError(f"cannot write the report to {folder}: {error.strerror}") from error
    return [write_bytes(folder / name, data) for name, data in files.items()]


def require_matplotlib() -> None:
    """Raise MissingExtraError, with the command that adds it, where matplotlib is missing: to be asked before faces are scored for long."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise MissingExtraError('the report needs matplotlib: pip install "fhrt[train]"') from error


def _numbers(result: ProtocolResult) -> dict[str, Any]:
    return {
        "faces": len(result.bicubic.scores.psnr),
        "bicubic": _figures(result.bicubic, result),
        "systems": [_figures(system, result) for system in result.systems],
    }


def _figures(system: SystemResult, result: ProtocolResult) -> dict[str, Any]:
    """Means with their intervals, gains over bicubic face by face, cost, the paper's figures, and every face's scores."""
    scores, bicubic = dict(system.scores.items()), dict(result.bicubic.scores.items())
    compared = [] if system is result.bicubic else [metric for metric in scores if metric in bicubic]
    return {
        "name": system.name,
        "mean": {metric: interval(values) for metric, values in scores.items()},
        "gain": {metric: interval(scores[metric] - bicubic[metric]) for metric in compared},
        "ms_per_face": system.ms_per_face,
        "gflops": system.gflops,
        "parameters": system.parameters,
        "paper": _paper(system.name, result),
        "per_face": {metric: np.round(values.astype(np.float64), 5).tolist() for metric, values in scores.items()},
    }


def _paper(system: str, result: ProtocolResult) -> dict[str, Any] | None:
    found = published(system, result.protocol, result.lr.shape[1])
    if found is None:
        return None
    table, figures = found
    named = {key: dict(zip(METRICS, row, strict=False)) for key, row in (("bicubic", table.bicubic), ("system", figures))}
    return {"paper": table.paper, "source": table.source, "dataset": table.dataset, **named}


def interval(values: Values) -> dict[str, float]:
    low, high = confidence(values)
    return {"mean": float(np.mean(values, dtype=np.float64)), "low": low, "high": high}


NOTES = (
    "PSNR and SSIM on RGB, FSIM on luminance, means over the faces; in brackets the 95 % confidence interval of the mean (bootstrap over",
    "the faces; of a gain, over its differences face by face). GFLOP are of one face, a multiply-add counted as two.",
    "",
    "## Published figures",
    "",
    "Measured on other faces and with other degradations than the tables above: PSNR does not compare with them, and the gain over bicubic",
    "only roughly. Under unaligned and camera, the bicubic of the tables above is told the true transform and so harder to beat.",
)


def _markdown(numbers: Mapping[str, Any], results: Sequence[ProtocolResult]) -> str:
    lines = ["# Evaluation report", "", *condition_lines(numbers["conditions"])]
    for result in results:
        lines += ["", f"## {result.protocol}", "", *_table(numbers["protocols"][result.protocol]), ""]
        lines += [f"![What the systems make of some faces](sheet-{result.protocol}.png)", ""]
        lines += [f"![Share of the faces up to each PSNR](distribution-{result.protocol}.png)"]
    papers = [["paper", "faces", "LR", "protocol", "system", "PSNR dB", "gain dB", "SSIM", "FSIM"]]
    for table in PUBLISHED:
        for name, figures in {"bicubic": table.bicubic, **table.systems}.items():
            cells = [f"{table.paper} ({table.source})", table.dataset, f"{table.side}×{table.side}", table.protocol, name]
            psnr_cell, *others = [f"{figure:g}" for figure in figures] + ["–"] * (3 - len(figures))
            gain = "–" if name == "bicubic" else f"{figures[0] - table.bicubic[0]:+.2f}"
            papers.append([*cells, psnr_cell, gain, *others])
    return "\n".join([*lines, "", *NOTES, "", *table_lines(papers)]) + "\n"


def condition_lines(conditions: Mapping[str, Any]) -> list[str]:
    """What figures rest on, as a Markdown list."""
    lines = []
    for key, value in conditions.items():
        shown = ", ".join(f"{name} {version}" for name, version in value.items() if version) if isinstance(value, Mapping) else value
        lines.append(f"- {key}: {shown}")
    return lines


def table_lines(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; the first row is its head."""
    return [_row(*rows[0]), "|---" * len(rows[0]) + "|", *(_row(*row) for row in rows[1:])]


def _table(numbers: Mapping[str, Any]) -> list[str]:
    """A protocol's table; the column of identity similarity only where somebody measured it."""
    rows = [numbers["bicubic"], *numbers["systems"]]
    with_identity = any("identity" in row["mean"] for row in rows)
    head = ["system", "PSNR dB", "gain dB", "SSIM", "FSIM", *["identity"] * with_identity]
    head += ["ms per face", "GFLOP", "parameters, M", "paper: bicubic → system (gain)"]
    table = [head]
    for row in rows:
        mean, gain = row["mean"], row["gain"]
        cells = [row["name"], bracketed(mean["psnr"], ".2f"), bracketed(gain["psnr"], "+.2f") if gain else "–"]
        cells += [_number(mean[metric]["mean"] if metric in mean else None, ".3f") for metric in METRICS[1 : 3 + with_identity]]
        cells += [_number(row["ms_per_face"], ".2f"), _number(row["gflops"], ".2f")]
        cells.append(_number(None if row["parameters"] is None else row["parameters"] / 1e6, ".2f"))
        cells.append(_paper_cell(row["paper"]))
        table.append(cells)
    return [f"{numbers['faces']} faces.", "", *table_lines(table)]


def _paper_cell(paper: Mapping[str, Any] | None) -> str:
    if paper is None:
        return "–"
    before, after = paper["bicubic"]["psnr"], paper["system"]["psnr"]
    return f"{paper['paper']}, {paper['dataset']}: {before:g} → {after:g} ({after - before:+.2f})"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def bracketed(interval: Mapping[str, float], form: str) -> str:
    return f"{interval['mean']:{form}} [{interval['low']:{form}}, {interval['high']:{form}}]"


def draw_sheet(result: ProtocolResult) -> bytes:
    """PNG of the faces, one per row, pixel by pixel: LR (enlarged as squares), bicubic, each system, HR.

    Above a column its name and its mean PSNR over all faces of the protocol; below a picture the PSNR of this one.
    """
    count, height, width = result.hr.shape[:3]
    enlarged = result.lr.repeat(height // result.lr.shape[1], axis=1).repeat(width // result.lr.shape[2], axis=2)
    columns = [("LR", f"{result.lr.shape[2]}×{result.lr.shape[1]}", enlarged, [""] * count)]
    for system in result.results:
        captions = [f"{value:.2f} dB" for value in psnr(system.pictures, result.hr)]
        columns.append((system.name, f"mean {np.mean(system.scores.psnr):.2f} dB", system.pictures, captions))
    columns.append(("HR", f"{width}×{height}", result.hr, [""] * count))
    return draw_columns(columns)


def draw_columns(columns: Sequence[tuple[str, str, Pictures, Sequence[str]]]) -> bytes:
    """PNG of pictures ``[K, H, W, 3]`` uint8 RGB side by side, pixel by pixel: a column's name, what stands below it, its pictures, and
    what stands below each.
    """
    count, height, width = columns[0][2].shape[:3]
    total_w, total_h = GAP + len(columns) * (width + GAP), HEAD + count * (height + CAPTION)
    figure = new_figure(total_w, total_h)

    def write(x: float, y: float, text: str, size: float, color: str, weight: str = "normal") -> None:
        figure.text(x / total_w, 1 - y / total_h, text, fontsize=size, color=color, weight=weight, ha="center", va="center")

    for number, (name, below, pictures, captions) in enumerate(columns):
        left = GAP + number * (width + GAP)
        middle = left + width / 2
        write(middle, 13, name, 7, "black", "bold")
        write(middle, 29, below, 6, MUTED)
        for row, (picture, caption) in enumerate(zip(pictures, captions, strict=True)):
            bottom = HEAD + row * (height + CAPTION) + height
            figure.figimage(picture, left, total_h - bottom, origin="upper")
            write(middle, bottom + CAPTION / 2, caption, 6, MUTED)
    return png(figure)


def draw_distribution(result: ProtocolResult) -> bytes:
    """PNG of the cumulative distributions: the share of the faces whose PSNR is at most x, a curve per system, the best mean first."""
    figure = new_figure(1024, 720)
    axes = figure.add_axes((0.08, 0.09, 0.89, 0.84))
    ranked = sorted(result.results, key=lambda system: -float(np.mean(system.scores.psnr)))
    styles = [(f"C{colour}", dash) for dash in ("-", "--", ":") for colour in range(10)]
    for system, (color, dash) in zip(ranked, islice(cycle(styles), len(ranked)), strict=True):
        if system is result.bicubic:
            color, dash = "black", "--"
        label = f"{system.name}  {np.mean(system.scores.psnr):.2f} dB"
        axes.ecdf(np.asarray(system.scores.psnr), label=label, color=color, linestyle=dash, linewidth=1.5)
    axes.set_title(f"{result.protocol}, {len(result.bicubic.scores.psnr)} faces", fontsize=9)
    axes.set_xlabel("PSNR, dB", fontsize=8)
    axes.set_ylabel("share of the faces up to it", fontsize=8)
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7, loc="upper left", title="mean", title_fontsize=7)
    return png(figure)


def new_figure(width: int, height: int) -> Figure:
    """An empty white figure of so many pixels, apart from pyplot and its global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")


def png(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    buffer = BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()
