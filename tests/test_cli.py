import json
import re
import subprocess
import sys
from io import StringIO
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from rich.console import Console
from typer.testing import CliRunner

import fhrt.bench
import fhrt.protocols
import fhrt.runtime
from fhrt.cli import _print_table, app
from fhrt.errors import BackendError, WeightsError
from fhrt.faces.detect import Detection
from fhrt.protocols.pairs import PROTOCOLS
from fhrt.runtime import Output
from fhrt.runtime.bundle import open_bundle, read_card
from fhrt.runtime.engine import BACKENDS
from fhrt.runtime.engine_cache import EngineCache, EngineKey
from fhrt.systems import SYSTEMS

CARD = SimpleNamespace(
    name="nearest",
    title="Nearest neighbour",
    input_size=(16, 16),
    sizes=("16×16", "128×128"),
    output_size=(128, 128),
    outputs=("sr",),
    scales=(8,),
    scores={"aligned": {"psnr": 26.1, "bicubic_psnr": 23.3, "ssim": 0.75}},
    licence="research",
    int8=None,
)


class Engine:
    card, backend, precision, array_library = CARD, "onnxruntime", "fp32", None

    def run(self, lr):
        return Output(lr.repeat(8, 2).repeat(8, 3))


class OneFace:
    def detect(self, frame_bgr):
        return [Detection((5.0, 5.0, 25.0, 30.0), 0.9)]


@pytest.fixture
def fhrt_command(monkeypatch):
    monkeypatch.setattr(fhrt.runtime, "load", lambda *args, **kwargs: Engine())
    monkeypatch.setattr("fhrt.runtime.bundle.installed", lambda: {"nearest": Path("nearest")})
    monkeypatch.setattr("fhrt.runtime.bundle.read_card", lambda folder: CARD if folder.name == "nearest" else read_card(folder))
    monkeypatch.setattr("fhrt.hallucinator.create_detector", lambda *args: OneFace())
    runner = CliRunner(env={"COLUMNS": "200"})
    return lambda *arguments: runner.invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def folder(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    for name, width in (("a.png", 40), ("b.jpg", 1500)):
        cv2.imwrite(str(inside / name), np.full((40, width, 3), 120, np.uint8))
    return inside


def test_run_writes_pictures_and_a_sheet(fhrt_command, folder, tmp_path):
    done = fhrt_command("run", folder, "-o", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert "2 faces in 2 pictures" in done.stdout
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == [
        "a.png",
        "a_faces.png",
        "b.png",
        "b_faces.png",
        "sheet.png",
    ]
    assert cv2.imread(str(tmp_path / "out/a.png")).shape == (160, 160, 3)
    assert cv2.imread(str(tmp_path / "out/b.png")).shape == (80, 3000, 3), "enlarged twice only: four times is over 4096 pixels"


def test_run_reports_a_bad_picture_and_goes_on(fhrt_command, folder, tmp_path):
    (folder / "aa.png").write_bytes(b"broken")
    done = fhrt_command("run", folder, "-o", tmp_path / "out", "--enlarge", "2")
    assert done.exit_code == 1
    assert "aa.png is not a picture" in done.stderr
    assert "Traceback" not in done.output
    assert (tmp_path / "out/b.png").is_file()
    assert (tmp_path / "out/sheet.png").is_file()


def test_a_name_that_is_too_long_costs_its_picture_only(fhrt_command, folder, tmp_path):
    (folder / "a.png").rename(folder / f"{'a' * 250}.png")  # NAME_faces.png would be longer than files may be called
    done = fhrt_command("run", folder, "-o", tmp_path / "out", "--enlarge", "2")
    assert done.exit_code == 1 and [line for line in done.stderr.splitlines() if line.strip()][1:] == [], done.stderr
    assert "name too long" in done.stderr
    assert "1 faces in 1 pictures" in done.stdout and (tmp_path / "out/b_faces.png").is_file()


def test_run_keeps_pictures_of_the_same_name_apart(fhrt_command, folder, tmp_path):
    (folder / "b.jpg").rename(folder / "a.jpg")
    assert fhrt_command("run", folder, "-o", tmp_path / "out").exit_code == 0
    assert {"a.png", "a_2.png", "a_faces.png", "a_2_faces.png"} < {file.name for file in (tmp_path / "out").iterdir()}


def test_run_never_writes_over_a_picture_that_it_reads(fhrt_command, folder):
    cv2.imwrite(str(folder / "sheet.png"), np.full((40, 40, 3), 90, np.uint8))
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = fhrt_command("run", folder, "-o", folder)
    assert done.exit_code == 0, done.output
    assert all(path.read_bytes() == content for path, content in before.items())
    assert {"a_2.png", "a_2_faces.png", "b_2.png", "sheet_2.png"} <= {path.name for path in folder.iterdir()}


def test_run_never_writes_over_what_lies_in_its_folder(fhrt_command, folder, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    for name in ("a.png", "b_2.jpg", "sheet.png", "b_faces.png"):
        (out / name).write_text(name)
    assert fhrt_command("run", folder, "-o", out).exit_code == 0
    assert all((out / name).read_text() == name for name in ("a.png", "b_2.jpg", "sheet.png", "b_faces.png"))
    assert {"a_2.png", "a_2_faces.png", "b_3.png", "b_3_faces.png", "sheet_2.png"} <= {path.name for path in out.iterdir()}


def test_run_names_the_faces_that_it_left_alone(fhrt_command, folder, tmp_path):
    done = fhrt_command("run", folder, "-o", tmp_path / "out", "--max-face", "10")
    assert done.exit_code == 0
    assert "0 faces in 2 pictures (2 too large, see --max-face)" in done.stdout
    assert "too large" not in fhrt_command("run", folder, "-o", tmp_path / "out").stdout


def test_run_says_which_folders_it_did_not_look_into(fhrt_command, folder, tmp_path):
    for name in ("deeper", "other"):
        (folder / name).mkdir()
    (folder / "a.png").rename(folder / "deeper/a.png")
    done = fhrt_command("run", folder, "-o", tmp_path / "out")
    assert done.exit_code == 0 and "1 faces in 1 pictures" in done.stdout
    assert done.stderr.strip() == f"{folder}: 2 subfolders were not looked into; --recursive does"
    (folder / "b.jpg").unlink()
    done = fhrt_command("run", folder, "-o", tmp_path / "out")
    assert done.exit_code == 2 and re.search(r"holds no pictures .*2 subfolders were not looked into; --recursive does", done.stderr)


def test_run_walks_folders(fhrt_command, folder, tmp_path):
    for name in ("deeper/b.jpg", "deeper/still/b.jpg", "out/b.jpg"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes((folder / "b.jpg").read_bytes())
    done = fhrt_command("run", folder, "-o", folder / "out", "--recursive")
    assert done.exit_code == 0 and "4 faces in 4 pictures" in done.stdout and not done.stderr.strip()
    written = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*.png")}
    assert {"a.png", "b_2.png", "deeper/b.png", "deeper/b_faces.png", "deeper/still/b.png", "sheet.png"} < written and len(written) == 9


def test_a_folder_that_cannot_be_read_stops_no_other(fhrt_command, folder, tmp_path, monkeypatch):
    """Tests may run as root, who can read every folder."""

    def walk(top, onerror):
        onerror(PermissionError(13, "Permission denied", f"{top}/private"))
        yield str(top), [], ["a.png"]

    monkeypatch.setattr("fhrt.video.sources.os.walk", walk)
    done = fhrt_command("run", folder, "-o", tmp_path / "out", "--recursive")
    assert done.exit_code == 1 and "1 faces in 1 pictures" in done.stdout
    assert done.stderr.strip() == f"cannot look into {folder}/private: Permission denied"


def test_bad_use_is_one_line_and_exit_code_2(fhrt_command, folder, tmp_path):
    (tmp_path / "file").write_text("")
    empty = tmp_path / "empty"
    empty.mkdir()
    for arguments in (
        (tmp_path / "missing", "-o", tmp_path / "out"),
        (empty, "-o", tmp_path / "out"),
        (folder, "-o", tmp_path / "file"),
    ):
        done = fhrt_command("run", *arguments)
        assert done.exit_code == 2
        assert len(done.stderr.strip().splitlines()) == 1
        assert done.stdout == ""


def test_a_single_broken_picture_is_exit_code_2(fhrt_command, tmp_path):
    (tmp_path / "x.png").write_bytes(b"broken")
    assert fhrt_command("run", tmp_path / "x.png", "-o", tmp_path / "out").exit_code == 2
    assert list((tmp_path / "out").iterdir()) == []


def test_models_lists_the_cards(fhrt_command):
    done = fhrt_command("models")
    assert done.exit_code == 0
    assert re.search(r"nearest.*Nearest neighbour.*16×16.*128×128.*weights.*26\.1.*research", done.stdout)


def test_models_lists_the_systems_without_weights_too(fhrt_command):
    """Of all that fhrt has, `nearest` alone is installed here."""
    shown = fhrt_command("models").stdout
    assert re.search(r"csrip.*C-SRIP \(Grm.*24×24.*192×192.*network and recipe.*python -m training fit csrip", shown)
    assert re.search(r"lcr.*LcR.*16×16.*128×128.*network and recipe.*python -m training dictionary lcr", shown)
    assert all(re.search(rf"^│ {name} +│", shown, re.MULTILINE) for name in SYSTEMS)


def test_an_installed_system_is_listed_once_and_without_torch(tmp_path):
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom fhrt.cli import app\n"
        "done = CliRunner().invoke(app, ['models'])\nprint(done.stdout)\n"
        "assert done.exit_code == 0 and not {'cv2', 'onnxruntime', 'torch'} & set(sys.modules)"
    )
    program = [sys.executable, "-c", code]
    listed = subprocess.run(program, check=True, capture_output=True, text=True, encoding="utf-8", cwd=tmp_path).stdout
    assert len(re.findall(r"^│ lite +│", listed, re.MULTILINE)) == 1 and "fit lite" not in listed and "fit srgan" in listed


def test_a_damaged_model_hides_no_other(tmp_path, monkeypatch):
    monkeypatch.setenv("FHRT_MODELS", str(tmp_path))
    monkeypatch.setenv("FHRT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/card.json").write_text("{}")
    runner = CliRunner()
    listed = runner.invoke(app, ["models"])
    assert listed.exit_code == 1 and "lite" in listed.stdout
    assert str(tmp_path / "mine/card.json") in listed.stderr and len(listed.stderr.splitlines()) == 1
    assert runner.invoke(app, ["engines", "list"]).exit_code == 0
    examined = runner.invoke(app, ["doctor"])
    assert examined.exit_code == 1
    assert re.search(r"model lite +│ works", examined.stdout) and re.search(r"model mine +│ missing.*not a model card", examined.stdout)


def test_doctor_says_how_to_get_a_model(tmp_path, monkeypatch):
    monkeypatch.setattr("fhrt.runtime.bundle.installed", dict)
    done = CliRunner().invoke(app, ["doctor"])
    assert done.exit_code == 1 and re.search(r"models +│ missing.*fhrt models add", done.stdout)


def test_tables_lose_no_figure(monkeypatch):
    """Redirected into a file a row is one line; on a narrow terminal cells go on below."""
    figures = [f"{number}.25 [12.5, 99.5]" for number in range(11)]
    piped = CliRunner(env={"COLUMNS": "80"}).invoke(app, ["models"]).stdout
    assert re.search(r"lite.*aligned \d+\.\d+ dB.*SSIM 0\.\d+.*research", piped)
    for console in (Console(file=StringIO(), width=80, force_terminal=True), Console(file=StringIO(), width=1000)):
        monkeypatch.setattr("fhrt.cli.out", console)
        _print_table("title", [figures, figures])
        shown = console.file.getvalue()
        assert "…" not in shown and all(shown.count(digit) >= "".join(2 * figures).count(digit) for digit in "0123456789")


@pytest.mark.parametrize("command", [("models",), ("run", "a.png", "-o", "out")])
def test_a_full_disk_under_standard_output_is_one_line(command, folder, tmp_path):
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "fhrt", *command], stdout=full, stderr=subprocess.PIPE, text=True, cwd=folder)
    assert done.returncode == 2
    assert done.stderr.strip() == "cannot go on: No space left on device"


def test_a_reader_that_has_seen_enough_is_no_error():
    process = subprocess.Popen([sys.executable, "-P", "-m", "fhrt", "models"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.close()
    assert process.stderr.read() == ""
    process.wait()


def test_what_cannot_be_written_shows_before_the_work(archive, folder, tmp_path, monkeypatch):
    def work(*args, **kwargs):
        raise AssertionError("the work had begun")

    for place in ("fhrt.protocols.evaluate", "fhrt.protocols.compare", "fhrt.bench.measure", "fhrt.hallucinator.Hallucinator.run"):
        monkeypatch.setattr(place, work)
    monkeypatch.setattr("fhrt.protocols.detectors.score_detectors", work)
    monkeypatch.setattr("fhrt.protocols.pipeline.score_pipeline", work)
    (tmp_path / "file").write_text("")
    nowhere, data = tmp_path / "nowhere", ("--data", archive)
    for command in (
        ("demo", "-o", nowhere / "x.png"),
        ("bench", "lite", "--json", nowhere / "x.json"),
        ("bench", "lite", "--chart", nowhere / "x.png"),
        ("bench", "lite", "--chart", tmp_path / "x.speed"),
        ("eval", "lite", *data, "--json", nowhere / "x.json"),
        ("eval", "lite", *data, "--report", tmp_path / "file"),
        ("eval", "detector", *data, "--detector", "haar", "-o", tmp_path / "file"),
        ("eval", "pipeline", *data, "--frames", archive, "--detector", "haar", "-o", tmp_path / "file"),
    ):
        done = CliRunner().invoke(app, [str(word) for word in command])
        assert done.exit_code == 2, (command, done.output, done.exception)
        assert len(done.stderr.strip().splitlines()) == 1


def test_eval_prints_gains_and_writes_json(fhrt_command, tmp_path, monkeypatch):
    def evaluate(engine, data_dir, protocols, limit, progress):
        assert (engine.card, data_dir, protocols, limit) == (CARD, tmp_path, ["aligned"], 8)
        progress(8, 8)
        numbers = {"psnr": 26.0, "ssim": 0.75, "bicubic_psnr": 23.5, "bicubic_ssim": 0.5, "ms_per_face": 2.0}
        return [SimpleNamespace(protocol="aligned", n=8, scale=8, **numbers)]

    monkeypatch.setattr(fhrt.protocols, "evaluate", evaluate, raising=False)
    report = tmp_path / "report.json"
    done = fhrt_command("eval", "nearest", "--data", tmp_path, "--protocol", "aligned", "--limit", 8, "--json", report)
    assert done.exit_code == 0, done.output
    assert re.search(r"aligned.*26\.00.*\+2\.50.*0\.750.*\+0\.250", done.stdout)
    assert json.loads(report.read_text())["rows"][0]["bicubic_psnr"] == 23.5


def test_eval_takes_a_model_unless_it_is_told_a_command(fhrt_command, tmp_path):
    for arguments in (("nearest", "--data", tmp_path), ("--data", tmp_path, "nearest"), ("model", "nearest", "--data", tmp_path)):
        done = fhrt_command("eval", *arguments)
        assert done.exit_code == 2 and "no face shards" in done.stderr
    assert "boxes.json" in fhrt_command("eval", "detector", "--data", tmp_path).stderr
    shown = fhrt_command("eval", "--help").stdout
    assert all(name in shown for name in ("model", "detector", "pipeline"))


def test_eval_all_writes_a_report(archive, tmp_path):
    arguments = ["eval", "all", "--data", str(archive), "--protocol", "unaligned", "--report", str(tmp_path / "report")]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert done.exit_code == 0, done.output
    names = {"scores.json", "report.md", "sheet-unaligned.png", "distribution-unaligned.png"}
    assert {path.name for path in (tmp_path / "report").iterdir()} == names
    assert all(name in done.stdout for name in names)
    numbers = json.loads((tmp_path / "report" / "scores.json").read_text())
    assert "lite" in json.dumps(numbers["protocols"]["unaligned"])
    done = CliRunner().invoke(app, [*arguments, "--json", str(tmp_path / "rows.json")])
    assert done.exit_code == 2 and "scores.json" in done.output


def test_eval_scores_the_shipped_model_on_an_archive(archive, tmp_path):
    arguments = ["eval", "lite", "--data", str(archive), "--protocol", "camera", "--limit", "3", "--json", str(tmp_path / "rows.json")]
    done = CliRunner(env={"COLUMNS": "200"}).invoke(app, arguments)
    assert done.exit_code == 0, done.output
    (row,) = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert row["protocol"] == "camera" and row["n"] == 3 and row["ms_per_face"] > 0
    assert 5 < row["psnr"] < 60 and 5 < row["bicubic_psnr"] < 60 and -1 <= row["ssim"] <= 1
    arguments[arguments.index("camera")] = "upside-down"
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 2 and "upside-down" in refused.output


def test_doctor_finds_a_damaged_model(fhrt_command, monkeypatch):
    healthy = fhrt_command("doctor").stdout
    assert re.search(r"model nearest.*works", healthy)
    assert "works" in re.search(r"onnxscript.*", healthy)[0] or "fhrt[train]" in healthy

    def damaged(*args, **kwargs):
        raise WeightsError("model.safetensors was altered")

    monkeypatch.setattr(fhrt.runtime, "load", damaged)
    done = fhrt_command("doctor")
    assert done.exit_code == 1
    assert "model.safetensors was altered" in done.stdout


def test_help_needs_no_heavy_import():
    code = (
        "import sys\nfrom typer.testing import CliRunner\nfrom fhrt.cli import app\n"
        "assert CliRunner().invoke(app, ['--help']).exit_code == 0\n"
        "assert not {'cv2', 'numpy', 'onnxruntime', 'torch'} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_version(fhrt_command):
    assert fhrt_command("--version").stdout.startswith("fhrt ")


def test_engines_are_listed_and_deleted(tmp_path, monkeypatch):
    monkeypatch.setenv("FHRT_CACHE", str(tmp_path))
    key = EngineKey(open_bundle("lite").sha256, "g", {"lr": (8, 3, 16, 16)}, {}, "fp16", "n", "10.9.0", "Some GPU", "9.0", ())
    EngineCache().get(key, lambda timings: (bytes(2_000_000), b""), lambda plan: True)
    EngineCache().passed(key, 61.25)
    runner = CliRunner(env={"COLUMNS": "200"})
    listed = runner.invoke(app, ["engines", "list"])
    row = next(line for line in listed.stdout.splitlines() if "Some GPU" in line)
    assert [cell.strip() for cell in row.strip("│").split("│")] == ["lite", "8", "fp16", "Some GPU", "10.9.0", "2.0", "0", "61.2"]
    assert runner.invoke(app, ["engines", "clear"]).stdout == "2.0 MB deleted\n"
    assert "Some GPU" not in runner.invoke(app, ["engines", "list"]).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["lite", "--batch", "3"], "batches of 1, 2, 4, 8, 16, 32, not 3"),
        (["lite", "--precision", "fp3"], "unknown precision"),
        (["no-such"], "unknown model 'no-such'"),
    ],
)
def test_what_cannot_be_built_is_one_line(arguments, words):
    result = CliRunner().invoke(app, ["build", *arguments])
    assert result.exit_code == 2 and words in result.stderr and "\n" not in result.stderr.strip()


@pytest.mark.parametrize("command", [("export", "lite", "x.pt", "-o", "out"), ("quantise", "lite", "--data", "data", "-o", "out")])
def test_a_plain_installation_says_what_training_needs(command, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("fhrt.export")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 2 and done.stderr.startswith("onnx is needed") and "fhrt[train]" in done.stderr


DEVICE_COMMANDS = (
    ("run", "IN", "-o", "OUT"), ("demo", "-o", "OUT"), ("stream", "IN"), ("eval", "model", "lite", "--data", "IN"),
    ("eval", "pipeline", "--data", "IN", "--frames", "IN"), ("bench", "lite"),
)  # fmt: skip


@pytest.mark.parametrize("arguments", DEVICE_COMMANDS, ids=lambda words: " ".join(words[:2]))
def test_a_device_is_passed_on_and_one_that_is_not_there_is_one_line(arguments, folder, tmp_path, monkeypatch):
    words = [{"IN": str(folder), "OUT": str(tmp_path / "out")}.get(word, word) for word in arguments]
    runner = CliRunner(env={"COLUMNS": "200"})
    for device, reason in (("toaster", "unknown device 'toaster'"), ("cuda", "backend onnxruntime has no device 'cuda'; it has: cpu")):
        done = runner.invoke(app, [*words, "--backend", "onnxruntime", "--device", device])
        assert done.exit_code == 2, done.output
        assert reason in done.output and len(done.output.strip().splitlines()) == 1 and not (tmp_path / "out").exists()
    asked = []

    def load(*args, **options):
        asked.append(options["device"])
        raise BackendError("seen")

    monkeypatch.setattr("fhrt.runtime.load", load)
    monkeypatch.setattr("fhrt.bench.load", load)
    runner.invoke(app, [*words, "--device", "cuda:1"])
    assert asked == ["cuda:1"]


def test_help_names_the_backends_and_protocols():
    for command, names in ((("run",), BACKENDS), (("bench",), BACKENDS), (("eval", "model"), [*BACKENDS, *PROTOCOLS])):
        shown = CliRunner(env={"COLUMNS": "400"}).invoke(app, [*command, "--help"]).stdout
        assert all(name in shown for name in names), command


def test_help_names_the_devices():
    for command in ("run", "demo", "stream", "bench"):
        shown = " ".join(CliRunner(env={"COLUMNS": "200"}).invoke(app, [command, "--help"]).stdout.replace("│", " ").split())
        assert "--device" in shown and "auto, cpu, cuda or cuda:N" in shown
