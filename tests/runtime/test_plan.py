"""A graph in pieces: every node in one of them, each with all that it needs, and no more pieces than there must be."""

import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from fhrt.errors import MissingExtraError, WeightsError
from fhrt.export.graph import _STN_SAMPLE, _SUB_PIXEL_SHUFFLE
from fhrt.runtime.bundle import Bundle, open_bundle
from fhrt.runtime.cut import CutSession
from fhrt.runtime.plan import Kernel, Plan, Segment, cut, cut_model

RNG = np.random.default_rng(0)
SAMPLE = 'fhrt.StnSample <h: int = 6, w: int = 5, align_corners: int = {align}, padding: string = "{padding}", upsample: int = {up}>'
GRAPHS = {
    "at both ends": ("float[batch, 4, 3, 3] lr", "float[batch, 1, 12, 12] sr", """
        big = fhrt.SubPixelShuffle <factor: int = 2> (lr)
        wide = Concat <axis = 1> (big, big, big, big)
        sr = fhrt.SubPixelShuffle <factor: int = 2> (wide)
    """, "KSK"),
    "nothing but kernels": ("float[batch, 16, 3, 3] lr", "float[batch, 1, 12, 12] sr", """
        once = fhrt.SubPixelShuffle <factor: int = 2> (lr)
        sr = fhrt.SubPixelShuffle <factor: int = 2> (once)
    """, "KK"),
    "an activation goes with the shuffle": ("float[batch, 8, 3, 3] lr", "float[batch, 2, 6, 6] sr", """
        big = fhrt.SubPixelShuffle <factor: int = 2> (lr)
        sr = LeakyRelu <alpha = 0.25> (big)
    """, "K"),
    "but not where both are used": ("float[batch, 8, 3, 3] lr", "float[batch, 2, 6, 6] sr", """
        big = fhrt.SubPixelShuffle <factor: int = 2> (lr)
        bent = Relu (big)
        sr = Add (big, bent)
    """, "KS"),
    "nor where it is no slope": ("float[batch, 8, 3, 3] lr", "float[batch, 2, 6, 6] sr", """
        big = fhrt.SubPixelShuffle <factor: int = 2> (lr)
        sr = LeakyRelu <alpha = 1.5> (big)
    """, "KS"),
    "branches, late needs and several outputs": (
        "float[batch, 4, 3, 4] lr", "float[batch, 4, 6, 5] sr, float[batch, 2, 3] theta, float[batch, 4, 6, 5] other", f"""
        mean = GlobalAveragePool (lr)
        four = Flatten (mean)
        six = MatMul (four, weight)
        shape = Constant <value = int64[3] {{0, 2, 3}}> ()
        theta = Reshape (six, shape)
        left = {SAMPLE.format(align=0, padding="zeros", up=2)} (lr, theta)
        bent = Neg (left)
        turned = Mul (theta, half)
        right = {SAMPLE.format(align=1, padding="border", up=1)} (lr, turned)
        both = Add (bent, right)
        other = Add (both, offset)
        sr = {SAMPLE.format(align=1, padding="zeros", up=3)} (both, theta)
    """, "SKKSK"),
    "a stretch waits for the kernels that can run first": ("float[batch, 16, 2, 2] lr", "float[batch, 5, 8, 8] sr", """
        first = fhrt.SubPixelShuffle <factor: int = 2> (lr)
        scaled = Resize <mode = "nearest"> (first, , scales)
        second = fhrt.SubPixelShuffle <factor: int = 2> (first)
        sr = Concat <axis = 1> (scaled, second)
    """, "KKS"),
}  # fmt: skip
CONSTANTS = {
    "weight": RNG.normal(0, 0.5, (4, 6)).astype(np.float16),
    "half": np.float32([0.5]),
    "offset": RNG.normal(0, 1, (4, 1, 1)).astype(np.float16),
    "scales": np.float32([1, 1, 2, 2]),
}


def model_of(name: str) -> onnx.ModelProto:
    """One of `GRAPHS`; its fp16 constants pass a Cast, as in a bundle."""
    given, result, body, _ = GRAPHS[name]
    shapes = "<float[batch, 4, 6, 5] left, float[batch, 4, 6, 5] right>"  # onnx cannot know them of StnSample; the exporter writes them
    text = f'<ir_version: 10, opset_import: ["": 18, "fhrt": 1]>\ng ({given}) => ({result}) {shapes} {{ {body} }}'
    model = onnx.parser.parse_model(text)
    for key, value in CONSTANTS.items():
        if value.dtype == np.float16:
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, f"{key}.fp16"))
            model.graph.node.insert(0, onnx.helper.make_node("Cast", [f"{key}.fp16"], [key], to=onnx.TensorProto.FLOAT))
        else:
            model.graph.initializer.append(onnx.numpy_helper.from_array(value, key))
    model.functions.extend(onnx.parser.parse_function(function) for function in (_STN_SAMPLE, _SUB_PIXEL_SHUFFLE))
    return model


def kinds(plan: Plan) -> str:
    return "".join("S" if isinstance(step, Segment) else "K" for step in plan.steps)


def check(plan: Plan, bundle: Bundle) -> None:
    """Each step finds its inputs, no segment holds one of our nodes or more than it needs, and every tensor ends where it is last read."""
    known = {tensor.name for tensor in plan.inputs}
    for index, step in enumerate(plan.steps):
        assert {tensor.name for tensor in step.inputs} <= known
        known |= {tensor.name for tensor in step.outputs}
        if isinstance(step, Segment):
            onnx.checker.check_model(step.serialize(bundle))
            assert not step.model.functions and {node.domain for node in step.model.graph.node} == {""}
            used = {name for node in step.model.graph.node for name in node.input}
            assert {tensor.name for tensor in (*step.inputs, *step.model.graph.initializer)} <= used
        later = {tensor.name for each in plan.steps[index + 1 :] for tensor in each.inputs}
        for tensor in step.inputs:
            assert (plan.last_use.get(tensor.name) == index) == (tensor.name not in later | {each.name for each in plan.outputs})
    assert {tensor.name for tensor in plan.outputs} <= known


@pytest.mark.parametrize("name", GRAPHS)
@pytest.mark.parametrize("batch", [1, 3])
def test_the_pieces_compute_what_the_whole_does(name: str, batch: int, tmp_path: Path) -> None:
    model = model_of(name)
    before = model.SerializeToString(deterministic=True)
    plan = cut_model(model)
    assert kinds(plan) == GRAPHS[name][3] == kinds(cut_model(model))
    bundle = Bundle(tmp_path, open_bundle("lite").card)
    check(plan, bundle)
    assert model.SerializeToString(deterministic=True) == before
    onnx.save(model, tmp_path / "model.onnx")
    whole = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    pieces = CutSession(bundle, onnxruntime.SessionOptions())
    names = [output.name for output in whole.get_outputs()]
    lr = RNG.normal(0, 1, plan.inputs[0].at(batch)).astype(np.float32)
    for expected, given in zip(whole.run(names, {"lr": lr}), pieces.run(names, {"lr": lr}), strict=True):
        np.testing.assert_allclose(given, expected, atol=1e-5)


def test_lite() -> None:
    plan = cut(open_bundle("lite"))
    check(plan, open_bundle("lite"))
    assert kinds(plan) == "SKSKSKSK"
    assert [step.op for step in plan.steps if isinstance(step, Kernel)] == ["StnSample"] * 2 + ["SubPixelShuffle"] * 2
    assert [(tensor.name, tensor.dtype, tensor.shape) for tensor in plan.outputs] == [
        ("sr", "float32", (None, 3, 128, 128)), ("theta", "float32", (None, 2, 3)),
    ]  # fmt: skip
    weights = [tensor for step in plan.steps if isinstance(step, Segment) for tensor in step.model.graph.initializer]
    assert {entry.value for tensor in weights for entry in tensor.external_data if entry.key == "location"} == {"model.safetensors"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("fhrt.SubPixelShuffle <factor: int = 2> (lr)", "fhrt.SubPixelShuffle <factor: int = 2> (scales)"), "constant scales"),
        (("(once)", "(nowhere)"), "come from nowhere"),
        (("float[batch, 16, 3, 3] lr", "float[batch, 16, height, 3] lr"), "axis height"),
    ],
    ids=str,
)
def test_a_graph_that_cannot_be_cut_is_refused(change: tuple[str, str], words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(GRAPHS, "bad", tuple(part.replace(*change) for part in GRAPHS["nothing but kernels"]))
    with pytest.raises(WeightsError, match=words):
        cut_model(model_of("bad"))


def test_without_onnx(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "onnx.shape_inference")
    with pytest.raises(MissingExtraError, match=r'pip install "fhrt\[tensorrt\]"'):
        cut(open_bundle("lite"))
