"""``python -m training fit RECIPE --data DIR``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from fhrt.errors import BadInputError, FhrtError
from fhrt.files import make_folder, write_bytes
from fhrt.systems import SYSTEMS, find_name
from training.recipe import Recipe, load_recipe, recipe_name

FAST_SECONDS, FAST_FACES = 120.0, 8  # so few that a dozen steps have seen them all
FAST = {"batch": 2, "steps": 1000, "warmup": 5, "localise_steps": 0, "validate_every": 1_000_000}

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train the networks of fhrt.")


@app.callback()
def main() -> None:
    """Train the networks of fhrt."""


@app.command()
def fit(
    recipe: Annotated[str, typer.Argument(help="Name of a recipe in training/recipes, or a YAML file.")],
    data: Annotated[Path, typer.Option(help="Folder with the face shards train-NN.tar and val.tar.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; default runs/RECIPE.")] = None,
    resume: Annotated[bool, typer.Option(help="Continue from last.safetensors in the run's folder.")] = False,
    start: Annotated[Path | None, typer.Option(help="Begin with what fits of a best.safetensors or a bundle: lite, FOLDER.")] = None,
    features: Annotated[Path | None, typer.Option(help="VGG-19's weights (.pth or .safetensors) for the feature loss.")] = None,
    identity: Annotated[Path | None, typer.Option(help="Folder with C-SRIP's three identity networks, for its identity term.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")] = "cpu",
    devices: Annotated[int, typer.Option(min=1, help="Devices that share each step (DDP), each with a batch of its own.")] = 1,
    steps: Annotated[int | None, typer.Option(min=1, help="Last step, in place of the recipe's.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Faces of a step, in place of the recipe's.")] = None,
    lr: Annotated[float | None, typer.Option(min=1e-8, help="Highest learning rate, in place of the recipe's; less for a --start.")] = None,
    bf16: Annotated[bool | None, typer.Option("--bf16/--no-bf16", help="In place of the recipe's.")] = None,
    validate_every: Annotated[int | None, typer.Option(min=1, help="Steps, in place of the recipe's.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Stop after so long, and save; go on later with --resume.")] = math.inf,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many training faces.")] = None,
    fast: Annotated[bool, typer.Option(help="Two minutes with few faces, to see that the loss falls; exit code 1 if not.")] = False,
) -> None:
    """Train a recipe to its last step; stop with Ctrl-C and go on later with --resume."""
    from training import checkpoint
    from training.loop import Trainer

    with _plain_errors():
        settings = load_recipe(recipe)
        if fast:
            limit = limit or FAST_FACES
            settings = settings.model_copy(update=FAST)
        settings = _changed(settings, steps=steps, batch=batch, lr=lr, bf16=bf16, validate_every=validate_every)
        name = Path(recipe).stem if recipe.endswith((".yaml", ".yml")) else recipe_name(recipe)
        for term, given in (("feature", features), ("identity", identity)):
            if given is not None and not getattr(settings.losses, term):
                raise BadInputError(f"{recipe} has no {term} loss, for which {given} is")
        if resume and start is not None:
            raise BadInputError("--resume goes on with a run and --start begins one: choose one of them")
        if not resume and not (fast and out is None):  # what --fast leaves in its own folder nobody wants back
            checkpoint.refuse_to_overwrite(out or Path("runs") / name)
        out = out or Path("runs") / (f"{name}-fast" if fast else name)
        trainer = Trainer(settings, data, out, device, devices, limit, features, identity)
        if resume:
            trainer.resume()
        elif start is not None:
            typer.echo(f"{trainer.start_from(start)} of {len(trainer.average)} weights from {start}")
        losses = trainer.fit(min(seconds, FAST_SECONDS) if fast else seconds)
    if fast:
        few = max(1, len(losses) // 5)
        first, last = (sum(part) / few for part in (losses[:few], losses[-few:]))
        typer.echo(f"{len(losses)} steps: the loss went from {first:.4f} to {last:.4f} (means of {few} steps)")
        if not last < first:
            raise typer.Exit(1)


@app.command()
def average(
    checkpoint: Annotated[Path, typer.Argument(help="A last.safetensors.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, say runs/mtun/best.safetensors.")],
) -> None:
    """Write the averaged weights of a run that was stopped before it validated them; fhrt export takes them."""
    from training import checkpoint as files

    with _plain_errors():
        files.average(checkpoint, out)


@app.command()
def grow(
    source: Annotated[str, typer.Argument(help="A best.safetensors or last.safetensors, or a bundle: a name or a folder.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write, say runs/mtun/grown.safetensors.")],
    width: Annotated[int | None, typer.Option(help="Channels, as the network's hyper-parameter counts them.")] = None,
    blocks: Annotated[str | None, typer.Option(help="Of csrip: residual blocks of its three modules, as 7,7,7.")] = None,
    stacks: Annotated[int | None, typer.Option(help="Of mtun: hourglasses.")] = None,
    others: Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Another of its sizes, as tail=1.")] = None,
    noise: Annotated[float, typer.Option(help="0 to 1: tells the copies of a channel apart, say 0.5 where training goes on.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Of this noise, and of the blocks that are added.")] = 0,
) -> None:
    """Make a trained network larger without a change of what it computes; without a size, as large as it was published.

    fit --start goes on with the file, and fhrt export makes a bundle of it.
    """
    from training.grow import grow_from

    with _plain_errors():
        sizes: dict[str, int | list[int]] = {name: value for name, value in (("width", width), ("stacks", stacks)) if value is not None}
        for each in ([] if blocks is None else [f"blocks={blocks}"]) + (others or []):
            name, _, value = each.partition("=")
            sizes[name] = _size(each, value)
        difference = grow_from(source, out, sizes, noise, seed)
    typer.echo(f"{out}: differs from {source} by at most {difference:.1e}")


@app.command()
def throughput(
    recipes: Annotated[list[str], typer.Argument(help="Names of recipes in training/recipes, or YAML files.")],
    data: Annotated[Path | None, typer.Option(help="Folder with the face shards; noise instead of faces when left out.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1 …")] = "cpu",
    batch: Annotated[int | None, typer.Option(min=1, help="Faces of a step, in place of the recipe's.")] = None,
    bf16: Annotated[bool | None, typer.Option("--bf16/--no-bf16", help="In place of the recipe's.")] = None,
    identity: Annotated[Path | None, typer.Option(help="As of fit; a recipe's identity term is left out without it.")] = None,
    captured: Annotated[bool, typer.Option("--captured/--eager", help="Whether steps on a device become a CUDA graph.")] = True,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each of three measurements.")] = 10.0,
    json_file: Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")] = None,
) -> None:
    """Measure how many faces a second recipes train with, of what the processor can do how much that is, and what holds them up.

    Without the feature term, whose network it does not ask for.
    """
    from fhrt import machine
    from training import throughput as speed

    table = Table("recipe", "batch", "faces/s", "step alone", "data alone", "TFLOP/s", "of the peak")
    rows = []
    with _plain_errors(), TemporaryDirectory() as folder:
        for name in recipes:
            settings = _changed(load_recipe(name), batch=batch, bf16=bf16)
            faces = speed.made_up() if data is None else data
            options = {"device": device, "captured": captured, "identity": identity}
            row = speed.measure(settings, faces, Path(folder) / "runs" / "throughput", seconds, **options)
            rows.append({"recipe": name, **row})
            rates = (f"{row[each]:.1f}" for each in ("faces_per_s", "step_faces_per_s", "data_faces_per_s"))
            table.add_row(name, str(row["batch"]), *rates, f"{row['tflops']:.3f}", f"{row['share_of_peak']:.0%}")
    Console().print(table)
    if json_file is not None:
        conditions = {"device": device, "data": "noise" if data is None else "faces", "seconds": seconds}
        about = machine.describe(("torch", "numpy", "lightning-fabric"))
        report = {"benchmark": "throughput", "machine": about, "conditions": conditions, "rows": rows}
        write_bytes(json_file, (json.dumps(report, indent=2) + "\n").encode())


@app.command()
def identity(
    data: Annotated[Path, typer.Option(help="Folder with the face shards and index.csv.")],
    scale: Annotated[int, typer.Option(help="Of the pictures that it judges: 2, 4 or 8 times the LR face.")],
    out: Annotated[Path, typer.Option(help="Folder of the three networks.")] = Path("runs/identity"),
    epochs: Annotated[int, typer.Option(min=1, help="At most so many; it stops when nothing improves.")] = 60,
    seconds: Annotated[float, typer.Option(min=1, help="Stop after the epoch that ends later than this.")] = math.inf,
    device: Annotated[str, typer.Option(help="cpu, cuda …")] = "cpu",
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many training faces.")] = None,
) -> None:
    """Train one of C-SRIP's identity networks."""
    from training.faces import load_faces
    from training.identity import RESIDUALS, train_identity

    with _plain_errors():
        if scale not in RESIDUALS:
            raise BadInputError(f"scale must be 2, 4 or 8, not {scale}")
        _ready(out, device)
        faces = load_faces(data, "train", out.parent / "faces", limit, people=True)
        accuracy = train_identity(faces, RESIDUALS[scale], out, epochs=epochs, seconds=seconds, device=device)
    typer.echo(f"accuracy {accuracy:.3f} on faces held back")


@app.command()
def recognition(
    data: Annotated[Path, typer.Option(help="Folder with the face shards and index.csv.")],
    out: Annotated[Path, typer.Option(help="Folder of the network and, new, of its graph.")] = Path("runs/recognition"),
    epochs: Annotated[int, typer.Option(min=1, help="At most so many; it stops when nothing improves.")] = 60,
    seconds: Annotated[float, typer.Option(min=1, help="Stop after the epoch that ends later than this.")] = math.inf,
    device: Annotated[str, typer.Option(help="cpu, cuda …")] = "cpu",
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many training faces.")] = None,
) -> None:
    """Train the network that judges identity similarity in reports."""
    from fhrt.export.recognition import export_recognition
    from training.faces import load_faces
    from training.identity import RECOGNITION, load_network, train_identity, verification

    with _plain_errors():
        if (out / "graph").exists():
            raise BadInputError(f"{out / 'graph'} exists already: remove it, or choose another --out")
        _ready(out, device)
        faces = load_faces(data, "train", out.parent / "faces", limit, people=True)
        train_identity(faces, RECOGNITION, out, epochs=epochs, seconds=seconds, device=device)
        network = load_network(out, RECOGNITION)
        folder = export_recognition(network, out / "graph")
        area = verification(network, load_faces(data, "val", out.parent / "faces", people=True))
    typer.echo(f"{folder}: tells two pictures of a stranger from pictures of two strangers in {area:.1%} of cases")


@app.command()
def detector(
    data: Annotated[Path, typer.Option(help="Folder with the face shards and landmarks.npz.")],
    frames: Annotated[Path, typer.Option(help="Folder with train.tar and boxes.json: photographs with faces.")],
    out: Annotated[Path, typer.Option(help="Folder of the run.")] = Path("runs/detector"),
    resume: Annotated[bool, typer.Option(help="Continue from last.safetensors in the run's folder.")] = False,
    start: Annotated[Path | None, typer.Option(help="Begin with the weights of this bundle folder.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda …")] = "cpu",
    steps: Annotated[int, typer.Option(min=1, help="Last step.")] = 20000,
    batch: Annotated[int, typer.Option(min=1, help="Pictures of a step.")] = 16,
    lr: Annotated[float, typer.Option(min=1e-8, help="Highest learning rate; less for a --start.")] = 2e-3,
    workers: Annotated[int, typer.Option(min=0, help="Processes that compose pictures.")] = 1,
) -> None:
    """Train the detector of tiny faces."""
    from training.detector import train_detector

    with _plain_errors():
        recalls = train_detector(
            data, frames, out, steps=steps, batch=batch, lr=lr, resume=resume, start=start, device=device, workers=workers
        )
    if recalls:  # none before the first validation
        typer.echo("recall at one false positive per photograph: " + "  ".join(f"{name} px {value:.3f}" for name, value in recalls.items()))


@app.command()
def dictionary(
    name: Annotated[str, typer.Argument(help="mnce, mnce-ridge, lle or lcr; or denoiser: mnce's alone, for --denoiser.")],
    data: Annotated[Path, typer.Option(help="Folder with the face shards.")],
    out: Annotated[Path, typer.Option(help="Folder that receives NAME.safetensors.")] = Path("runs/dictionary"),
    denoiser: Annotated[
        str | None, typer.Option(help="For mnce, mnce-ridge: whose to take, an earlier file's or a bundle's: mnce-ridge, FOLDER.")
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="KEY=VALUE, a hyper-parameter: layers=2, faces=20000, steps=1 (of the regularisation) …"),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only so many training faces.")] = None,
    device: Annotated[str, typer.Option(help="For the denoiser's training: cpu, cuda …")] = "cpu",
    steps: Annotated[int, typer.Option(min=1, help="Of the denoiser's training.")] = 1100,
    batch: Annotated[int, typer.Option(min=1, help="Faces of one of these steps.")] = 8,
) -> None:
    """Fill the dictionary of a neighbour embedding; for mnce and mnce-ridge, train the denoiser first and show what each step brings."""
    from training.dictionary import MNCES, build_denoiser, build_embedding, build_mnce, hyper_parameters

    with _plain_errors():
        _ready(out, device)
        name = find_name(name, ("denoiser", *SYSTEMS)) or name
        if name == "denoiser":
            if settings:
                raise BadInputError(f"the denoiser has no hyper-parameters to --set, {settings[0]} is for the dictionary")
            made = build_denoiser(data, out, limit, steps, device=device, batch=batch)
        else:
            hparams = hyper_parameters(name, settings or [])
            if name in MNCES:
                made = build_mnce(data, out, limit, steps, denoiser, device=device, batch=batch, name=name, **hparams)
            else:
                made = build_embedding(name, data, out, limit, **hparams)
    typer.echo(made)


@app.command()
def crowd(
    data: Annotated[Path, typer.Option(help="Folder with the face shards.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Picture to write.")] = Path("fhrt/assets/crowd.png"),
    model: Annotated[str, typer.Option(help="The network that invents the faces: a name or a bundle folder.")] = "lite",
    seed: Annotated[int, typer.Option(help="Another seed, another crowd.")] = 0,
) -> None:
    """Compose the demo's crowd picture from faces of nobody."""
    from fhrt import runtime
    from training.crowd import write_crowd

    with _plain_errors():
        typer.echo(write_crowd(runtime.load(model), data, out, seed))


def _ready(out: Path, device: str) -> None:
    """Raises BadInputError where hours of work would have no place to go, or none to happen."""
    from training.device import check_device

    check_device(device)
    make_folder(out)


def _changed(settings: Recipe, **changes: Any) -> Recipe:
    """A recipe with what was asked for on the command line."""
    return settings.model_copy(update={name: value for name, value in changes.items() if value is not None})


def _size(option: str, value: str) -> int | list[int]:
    """``7`` or ``7,7,7``. Raises BadInputError."""
    try:
        numbers = [int(number) for number in value.split(",")]
    except ValueError as error:
        raise BadInputError(f"a size is a whole number or several with commas, as width=32 or blocks=7,7,7, not {option}") from error
    return numbers if "," in value else numbers[0]


@contextmanager
def _plain_errors() -> Iterator[None]:
    try:
        yield
    except FhrtError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from error


if __name__ == "__main__":
    app()
