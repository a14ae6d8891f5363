"""No backend is believed whose answer to a bundle's probe is another than the fp32 form's."""

import hashlib
import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from fakes import Fake, of_sr
from safetensors.numpy import load_file, save_file

from fhrt import doctor
from fhrt.errors import BackendError, FhrtError, WeightsError
from fhrt.export import add_probe
from fhrt.runtime import choice, load, load_frames
from fhrt.runtime.bundle import PROBE, SHIPPED, Bundle, open_bundle
from fhrt.runtime.choice import choose, explain
from fhrt.runtime.engine import Output
from fhrt.runtime.probe import compare, complaint, read_probe

LITE, TINY = open_bundle("lite"), open_bundle(SHIPPED / "detectors" / "tiny")
LITE8, TINY8 = replace(LITE, precision="int8"), replace(TINY, precision="int8")
NOISE = np.random.default_rng(0).normal(0, 1, (4, 3, 128, 128)).astype(np.float32)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FHRT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(choice, "BUSY", 0.0)
    return tmp_path / "cache"


def nan_in_one(values: np.ndarray) -> np.ndarray:
    values = values.copy()
    values[-1, :, ::7, ::7] = np.nan
    return values


def last_is_first(output: Output) -> Output:
    """As a batch whose rows are mixed up; a single face is right."""
    return replace(output, sr=np.concatenate([output.sr[:-1], output.sr[:1]])) if len(output.sr) > 1 else output


LIES: dict[str, tuple[Bundle, Callable[[Any], Any], str]] = {
    "fp32, a hundredth brighter": (LITE, of_sr(lambda sr: sr * 1.01), "sr 5"),
    "fp32, bfloat16's rounding": (LITE, of_sr(lambda sr: sr * (1 + NOISE[: len(sr)] * 2**-9)), "sr 6"),
    "fp32, much darker": (LITE, of_sr(lambda sr: sr - 0.5), "sr 12.0 dB"),
    "fp32, NaN in one face": (LITE, of_sr(nan_in_one), "sr nan dB"),
    "fp32, infinite": (LITE, of_sr(lambda sr: sr * np.inf), "sr -194.0 dB"),
    "fp32, swapped channels": (LITE, of_sr(lambda sr: sr[:, ::-1]), "sr 12"),
    "fp32, mirrored": (LITE, of_sr(lambda sr: sr[..., ::-1]), "sr 1"),
    "fp32, rows mixed up": (LITE, last_is_first, "sr 1"),
    "fp32, a shaking pose": (LITE, lambda output: replace(output, theta=output.theta + np.float32(0.01)), r"theta 0\.\d+ pixels"),
    "int8, noise": (LITE8, of_sr(lambda sr: sr + NOISE[: len(sr)] * 0.04), "sr 33"),
    "int8, a pose that is off": (LITE8, lambda output: replace(output, theta=output.theta + np.float32(0.05)), "theta 1"),
    "detector, fainter": (TINY, lambda maps: [maps[0] * 0.98, maps[1]], "heat 0.01"),
    "detector, NaN": (TINY, lambda maps: [maps[0] * np.nan, maps[1]], "heat nan"),
    "detector, swapped channels": (TINY, lambda maps: [maps[0], maps[1][:, [1, 0, *range(2, 8)]]], "geometry 0"),
    "detector, int8, loses faces": (TINY8, lambda maps: [maps[0] * 0.4, maps[1]], "heat 0.3"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_backend_that_lies_is_not_taken(lie: str, caplog: pytest.LogCaptureFixture) -> None:
    bundle, change, figure = LIES[lie]
    liar, honest = Fake(bundle, change), Fake(bundle)
    candidates = [liar.candidate(f"liar {bundle.precision}"), honest.candidate(f"honest {bundle.precision}")]
    for _ in range(2):
        calls = liar.calls
        assert choose(bundle, candidates, None) is honest
        (line,) = caplog.messages
        assert f"honest {bundle.precision} runs {bundle.card.name}, passing over liar" in line
        assert figure.replace("\\", "").split(".")[0].split(" ")[0] in line
        caplog.clear()
        refusal = rf"^{bundle.card.name} is not run by liar {bundle.precision}: its answer is too far from fp32's \({figure}.*must be at"
        with pytest.raises(BackendError, match=refusal):
            choose(bundle, candidates[:1], None)
    assert 0 < liar.calls == calls  # once, in both ways
    assert f"liar {bundle.precision} is wrong: " in explain(honest)


def test_honest_ones_are_believed() -> None:
    """Every form of what ships, on every CPU backend, and INT8 with noise beneath its limit."""
    for bundle, open_it in ((LITE, load), (TINY, load_frames)):
        probe = read_probe(bundle)
        assert probe is not None and (bundle.folder / PROBE).stat().st_size < 30_000
        for backend in ("onnxruntime", "openvino"):
            if backend == "openvino":
                pytest.importorskip("openvino")
            for form in ("fp32", "int8"):
                engine = open_it(bundle.folder, backend=backend, precision=form, threads=1)
                figures = compare(probe, engine)
                assert not complaint(figures, form, probe.int8), (bundle.card.name, backend, form, figures)
                assert explain(engine).startswith(f"{backend} {form}")
    assert choose(LITE8, [Fake(LITE8, of_sr(lambda sr: sr + NOISE[: len(sr)] * 0.005)).candidate("noisy int8")], None)


@pytest.mark.parametrize("model", ["lite", "detectors/tiny"])
def test_with_avx2_alone_what_runs_is_right(model: str, cache: Path) -> None:
    """Where OpenVINO's INT8 kernels add pairs of products in 16 bits."""
    pytest.importorskip("openvino")
    code = (
        "import sys\nfrom pathlib import Path\nfrom fhrt.runtime import load, load_frames\nfrom fhrt.runtime.bundle import open_bundle\n"
        "from fhrt.runtime.probe import compare, complaint, read_probe\nfolder = Path(sys.argv[1])\n"
        "engine = (load_frames if folder.name == 'tiny' else load)(folder, threads=1)\nprobe = read_probe(open_bundle(folder))\n"
        "assert not complaint(compare(probe, engine), engine.precision, probe.int8)\n"
    )
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2"}
    program = [sys.executable, "-c", code, str(SHIPPED / model)]
    subprocess.run(program, env=environment, check=True, stderr=subprocess.PIPE, cwd=cache.parent)


def test_doctor_says_how_far_each_is_from_fp32() -> None:
    figures = {"lite": doctor._verify("lite"), "detector": doctor._verify_detector()}
    assert re.search(r"fp32 and int8; auto is \w+ (int8|fp32( cut)?): sr \d+\.\d dB, theta 0\.\d{3} pixels from fp32(;|$)", figures["lite"])
    assert re.search(r"auto is \w+ (int8|fp32): heat 0\.\d{3}, geometry 0\.\d{3} from fp32(;|$)", figures["detector"])


def copied(bundle: Bundle, folder: Path) -> Path:
    return Path(shutil.copytree(bundle.folder, folder))


def change_card(folder: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    card = json.loads((folder / "card.json").read_text())
    change(card)
    (folder / "card.json").write_text(json.dumps(card))
    return folder


def without_probe(bundle: Bundle, folder: Path) -> Path:
    copied(bundle, folder)
    (folder / PROBE).unlink()
    return change_card(folder, lambda card: card["sha256"].pop(PROBE))


@pytest.mark.parametrize("model", ["lite", "tiny"])
def test_a_bundle_from_before_there_were_probes(model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = without_probe(LITE if model == "lite" else TINY, tmp_path / model)
    bundle = open_bundle(folder)
    for form in (bundle, replace(bundle, precision="int8")):
        honest = Fake(form)
        assert choose(form, [honest.candidate(f"honest {form.precision}")], None) is honest
        assert [f"{folder} has no {PROBE}" in line for line in caplog.messages] == [True]
        caplog.clear()
        assert choose(form, [honest.candidate(f"honest {form.precision}")], None) is honest and not caplog.messages
        lie = of_sr(lambda sr: sr[:, ::-1]) if model == "lite" else (lambda maps: [maps[0] + 0.2, maps[1]])
        with pytest.raises(BackendError, match="its answer is too far from fp32's"):
            choose(form, [Fake(form, lie).candidate(f"liar {form.precision}")], None)
        caplog.clear()


def test_probes_are_made_again_the_same(tmp_path: Path) -> None:
    """The shipped ones are of `add_probe`; what depends on the processor is the last bit of a number."""
    for bundle in (LITE, TINY):
        folder = without_probe(bundle, tmp_path / bundle.card.name)
        made, shipped = load_file(add_probe(folder)), load_file(bundle.folder / PROBE)
        assert set(made) == set(shipped) and (folder / PROBE).read_bytes() == add_probe(folder).read_bytes()
        for name, values in shipped.items():
            np.testing.assert_allclose(
                made[name].astype(np.float32), values.astype(np.float32), atol=0 if values.dtype == np.uint8 else 2e-3
            )
        assert open_bundle(folder).card.model_copy(update={"sha256": bundle.card.sha256}) == bundle.card


MISFITS: dict[str, Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]] = {
    "other faces": lambda arrays: arrays | {"lr": np.zeros((4, 3, 24, 24), np.uint8)},
    "no faces": lambda arrays: {name: array for name, array in arrays.items() if name != "lr"},
    "other numbers": lambda arrays: arrays | {"lr": arrays["lr"].astype(np.float32)},
    "an answer too many": lambda arrays: arrays | {"heat": np.zeros((1, 1, 4, 4), np.float16)},
    "an answer too few": lambda arrays: {name: array for name, array in arrays.items() if name != "theta"},
    "a smaller picture": lambda arrays: arrays | {"sr": np.ascontiguousarray(arrays["sr"][..., :-1])},
    "NaN": lambda arrays: arrays | {"sr": arrays["sr"] * np.float16(np.nan)},
}


@pytest.mark.parametrize("misfit", [*MISFITS, "NaN for INT8", "no probe at all"])
def test_a_probe_that_does_not_fit_is_an_error(misfit: str, tmp_path: Path) -> None:
    folder = copied(LITE, tmp_path / "lite")
    if misfit in MISFITS:
        save_file(MISFITS[misfit](load_file(folder / PROBE)), folder / PROBE)
    elif misfit == "NaN for INT8":
        save_file(load_file(folder / PROBE), folder / PROBE, {"int8": '{"sr": NaN, "theta": 0.03}'})
    else:
        (folder / PROBE).write_bytes(b"not a probe")
    change_card(folder, lambda card: card["sha256"].update({PROBE: hashlib.sha256((folder / PROBE).read_bytes()).hexdigest()}))
    for _ in range(2):
        with pytest.raises(WeightsError, match=r"does not fit its graph|is no probe") as caught:
            choose(open_bundle(folder), [Fake(LITE).candidate()], None)
    assert "\n" not in str(caught.value) and "export the bundle again" in str(caught.value) and str(folder) in str(caught.value)


def test_a_damaged_probe_is_a_damaged_bundle(tmp_path: Path) -> None:
    folder = copied(LITE, tmp_path / "lite")
    (folder / PROBE).write_bytes(b"x" + (folder / PROBE).read_bytes()[1:])
    with pytest.raises(WeightsError, match=f"{PROBE} is damaged"):
        open_bundle(folder)


def test_the_verdict_is_remembered_and_looking_it_up_takes_no_millisecond(cache: Path) -> None:
    engine = Fake(LITE)
    candidates = [engine.candidate("a fp32"), Fake(LITE).candidate("b fp32"), Fake(LITE8, seconds=0.01).candidate("c int8")]
    choose(LITE, candidates, None)
    calls = [each.make().calls for each in candidates]
    times = []
    for _ in range(20):
        start = perf_counter()
        choose(LITE, candidates, None)
        times.append(perf_counter() - start)
    assert [each.make().calls for each in candidates] == calls
    assert min(times) < 1e-3


@pytest.mark.parametrize("change", ["version", "threads", "bundle"])
def test_what_changed_is_checked_again(change: str, tmp_path: Path) -> None:
    engine = Fake(LITE)
    choose(LITE, [engine.candidate()], None)
    calls = engine.calls
    other = open_bundle(change_card(copied(LITE, tmp_path / "lite"), lambda card: card)) if change == "bundle" else LITE
    if change == "bundle":
        add = {"sha256": {**other.card.sha256, PROBE: "0" * 64}}
        other = replace(other, card=other.card.model_copy(update=add))
    choose(other, [engine.candidate(version="2" if change == "version" else "1")], 3 if change == "threads" else None)
    assert engine.calls == 2 * calls


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"verdicts": 3}',
        b'{"verdicts": {"fake fp32": {"version": "1", "figures": "good"}}}',
        b'{"verdicts": {"fake fp32": {"version": "1", "milliseconds": -5}}}',
    ],
)
def test_a_damaged_memory_is_made_anew(content: bytes, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = Fake(LITE)
    choose(LITE, [engine.candidate()], None)
    (file,) = (cache / "verdicts").iterdir()
    whole = file.read_bytes()
    file.write_bytes(content)
    assert choose(LITE, [engine.candidate()], None) is engine
    assert caplog.messages == [f"{file} is damaged; what it held is measured again"] and file.read_bytes() == whole


def test_a_cache_that_cannot_be_written_is_one_line(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    cache.write_text("a file where the folder should be")
    engine = Fake(LITE)
    for _ in range(3):
        assert choose(LITE, [engine.candidate()], None) is engine
    assert engine.calls == 2 and len(caplog.messages) == 1 and "cannot be kept" in caplog.messages[0]


def test_two_processes_at_once(cache: Path) -> None:
    code = "from fhrt.runtime import load\nprint(load('lite', backend='onnxruntime', plan='whole', precision='fp32', threads=1).backend)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": cache.parent}
    started = [subprocess.Popen([sys.executable, "-c", code], text=True, **pipes) for _ in range(2)]
    assert [process.communicate() for process in started] == [("onnxruntime\n", "")] * 2
    (file,) = (cache / "verdicts").iterdir()
    assert json.loads(file.read_bytes())["verdicts"]["onnxruntime fp32"]["wrong"] == ""


def test_a_backend_that_breaks_down_is_passed_over(caplog: pytest.LogCaptureFixture) -> None:
    def break_down(answer: Any) -> Any:
        raise RuntimeError("the backend's own words\nand more")

    good = Fake(LITE)
    assert choose(LITE, [Fake(LITE, break_down).candidate("broken fp32"), good.candidate("good fp32")], None) is good
    assert caplog.messages == ["good fp32 runs lite, passing over broken fp32: it fails: the backend's own words"]
    with pytest.raises(FhrtError, match=r"it fails: the backend's own words$"):
        choose(LITE, [Fake(LITE, break_down).candidate("broken fp32")], None)


def test_warnings_go_to_the_packages_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "fhrt"):
        choose(LITE, [Fake(LITE, of_sr(lambda sr: -sr)).candidate("liar fp32"), Fake(LITE).candidate("good fp32")], None)
    assert [record.name for record in caplog.records] == ["fhrt"]
