"""OpenVINO gives ONNX Runtime's pictures, for every system and any number of faces."""

import json
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from fhrt.errors import BackendError, MissingExtraError
from fhrt.export import export
from fhrt.models import create
from fhrt.models.registry import SYSTEMS
from fhrt.runtime import load
from fhrt.runtime.bundle import Bundle
from fhrt.runtime.card import Card
from training import checkpoint

SMALL = {
    "csrip": {"width": 16},
    "mtun": {"width": 8, "stacks": 1, "contracting": 8},
    "mnce": {"faces": 400, "neighbours": 40, "features": 12, "targets": 12, "layers": 2, "steps": 1},
}
"""Hyper-parameters under which these take seconds; every kind of node stays."""


def random_bundle(name: str, folder: Path, **hparams: int) -> Path:
    torch.manual_seed(0)
    network = create(name, **hparams)
    with torch.no_grad():  # a transformer starts as the identity: let it turn the face, so that the sampler has work
        for key, parameter in network.named_parameters():
            if key.endswith("fc2.weight"):
                parameter.normal_(std=0.05)
    checkpoint.save(folder / "best.safetensors", network.state_dict(), {"model": name, "hparams": hparams})
    return export(name, folder / "best.safetensors", folder / name)


@pytest.fixture(scope="module")
def lite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_bundle("lite", tmp_path_factory.mktemp("lite"), width=16, blocks=2, detail=8, stem=4, localisation=8)


LONG = ("lle", "lcr")  # a minute each to export


@pytest.mark.parametrize("name", [pytest.param(name, marks=pytest.mark.slow) if name in LONG else name for name in SYSTEMS])
def test_every_system_equals_onnxruntime(name: str, tmp_path: Path) -> None:
    bundle = random_bundle(name, tmp_path, **SMALL.get(name, {}))
    engine, reference = load(bundle, backend="openvino"), load(bundle, backend="onnxruntime")
    for count in (1, 3):
        lr = np.random.default_rng(count).uniform(-1, 1, (count, 3, *engine.card.input_size)).astype(np.float32)
        got, expected = engine.run(lr), reference.run(lr)
        for output in engine.card.outputs:
            np.testing.assert_allclose(getattr(got, output), getattr(expected, output), atol=1e-4, err_msg=output)
        if expected.theta is not None:
            assert np.abs(expected.theta - np.eye(2, 3)).max() > 0.01


def test_any_number_of_faces_and_threads(lite: Path) -> None:
    lr = np.random.default_rng(0).uniform(-1, 1, (70, 3, 16, 16)).astype(np.float32)
    engine = load(lite, backend="openvino", threads=1)
    whole = engine.run(lr)
    assert whole.theta is not None and whole.theta.shape == (70, 2, 3)
    kept = whole.sr.copy()
    for start, end in ((0, 1), (5, 10), (33, 66)):
        np.testing.assert_allclose(engine.run(lr[start:end]).sr, whole.sr[start:end], atol=1e-5)
    assert engine.run(lr[:0]).sr.shape == (0, 3, 128, 128)
    np.testing.assert_array_equal(whole.sr, kept)  # not a view of the engine's memory

    failures: list[Exception] = []

    def caller(face: int) -> None:
        try:
            for _ in range(10):
                np.testing.assert_allclose(engine.run(lr[face : face + 1]).sr, kept[face : face + 1], atol=1e-5)
        except Exception as error:
            failures.append(error)

    callers = [threading.Thread(target=caller, args=(face,)) for face in range(4)]
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    assert not failures


def test_what_is_refused(lite: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fhrt.runtime.openvino import OpenVinoEngine

    card = Card.model_validate(json.loads((lite / "card.json").read_text()))
    (tmp_path / "model.onnx").write_bytes(b"not a graph")
    with pytest.raises(BackendError, match=r"cannot open .*model\.onnx") as caught:
        OpenVinoEngine(Bundle(tmp_path, card))
    assert "\n" not in str(caught.value)
    monkeypatch.delitem(sys.modules, "fhrt.runtime.openvino")
    (tmp_path / "openvino.py").write_text("raise ImportError('initialization failed') from KeyboardInterrupt()")
    with monkeypatch.context() as interrupted:  # as its C++ part does when somebody stops the program while it is imported
        interrupted.delitem(sys.modules, "openvino")
        interrupted.syspath_prepend(tmp_path)
        with pytest.raises(KeyboardInterrupt):
            load(lite, backend="openvino")
    monkeypatch.setitem(sys.modules, "openvino", None)  # as if it were not installed
    with pytest.raises(MissingExtraError, match=r'pip install "fhrt\[openvino\]"'):
        load(lite, backend="openvino")
