"""What works on this machine, and which command adds what is missing."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator
from functools import partial
from importlib import import_module, metadata
from typing import NamedTuple

from fhrt.errors import WeightsError
from fhrt.machine import usable_cores


class Finding(NamedTuple):
    """needed: fhrt does not work without it. detail: what there is, or what to do."""

    what: str
    works: bool
    needed: bool
    detail: str


def examine() -> Iterator[Finding]:
    """Looks at everything in turn: the machine, packages, backends and models."""
    yield _look("python", lambda: f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    yield _look("fhrt", partial(installed, "fhrt"))
    yield _look("cpu", _cpu)
    yield _look("native module", lambda: str(import_module("fhrt._C").__name__), "pip install --no-build-isolation -e .", needed=True)
    for package, distribution in (("numpy", "numpy"), ("cv2", "opencv-python-headless"), ("av", "av")):
        yield _look(distribution, partial(_imported, package), f"pip install {distribution}", needed=True)
    yield _look("onnxruntime", _onnxruntime, "pip install onnxruntime", needed=True)
    yield _look("openvino", _openvino, 'for faster models on x86-64: pip install "fhrt[openvino]"')
    for package in ("torch", "onnx", "onnxscript"):
        yield _look(package, partial(_imported, package), 'for training and export: pip install "fhrt[train]"')
    yield _look("tensorrt", partial(_imported, "tensorrt"), 'for NVIDIA GPUs: pip install "fhrt[tensorrt]"')
    names: list[str] = []
    yield _look("models", partial(_find_models, names), "fhrt models add BUNDLE", needed=True)
    for name in names:
        yield _look(f"model {name}", partial(_verify, name), needed=True)
    yield _look("detector", _verify_detector, needed=True)


def installed(distribution: str) -> str:
    """Its version."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed, run from its source folder"


def _look(what: str, probe: Callable[[], str], remedy: str = "", *, needed: bool = False) -> Finding:
    try:
        return Finding(what, True, needed, probe())
    except Exception as error:
        return Finding(what, False, needed, "  ".join(filter(None, (str(error) if needed else "", remedy))))


def _find_models(names: list[str]) -> str:
    from fhrt.runtime import bundle

    names.extend(bundle.installed())
    if not names:
        raise WeightsError("none is installed:")
    return f"{len(names)} installed"


def _verify(name: str) -> str:
    from fhrt.runtime import load
    from fhrt.runtime.choice import explain

    engine = load(name)
    card = engine.card
    sizes = f"{'×'.join(map(str, card.input_size))} to {'×'.join(map(str, card.output_size))}"
    precisions = "fp32" if card.int8 is None else "fp32 and int8"
    return f"verified, {sizes}, {precisions}; auto is {explain(engine) or f'{engine.backend} {engine.precision}'}"


def _verify_detector() -> str:
    from fhrt.faces.centres import CentreDetector
    from fhrt.runtime.choice import explain

    return f"verified; auto is {explain(CentreDetector().engine)}"


def _cpu() -> str:
    import cv2

    codes = {"SSE4.2": 7, "AVX2": 11, "FMA3": 12, "AVX-512": 256, "NEON": 100}  # OpenCV's CV_CPU_* numbers
    features = " ".join(name for name, code in codes.items() if cv2.checkHardwareSupport(code))
    return f"{usable_cores()} threads, {features}"


def _onnxruntime() -> str:
    runtime = import_module("onnxruntime")
    return f"{runtime.__version__}: {', '.join(runtime.get_available_providers())}"


def _openvino() -> str:
    from fhrt.runtime.openvino import openvino  # imported so that it does not call home

    return str(openvino.__version__)


def _imported(package: str) -> str:
    return str(import_module(package).__version__)
