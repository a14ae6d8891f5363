"""The jobs of the half hour: their lines are understood, they go on where they stopped, and what is whole comes back."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import typer
from archives import made_up_faces, write_shard
from typer.testing import CliRunner

from benchmarks import freight, gpu_jobs
from benchmarks.__main__ import app as benchmark_cli
from benchmarks.check import REPORT, SECONDS, Step
from benchmarks.gpu_jobs import REAL, REHEARSED, Machine
from fhrt.cli import app as fhrt_cli
from training import __main__ as training_cli

ROOT = Path(__file__).parent.parent.parent
ROWS = [
    {"recipe": "mtun", "batch": 8, "faces_per_s": 3000.0},
    {"recipe": "tdn", "batch": 32, "faces_per_s": 9000.0},
    {"recipe": "mtun", "batch": 32, "faces_per_s": 5000.0},
]


def machine(folder: Path, **changes: object) -> Machine:
    return replace(Machine(folder / "state", folder / "carry", REAL), **changes)  # type: ignore[arg-type]


def options(command: Sequence[str]) -> list[str]:
    return [part for part in command if part.startswith("--")]


@pytest.mark.parametrize("size", [REAL, REHEARSED], ids=["real", "rehearsed"])
@pytest.mark.parametrize("number", gpu_jobs.LIMITS)
def test_every_line_is_understood(number: int, size: gpu_jobs.Size, tmp_path: Path) -> None:
    """By the commands that it calls, options and their types, without their work."""
    here = machine(tmp_path, size=size, throughput=tuple(ROWS))
    steps = list(here.jobs()[number]())
    assert steps and len({step.name for step in steps}) == len(steps)
    for step in steps:
        words = [word.replace(REPORT, "report.json").replace(SECONDS, "5") for word in step.command]
        apps = {"training": training_cli.app, "benchmarks": benchmark_cli}
        if words[1] == "-m" and words[2] in apps:
            group = typer.main.get_command(apps[words[2]])
            group.commands[words[3]].make_context(words[3], words[4:])  # type: ignore[attr-defined]  # raises where it is mistyped
        else:
            assert words[1:3] == ["-m", "pytest"] or words[1] == "setup.py" or "compute-sanitizer" in words[0] or step.without, step


def test_a_rehearsal_differs_in_values_alone(tmp_path: Path) -> None:
    for number in (2, 3, 4, 5):
        real, rehearsed = (list(machine(tmp_path, size=size, throughput=tuple(ROWS)).jobs()[number]()) for size in (REAL, REHEARSED))
        assert [step.name for step in real] == [step.name for step in rehearsed]
        for one, other in zip(real, rehearsed, strict=True):
            # The recipe's own batch is the one value that is not written out.
            assert set(options(one.command)) ^ set(options(other.command)) <= {"--batch"}, one.name
            assert (one.needs, one.kept) == (other.needs, other.kept)


def test_the_jobs_fit_into_their_time(tmp_path: Path) -> None:
    """Of half an hour three minutes are for the machine's start and the transfers; a step that asks for seconds is given them."""
    assert max(gpu_jobs.LIMITS.values()) <= 530 and sum(gpu_jobs.LIMITS.values()) - gpu_jobs.LIMITS[6] <= 27 * 60
    done = {3: (), 4: {f"identity-{scale}x" for scale in gpu_jobs.SCALES}, 5: ()}
    for number, before in done.items():
        steps = [step for step in machine(tmp_path).jobs()[number]() if step.name not in before]
        assert sum(step.seconds for step in steps) <= gpu_jobs.LIMITS[number]


def test_steps_and_batch_follow_what_was_measured(tmp_path: Path) -> None:
    def words(rows: list[dict[str, object]]) -> dict[str, str]:
        command = machine(tmp_path, throughput=tuple(rows)).fit("mtun", 100, 30).command
        return {word: command[index + 1] for index, word in enumerate(command) if word in ("--steps", "--batch", "--validate-every")}

    assert words([]) == {}, "nothing measured: the recipe's own"
    assert words(ROWS) == {"--steps": "13281", "--batch": "32", "--validate-every": "664"}
    slower = [*ROWS[:2], {**ROWS[2], "faces_per_s": 4000.0}]
    assert words(slower) == {"--steps": "31875", "--batch": "8", "--validate-every": "1593"}


def test_a_run_goes_on_where_there_is_one(tmp_path: Path) -> None:
    here = machine(tmp_path)
    assert "--resume" not in here.fit("tdn", 10, 30).command
    here.run("tdn").mkdir(parents=True)
    (here.run("tdn") / "last.safetensors").touch()
    assert "--resume" in here.fit("tdn", 10, 30).command


def test_all_that_is_trained_comes_back_within_the_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the sizes of the real checkpoints in fp16, in kB for MB: the averaged weights, and 13.8 MB where there is a discriminator."""
    monkeypatch.setattr(freight, "BACK", freight.BACK // 1000)
    monkeypatch.setattr(freight, "BACK_FILE", freight.BACK_FILE // 1000)
    here = machine(tmp_path)

    def made(path: Path, size: float) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(int(1000 * size)))

    def divided(recipe: str, size: float) -> None:
        for number in range(int(-(-size // gpu_jobs.PART))):
            made(here.state / "parts" / recipe / f"last-0-{number:03d}-of-009.part", min(gpu_jobs.PART, size - number * gpu_jobs.PART))

    def trained(job: int) -> None:
        if job == 2:
            made(here.run("recognition") / "graph" / "model.onnx", 0.03)
            made(here.run("recognition") / "graph" / "model.safetensors", 2.6)
            for scale in gpu_jobs.SCALES:
                made(here.run("identity") / f"identity-{scale}x.safetensors", 6.9)
        if job == 3:
            divided("mtun", 91.3)
            divided("tdn", 6.8 + 13.8)
        if job == 4:
            divided("csrip", 99.9)
            divided("urdgn", 2.2 + 13.8)
        if job == 5:
            made(here.run("dictionary") / "denoiser.safetensors", 0.8)

    for job in gpu_jobs.LIMITS:
        trained(job)
        out = tmp_path / f"out{job}"
        for report in ("summary.md", "results.json", "log.txt"):
            made(out / report, 0.2)
        _, left = freight.bring(job, here.results(), out, here.state / "sent.json")
    assert not left
    for name, path in here.results().items():
        assert [(tmp_path / f"out{job}" / name).exists() for job in gpu_jobs.LIMITS].count(True) == 1 and len(Path(name).parts) <= 3, path


class Small(Machine):
    """A job of four little steps, of which the run fails until it is told not to, and what is made of it comes back all the same."""

    def jobs(self) -> dict:
        return {3: self._four}

    def build(self) -> Iterator[Step]:
        yield from ()  # an installed package leaves the checkout without a native module, and these steps need none

    def _four(self) -> Iterator[Step]:
        made = self.state / "parts" / "tdn"
        yield Step("first", ("sh", "-c", f"echo once >> {self.state}/first"), 20)
        yield Step(
            "tdn-fit", ("sh", "-c", f"date >> {self.state}/run; test -e {self.state}/mended || {{ echo 'OSError: no ink'; exit 1; }}"), 20
        )
        yield Step("after", ("true",), 20, needs=("tdn-fit",))
        yield Step("tdn-divide", ("sh", "-c", f"mkdir -p {made} && cp {self.state}/run {made}/last-0-000-of-001.part"), 20, kept=True)


def test_a_job_that_fails_half_way_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = tmp_path / "state"
    state.mkdir()

    def job(out: str, *only: str) -> tuple[bool, list[str], int]:
        """Whether it passed, its steps, and how often the run that came back was trained."""
        known = json.loads((state / "done.json").read_text()) if (state / "done.json").exists() else {"done": []}
        passed = gpu_jobs.work(3, tmp_path / out, Small(state, tmp_path / "carry", REAL, tuple(known["done"])), only, 60)
        results = tmp_path / out / "results.json"
        names = [step["name"] for step in json.loads(results.read_text())["steps"]] if results.exists() else []
        return passed, names, len((tmp_path / out / "tdn" / "last-0-000-of-001.part").read_text().splitlines())

    assert job("a") == (False, ["first", "tdn-fit", "after", "tdn-divide"], 1)
    page = (tmp_path / "a" / "summary.md").read_text()
    assert "**Failed: tdn-fit**" in page and "OSError: no ink" in page and "needs tdn-fit" in page
    assert "brings tdn/last-0-000-of-001.part" in capsys.readouterr().out
    (state / "mended").touch()
    assert job("b") == (True, ["tdn-fit", "after", "tdn-divide"], 2), "a run that goes on is divided anew"
    assert job("c") == (True, [], 2) and "done already" in capsys.readouterr().out
    assert job("d", "first") == (True, ["first"], 2) and (state / "first").read_text() == "once\nonce\n"
    assert job("e", "tdn-fit") == (True, ["tdn-fit", "tdn-divide"], 3)
    with pytest.raises(ValueError, match="no step of job 3 is named so; there are: first, tdn-fit, after, tdn-divide"):
        job("f", "fourth")


def test_a_job_that_is_ended_ends_its_step_and_brings_what_is_whole(tmp_path: Path) -> None:
    """The step has a group of processes of its own, which a machine would go on with."""
    code = f"""
import sys; sys.path.insert(0, {str(ROOT)!r})
from pathlib import Path
from benchmarks import gpu_jobs
from benchmarks.check import Step
folder = Path({str(tmp_path)!r})
def endless(self):
    made = self.state / "parts" / "tdn"
    yield Step("made", ("sh", "-c", f"mkdir -p {{made}}; echo weights > {{made}}/last-0-000-of-001.part"), 20)
    yield Step("endless", ("sh", "-c", f"echo $$ > {{folder}}/pid; exec sleep 600"), 600)
gpu_jobs.Machine._pictures, gpu_jobs.Machine.build = endless, lambda self: ()
sys.argv = ["gpu_jobs", "3", str(folder / "out"), "--state", str(folder / "state"), "--carry", str(folder / "carry")]
sys.exit(gpu_jobs.main())
"""
    job = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
        assert time.monotonic() < until and job.poll() is None
        time.sleep(0.1)
    job.send_signal(signal.SIGTERM)
    assert job.wait(60) == 143
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
    assert (tmp_path / "out" / "tdn" / "last-0-000-of-001.part").is_file()
    assert json.loads((tmp_path / "state" / "done.json").read_text())["done"] == ["made"]


def test_bad_wishes_are_refused(tmp_path: Path) -> None:
    for words, said in ((["9", "out"], "invalid choice: 9"), (["2"], "required: out")):
        done = subprocess.run([sys.executable, "-m", "benchmarks.gpu_jobs", *words], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 2 and said in done.stderr
    done = CliRunner().invoke(benchmark_cli, ["pack", "--data", str(tmp_path), "--out", str(tmp_path / "carry")])
    assert done.exit_code == 2 and "no face shards train-NN.tar" in done.output


def write_archive(folder: Path) -> None:
    """A little face archive with people and landmarks."""
    rng = np.random.default_rng(0)
    folder.mkdir()
    keys = []
    for split, count in (("train-00", 24), ("val", 8)):
        write_shard(folder / f"{split}.tar", made_up_faces(count))
        keys += [(f"{split}_{number:05d}", split.split("-")[0], number % 3) for number in range(count)]
    with (folder / "index.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("key", "split", "identity", "source"), *((*each, "made up") for each in keys)])
    points = rng.uniform(60, 130, (len(keys), 68, 2)).astype(np.float16)
    np.savez(folder / "landmarks.npz", key=[key for key, *_ in keys], points=points, visible=np.ones((len(keys), 68), bool))


@pytest.mark.slow
def test_the_jobs_rehearsed_and_what_came_back_goes_on(tmp_path: Path) -> None:
    """Jobs 2 to 6 on the CPU; then at home: parts united, one step more, exported."""
    write_archive(tmp_path / "data")
    carry, state = tmp_path / "carry", tmp_path / "state"

    def call(*words: str | Path, codes: tuple[int, ...] = (0,)) -> None:
        done = subprocess.run([sys.executable, "-m", *map(str, words)], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode in codes, done.stdout[-4000:] + done.stderr[-4000:]

    call("benchmarks", "pack", "--data", tmp_path / "data", "--out", carry, "--faces", "6")
    freight.take_in(carry / "1", state / "faces")
    outs = []
    for number in (2, 3, 4, 5):
        outs.append(tmp_path / f"out{number}")
        call("benchmarks.gpu_jobs", number, outs[-1], "--rehearse", "--state", state, "--carry", carry)
    # The last job brings what had no room before; whether lite reaches its aim on this processor is no matter.
    outs.append(tmp_path / "out6")
    call("benchmarks.gpu_jobs", "6", outs[-1], "--rehearse", "--state", state, "--carry", carry, "--only", "model-lite", codes=(0, 1))
    call("benchmarks.gpu_jobs", "3", tmp_path / "more", "--rehearse", "--state", state, "--carry", carry, "--only", "tdn-fit")
    assert "--resume" in (tmp_path / "more" / "log.txt").read_text()
    for recipe in ("mtun", "tdn", "csrip", "urdgn"):
        run = tmp_path / "home" / recipe
        parts = [part for out in outs for part in sorted((out / recipe).glob("*.part"))]
        call("training", "unite", *parts, "--out", run / "last.safetensors")
        call(
            "training",
            "fit",
            gpu_jobs.RECIPES.get(recipe, recipe),
            "--data",
            state / "faces",
            "--out",
            run,
            "--resume",
            "--batch",
            "2",
            "--steps",
            "1000",
            "--seconds",
            "1",
        )
        call("training", "average", run / "last.safetensors", "--out", run / "average.safetensors")
        done = CliRunner().invoke(fhrt_cli, ["export", recipe, str(run / "average.safetensors"), "-o", str(run / "bundle")])
        assert done.exit_code == 0, done.output
