"""Sums of two products in 16 bits: weights that fit, what the simulated session gives where they do not, and that AVX2 kernels agree."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from fhrt.export.saturation import LAYERS, PAIR, SaturatingSession, _by_output, safe_scales
from fhrt.runtime.bundle import SHIPPED

AVX2 = """
import sys, numpy as np, openvino
model = openvino.Core().compile_model(sys.argv[1], "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
np.save(sys.argv[3], model({"x": np.load(sys.argv[2])})["y"])
"""


def layer(
    kind: str, weight: NDArray[np.float32], scales: NDArray[np.float32], shape: tuple[int, ...], **attributes: object
) -> onnx.ModelProto:
    """x → int8 (a step is 1) → a layer of the weight, rounded to steps of ``scales`` → y."""
    axis = int(kind != "Conv")
    along = np.ones(weight.ndim, int)
    along[axis] = -1
    values = {
        "one": np.float32(1),
        "none": np.int8(0),
        "w": np.rint(weight / scales.reshape(along)).clip(-127, 127).astype(np.int8),
        "ws": scales,
        "wz": np.zeros(len(scales), np.int8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "one", "none"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "one", "none"], ["d"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["wd"], axis=axis),
        helper.make_node(kind, ["d", "wd"], ["y"], name="layer", **attributes),
    ]
    ends = [helper.make_tensor_value_info("x", 1, shape), helper.make_tensor_value_info("y", 1, None)]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [numpy_helper.from_array(value, name) for name, value in values.items()])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def pair_by_pair(x: NDArray[np.float32], weight: NDArray[np.int8]) -> NDArray[np.float32]:
    """A convolution of 3×3 with a border of 1, as vpmaddubsw computes it, one number after another."""
    raised = np.pad(x.astype(int), ((0, 0), (0, 0), (1, 1), (1, 1))) + 128
    y = np.zeros((len(x), len(weight), *x.shape[2:]))
    for n, o, row, column in np.ndindex(*y.shape):
        for i, j in np.ndindex(3, 3):
            products = raised[n, :, row + i, column + j] * weight[o, :, i, j].astype(int)
            pairs = [sum(products[c : c + 2]) for c in range(0, len(products), 2)]
            y[n, o, row, column] += sum(min(max(pair, -32768), 32767) for pair in pairs) - 128 * int(weight[o, :, i, j].astype(int).sum())
    return y


def test_saturation_is_computed_pair_by_pair(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    x, weight = rng.integers(-128, 128, (2, 5, 4, 6)).astype(np.float32), rng.integers(-127, 128, (3, 5, 3, 3)).astype(np.float32)
    model = layer("Conv", weight, np.ones(3, np.float32), x.shape, pads=[1, 1, 1, 1])
    onnx.save(model, tmp_path / "model.onnx")
    (given,) = SaturatingSession(tmp_path / "model.onnx").run(["y"], {"x": x})
    expected, exact = pair_by_pair(x, weight.astype(np.int8)), onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})[0]
    np.testing.assert_array_equal(given, expected)
    assert np.abs(expected - exact).max() > 1000


CASES = {
    "conv": ("Conv", (24, 24, 3, 3), (1, 24, 9, 8), {"pads": [1, 1, 1, 1]}),
    "strided": ("Conv", (16, 7, 4, 4), (1, 7, 12, 11), {"strides": [2, 2], "pads": [1, 0, 2, 1]}),
    "dilated": ("Conv", (8, 8, 3, 3), (1, 8, 11, 12), {"dilations": [2, 3], "pads": [2, 3, 2, 3]}),
    "transposed": ("ConvTranspose", (6, 9, 4, 4), (2, 6, 5, 7), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    "matmul": ("MatMul", (13, 8), (2, 6, 13), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_safe_weights_never_saturate_and_lose_at_most_a_bit(case: str, tmp_path: Path) -> None:
    kind, size, shape, attributes = CASES[case]
    rng = np.random.default_rng(1)
    weight = rng.normal(size=size).astype(np.float32)
    _by_output(weight, kind)[0] = 0  # a channel that does nothing
    _by_output(weight, kind)[1] *= rng.choice([0.05, 1], _by_output(weight, kind)[1].shape, p=[0.98, 0.02])  # one with a few large weights
    whole = np.abs(_by_output(weight, kind).reshape(size[int(kind != "Conv")], -1)).max(1) / 127
    scales = safe_scales(weight, kind)
    assert scales.dtype == np.float32 and scales[0] == 1
    assert (scales[1:] >= whole[1:].astype(np.float32)).all() and (scales[1:] <= 2.01 * whole[1:]).all()
    values = np.rint(_by_output(weight, kind).reshape(len(scales), -1) / scales[:, None])
    for sign in (1, -1):
        assert np.sort((sign * values).clip(0), axis=1)[:, -2:].sum(1).max() <= PAIR
    # The extremes of activations too give what whole numbers of any width give; with plain scales they do not.
    x = rng.choice([-128.0, 127.0], shape).astype(np.float32)
    for chosen, exact in ((scales, True), (np.where(whole > 0, whole, 1).astype(np.float32), False)):
        model = layer(kind, weight, chosen, shape, **attributes)
        onnx.save(model, tmp_path / "model.onnx")
        (given,) = SaturatingSession(tmp_path / "model.onnx").run(["y"], {"x": x})
        wanted = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})[0]
        assert given.shape == wanted.shape
        assert np.allclose(given, wanted, rtol=1e-4, atol=1e-2) == exact


@pytest.mark.parametrize("case", ["conv", "strided"])
def test_avx2_kernels_saturate_as_simulated(case: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    kind, size, shape, attributes = CASES[case]
    rng = np.random.default_rng(2)
    weight, x = rng.normal(size=size).astype(np.float32), rng.integers(-128, 128, shape).astype(np.float32)
    scales = np.abs(weight).max((1, 2, 3)) / 127
    model = layer(kind, weight, scales, shape, **attributes)
    onnx.save(model, tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", x)
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    files = [str(tmp_path / name) for name in ("model.onnx", "x.npy", "y.npy")]
    subprocess.run([sys.executable, "-c", AVX2, *files], env=environment, check=True, timeout=120)
    given = np.load(tmp_path / "y.npy")
    exact = onnx.reference.ReferenceEvaluator(model).run(None, {"x": x})[0]
    if np.allclose(given, exact, rtol=1e-4, atol=0.05):
        pytest.skip("this oneDNN does not obey ONEDNN_MAX_CPU_ISA=AVX2: nothing saturates")
    (expected,) = SaturatingSession(tmp_path / "model.onnx").run(["y"], {"x": x})
    np.testing.assert_allclose(given, expected, rtol=1e-4, atol=0.05)


@pytest.mark.parametrize("name", ["lite", "mnce-ridge", "urdgn", "../weights/detectors/tiny"])
def test_no_shipped_form_can_saturate(name: str) -> None:
    graph = onnx.load(SHIPPED / name / "model.int8.onnx").graph
    held = {tensor.name: tensor for tensor in graph.initializer}
    made_by = {output: node for node in graph.node for output in node.output}
    found = 0
    for node in graph.node:
        source = made_by.get(node.input[1]) if node.op_type in LAYERS else None
        if source is None or source.op_type != "DequantizeLinear":
            continue
        values = _by_output(numpy_helper.to_array(held[source.input[0]]).astype(int), node.op_type)
        values = values.reshape(len(values), -1)
        assert np.sort(values.clip(0), axis=1)[:, -2:].sum(1).max() <= PAIR, node.name
        assert np.sort((-values).clip(0), axis=1)[:, -2:].sum(1).max() <= PAIR, node.name
        found += 1
    assert found >= 5
