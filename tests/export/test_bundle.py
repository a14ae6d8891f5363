"""A bundle's way from a checkpoint to a picture, and every way in which it can be refused."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

from fhrt.errors import BackendError, BadInputError, UnknownModelError, WeightsError
from fhrt.export import export
from fhrt.models import create
from fhrt.resample import resize
from fhrt.runtime import load
from fhrt.runtime.bundle import open_bundle
from fhrt.runtime.cut import CutSession
from fhrt.runtime.half import halve
from fhrt.runtime.plan import cut
from training import checkpoint

SMALL = {"width": 16, "blocks": 2, "detail": 8, "stem": 4, "localisation": 8}
LR = np.random.default_rng(0).uniform(-1, 1, (70, 3, 16, 16)).astype(np.float32)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("run") / "best.safetensors"
    checkpoint.save(path, create("lite", **SMALL).state_dict(), {"model": "lite", "hparams": SMALL, "step": 1})
    return path


@pytest.fixture(scope="module")
def bundle(trained: Path) -> Path:
    return export("lite", trained, trained.parent / "bundle")


def test_the_graph_holds_no_weights_and_no_paths(bundle: Path) -> None:
    graph = onnx.load(bundle / "model.onnx", load_external_data=False)
    kinds = {node.op_type for node in graph.graph.node if node.domain == "fhrt"}
    assert kinds == {"StnSample", "SubPixelShuffle"} == {function.name for function in graph.functions}
    assert all(t.data_location == onnx.TensorProto.EXTERNAL or np.prod(t.dims) < 16 for t in graph.graph.initializer)
    assert b"site-packages" not in (bundle / "model.onnx").read_bytes()
    weights = load_file(bundle / "model.safetensors")
    assert {"trunk.0.first.weight", "trunk.1.mix.weight"} <= set(weights)
    assert all(weight.dtype == np.float16 for weight in weights.values())


def test_plain_onnxruntime_gives_the_same_picture_without_fhrt(bundle: Path, tmp_path: Path) -> None:
    np.save(tmp_path / "lr.npy", LR[:3])
    code = (
        "import sys; sys.modules['fhrt'] = None\nimport numpy as np, onnxruntime as ort\n"
        f"s = ort.InferenceSession({str(bundle / 'model.onnx')!r}, providers=['CPUExecutionProvider'])\n"
        f"np.save({str(tmp_path / 'sr.npy')!r}, s.run(['sr'], {{'lr': np.load({str(tmp_path / 'lr.npy')!r})}})[0])\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
    np.testing.assert_allclose(np.load(tmp_path / "sr.npy"), load(bundle).run(LR[:3]).sr, atol=1e-5)


def test_any_number_of_faces(bundle: Path) -> None:
    engine = load(bundle, threads=1)
    whole = engine.run(LR)
    assert whole.theta is not None and whole.theta.shape == (70, 2, 3)
    for start, end in ((0, 1), (5, 10), (33, 66)):
        np.testing.assert_allclose(engine.run(LR[start:end]).sr, whole.sr[start:end], atol=1e-5)
    assert engine.run(LR[:0]).sr.shape == (0, 3, 128, 128)
    np.testing.assert_array_equal(engine.run(LR).sr, whole.sr)


def check_pieces(bundle: Path) -> None:
    """Cut at its nodes, the graph gives what it gives whole, by ONNX Runtime and by torch."""
    whole, pieces = (load(bundle, plan=plan) for plan in ("whole", "cut"))
    by_torch = load(bundle, backend="torch", device="cpu")
    for count in (1, 3):
        lr = np.random.default_rng(count).uniform(-1, 1, (count, 3, *whole.card.input_size)).astype(np.float32)
        for name, expected in vars(whole.run(lr)).items():
            if expected is not None:
                np.testing.assert_allclose(getattr(pieces.run(lr), name), expected, atol=1e-5)
                np.testing.assert_allclose(getattr(by_torch.run(lr), name), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["urdgn", "tdn", "tdae", "mtun"])
def test_the_published_systems_export_too(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    hparams = {"width": 8, "stacks": 2, "contracting": 8} if name == "mtun" else {}  # a minute at its own size
    about = {"model": name, "hparams": hparams, "step": 7, "earlier_steps": 5}
    checkpoint.save(tmp_path / "best.safetensors", create(name, **hparams).state_dict(), about)
    engine = load(export(name, tmp_path / "best.safetensors", tmp_path / name))  # which compares the picture with torch's
    assert engine.card.name == name and engine.run(LR[:2]).sr.shape == (2, 3, 128, 128)
    for output in engine.card.outputs:
        assert getattr(engine.run(LR[:0]), output).shape == (0, *getattr(engine.run(LR[:2]), output).shape[1:])
    assert engine.card.training.endswith("7 steps from the weights of 5 earlier steps")
    check_pieces(tmp_path / name)


@pytest.mark.parametrize(("hparams", "outputs"), [({}, ("sr", "sr_2x", "sr_4x")), ({"multi_scale": 0}, ("sr",))], ids=str)
def test_the_coarser_pictures_of_csrip(hparams: dict[str, int], outputs: tuple[str, ...], tmp_path: Path) -> None:
    hparams = hparams | {"width": 16}
    checkpoint.save(tmp_path / "best.safetensors", create("csrip", **hparams).state_dict(), {"model": "csrip", "hparams": hparams})
    engine = load(export("csrip", tmp_path / "best.safetensors", tmp_path / "csrip"))
    check_pieces(tmp_path / "csrip")
    assert engine.card.outputs == outputs and engine.card.input_size == (24, 24) and engine.card.scale == 8
    output = engine.run(np.zeros((2, 3, 24, 24), np.float32))
    sides = {"sr": 192, "sr_2x": 48, "sr_4x": 96}
    for name in sides:
        picture = getattr(output, name)
        assert picture is None if name not in outputs else picture.shape == (2, 3, sides[name], sides[name])


# Half a minute, most of it torch's exporter.
MTUN = pytest.param("mtun", {"width": 8, "stacks": 1, "contracting": 8}, id="mtun", marks=pytest.mark.slow)


@pytest.mark.parametrize(("name", "hparams"), [pytest.param("lite", SMALL, id="lite"), MTUN])
def test_packed_weights(name: str, hparams: dict[str, int], tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint.save(tmp_path / "best.safetensors", create(name, **hparams).state_dict(), {"model": name, "hparams": hparams})
    plain, packed = (export(name, tmp_path / "best.safetensors", tmp_path / each, packed=each == "packed") for each in ("plain", "packed"))
    weights, others = load_file(packed / "model.safetensors"), load_file(plain / "model.safetensors")
    int8 = {key for key, weight in weights.items() if weight.dtype == np.int8}
    layers = {key for key, weight in others.items() if weight.ndim > 1 and key.endswith(".weight") and ".mix." not in key}
    assert int8 == layers - {"fine.fc2.weight"}  # of which, equal to the coarse one's, the graph has none
    assert all(weights[key].nbytes == others[key].nbytes / 2 and np.abs(weights[key]).max() in (0, 127) for key in int8)
    check_pieces(packed)
    expected, given = load(plain).run(LR[:4]), load(packed).run(LR[:4])  # `export` has compared it with torch already
    assert 0 < np.abs(given.sr - expected.sr).max() < 0.05 * np.ptp(expected.sr)
    bundle = open_bundle(packed)
    half = CutSession(bundle, onnxruntime.SessionOptions(), halve(cut(bundle))).run(["sr"], {"lr": LR[:4]})[0]
    np.testing.assert_allclose(half, given.sr, atol=0.02)


@pytest.mark.parametrize("name", ["mnce-ridge", "lle", "lcr"])
def test_the_neighbour_embeddings_export_their_dictionary_too(name: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    hparams = {"faces": 60, "neighbours": 40 if name == "mnce-ridge" else 12, "targets": 16, "side": 32}  # theirs: spelt out in the graph
    model = create(name, **hparams)
    faces = torch.from_numpy(resize(np.random.default_rng(0).uniform(-1, 1, (60, 3, 6, 6)).astype(np.float32), (32, 32)))
    lr = torch.nn.functional.avg_pool2d(faces, 2)
    model.build(model.regularise(lr), faces, torch.arange(60)) if name == "mnce-ridge" else model.build(lr, faces)  # type: ignore[operator]
    about = {"model": name, "hparams": hparams, "data": "60 faces (none)", "entries": 60}
    checkpoint.save(tmp_path / "made.safetensors", model.state_dict(), about)
    engine = load(export(name, tmp_path / "made.safetensors", tmp_path / name))
    assert engine.card.training == "60 faces (none), 60 of them in the dictionary"
    assert engine.run(lr.numpy()).sr.shape == (60, 3, 128, 128)
    weights = load_file(tmp_path / name / "model.safetensors")
    assert any(value.dtype == np.uint8 and value.shape[1] == 60 for value in weights.values())
    assert engine.card.parameters > sum(value.size for value in weights.values() if value.dtype == np.uint8)


@pytest.mark.parametrize("file", ["model.onnx", "model.safetensors"])
@pytest.mark.parametrize("damage", ["altered", "truncated", "missing"])
def test_a_damaged_bundle_is_refused(bundle: Path, tmp_path: Path, file: str, damage: str) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    data = bytearray((copy / file).read_bytes())
    if damage == "missing":
        (copy / file).unlink()
    else:
        data[len(data) // 2] ^= 1
        (copy / file).write_bytes(data if damage == "altered" else data[:-100])
    with pytest.raises(WeightsError, match=file.replace(".", r"\.")):
        load(copy)


def test_other_refusals(bundle: Path, trained: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    card = json.loads((copy / "card.json").read_text())
    (copy / "card.json").write_text(json.dumps(card | {"gflops": "many"}))
    with pytest.raises(WeightsError, match="gflops"):
        load(copy)
    with pytest.raises(UnknownModelError, match="no-such"):
        load("no-such")
    with pytest.raises(UnknownModelError, match="python -m training fit tdn"):
        load("tdn")
    with pytest.raises(WeightsError, match="bundle folder"):
        load(trained)
    for settings in ({"backend": "abacus"}, {"threads": 0}):
        with pytest.raises(BackendError):
            load(bundle, **settings)  # type: ignore[arg-type]
    engine = load(bundle)
    for bad in (LR * np.nan, LR.astype(np.float64), LR[:, :2], LR[0]):
        with pytest.raises(BadInputError):
            engine.run(bad)


def test_a_failed_export_leaves_nothing(trained: Path, tmp_path: Path) -> None:
    torn = tmp_path / "torn.safetensors"
    torn.write_bytes(trained.read_bytes()[:1000])
    occupied = tmp_path / "occupied"
    occupied.mkdir()
    for error, name, source, out in (
        (WeightsError, "lite", torn, tmp_path / "a"),
        (WeightsError, "tdn", trained, tmp_path / "b"),
        (BadInputError, "lite", trained, occupied),
    ):
        with pytest.raises((error, BadInputError)):
            export(name, source, out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["occupied", "torn.safetensors"]
