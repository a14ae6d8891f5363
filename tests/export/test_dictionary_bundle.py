"""A bundle with a dictionary: its search is one node, which every runtime executes alike, and which INT8 leaves as exact as it was."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from archives import made_up_faces, write_shard
from safetensors.numpy import load_file

from fhrt.errors import WeightsError
from fhrt.export import export, quantise
from fhrt.models import create
from fhrt.protocols import make_pairs
from fhrt.runtime import choice, load
from fhrt.runtime.bundle import open_bundle, read_card
from fhrt.runtime.cut import CutSession
from fhrt.runtime.ort import _session_options
from fhrt.runtime.plan import cut, cut_model
from training import checkpoint

SMALL = {"faces": 40, "neighbours": 13, "features": 7, "targets": 5, "side": 32, "margin": 1}


def pairs(seed: int, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """LR faces [N, 3, 16, 16] and the same at the working side, in [-1, 1]."""
    made = make_pairs(made_up_faces(count, seed=seed), "aligned", np.random.default_rng(seed))
    lr, hr = (torch.from_numpy(faces.astype(np.float32) / 127.5 - 1) for faces in (made.lr, made.hr))
    return lr, torch.nn.functional.interpolate(hr, size=(32, 32), mode="area")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    model = create("mnce-ridge", **SMALL).eval()
    lr, truth = pairs(0, 60)
    with torch.no_grad():
        model.build(model.regularise(lr), truth, torch.arange(40))
    return model


@pytest.fixture(scope="module")
def bundle(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mnce-ridge")
    checkpoint.save(folder / "made.safetensors", network.state_dict(), {"model": "mnce-ridge", "hparams": SMALL, "entries": 40})
    return export("mnce-ridge", folder / "made.safetensors", folder / "bundle")


@pytest.fixture(scope="module")
def quantised(bundle: Path) -> Path:
    for split, count in (("train", 40), ("val", 32)):
        write_shard(bundle.parent / f"{split}.tar", made_up_faces(count, seed=count))
    return quantise(bundle, bundle.parent, bundle.parent / "quantised")


def test_the_search_is_one_node_that_the_cpu_cuts_at_and_devices_do_not(bundle: Path) -> None:
    graph = onnx.load(bundle / "model.onnx", load_external_data=False)
    assert [node.op_type for node in graph.graph.node if node.domain == "fhrt"] == ["NeighbourEmbedding"]
    assert [function.name for function in graph.functions] == ["NeighbourEmbedding"]
    assert load_file(bundle / "model.safetensors")["layers.0.features.codes"].dtype == np.uint8
    host, device = cut(open_bundle(bundle)), cut(open_bundle(bundle), device=True)
    assert [type(step).__name__ for step in host.steps] == ["Segment", "Kernel", "Segment"]
    assert [type(step).__name__ for step in device.steps] == ["Segment"]


@pytest.mark.parametrize("way", ["onnxruntime", "onnxruntime, cut", "openvino", "device's plan"])
def test_every_way_gives_the_networks_pictures(way: str, bundle: Path, network: torch.nn.Module) -> None:
    backend, _, plan = way.partition(", ")
    for count in (1, 6):
        lr = pairs(1, 6)[0][:count]
        with torch.no_grad():
            expected = network(lr).sr.numpy()
        if way == "device's plan":
            opened = open_bundle(bundle)
            (given,) = CutSession(opened, _session_options(1), cut(opened, device=True)).run(["sr"], {"lr": lr.numpy()})
        else:
            given = (
                load(bundle, backend=backend, plan=plan or ("whole" if backend == "onnxruntime" else "auto"), threads=2).run(lr.numpy()).sr
            )
        assert np.abs(expected).max() > 0.1
        np.testing.assert_allclose(given, expected, atol=2e-3)


def test_only_the_denoiser_is_quantised(quantised: Path) -> None:
    graph = onnx.load(quantised / "model.int8.onnx", load_external_data=False).graph
    made_by = {output: node.op_type for node in graph.node for output in node.output}
    for node in graph.node:
        if node.op_type in ("Conv", "MatMul"):
            assert ("DequantizeLinear" in [made_by.get(name) for name in node.input]) == (node.op_type == "Conv")
    # The dictionary and all else that is not quantised lie in the fp32 form's file alone.
    assert {array.dtype for array in load_file(quantised / "model.int8.safetensors").values()} == {np.dtype(np.int8)}
    places = {tensor.name: {each.key: each.value for each in tensor.external_data} for tensor in graph.initializer}
    places = {name.removeprefix("model."): place for name, place in places.items() if place}
    assert places["layers.0.targets.codes"]["location"] == places["denoiser.layers.0.bias.fp16"]["location"] == "model.safetensors"
    stored = load_file(quantised / "model.safetensors")
    assert int(places["layers.0.targets.codes"]["length"]) == stored["layers.0.targets.codes"].nbytes


def test_its_int8_form_is_close_and_chosen(quantised: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "WORTH", 0.0)  # so small a network need not be quicker
    card, lr = read_card(quantised), pairs(1, 6)[0].numpy()
    assert card.int8 is not None and card.int8.faces == 32
    fp32, int8 = (load(quantised, backend="openvino", precision=precision).run(lr).sr for precision in ("fp32", "int8"))
    assert 0 < np.abs(fp32 - int8).mean() < 0.02
    np.testing.assert_allclose(load(quantised, backend="onnxruntime", precision="int8", plan="whole").run(lr).sr, int8, atol=0.05)
    assert load(quantised, backend="openvino").precision == ("int8" if card.int8.worst <= 0.1 else "fp32")


def test_a_dictionary_that_is_computed_cannot_be_cut_at(bundle: Path) -> None:
    model = onnx.load(bundle / "model.onnx", load_external_data=False)
    (node,) = (node for node in model.graph.node if node.op_type == "NeighbourEmbedding")
    codes, node.input[1] = node.input[1], "computed"
    model.graph.node.insert(0, onnx.helper.make_node("Identity", [codes], ["computed"]))
    with pytest.raises(WeightsError, match="takes the constant"):
        cut_model(model)
