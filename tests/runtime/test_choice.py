"""Which way is taken: what was asked for, or what is quicker here, measured once."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes import Fake

from fhrt import ops
from fhrt.errors import BackendError, MissingExtraError, UnknownModelError, WeightsError
from fhrt.hallucinator import Hallucinator
from fhrt.runtime import choice, load
from fhrt.runtime.bundle import open_bundle
from fhrt.runtime.choice import Candidate, choose, explain
from fhrt.runtime.cut import CutSession

LR = np.random.default_rng(0).uniform(-1, 1, (3, 3, 16, 16)).astype(np.float32)
LITE = open_bundle("lite")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FHRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "BUSY", 0.0)  # engines that sleep look as if others kept them waiting
    return tmp_path / "cache"


def verdicts(cache: Path) -> dict[str, dict[str, object]]:
    (file,) = (cache / "verdicts").iterdir()
    return json.loads(file.read_bytes())["verdicts"]


def chosen(engines: dict[str, Fake], names: Sequence[str] = ()) -> str:
    """The name of the one that is taken."""
    engine = choose(LITE, [engines[name].candidate(name) for name in names or engines], None)
    return next(name for name, each in engines.items() if each is engine)


@pytest.mark.parametrize(("first", "second", "best"), [(0.02, 0.005, "b fp32"), (0.005, 0.02, "a fp32"), (0.01, 0.01, "a fp32")])
def test_the_quicker_way_is_taken_and_remembered(first: float, second: float, best: str, cache: Path) -> None:
    assert chosen({"a fp32": Fake(LITE, seconds=first), "b fp32": Fake(LITE, seconds=second)}) == best
    again = {"a fp32": Fake(LITE, seconds=second), "b fp32": Fake(LITE, seconds=first)}
    assert chosen(again) == best and not any(each.calls for each in again.values())
    assert chosen(again, ["b fp32"]) == "b fp32" and not again["b fp32"].calls  # what is known of it holds for it alone too
    assert all(verdict["milliseconds"] > 1000 * 0.005 for verdict in verdicts(cache).values())


@pytest.mark.parametrize(("seconds", "best"), [(0.01, "a int8"), (0.025, "b fp32"), (0.05, "b fp32")])
def test_int8_is_taken_where_it_is_much_quicker(seconds: float, best: str) -> None:
    """Of 30 ms, 20 are the limit."""
    int8 = replace(LITE, precision="int8")
    engines = {"a int8": Fake(int8, seconds=seconds), "b fp32": Fake(LITE, seconds=0.03), "c fp32": Fake(LITE, seconds=0.04)}
    assert chosen(engines) == best
    told = explain(engines[best])
    assert told.startswith(f"{best}: sr ") and ("INT8 is taken from 1.5 times the speed on" in told) == (seconds == 0.025)


def test_no_further_way_is_opened_when_the_time_is_up(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen({"x fp32": Fake(LITE), "y fp32": Fake(LITE)})  # from now on fakes need not compute what they answer
    monkeypatch.setattr(choice, "BUDGET", 0.0)
    names = ("a int8", "b int8", "c fp32", "d fp32")
    engines = {name: Fake(replace(LITE, precision=name.split()[1]), seconds=0.02 if "int8" in name else 0.0) for name in names}
    for _ in range(2):
        assert chosen(engines) == "c fp32"  # INT8 is not taken without having been compared
        assert engines["d fp32"].calls == 0
    assert verdicts(cache)["d fp32"]["figures"] is None
    assert chosen(engines, ["d fp32"]) == "d fp32" and engines["d fp32"].calls == 2  # asked for by name it is looked at


def test_times_of_a_busy_machine_are_not_kept_unless_they_are_as_expected(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choice, "BUSY", 1e9)
    slow_first = {"a fp32": Fake(LITE, seconds=0.01), "b fp32": Fake(LITE, seconds=0.001)}
    assert chosen(slow_first) == "b fp32" and verdicts(cache)["b fp32"]["milliseconds"] is None
    calls = slow_first["a fp32"].calls
    assert chosen(slow_first) == "b fp32" and slow_first["a fp32"].calls == calls  # but this process goes by them
    monkeypatch.setenv("FHRT_CACHE", str(cache / "other"))
    assert chosen({"a fp32": Fake(LITE, seconds=0.001), "b fp32": Fake(LITE, seconds=0.01)}) == "a fp32"
    assert verdicts(cache / "other")["a fp32"]["milliseconds"] is not None


def test_what_cannot_be_opened_is_said_and_tried_again(caplog: pytest.LogCaptureFixture) -> None:
    tries: list[int] = []

    def broken() -> Fake:
        tries.append(1)
        raise MissingExtraError("it is not installed")

    good = Fake(LITE)
    candidates = [Candidate("broken fp32", "1", broken), good.candidate("good fp32"), Candidate("later fp32", "1", broken)]
    for _ in range(2):
        assert choose(LITE, candidates, None) is good
        assert [line for line in caplog.messages if "it is not installed" in line] == [
            "good fp32 runs lite, passing over broken fp32: it is not installed"
        ]
        caplog.clear()
    assert len(tries) == 3  # one that the good one is preferred to, once
    with pytest.raises(MissingExtraError, match="it is not installed"):
        choose(LITE, candidates[:1], None)
    with pytest.raises(BackendError, match=r"nothing here runs lite: broken fp32: it is not installed; other fp32: it is not"):
        choose(LITE, [candidates[0], Candidate("other fp32", "1", broken)], None)


def test_plans_by_name_agree_and_auto_is_one_of_them(cache: Path) -> None:
    whole, pieces, auto = (load("lite", backend="onnxruntime", plan=plan, precision="fp32") for plan in ("whole", "cut", "auto"))
    assert isinstance(pieces.session, CutSession) and not isinstance(whole.session, CutSession)
    for name in ("sr", "theta"):
        for engine in (pieces, auto):
            np.testing.assert_allclose(getattr(engine.run(LR), name), getattr(whole.run(LR), name), atol=2e-5)
        assert getattr(pieces.run(LR[:0]), name).shape == getattr(whole.run(LR[:0]), name).shape
    times = {name: verdict["milliseconds"] for name, verdict in verdicts(cache).items()}
    assert set(times) == {"onnxruntime fp32", "onnxruntime fp32 cut"}
    assert isinstance(Hallucinator("lite", plan="cut").engine.session, CutSession)


def test_auto_is_whole_where_the_kernels_would_take_more_threads(cache: Path) -> None:
    before = ops.get_num_threads()
    ops.set_num_threads(2)
    try:
        session = load("lite", backend="onnxruntime", precision="fp32", threads=1).session
        assert session.get_session_options().intra_op_num_threads == 1 and "onnxruntime fp32 cut" not in verdicts(cache)
    finally:
        ops.set_num_threads(before)


def test_without_onnx(monkeypatch: pytest.MonkeyPatch, cache: Path) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    monkeypatch.delitem(sys.modules, "onnx.shape_inference", raising=False)
    session = load("lite", backend="onnxruntime", precision="fp32").session
    assert not isinstance(session, CutSession) and list(verdicts(cache)) == ["onnxruntime fp32"]
    with pytest.raises(MissingExtraError, match="pip install"):
        load("lite", plan="cut", precision="fp32")


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
