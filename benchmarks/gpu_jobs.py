"""The half hour on a machine with a GPU as jobs of a few minutes, and the same on the CPU as a rehearsal: docs/gpu.md.

`python -m benchmarks pack` at home makes what each job carries; `python -m benchmarks.gpu_jobs N OUT` there is the job. Standard library
only: packages that are missing there come along.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from benchmarks import freight, gpu_check
from benchmarks.check import REPORT, SECONDS, Step, run

ROOT = gpu_check.ROOT
CARRY = Path("runs") / "carry"  # in the checkout, and ignored by git
LIMITS = {1: 320, 2: 340, 3: 425, 4: 425, 5: 110, 6: 180}  # seconds of each job; the last has what is left
SCALES = (2, 4, 8)  # of C-SRIP's identity networks
USEFUL = 0.85  # of a run's seconds, that are steps; validating and saving take the others
RECIPES = {"mtun": "mtun-localised"}  # of a system's run, where it is not the system's own: the paper's wants VGG-19
FASTER = 1.5  # so many times as many faces a second are worth a larger batch than the recipe's
PART = 16  # megabytes of a checkpoint's part: just under 16 MiB


@dataclass(frozen=True)
class Size:
    """The values in which a rehearsal differs.

    batches, larger: options for the recipe's own batch, and what is tried beside it. measured: seconds. margin: seconds of a step's start
    and end; first: where it also decodes the faces that came along. validations: of a run.
    """

    device: str
    batches: tuple[str, ...]
    larger: tuple[str, ...]
    measured: str
    network: float
    margin: float
    first: float
    least_steps: int
    validations: int
    denoiser: tuple[str, ...]
    shrink: float = 1.0  # what a run's seconds are multiplied by


REAL = Size("cuda", (), ("--batch", "32"), "3", 30, 30, 45, 1000, 20, ("--steps", "10000", "--batch", "64"))
REHEARSED = Size("cpu", ("--batch", "2"), ("--batch", "3"), "0.1", 1, 500, 500, 3, 2, ("--steps", "3", "--batch", "2"), 0.01)


@dataclass(frozen=True)
class Machine:
    """Where the jobs keep what the next ones need, outside the checkout; what is known of them, from ``done.json``."""

    state: Path
    carried: Path
    size: Size
    done: tuple[str, ...] = ()
    throughput: tuple[Mapping[str, Any], ...] = ()

    @property
    def faces(self) -> Path:
        return self.state / "faces"

    def run(self, name: str) -> Path:
        return self.state / "runs" / name

    def training(self, *arguments: str | Path) -> tuple[str, ...]:
        return (sys.executable, "-m", "training", *map(str, arguments))

    # -- steps ------------------------------------------------------------------------------------------------------

    def wheels(self) -> Iterator[Step]:
        """Of packages that the machine lacks."""
        found = sorted((self.carried / "wheels").glob("*.whl"))
        if found:
            pip = (sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-compile", "--upgrade")
            yield Step("wheels", (*pip, "--target", str(self.state / "site"), *map(str, found)), 60)

    def check(self, *prefixes: str) -> Iterator[Step]:
        """Of `benchmarks.gpu_check`."""
        steps = gpu_check.steps(self.size is REHEARSED, self.state / "scratch", None)
        yield from (step for step in steps if step.name.startswith(prefixes))

    def build(self) -> Iterator[Step]:
        """The native module for this Python, where it is missing."""
        if not any((ROOT / "fhrt" / f"_C{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
            yield from self.check("build")

    def network(self, command: str, out: str, name: str, *options: str, seconds: float, margin: float) -> Step:
        """A network that tells people apart."""
        given = ("--data", self.faces, "--out", self.run(out), "--device", self.size.device, "--seconds", SECONDS, *options)
        return Step(name, self.training(command, *given), seconds + margin, asked=seconds)

    def identity(self) -> Iterator[Step]:
        for scale in SCALES:
            name, options = f"identity-{scale}x", ("--scale", str(scale))
            yield self.network("identity", "identity", name, *options, seconds=self.size.network, margin=self.size.margin)

    def measured(self, name: str, recipes: Sequence[str], batch: Sequence[str]) -> Step:
        """With noise, which takes as long as faces."""
        options = ("--device", self.size.device, "--bf16", *batch, "--seconds", self.size.measured, "--identity", self.run("identity"))
        command = self.training("throughput", *recipes, *options, "--json", REPORT)
        return Step(name, command, 30 * len(recipes) + self.size.margin, tuple(f"identity-{scale}x" for scale in SCALES))

    def fit(self, recipe: str, seconds: float, margin: float, *options: str | Path, needs: Sequence[str] = ()) -> Step:
        """Goes on where it stopped. A cosine falls over the steps for which there is time, as far as these were measured."""
        seconds = seconds * self.size.shrink
        steps, batch = self._planned(recipe, seconds)
        resume = ("--resume",) if (self.run(recipe) / "last.safetensors").is_file() else ()
        command = self.training(
            "fit", RECIPES.get(recipe, recipe), "--data", self.faces, "--out", self.run(recipe), "--device", self.size.device, "--bf16",
            *steps, *batch, *options, *resume, "--seconds", SECONDS,
        )  # fmt: skip
        return Step(f"{recipe}-fit", command, seconds + margin, needs, asked=seconds)

    def _planned(self, recipe: str, seconds: float) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Options of fit: steps, and the batch with which most faces are trained with."""
        rows = [row for row in self.throughput if row["recipe"] == recipe]
        if not rows:
            return (), self.size.batches
        best = rows[0]
        for row in rows[1:]:
            best = row if row["faces_per_s"] > FASTER * best["faces_per_s"] else best
        steps = max(self.size.least_steps, int(USEFUL * seconds * best["faces_per_s"] / best["batch"]))
        every = max(1, steps // self.size.validations)
        return ("--steps", str(steps), "--validate-every", str(every)), ("--batch", str(best["batch"]))

    def divide(self, recipe: str) -> Step:
        """Also of a run that was ended: its last save comes back."""
        given = (self.run(recipe) / "last.safetensors", "--out", self.state / "parts" / recipe, "--megabytes", str(PART))
        return Step(f"{recipe}-divide", self.training("divide", *given), 25 if self.size is REAL else 200, kept=True)

    def denoiser(self) -> Step:
        given = ("--data", self.faces, "--out", self.run("dictionary"), "--device", self.size.device, *self.size.denoiser)
        return Step("denoiser", self.training("dictionary", "denoiser", *given), 100 if self.size is REAL else 500)

    # -- jobs -------------------------------------------------------------------------------------------------------

    def jobs(self) -> dict[int, Callable[[], Iterator[Step]]]:
        return {1: self._checked, 2: self._measured, 3: self._pictures, 4: self._csrip, 5: self._denoised, 6: self._compared}

    def _checked(self) -> Iterator[Step]:
        yield from self.check("build", "tests", "memcheck", "racecheck", "kernels", "model-lite")

    def _measured(self) -> Iterator[Step]:
        yield self.network("recognition", "recognition", "recognition", seconds=1.5 * self.size.network, margin=self.size.first)
        yield from self.identity()
        yield self.measured("throughput", ("mtun", "tdn", "csrip", "urdgn"), self.size.batches)
        yield self.measured("throughput-larger", ("mtun",), self.size.larger)

    def _pictures(self) -> Iterator[Step]:
        yield self.fit("mtun", 245, self.size.first)
        yield self.fit("tdn", 55, self.size.margin)
        yield from map(self.divide, ("mtun", "tdn"))

    def _csrip(self) -> Iterator[Step]:
        yield from self.identity()
        identity = tuple(f"identity-{scale}x" for scale in SCALES)
        yield self.fit("csrip", 245, self.size.first, "--identity", self.run("identity"), needs=identity)
        yield self.fit("urdgn", 55, self.size.margin)
        yield from map(self.divide, ("csrip", "urdgn"))

    def _denoised(self) -> Iterator[Step]:
        yield self.denoiser()

    def _compared(self) -> Iterator[Step]:
        aimed = ("model-mtun", "model-csrip")  # first, should the time run out: those with an aim in milliseconds
        yield from sorted(self.check("model"), key=lambda step: step.name not in aimed)

    def results(self) -> dict[str, Path]:
        """What is to come back, the smallest first: name in OUT → file."""
        graph = self.run("recognition") / "graph"
        files = [self.run("identity") / f"identity-{scale}x.safetensors" for scale in SCALES]
        found = {f"recognition/{path.name}": path for path in sorted(graph.glob("model.*"))}
        found |= {path.name: path for path in (*files, self.run("dictionary") / "denoiser.safetensors")}
        for recipe in ("mtun", "tdn", "urdgn", "csrip"):
            found |= {f"{recipe}/{path.name}": path for path in sorted((self.state / "parts" / recipe).glob("*.part"))}
        return found


def work(number: int, out: Path, machine: Machine, only: Sequence[str], limit: float) -> bool:
    """One job: what was done before is left out unless ``only`` names it, what fails is told, what is whole is brought, come what may."""
    freight.take_in(machine.carried, machine.faces)
    before = [*machine.wheels(), *(machine.build() if number != 1 else ())]
    steps = list(machine.jobs()[number]())
    chosen = _chosen(steps, machine.done, tuple(only))
    if only and not chosen:
        raise ValueError(f"no step of job {number} is named so; there are: {', '.join(step.name for step in steps)}")
    passed = True
    title = f"Job {number}" + (", rehearsed on the CPU" if machine.size is REHEARSED else "")
    out.mkdir(parents=True, exist_ok=True)
    try:
        if chosen:
            steps = [step for step in before if step.name not in machine.done] + chosen
            passed = run(steps, out, title, gpu_check.facts(gpu_check.NEEDED), limit, lambda results: _remember(machine, results))
        else:
            print(f"job {number} is done already")
    finally:
        copied, left = freight.bring(number, machine.results(), out, machine.state / "sent.json")
        for name in copied:
            print(f"brings {name}")
        for name, why in left.items():
            print(f"LEFT {name}: {why}", flush=True)
    return passed and not any(why.startswith("larger") for why in left.values())


def _chosen(steps: Sequence[Step], done: Sequence[str], only: tuple[str, ...]) -> list[Step]:
    """Those named, or not yet done; and what divides a checkpoint, where its run goes on."""
    names = {step.name for step in steps if (step.name.startswith(only) if only else step.name not in done)}
    runs = {name.removesuffix("-fit") for name in names if name.endswith("-fit")}
    return [step for step in steps if step.name in names or step.name.removesuffix("-divide") in runs]


def _remember(machine: Machine, results: Mapping[str, Any]) -> None:
    """The steps that passed, so that a job goes on where it failed, and how fast training is."""
    done = {step["name"] for step in results["steps"] if step["result"] in ("passed", "aims missed")}
    rows = [row for name, report in results["reports"].items() if name.startswith("throughput") for row in report["rows"]]
    known = {"done": sorted(done.union(machine.done) - {"build"}), "throughput": rows or list(machine.throughput)}
    temporary = machine.state / "done.partial"
    temporary.write_text(json.dumps(known, indent=1) + "\n")
    os.replace(temporary, machine.state / "done.json")


def main() -> int:
    """0: all passed; 1: not."""
    told = "One job of the half hour on a GPU; see docs/gpu.md."
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_jobs", description=told)
    parser.add_argument("job", type=int, choices=list(LIMITS))
    parser.add_argument("out", type=Path, help="folder that receives what comes back")
    parser.add_argument("--rehearse", action="store_true", help="the same on the CPU, with few steps")
    parser.add_argument("--only", action="append", metavar="PREFIX", help="of the steps' names, done or not; repeatable")
    parser.add_argument("--limit", type=float, help="seconds for the job, in place of its own")
    parser.add_argument("--state", type=Path, default=Path("/tmp/w"), help="what stays on the machine from job to job")
    parser.add_argument("--carry", type=Path, default=ROOT / CARRY, help=f"what came along, a folder per job; default {CARRY}")
    given = parser.parse_args()
    size = REHEARSED if given.rehearse else REAL
    out, state, carried = given.out.resolve(), given.state.resolve(), given.carry.resolve() / str(given.job)
    state.mkdir(parents=True, exist_ok=True)
    known = json.loads((state / "done.json").read_text()) if (state / "done.json").is_file() else {"done": [], "throughput": []}
    machine = Machine(state, carried, size, tuple(known["done"]), tuple(known["throughput"]))
    os.chdir(ROOT)
    os.environ.update(gpu_check.environment(given.rehearse), FHRT_CACHE=str(state / "cache"), PYTHONUNBUFFERED="1")
    os.environ["PYTHONPATH"] = f"{state / 'site'}:{ROOT}"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # ended from outside: the step ends too, and what is whole is brought
    try:
        return 0 if work(given.job, out, machine, given.only or (), given.limit or (3600 if given.rehearse else LIMITS[given.job])) else 1
    except ValueError as error:
        parser.error(str(error))


if __name__ == "__main__":
    sys.exit(main())
