"""A bundle's probe: a few inputs, and what its fp32 form makes of them. A backend's answer is compared with it before it is believed."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fhrt.errors import WeightsError
from fhrt.runtime.batch import whole_pieces
from fhrt.runtime.bundle import PROBE, Bundle

STEP = 7
"""Every seventh row and column of a picture is kept: 7 is no factor of any magnification, so every phase of a sub-pixel shuffle is seen."""
WHOLE = 32
"""Maps of at most this side are kept whole."""

PICTURES = ("sr", "sr_2x", "sr_4x")
MOST_DB = 150.0
"""What is said of two answers that are the same."""

LIMITS = {
    "fp32": {"picture": 70.0, "theta": 0.01, "map": 0.005},
    "fp16": {"picture": 55.0, "theta": 0.05, "map": 0.02},
    "int8": {"picture": 3.0, "theta": 0.2, "map": 0.1},
}
"""PSNR that a picture must have (range 2, dB), pixels of the LR face by which a theta may move its corners, difference that a map may have;
in INT8 how much worse each may be than when the form is computed exactly."""

Figures = dict[str, float]
"""Output → how far an answer is from the probe's: see `LIMITS`."""


@dataclass(frozen=True)
class Probe:
    """given: LR faces [N, 3, h, w] or a BGR frame [H, W, 3], uint8. answers: output → as much of it as is kept, float16; theta whole,
    float32. int8: how far the INT8 form is from that when it is computed exactly; None where nobody has found out.
    """

    given: NDArray[np.uint8]
    answers: Mapping[str, NDArray[Any]]
    int8: Figures | None = None

    def inputs(self) -> Iterator[tuple[Any, slice]]:
        """What to call an engine with, and which rows of the answers that is: the faces together, and the first alone, which backends
        compute by another form of the graph."""
        if self.given.ndim == 3:
            yield self.given, slice(None)
            return
        lr = self.given.astype(np.float32) / 127.5 - 1
        yield lr, slice(None)
        yield lr[:1], slice(1)


def read_probe(bundle: Bundle) -> Probe | None:
    """None where the bundle has none. Raises WeightsError for one that is not of this bundle's graph."""
    if PROBE not in bundle.card.sha256:
        return None
    from safetensors import SafetensorError, safe_open

    path = bundle.folder / PROBE
    try:
        with safe_open(path, "np") as file:
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  not a dict
            about = json.loads((file.metadata() or {}).get("int8", "null"))
        int8 = None if about is None else {str(name): float(value) for name, value in about.items()}
    except (OSError, SafetensorError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path} is no probe: {str(error).splitlines()[0]}; export the bundle again: fhrt export") from error
    takes, card = _takes(bundle), bundle.card
    given = arrays.pop(takes, np.zeros(0, np.uint8))
    frames = takes == "frame"
    finite = all(np.isfinite(each).all() for each in (*arrays.values(), *(int8 or {}).values()))
    fits = (
        finite
        and given.dtype == np.uint8
        and (given.ndim == 3 and given.shape[2] == 3 if frames else given.ndim == 4 and given.shape[1:] == (3, *card.input_size))
    )
    if not fits or given.size == 0 or set(arrays) != set(card.outputs):
        raise WeightsError(
            f"{path} does not fit its graph, which takes {takes} and gives {', '.join(card.outputs)}; export the bundle again: fhrt export"
        )
    return Probe(given, arrays, int8)


def make_probe(bundle: Bundle, given: NDArray[np.uint8], threads: int | None = None) -> Probe:
    """The answers of the bundle's fp32 form, and how far its INT8 form is from them, by ONNX Runtime on the CPU. Raises WeightsError."""
    probe = Probe(given, {})
    answers = _answer(replace(bundle, precision="fp32"), probe, threads)
    probe = Probe(given, {name: _kept(name, value) for name, value in answers.items()})
    if bundle.card.int8 is None:
        return probe
    return replace(probe, int8=_figures(probe, _answer(replace(bundle, precision="int8"), probe, threads), slice(None)))


def synthetic(bundle: Bundle) -> NDArray[np.uint8]:
    """Inputs for a bundle that has no probe: colours that pass smoothly into one another, with some noise."""
    rng = np.random.default_rng(2018)
    count, (height, width) = (1, (64, 96)) if _takes(bundle) == "frame" else (4, bundle.card.input_size)
    y, x = np.mgrid[:height, :width] / max(height, width)
    waves = rng.uniform(-12, 12, (count, 3, 4, 2)) @ np.stack([y.ravel(), x.ravel()]) + rng.uniform(0, 6.3, (count, 3, 4, 1))
    faces = 128 + 50 * np.sin(waves).sum(2).reshape(count, 3, height, width) + rng.normal(0, 8, (count, 3, height, width))
    faces = faces.clip(0, 255).astype(np.uint8)
    return np.ascontiguousarray(faces[0].transpose(1, 2, 0)) if _takes(bundle) == "frame" else faces


def compare(probe: Probe, engine: Any) -> Figures:
    """How far an engine's answers are from the probe's, the worst of its calls."""
    worst: Figures = {}
    for given, rows in probe.inputs():
        result = engine.run(given)
        outputs = engine.card.outputs
        answers = dict(zip(outputs, result, strict=True)) if isinstance(result, list) else {name: getattr(result, name) for name in outputs}
        for name, figure in _figures(probe, answers, rows).items():
            both = [figure, worst.get(name, figure)]
            worst[name] = float(np.min(both) if name in PICTURES else np.max(both))  # NaN stays NaN
    return worst


def complaint(figures: Figures, precision: str, exact: Figures | None) -> str:
    """What is wrong with an answer of this precision; nothing: "". exact: `Probe.int8`."""
    limits = LIMITS.get(precision, LIMITS["fp32"])
    for name, figure in figures.items():
        kind = "picture" if name in PICTURES else "theta" if name == "theta" else "map"
        limit = limits[kind]
        if precision == "int8" and exact is not None:
            limit = exact.get(name, 0.0) + (-limit if kind == "picture" else limit)
        if not (figure >= limit if kind == "picture" else figure <= limit):
            return f"{told(name, figure)}, and it must be {'at least' if kind == 'picture' else 'at most'} {_number(name, limit)}"
    return ""


def told(name: str, figure: float) -> str:
    """A figure in words."""
    return f"{name} {_number(name, figure)}"


def _number(name: str, figure: float) -> str:
    return f"{figure:.1f} dB" if name in PICTURES else f"{figure:.3f}{' pixels' if name == 'theta' else ''}"


def _takes(bundle: Bundle) -> str:
    """Name of the graph's input."""
    return "frame" if "heat" in bundle.card.outputs else "lr"


def _answer(bundle: Bundle, probe: Probe, threads: int | None) -> dict[str, NDArray[Any]]:
    """Of the bundle's form to the first of a probe's inputs, by ONNX Runtime; INT8 node by node in float32, as the graph is written."""
    import onnxruntime  # 0.1 seconds that a bundle with a probe need not wait for

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 3
    if bundle.precision == "int8":
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    names = list(bundle.card.outputs)
    given, _ = next(probe.inputs())
    try:
        session = onnxruntime.InferenceSession(bundle.graph, options, providers=["CPUExecutionProvider"])
        takes = _takes(bundle)
        values = session.run(names, {takes: whole_pieces(given, bundle.card) if takes == "frame" else given})
    except Exception as error:  # ONNX Runtime's own errors share no public base class
        raise WeightsError(f"{bundle.graph} cannot be executed: {str(error).splitlines()[0]}") from error
    return dict(zip(names, values, strict=True))


def _kept(name: str, answer: NDArray[Any]) -> NDArray[Any]:
    """What a probe keeps of an output."""
    if name == "theta":
        return np.array(answer, np.float32)
    step = STEP if max(answer.shape[2:]) > WHOLE else 1
    with np.errstate(over="ignore"):
        return np.array(answer[..., ::step, ::step], np.float16)


def _figures(probe: Probe, answers: Mapping[str, NDArray[Any]], rows: slice) -> Figures:
    """Raises WeightsError where the answers are of another shape than the probe's."""
    figures: Figures = {}
    for name, answer in answers.items():
        expected, given = probe.answers[name][rows], _kept(name, answer)
        if expected.shape != given.shape:
            shapes = f"{list(expected.shape)} instead of {list(given.shape)}"
            raise WeightsError(f"the probe does not fit its graph: it has {name} as {shapes}; export the bundle again: fhrt export")
        difference = given.astype(np.float64) - expected.astype(np.float64)
        if name in PICTURES:
            error = float(np.mean(difference**2, axis=(1, 2, 3)).max())
            figures[name] = min(MOST_DB, float(10 * np.log10(4 / np.clip(error, 1e-20, 1e20)))) if error == error else error
        elif name == "theta":  # of the corners of the face, in pixels
            corners = np.array([[x, y, 1] for x in (-1, 1) for y in (-1, 1)])
            moved = difference @ corners.T * (np.array(probe.given.shape[:-3:-1]) / 2)[:, None]
            figures[name] = float(np.hypot(*np.moveaxis(moved, 1, 0)).max())
        elif name == "geometry":  # means something only where there is a face
            figures[name] = float((np.abs(difference) * probe.answers["heat"][rows].astype(np.float64)).max())
        else:
            figures[name] = float(np.abs(difference).max())
    return figures
