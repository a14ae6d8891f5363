"""The GPU backends on a real device: near ONNX Runtime, padded batches, graphs that run again, and engines found again.

FHRT_TEST_DEVICE=cpu: the torch backend there, in fp32, to rehearse these lines.
"""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fhrt import _C
from fhrt.errors import FhrtError
from fhrt.runtime import Engine, load
from fhrt.runtime.bundle import open_bundle
from fhrt.runtime.engine import Options

pytestmark = pytest.mark.gpu
DEVICE = os.environ.get("FHRT_TEST_DEVICE", "cuda")
LITE = open_bundle("lite")
LR = np.random.default_rng(0).uniform(-1, 1, (40, 3, 16, 16)).astype(np.float32)
LEAST_DB = {"fp32": 70, "fp16": 50}
Opener = Callable[..., Engine]


@pytest.fixture(scope="module", params=["torch", "tensorrt"])
def opener(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Opener:
    """Opens lite; TensorRT with two batch sizes, which build sooner than six."""

    def open_it(precision: str = "fp16") -> Engine:
        if request.param == "torch":
            return load("lite", backend="torch", device=DEVICE, precision="fp32" if DEVICE == "cpu" else precision)
        from fhrt.runtime.trt import TensorRTEngine

        return TensorRTEngine(LITE, Options(device="cuda", precision=precision), batches=(1, 4))

    os.environ["FHRT_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    try:
        open_it()
    except FhrtError as error:
        if os.environ.get("FHRT_REQUIRE_GPU") == "1" and hasattr(_C, "cuda"):
            raise
        pytest.skip(str(error))
    return open_it


@pytest.fixture(scope="module")
def expected() -> np.ndarray:
    return load("lite", backend="onnxruntime", plan="whole").run(LR).sr


def decibels(given: np.ndarray, expected: np.ndarray) -> float:
    return float(10 * np.log10(4 / np.mean((given - expected) ** 2)))


@pytest.mark.parametrize("precision", LEAST_DB)
def test_near_onnxruntime_at_every_number_of_faces(opener: Opener, expected: np.ndarray, precision: str) -> None:
    engine = opener(precision)
    for count in (1, 3, 4, 5, 40):
        output = engine.run(LR[:count])
        assert output.sr.shape == (count, 3, 128, 128) and output.sr.dtype == output.theta.dtype == np.float32
        for face in range(count):
            assert decibels(output.sr[face], expected[face]) > LEAST_DB[precision], (count, face)
    assert engine.run(LR[:0]).sr.shape == (0, 3, 128, 128)


def test_a_graph_runs_again_and_leaves_earlier_results_alone(opener: Opener) -> None:
    engine = opener()
    first = engine.run(LR[:3])
    kept = first.sr.copy()
    second = engine.run(LR[3:6])
    assert np.array_equal(first.sr, kept) and not np.array_equal(first.sr, second.sr)
    assert np.array_equal(engine.run(LR[:3]).sr, kept)


def test_engines_are_found_again(opener: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorrt", reason="TensorRT is not installed")
    from fhrt.runtime import trt, trt_build

    trt.TensorRTEngine(LITE, Options(device="cuda", precision="fp16"), batches=(1, 4))
    monkeypatch.setattr(trt_build, "build", lambda *_: pytest.fail("built a second time"))
    assert trt.TensorRTEngine(LITE, Options(device="cuda", precision="fp16"), batches=(1, 4)).batches == (1, 4)
    assert load("lite", precision="fp16").batches == (1, 4)  # what was built is what auto takes
    assert list(Path(os.environ["FHRT_CACHE"], "engines").glob("*.engine"))
