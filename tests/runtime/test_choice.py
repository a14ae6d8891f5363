"""Whole or in pieces: what was asked for, or what is quicker here, measured once."""

import json
import sys
from pathlib import Path
from time import sleep

import numpy as np
import pytest

from fhrt import ops
from fhrt.errors import BackendError, MissingExtraError, UnknownModelError, WeightsError
from fhrt.hallucinator import Hallucinator
from fhrt.runtime import choice, load
from fhrt.runtime.bundle import open_bundle
from fhrt.runtime.cut import CutSession

LR = np.random.default_rng(0).uniform(-1, 1, (3, 3, 16, 16)).astype(np.float32)
LITE = open_bundle("lite")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FHRT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Ways:
    """Two ways that only sleep, and how often each was made and called."""

    def __init__(self, usual: float, other: float) -> None:
        self.seconds, self.made, self.calls = {"usual": usual, "other": other}, [], []

    def choose(self, what: str = "test") -> str:
        makers = {name: lambda name=name: self.made.append(name) or name for name in self.seconds}
        return choice.quicker(what, LITE, makers, self.call)

    def call(self, name: str) -> None:
        self.calls.append(name)
        sleep(self.seconds[name])


@pytest.mark.parametrize(("usual", "other", "best"), [(0.02, 0.01, "other"), (0.01, 0.02, "usual")])
def test_the_quicker_way_is_taken_and_remembered(usual: float, other: float, best: str) -> None:
    ways = Ways(usual, other)
    assert ways.choose() == best and 1 < ways.calls.count("other") < 15
    again = Ways(other, usual)
    assert again.choose() == best and not again.calls and again.made == [best]
    assert Ways(other, usual).choose("other settings") != best


def test_a_slow_model_is_not_measured() -> None:
    ways = Ways(0.4, 0.0)
    assert ways.choose() == "usual" and ways.calls == ways.made == ["usual"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"way": 3}', b'{"way": "abacus"}'])
def test_a_damaged_memory_is_measured_again(content: bytes, cache: Path) -> None:
    Ways(0.02, 0.01).choose()
    (file,) = (cache / "plans").iterdir()
    file.write_bytes(content)
    assert Ways(0.02, 0.01).choose() == "other"
    assert json.loads(file.read_bytes())["way"] == "other"


def test_a_cache_that_cannot_be_written_breaks_nothing(cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert Ways(0.02, 0.01).choose() == "other"


def test_plans_by_name_agree_and_auto_is_one_of_them(cache: Path) -> None:
    whole, pieces, auto = (load("lite", backend="onnxruntime", plan=plan) for plan in ("whole", "cut", "auto"))
    assert isinstance(pieces.session, CutSession) and not isinstance(whole.session, CutSession)
    for name in ("sr", "theta"):
        for engine in (pieces, auto):
            np.testing.assert_allclose(getattr(engine.run(LR), name), getattr(whole.run(LR), name), atol=2e-5)
        assert getattr(pieces.run(LR[:0]), name).shape == getattr(whole.run(LR[:0]), name).shape
    (file,) = (cache / "plans").iterdir()
    assert isinstance(auto.session, CutSession) == (json.loads(file.read_bytes())["way"] == "cut")
    assert isinstance(Hallucinator("lite", plan="cut").engine.session, CutSession)


def test_auto_is_whole_where_the_kernels_would_take_more_threads(cache: Path) -> None:
    before = ops.get_num_threads()
    ops.set_num_threads(2)
    try:
        session = load("lite", backend="onnxruntime", threads=1).session
        assert session.get_session_options().intra_op_num_threads == 1 and not cache.exists()
    finally:
        ops.set_num_threads(before)


def test_without_onnx(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "onnx.shape_inference", raising=False)
    assert not isinstance(load("lite", backend="onnxruntime").session, CutSession) and not cache.exists()
    with pytest.raises(MissingExtraError, match="pip install"):
        load("lite", plan="cut")


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"device": "abacus"}, "unknown device 'abacus'"),
        ({"device": 0}, "unknown device 0"),
        ({"threads": "2"}, "threads must be a whole number from 1 on, not '2'"),
        ({"threads": 0}, "threads must be a whole number from 1 on, not 0"),
        ({"precision": "fp3"}, "unknown precision 'fp3'"),
        ({"plan": "torn"}, "unknown plan 'torn'"),
        ({"backend": "onnxruntime", "device": "cuda"}, "onnxruntime has no device 'cuda'; it has: cpu"),
        ({"backend": "onnxruntime", "precision": "fp16"}, "onnxruntime has no precision 'fp16'"),
        ({"backend": "onnxruntime-cuda", "plan": "cut"}, "onnxruntime-cuda has no plan 'cut'"),
        ({"device": "cpu", "precision": "fp16"}, "onnxruntime has no precision 'fp16'"),
    ],
    ids=str,
)
def test_what_cannot_be_had_is_an_error(settings: dict[str, object], words: str) -> None:
    with pytest.raises(BackendError, match=words):
        load("lite", **settings)  # type: ignore[arg-type]


def test_what_is_no_model(tmp_path: Path) -> None:
    with pytest.raises(UnknownModelError, match="a model is a name or a bundle folder, not int"):
        load(3)  # type: ignore[arg-type]
    with pytest.raises(UnknownModelError, match=r"mnce has no weights here; use mnce-ridge, install a bundle of it .* dictionary mnce "):
        load("mnce")
    with pytest.raises(UnknownModelError, match=r"tdn has no weights here; install a bundle of it .* python -m training fit tdn"):
        load("tdn")
    with pytest.raises(WeightsError, match=r"is no bundle folder: it holds no card\.json"):
        load(tmp_path)
