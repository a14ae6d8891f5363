"""Plans in half precision: fp16 between the ends, float32 at the ends and for thetas, and the same picture."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from test_plan import GRAPHS, RNG, model_of

from fhrt.runtime.bundle import Bundle, open_bundle
from fhrt.runtime.cut import CutSession
from fhrt.runtime.half import halve
from fhrt.runtime.plan import Kernel, Plan, Segment, cut, cut_model

LITE = open_bundle("lite")


def run(plan: Plan, bundle: Bundle, lr: np.ndarray) -> dict[str, np.ndarray]:
    names = [tensor.name for tensor in plan.outputs]
    return dict(zip(names, CutSession(bundle, onnxruntime.SessionOptions(), plan).run(names, {"lr": lr}), strict=True))


def check_dtypes(plan: Plan, bundle: Bundle) -> None:
    """Every tensor has one dtype wherever it appears, and every segment's nodes agree with theirs."""
    dtypes: dict[str, str] = {}
    for step in plan.steps:
        for tensor in (*step.inputs, *step.outputs):
            assert dtypes.setdefault(tensor.name, tensor.dtype) == tensor.dtype
        if isinstance(step, Kernel):
            assert step.inputs[0].dtype == step.output.dtype and all(theta.dtype == "float32" for theta in step.inputs[1:])
        else:
            onnx.shape_inference.infer_shapes(onnx.ModelProto.FromString(step.serialize(bundle)), check_type=True, strict_mode=True)
    assert {tensor.dtype for tensor in (*plan.inputs, *plan.outputs)} == {"float32"}


@pytest.mark.parametrize("name", GRAPHS)
def test_any_graph(name: str, tmp_path: Path) -> None:
    plan, bundle = cut_model(model_of(name)), Bundle(tmp_path, LITE.card)
    half = halve(plan)
    check_dtypes(half, bundle)
    lr = RNG.normal(0, 1, plan.inputs[0].at(2)).astype(np.float32)
    expected, given = run(plan, bundle, lr), run(half, bundle, lr)
    for tensor in plan.outputs:
        assert given[tensor.name].dtype == np.float32
        np.testing.assert_allclose(given[tensor.name], expected[tensor.name], atol=0.02)


def test_lite() -> None:
    plan = cut(LITE)
    half = halve(plan)
    check_dtypes(half, LITE)
    convolutions = [
        (node.input[1], {tensor.name: tensor.data_type for tensor in step.model.graph.initializer}[node.input[1]])
        for step in half.steps if isinstance(step, Segment) for node in step.model.graph.node if node.op_type == "Conv"
    ]  # fmt: skip
    assert len(convolutions) == 42 and {kind for _, kind in convolutions} == {onnx.TensorProto.FLOAT16}
    assert sum(tensor.dtype == "float16" for step in half.steps for tensor in step.outputs) >= 5
    lr = RNG.uniform(-1, 1, (2, 3, 16, 16)).astype(np.float32)
    expected, given = run(plan, LITE, lr), run(half, LITE, lr)
    np.testing.assert_allclose(given["theta"], expected["theta"], atol=1e-3)
    assert 10 * np.log10(4 / np.mean((given["sr"] - expected["sr"]) ** 2)) > 55
