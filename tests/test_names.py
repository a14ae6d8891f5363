"""A system is found by its name in any spelling, and what is near to one is asked about."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import fhrt
from fhrt.cli import app
from fhrt.errors import BadInputError, UnknownModelError, WeightsError
from fhrt.runtime.bundle import SHIPPED, open_bundle
from fhrt.systems import SYSTEMS, find_name, system_name


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FHRT_MODELS", str(tmp_path / "own"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "own"


@pytest.mark.parametrize(
    ("written", "name"), [("UR-DGN", "urdgn"), ("ur dgn", "urdgn"), ("LITE", "lite"), ("Lite ", "lite"), ("MNCE ridge", "mnce-ridge")]
)
def test_an_installed_model_is_found_however_it_is_spelt(written: str, name: str) -> None:
    assert open_bundle(written).folder == SHIPPED / name


def test_public_objects_and_commands_take_any_spelling() -> None:
    assert fhrt.Hallucinator("Lite ", detector="haar").engine.card.name == "lite"
    timed = CliRunner(env={"COLUMNS": "200"}).invoke(app, ["bench", "LITE", "--batch", "1"])
    assert timed.exit_code == 0 and "lite" in timed.stdout
    refused = CliRunner().invoke(app, ["eval", "Lite", "--data", "nowhere"])
    assert refused.exit_code == 2 and "nowhere" in refused.stderr, "the model was found: the faces were not"


def test_every_system_is_found_by_its_papers_name() -> None:
    papers = {"UR-DGN": "urdgn", "TDN": "tdn", "TDAE": "tdae", "MTUN": "mtun", "C-SRIP": "csrip", "SRCNN": "srcnn", "VDSR": "vdsr"}
    papers |= {"SRGAN": "srgan", "LLE": "lle", "LcR": "lcr"}
    assert {written: system_name(written) for written in papers} == papers


def test_a_folder_is_no_spelling() -> None:
    Path("LITE").mkdir()
    assert open_bundle("LITE").folder == SHIPPED / "lite", "a folder of pictures, say, hides no model"
    with pytest.raises(WeightsError, match="no bundle folder"):
        open_bundle("./LITE/")
    with pytest.raises(UnknownModelError, match=r"no bundle folder '\./mtun'"):
        open_bundle("./mtun")
    (Path("LITE") / "card.json").write_text("{}")
    with pytest.raises(WeightsError, match="not a model card"):
        open_bundle("LITE")


def test_two_that_are_spelt_alike_are_asked_about() -> None:
    assert find_name("a-b", ["a-b", "ab"]) == "a-b"
    assert find_name("A-B", ["a-b", "ab"]) is None
    assert find_name("--", ["a", ""]) is None


@pytest.mark.parametrize(
    ("written", "words"),
    [
        ("lit", "unknown model 'lit'; did you mean 'lite'?"),
        ("C-SRPI", "unknown model 'C-SRPI'; did you mean 'csrip'?"),
        ("no-such", "unknown model 'no-such'; there are: csrip-small, lite, "),
        (
            "SRGAN",
            "srgan has no weights here; install a bundle of it (fhrt models add) or train it: python -m training fit srgan --data DIR",
        ),
        ("lcr", "train it: python -m training dictionary lcr --data DIR"),
    ],
)
def test_what_is_not_installed_is_one_line_that_helps(written: str, words: str) -> None:
    with pytest.raises(UnknownModelError) as told:
        fhrt.Hallucinator(written, detector="haar")
    assert words in str(told.value) and "\n" not in str(told.value)
    done = CliRunner().invoke(app, ["demo", "--model", written])
    assert done.exit_code == 2 and " ".join(done.stderr.split()) == str(told.value)


def test_training_takes_any_spelling_too(tmp_path: Path) -> None:
    from fhrt.models import create
    from training.recipe import Recipe, load_recipe, recipe_name

    assert load_recipe("C-SRIP/SSIM") == load_recipe("csrip/ssim") and recipe_name("UR-DGN") == "urdgn"
    assert type(create("UR-DGN")).__name__ == "URDGN"
    assert Recipe.model_validate({"model": "UR-DGN", "mix": {"aligned": 1}, "losses": {"mse": 1}}).model == "urdgn"
    with pytest.raises(BadInputError, match="unknown recipe 'mtum'; did you mean 'mtun'"):
        load_recipe("mtum")
    with pytest.raises(UnknownModelError, match="did you mean 'csrip'"):
        create("csrib")


def test_each_listed_command_exists() -> None:
    """What `fhrt models` says of a system without weights is something that training knows."""
    from training.dictionary import EMBEDDINGS
    from training.recipe import recipe_names

    makers = {"fit": recipe_names(), "dictionary": ["mnce", "mnce-ridge", *EMBEDDINGS]}
    assert all(name in makers[facts.made] for name, facts in SYSTEMS.items())


def test_the_public_objects_are_listed() -> None:
    code = "import fhrt, sys; print(*dir(fhrt)); assert not {'cv2', 'torch'} & set(sys.modules)"
    listed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert {"Face", "Hallucinator", "Result", "__version__", "__doc__"} <= set(listed)
