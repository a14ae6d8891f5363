"""Backend torch on the CPU: the same graph by other code. tests/export compares the systems with a transformer; here are the others."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from fhrt.errors import BackendError
from fhrt.export.graph import to_onnx
from fhrt.export.rewrite import rewrite
from fhrt.export.weights import externalise
from fhrt.models import create
from fhrt.runtime import load
from fhrt.runtime.bundle import GRAPH, WEIGHTS, Bundle, open_bundle
from fhrt.runtime.engine import Options
from fhrt.runtime.ort import open_cpu
from fhrt.runtime.torch_cuda import open_engine

LITE = open_bundle("lite")
LR = np.random.default_rng(0).uniform(-1, 1, (3, 3, 16, 16)).astype(np.float32)


@pytest.mark.parametrize("name", ["srcnn", "vdsr", "srgan", "lp"])
def test_the_baselines(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    proto = to_onnx(rewrite(create(name)), (16, 16), ("sr",))
    externalise(proto, tmp_path, WEIGHTS)
    onnx.save(proto, tmp_path / GRAPH)
    bundle = Bundle(tmp_path, LITE.card.model_copy(update={"outputs": ("sr",)}))
    expected = open_cpu(bundle, Options(plan="whole")).run(LR).sr
    np.testing.assert_allclose(open_cpu(bundle, Options(plan="cut")).run(LR).sr, expected, atol=1e-5)
    np.testing.assert_allclose(open_engine(bundle, Options(device="cpu")).run(LR).sr, expected, atol=1e-4)


def test_lite_at_any_number_of_faces() -> None:
    engine, reference = load("lite", backend="torch", device="cpu"), load("lite", plan="whole")
    many = np.repeat(LR, 12, 0)
    for count in (0, 1, 36):
        given, expected = engine.run(many[:count]), reference.run(many[:count])
        for name in ("sr", "theta"):
            np.testing.assert_allclose(getattr(given, name), getattr(expected, name), atol=1e-4)


def test_an_operator_that_is_not_there_is_named(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 10, opset_import: ["": 18]> g (float[batch, 3, 16, 16] lr) => (float[batch, 3, 16, 16] sr) { sr = Erf (lr) }'
    )
    onnx.save(model, tmp_path / GRAPH)
    with pytest.raises(BackendError, match="no operator Erf; backend onnxruntime has"):
        open_engine(Bundle(tmp_path, LITE.card), Options(device="cpu"))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"precision": "fp16"}, "fp16 on a CUDA device only"),
        ({"threads": torch.get_num_threads() + 1}, "torch.set_num_threads"),
        ({"plan": "whole"}, "no plan 'whole'"),
    ],
    ids=str,
)
def test_what_it_cannot_do(settings: dict[str, object], words: str) -> None:
    with pytest.raises(BackendError, match=words):
        load("lite", backend="torch", device="cpu", **settings)  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("backend", ["torch", "auto"])
def test_a_device_that_is_not_there_is_an_error(backend: str) -> None:
    with pytest.raises(BackendError, match="the installed torch finds no CUDA device"):
        load("lite", backend=backend, device="cuda")
