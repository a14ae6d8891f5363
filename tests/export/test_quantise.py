"""The INT8 form of a bundle: what is in it, that it is close to the fp32 one, when it is chosen, and what is refused."""

import json
import re
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from archives import made_up_faces, write_shard
from onnx import numpy_helper
from safetensors.numpy import load_file
from typer.testing import CliRunner

from fhrt.cli import app
from fhrt.errors import BackendError, BadInputError, WeightsError
from fhrt.export import quantise
from fhrt.export.quantise import _clipped, _split_concatenations, write_int8
from fhrt.export.saturation import SaturatingSession
from fhrt.export.weights import internalise
from fhrt.metrics import psnr
from fhrt.protocols import make_pairs
from fhrt.resample import to_uint8
from fhrt.runtime import choice, install, load
from fhrt.runtime.bundle import SHIPPED, read_card
from fhrt.runtime.engine import INT8_LOSS


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_shard(folder / "train.tar", made_up_faces(40))
    write_shard(folder / "val.tar", made_up_faces(32, seed=1))
    return folder


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """lite without its INT8 form: trained weights, so that losses mean something."""
    folder = tmp_path_factory.mktemp("plain") / "lite"
    folder.mkdir()
    card = json.loads((SHIPPED / "lite" / "card.json").read_text())
    card.pop("int8", None)
    card["sha256"] = {file: card["sha256"][file] for file in ("model.onnx", "model.safetensors")}
    for file in card["sha256"]:
        shutil.copyfile(SHIPPED / "lite" / file, folder / file)
    (folder / "card.json").write_text(json.dumps(card | {"name": "plain"}))
    return folder


@pytest.fixture(scope="module")
def quantised(plain: Path, data: Path) -> Path:
    return quantise(plain, data, plain.parent / "quantised")


def changed(bundle: Path, folder: Path, **changes: object) -> Path:
    """A copy with another card."""
    copy = Path(shutil.copytree(bundle, folder))
    card = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps(card | changes))
    return copy


def test_every_layer_reads_int8_and_the_cut_points_stay(quantised: Path) -> None:
    proto = onnx.load(quantised / "model.int8.onnx")
    nodes, made_by = proto.graph.node, {output: node for node in proto.graph.node for output in node.output}
    assert {node.op_type for node in nodes if node.domain == "fhrt"} == {"StnSample", "SubPixelShuffle"}
    assert {function.name for function in proto.functions} == {"StnSample", "SubPixelShuffle"}
    layers = [node for node in nodes if node.op_type == "Conv"]
    assert len(layers) == 42
    for layer in layers:
        assert [made_by[name].op_type for name in layer.input[:2]] == ["DequantizeLinear"] * 2
        assert not any(layer.output[0] in node.input for node in nodes if node.op_type == "QuantizeLinear"), "rounded before its activation"
    values = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    quantisers = [node for node in nodes if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(values[node.input[1]].dtype == np.float32 and not values[node.input[2]].any() for node in quantisers), "not symmetric"
    weights = load_file(quantised / "model.int8.safetensors")
    kinds = {key: array.dtype for key, array in weights.items() if array.ndim == 4 and "position" not in key}
    assert len(kinds) == 42 and set(kinds.values()) == {np.dtype(np.int8)}
    per_channel = [
        values[made_by[layer.input[1]].input[1]].shape == (values[made_by[layer.input[1]].input[0]].shape[0],) for layer in layers
    ]
    assert all(per_channel)
    assert (quantised / "model.int8.safetensors").stat().st_size < 0.6 * (quantised / "model.safetensors").stat().st_size


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino"])
def test_its_pictures_are_close(backend: str, quantised: Path) -> None:
    fp32, int8 = (load(quantised, backend=backend, precision=precision) for precision in ("fp32", "int8"))
    assert (int8.backend, int8.precision) == (backend, "int8")
    for protocol in ("aligned", "camera"):
        lr = make_pairs(made_up_faces(8, seed=2), protocol, np.random.default_rng(0)).lr.astype(np.float32) / 127.5 - 1
        pictures = [engine.run(lr) for engine in (fp32, int8)]
        whole, rounded = (to_uint8((output.sr + 1) * 127.5).transpose(0, 2, 3, 1) for output in pictures)
        assert (whole != rounded).any() and psnr(whole, rounded).min() > 30
        thetas = [output.theta for output in pictures]
        assert thetas[0] is not None and thetas[1] is not None and np.abs(thetas[0] - thetas[1]).max() < 0.1


def test_the_card_says_what_it_loses(quantised: Path, plain: Path) -> None:
    before, after = read_card(plain), read_card(quantised)
    assert before.int8 is None and after.int8 is not None
    assert set(after.int8.loss) == {"aligned", "unaligned", "noisy", "camera"} and after.int8.faces == 32
    assert all(0 < abs(loss) < 0.5 for loss in after.int8.loss.values())
    assert set(after.int8.saturating) == set(after.int8.loss)
    assert all(abs(after.int8.saturating[each] - loss) < 0.05 for each, loss in after.int8.loss.items())
    assert after.model_copy(update={"int8": None, "sha256": before.sha256}) == before
    assert (quantised / "model.safetensors").read_bytes() == (plain / "model.safetensors").read_bytes()


def test_a_card_of_before_is_read_and_the_worse_processor_counts(quantised: Path, tmp_path: Path) -> None:
    int8 = json.loads((quantised / "card.json").read_text())["int8"]
    older = read_card(changed(quantised, tmp_path / "older", int8={key: value for key, value in int8.items() if key != "saturating"}))
    assert older.int8 is not None and older.int8.saturating == {} and older.int8.worst == max(int8["loss"].values())
    bad = changed(quantised, tmp_path / "bad", int8=int8 | {"saturating": {"aligned": 1.4}})
    assert load(bad, backend="openvino").precision == "fp32"


def test_weights_of_eight_bits_are_far_off_where_sums_saturate(
    quantised: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What lite shipped with lost 1.4 dB on AVX2. The same network, faces and ranges' method; only the weights' steps differ."""

    def steps(weight: np.ndarray, kind: str) -> np.ndarray:
        others = tuple(axis for axis in range(weight.ndim) if axis != int(kind != "Conv"))
        return np.abs(weight).max(others) / 127

    lr = make_pairs(made_up_faces(10, seed=2), "aligned", np.random.default_rng(0)).lr.astype(np.float32) / 127.5 - 1
    monkeypatch.setattr(import_module("fhrt.export.quantise"), "safe_scales", steps)
    shutil.copyfile(plain / "model.safetensors", tmp_path / "model.safetensors")
    write_int8(plain / "model.onnx", [{"lr": lr}], tmp_path)
    whole = load(plain, backend="onnxruntime", plan="whole").run(lr[:4]).sr
    pictures = [SaturatingSession(folder / "model.int8.onnx").run(["sr"], {"lr": lr[:4]})[0] for folder in (quantised, tmp_path)]
    first, *others = (to_uint8((sr + 1) * 127.5).transpose(0, 2, 3, 1) for sr in (whole, *pictures))
    safe, unsafe = (psnr(first, other).mean() for other in others)
    assert safe > 30 and unsafe < safe - 5


def test_auto_takes_it_only_where_it_pays(quantised: Path, plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    int8 = json.loads((quantised / "card.json").read_text())["int8"]
    for name, loss, expected in (("good", 0.1, "int8"), ("bad", 0.11, "fp32")):
        bundle = changed(quantised, tmp_path / name, int8=int8 | {"loss": {"aligned": 0.01, "camera": loss}})
        for worth, taken in ((0.0, expected), (1e9, "fp32")):  # as if it were quicker, and not quick enough
            monkeypatch.setattr(choice, "WORTH", worth)
            assert load(bundle, backend="openvino").precision == taken
        assert load(bundle, backend="openvino", precision="int8").precision == "int8"
    assert load(plain, backend="openvino").precision == "fp32"
    with pytest.raises(BackendError, match="fhrt quantise"):
        load(plain, precision="int8")
    with pytest.raises(BackendError, match="unknown precision"):
        load(plain, precision="int4")


@pytest.mark.parametrize("damage", ["altered", "missing", "unlisted"])
def test_a_damaged_form_is_refused(quantised: Path, damage: str, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(quantised, tmp_path / "copy"))
    file = copy / "model.int8.safetensors"
    if damage == "altered":
        file.write_bytes(file.read_bytes()[:-1] + b"x")
    elif damage == "missing":
        file.unlink()
    else:
        card = json.loads((copy / "card.json").read_text())
        del card["sha256"][file.name]
        (copy / "card.json").write_text(json.dumps(card))
    with pytest.raises(WeightsError, match=r"model\.int8\.safetensors"):
        load(copy)


def test_it_is_installed_with_the_bundle(quantised: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FHRT_MODELS", str(tmp_path / "own"))
    install(quantised)
    assert load("plain", precision="int8").precision == "int8"
    archive = shutil.make_archive(str(tmp_path / "bundle"), "zip", quantised)
    install(archive)
    assert load("plain", precision="int8").precision == "int8"
    (tmp_path / "copy").mkdir()
    for file in ("model.onnx", "model.safetensors", "card.json"):
        shutil.copyfile(quantised / file, tmp_path / "copy" / file)
    with pytest.raises(WeightsError, match=r"model\.int8"):
        install(shutil.make_archive(str(tmp_path / "torn"), "zip", tmp_path / "copy"))


def test_what_is_refused_leaves_nothing(quantised: Path, plain: Path, data: Path, tmp_path: Path) -> None:
    few_train, few_val, occupied = (tmp_path / name for name in ("few_train", "few_val", "occupied"))
    for folder, train, val in ((few_train, 31, 32), (few_val, 32, 31)):
        folder.mkdir()
        write_shard(folder / "train.tar", made_up_faces(train))
        write_shard(folder / "val.tar", made_up_faces(val))
    occupied.mkdir()
    odd = changed(plain, tmp_path / "odd", input_size=[20, 20])
    before = sorted(path for path in tmp_path.rglob("*"))
    for bundle, faces, out, words in (
        (plain, tmp_path / "nowhere", "out", "no face shards val"),
        (plain, few_train, "out", "31 faces; quantisation needs at least 32"),
        (plain, few_val, "out", "the val shards in .* hold 31 faces"),
        (quantised, data, "out", "has an INT8 form already"),
        (odd, data, "out", "no protocol has LR faces of 20×20"),
        (plain, data, "occupied", "not a bundle"),
    ):
        with pytest.raises(BadInputError, match=words):
            quantise(bundle, faces, tmp_path / out)
        done = CliRunner().invoke(app, ["quantise", str(bundle), "--data", str(faces), "-o", str(tmp_path / out)])
        assert done.exit_code == 2 and len(done.output.strip().splitlines()) == 1 and re.search(words, done.output)
    assert sorted(path for path in tmp_path.rglob("*")) == before


def test_the_commands_say_which_precisions_are_there(plain: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = CliRunner(env={"COLUMNS": "200", "FHRT_MODELS": str(tmp_path)})
    done = runner.invoke(app, ["quantise", str(plain), "--data", str(data), "-o", str(tmp_path / "plain")])
    assert done.exit_code == 0, done.output
    assert "unaligned" in done.stdout and str(tmp_path / "plain") in done.stdout
    (line,) = (line for line in runner.invoke(app, ["models"]).stdout.splitlines() if "plain" in line)
    assert "fp32, int8" in line
    said = " ".join(runner.invoke(app, ["doctor"]).stdout.replace("│", " ").split())
    assert "16×16 to 128×128, fp32 and int8; auto is openvino" in said


def test_weights_that_went_out_come_in_again(plain: Path) -> None:
    weights = load_file(plain / "model.safetensors")
    inside = {tensor.name: numpy_helper.to_array(tensor) for tensor in internalise(plain / "model.onnx").graph.initializer}
    for key, array in weights.items():
        value = inside.get(f"model.{key}", inside.get(key))
        assert value is not None and value.dtype == np.float32
        np.testing.assert_array_equal(value, array.astype(np.float32))


def test_ranges_clip_what_is_rare() -> None:
    """The end of a range is where clipping and rounding together cost least: at the largest value of even values, far below a lone one."""
    even = np.linspace(0, 2, 20_000, dtype=np.float32)
    lone = np.append(even, np.float32(40))

    def error(values: np.ndarray, end: float) -> float:
        return float(np.mean((np.minimum(np.round(values * 127 / end), 127) * end / 127 - values) ** 2))

    assert _clipped(even, 2.0) == pytest.approx(2, rel=0.02)
    found = _clipped(lone, 40.0)
    assert found < 40 and error(lone, found) <= min(error(lone, end) for end in (10.0, 20.0, 30.0, 40.0))
    assert _clipped(np.zeros(5, np.float32), 0.0) == 1


@pytest.mark.parametrize("name", ["mnce-ridge", "urdgn"])
def test_the_shipped_form_is_within_the_limit(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "WORTH", 0.0)  # speed is no matter here
    card = read_card(SHIPPED / name)
    assert card.int8 is not None and card.int8.faces == 652 and card.int8.worst <= INT8_LOSS["sr"]
    assert load(name, backend="openvino").precision == "int8"


def test_a_convolution_of_a_concatenation_is_split_unless_a_part_is_quantised_anyway() -> None:
    def graph(read_by_another: bool) -> onnx.ModelProto:
        third = "other = Conv <pads = [0, 0, 0, 0]> (b, v)\n" if read_by_another else "other = Relu (b)\n"
        model = onnx.parser.parse_model(
            '<ir_version: 10, opset_import: ["": 18]> g (float[batch, 3, 6, 6] x) => (float[batch, 4, 6, 6] y, float[batch, c, 6, 6] other)'
            " { a = Relu (x)\n n = Neg (x)\n b = Relu (n)\n c = Abs (x)\n j = Concat <axis = 1> (a, b, c)\n"
            f" y = Conv <pads = [1, 1, 1, 1]> (j, w, bias)\n {third} }}"
        )
        rng = np.random.default_rng(0)
        for name, shape in (("w", (4, 9, 3, 3)), ("bias", (4,)), ("v", (2, 3, 1, 1))):
            model.graph.initializer.append(numpy_helper.from_array(rng.normal(size=shape).astype(np.float32), name))
        for index, node in enumerate(model.graph.node):
            node.name = f"node{index}"
        return model

    x = np.random.default_rng(1).normal(size=(2, 3, 6, 6)).astype(np.float32)
    for read_by_another in (False, True):
        before, after = graph(read_by_another), graph(read_by_another)
        _split_concatenations(after)
        onnx.checker.check_model(after)
        expected, given = (onnxruntime.InferenceSession(model.SerializeToString()).run(["y"], {"x": x})[0] for model in (before, after))
        np.testing.assert_allclose(given, expected, atol=1e-5)
        kinds = [node.op_type for node in after.graph.node]
        assert ("Concat" in kinds) == read_by_another
        if not read_by_another:
            assert kinds.count("Conv") == 3 and kinds.count("Add") == 2 and "w" not in {each.name for each in after.graph.initializer}
