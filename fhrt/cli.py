"""The `fhrt` command. Heavy imports stay inside the commands, so that `fhrt --help` is quick."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import Progress
from rich.table import Column, Table
from typer.core import TyperGroup

from fhrt.errors import BadInputError, FhrtError, MissingExtraError, WeightsError

if TYPE_CHECKING:
    from fhrt.results import Face, Result

MAX_SIDE = 4096  # longer side of a pasted picture, pixels
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
SHEET_FACES = 60
SHEET_WIDTH = 1600


class _Group(TyperGroup):
    """Turns a `FhrtError` of any command, and what the system refuses, into one line on stderr and exit code 2."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except FhrtError as error:
            _complain(str(error))
            raise typer.Exit(2) from error
        except OSError as error:
            if error.errno == errno.EPIPE:  # `fhrt … | head` has read enough; Typer leaves without a word
                raise
            reason = error.strerror or str(error)
            _complain(f"cannot go on: {reason}" if error.filename is None else f"cannot go on: {error.filename}: {reason}")
            raise typer.Exit(2) from error


app = typer.Typer(
    name="fhrt",
    cls=_Group,
    help="Face hallucination, real time: tiny faces of a picture made eight times larger.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
if not out.is_terminal:  # a file or a pipe has no width; 80 columns would squeeze the tables' figures
    out = Console(width=1000)
err = Console(stderr=True)

Model = Annotated[str, typer.Option("--model", "-m", help="Name of an installed model (see `fhrt models`) or a bundle folder.")]
BACKENDS = "auto, onnxruntime, openvino, tensorrt, torch, onnxruntime-cuda or onnxruntime-tensorrt"
Backend = Annotated[str, typer.Option(help=f"What executes the model: {BACKENDS}.")]
Device = Annotated[str, typer.Option(help="Where the model runs: auto, cpu, cuda or cuda:N. What is named runs there, or is an error.")]
Precision = Annotated[str, typer.Option(help="auto, fp32, int8 where the model has that form, or fp16 on a GPU.")]
Threads = Annotated[int | None, typer.Option(min=1, help="CPU threads for the model; all cores when left out.")]
DetectorName = Annotated[str, typer.Option("--detector", help="auto, haar, a detector's bundle folder, or the path of a YuNet ONNX file.")]
DetectorNames = Annotated[
    list[str],
    typer.Option(
        "--detector", help="auto, haar, a detector's bundle folder, or the path of a YuNet ONNX file; repeatable.", show_default="auto"
    ),
]


def _in_a_folder(file: Path | None) -> Path | None:
    """Refuses a file in a folder that is not there before the work whose figures it shall hold, not after."""
    if file is not None and not file.parent.is_dir():
        raise BadInputError(f"cannot write {file}: there is no folder {file.parent}")
    return file


JsonFile = Annotated[Path | None, typer.Option("--json", callback=_in_a_folder, help="Also write the figures to this file.")]
ReportFolder = Annotated[Path | None, typer.Option("--output", "-o", help="Write the report to this folder (needs matplotlib).")]
MaxFace = Annotated[float, typer.Option(min=2, help="Faces wider than this many pixels are left alone.")]


@contextmanager
def _train_extra() -> Iterator[None]:
    """Imports that need what a plain installation has not."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise MissingExtraError(f'{error.name} is needed and not installed: pip install "fhrt[train]"') from error


def _version(wanted: bool) -> None:
    if wanted:
        from fhrt.doctor import installed

        out.print(f"fhrt {installed('fhrt')}", highlight=False)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")] = False,
) -> None:
    os.environ.setdefault("OPENCV_LOG_LEVEL", "OFF")  # what it says of a damaged picture, fhrt says in one line


@app.command()
def run(
    inputs: Annotated[list[Path], typer.Argument(metavar="IN...", help="Pictures, and folders of pictures.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; made when it is missing.")],
    model: Model = "lite",
    scale: Annotated[
        int | None,
        typer.Option(help="Show the model's faces at 2, 4 or 8 times what it saw, where it makes them so; its largest when left out."),
    ] = None,
    enlarge: Annotated[
        int | None,
        typer.Option(
            min=1,
            help=f"Enlargement of the picture; --scale, or else 4, when left out; lowered to keep its sides within {MAX_SIDE} px.",
        ),
    ] = None,
    heatmaps: Annotated[bool, typer.Option("--heatmaps", help="Draw where the model finds the facial components (MTUN).")] = False,
    recursive: Annotated[bool, typer.Option("--recursive", help="Look into subfolders too, but not into the output's.")] = False,
    max_face: MaxFace = 48,
    detector: DetectorName = "auto",
    backend: Backend = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Hallucinate the faces of pictures.

    Writes for each picture NAME.png (enlarged, faces in place) and NAME_faces.png (boxes, and each face before and
    after), and for the whole run sheet.png with its best faces; NAME_2 and so on where a name is taken. Those of a
    subfolder lie in one of its name. Exit code 1 when some pictures or folders could not be read, 2 when none could.
    """
    from fhrt.files import make_folder
    from fhrt.hallucinator import Hallucinator
    from fhrt.results import write_picture
    from fhrt.video.sources import find_pictures

    pictures = find_pictures(inputs, recursive, output)
    options = {"backend": backend, "device": device, "precision": precision, "threads": threads}
    hallucinator = Hallucinator(model, detector=detector, max_face=max_face, **options)  # type: ignore[arg-type]
    card = hallucinator.engine.card
    if scale is not None and scale not in card.scales:
        makes = " and ".join(map(str, card.scales))
        raise BadInputError(f"{card.name} makes faces {makes} times as large as what it sees, not {scale}; --enlarge is of the picture")
    if heatmaps and "heatmaps" not in card.outputs:
        raise BadInputError(f"{card.name} makes no heatmaps of facial components; mtun does")
    make_folder(output)
    best: list[Face] = []
    used: dict[Path, set[str]] = {}
    sheet = output / f"{_free_name('sheet', _names_in(output, used))}.png"
    count = skipped = failed = 0
    for line in pictures.unreadable:
        _complain(line)
    with Progress(console=err, transient=True) as progress:
        for path, folder in progress.track(pictures.files, description="Hallucinating"):
            try:
                result = hallucinator.run(path)
                if scale is not None:
                    result = result.at_scale(scale)
                make_folder(output / folder)
                name = _free_name(path.stem, _names_in(output / folder, used))
                write_picture(output / folder / f"{name}.png", result.paste(_scale_within(result, enlarge or scale or 4)))
                result.save(output / folder / f"{name}_faces.png", heatmaps=heatmaps)
            except (BadInputError, MemoryError) as error:
                if isinstance(error.__cause__, OSError) and error.__cause__.errno in NO_ROOM:  # nor for the pictures that follow
                    raise
                failed += 1
                _complain(str(error) or f"{path} does not fit into the memory", progress.console)
                continue
            count += len(result.faces)
            skipped += result.skipped
            best = sorted(best + result.faces, key=lambda face: -face.score * face.width)[:SHEET_FACES]
    read = len(pictures.files) - failed
    if read:
        _write_sheet(sheet, best)
        left = f" ({skipped} too large, see --max-face)" if skipped else ""
        out.print(f"{count} faces in {read} pictures{left} -> {output}", highlight=False, soft_wrap=True)
    for line in pictures.passed_over:
        err.print(line, highlight=False, markup=False, soft_wrap=True)
    if failed or pictures.unreadable:
        raise typer.Exit(1 if read else 2)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", callback=_in_a_folder, help="Picture to write.")] = Path("fhrt_demo.png"),
    model: Model = "lite",
    backend: Backend = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
) -> None:
    """Hallucinate the faces of a picture that comes with fhrt."""
    from fhrt.hallucinator import Hallucinator

    hallucinator = Hallucinator(model, backend=backend, device=device, precision=precision, threads=threads)
    with resources.as_file(resources.files("fhrt") / "assets" / "crowd.png") as crowd:
        result = hallucinator.run(crowd)
    result.save(output)
    took = f"{result.timings['total']:.0f} ms"
    out.print(f"{len(result.faces)} faces in {took} -> {output}", highlight=False, soft_wrap=True)


@app.command()
def stream(
    sources: Annotated[
        list[str], typer.Argument(metavar="SOURCE...", help="Cameras, videos, folders, or a cameras.yaml.", show_default=False)
    ],
    output: Annotated[
        list[str] | None,
        typer.Option(
            "--output", "-o", help="Where results go: NAME.mp4 or .mkv, FOLDER/, NAME.jsonl, - or an rtsp:// address; repeatable."
        ),
    ] = None,
    paste: Annotated[int | None, typer.Option(min=1, help="Faces in place in the frame, enlarged so many times; for videos, RTSP.")] = None,
    model: Model = "lite",
    policy: Annotated[
        str | None, typer.Option(help="latest, all or budget=SECONDS; latest for cameras and all for files when left out.")
    ] = None,
    detect_every: Annotated[int, typer.Option(min=1, help="Frames from one detection to the next; faces are tracked between.")] = 5,
    fuse: Annotated[int, typer.Option(min=1, help="Frames of a face that are fused, before and after the model; 1: none.")] = 4,
    max_face: MaxFace = 48,
    detector: DetectorName = "auto",
    backend: Backend = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    threads: Threads = None,
    status: Annotated[bool, typer.Option("--status", help="Show how each camera does.")] = False,
    metrics: Annotated[str | None, typer.Option(metavar="[HOST:]PORT", help="Serve Prometheus metrics, on 127.0.0.1 by default.")] = None,
    log_json: Annotated[bool, typer.Option("--log-json", help="Log to stderr, a JSON object per line.")] = False,
) -> None:
    """Hallucinate the faces of cameras and videos, live, until all have ended or Ctrl-C."""
    from fhrt.hallucinator import Hallucinator
    from fhrt.stream.command import follow, logging_to, open_sinks

    with logging_to(err, as_json=log_json) as say:
        options = {"backend": backend, "device": device, "precision": precision, "threads": threads}
        hallucinator = Hallucinator(model, detector=detector, max_face=max_face, **options)  # type: ignore[arg-type]
        named = sources[0] if len(sources) == 1 else sources
        live = hallucinator.stream(named, policy=policy, sinks=open_sinks(output or [], named, paste), detect_every=detect_every, fuse=fuse)
        follow(live, say, status=err if status else None, metrics=metrics)


models_app = typer.Typer(cls=_Group, invoke_without_command=True, help="List the models that there are, or add one.")
app.add_typer(models_app, name="models")


@models_app.callback()
def models(context: typer.Context) -> None:
    """List the models that are installed, and the systems that have no weights yet; or add one."""
    if context.invoked_subcommand is not None:
        return
    from fhrt.runtime.bundle import installed, read_card
    from fhrt.systems import SYSTEMS, how_to_make

    table = _table("model", "what it is", "input", "output", "state", "precisions", "scores", "licence")
    damaged = False
    found = installed()
    for folder in found.values():
        try:
            card = read_card(folder)
        except WeightsError as error:
            damaged = True
            _complain(f"{error}; delete {folder}, or install it anew: fhrt models add")
            continue
        scores = "\n".join(
            f"{protocol} {score['psnr']:.2f} dB ({score['psnr'] - score['bicubic_psnr']:+.2f}), SSIM {score['ssim']:.3f}"
            for protocol, score in card.scores.items()
        )
        unit = "of AP" if "heat" in card.outputs else "dB"
        precisions = "fp32" if card.int8 is None else f"fp32, int8 (−{card.int8.worst:.2f} {unit})"
        facts = (card.name, card.title, *card.sizes, "weights", precisions, scores, card.licence)
        table.add_row(*map(escape, facts))
    out.print(table)
    untrained = _table("model", "what it is", "input", "output", "state", "how to get weights, in a checkout")
    for name, system in SYSTEMS.items():
        if name not in found:
            sizes = (f"{side}×{side}" for side in (system.lr_side, system.sr_side))
            untrained.add_row(*map(escape, (name, system.title, *sizes, "network and recipe", how_to_make(name))))
    if untrained.rows:
        out.print(untrained)
    if damaged:
        raise typer.Exit(1)


@models_app.command()
def add(
    source: Annotated[str, typer.Argument(help="A bundle folder, a zip archive of one, or its address.", show_default=False)],
) -> None:
    """Check a bundle's sha256 and install it for this user."""
    from fhrt.runtime import install
    from fhrt.runtime.bundle import own_bundles

    card = install(source)
    out.print(f"{card.name} is installed in {own_bundles() / card.name}: {card.title}", highlight=False, soft_wrap=True)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="System that the checkpoint belongs to, or detector.", show_default=False)],
    checkpoint: Annotated[Path, typer.Argument(help="Checkpoint that the training wrote.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives the bundle.")],
    packed: Annotated[bool, typer.Option("--packed", help="Keep the layers' weights as int8: half the file. Not for a detector.")] = False,
    name_: Annotated[
        str | None, typer.Option("--name", help="Of the model, where it is not the system's: csrip-small. Not for a detector.")
    ] = None,
) -> None:
    """Turn a trained checkpoint into a bundle (needs torch)."""
    with _train_extra():
        from fhrt.export import export as export_bundle
        from fhrt.export import export_detector

    if name == "detector" and (packed or name_):
        raise BadInputError("a detector's weights are not packed, they fit into 1 MB, and it has no name of its own")
    if name == "detector":
        folder = export_detector(checkpoint, output)
    else:
        folder = export_bundle(name, checkpoint, output, packed=packed, model_name=name_)
    out.print(str(folder), highlight=False, soft_wrap=True)


@app.command()
def quantise(
    model: Annotated[str, typer.Argument(help="Name of an installed model or a bundle folder.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Folder with the train and validation faces; for a detector, with the photographs.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder that receives the bundle, its INT8 form added.")],
) -> None:
    """Add an INT8 form to a bundle, and measure what it loses (needs torch)."""
    with _train_extra():
        from fhrt.export import quantise as add_int8
    from fhrt.runtime.bundle import read_card

    with err.status("quantising") as status:
        folder = add_int8(model, data, output, status.update)
    card = read_card(folder)
    assert card.int8 is not None
    table = _table(
        *(("score", "lost") if "heat" in card.outputs else ("protocol", "PSNR lost, dB")),
        "where sums saturate",
        title=f"{card.name}: {card.int8.faces} validation faces, {card.int8.backend}",
    )
    for protocol, loss in card.int8.loss.items():
        table.add_row(protocol, f"{loss:.3f}", f"{card.int8.saturating[protocol]:.3f}")
    out.print(table)
    out.print(str(folder), highlight=False, soft_wrap=True)


@app.command()
def build(
    model: Annotated[str, typer.Argument(help="Name of an installed model, or a bundle folder.", show_default=False)],
    precision: Annotated[str, typer.Option(help="auto (int8 for a quantised graph, else fp16), fp32, fp16 or int8.")] = "auto",
    batch: Annotated[list[int] | None, typer.Option(help="Batch size; repeatable; 1, 2, 4, 8, 16 and 32 when left out.")] = None,
    device: Annotated[str, typer.Option(help="cuda, or cuda:N.")] = "cuda",
) -> None:
    """Build a model's TensorRT engines for this GPU; it takes minutes, once."""
    from fhrt.runtime import build as build_engines
    from fhrt.runtime.engine import BUCKETS

    with Progress(console=err, transient=True) as progress:
        task = progress.add_task(f"Building {model}", total=None)

        def report(what: str, done: int, total: int) -> None:
            progress.update(task, description=what, completed=done, total=total)

        batches = build_engines(model, device=device, precision=precision, batches=batch or BUCKETS, progress=report)
    out.print(f"{model}: engines for batches of {', '.join(map(str, batches))}", highlight=False, soft_wrap=True)


engines_app = typer.Typer(cls=_Group, no_args_is_help=True, help="List the TensorRT engines that were built, or delete them.")
app.add_typer(engines_app, name="engines")


@engines_app.command(name="list")
def list_engines() -> None:
    """List the engines in the cache."""
    from fhrt.runtime.bundle import installed, open_bundle
    from fhrt.runtime.engine_cache import EngineCache

    names: dict[str, str] = {}
    for installed_name in installed():
        with suppress(WeightsError):  # a damaged model has no engines
            names[open_bundle(installed_name).sha256] = installed_name
    table = _table("model", "batch", "precision", "GPU", "TensorRT", "MB", "build, s", "dB to ONNX Runtime")
    for entry in EngineCache().entries():
        batch = next(iter(entry.key["profiles"].values()))[0]
        parity = "–" if entry.parity_db is None else f"{entry.parity_db:.1f}"
        name = names.get(entry.key["bundle"], "another bundle")
        took = "–" if entry.build_seconds is None else f"{entry.build_seconds:.0f}"
        facts = (entry.key["precision"], entry.key["gpu"], entry.key["tensorrt"], f"{entry.size / 1e6:.1f}", took, parity)
        table.add_row(escape(name), str(batch), *map(escape, facts))
    out.print(table)


@engines_app.command()
def clear() -> None:
    """Delete all engines of the cache."""
    from fhrt.runtime.engine_cache import EngineCache

    out.print(f"{EngineCache().clear() / 1e6:.1f} MB deleted", highlight=False)


@app.command()
def bench(
    models: Annotated[list[str] | None, typer.Argument(help="Names or bundle folders; all installed models when left out.")] = None,
    backend: Annotated[list[str], typer.Option(help=f"{BACKENDS}; repeatable.", show_default="auto")] = ["auto"],  # noqa: B006
    precision: Annotated[list[str], typer.Option(help="auto, fp32, int8 or fp16; repeatable.", show_default="auto")] = ["auto"],  # noqa: B006
    device: Device = "auto",
    batch: Annotated[list[int] | None, typer.Option(min=1, help="Batch size; repeatable; 1, 2, 4, 8, 16 and 32 when left out.")] = None,
    threads: Threads = None,
    json_file: JsonFile = None,
    chart: Annotated[
        Path | None, typer.Option(callback=_in_a_folder, help="Also draw ms per face to this picture (needs matplotlib).")
    ] = None,
) -> None:
    """Time models on this machine, beside what its processor or GPU could do and what C-SRIP's paper took."""
    from fhrt import bench as speed
    from fhrt import machine
    from fhrt.files import write_bytes
    from fhrt.runtime import list_models
    from fhrt.runtime.engine import BUCKETS

    sizes = sorted(set(batch or BUCKETS))
    names = models or [card.name for card in list_models()]
    if chart is not None:
        speed.draw_chart([], chart.suffix)  # what keeps it from being drawn shows before the measuring
    with err.status("measuring"):
        rows = list(speed.measure(names, backend, precision, device=device, threads=threads, batches=sizes))
    built = ["build"] if any(row.build is not None for row in rows) else []
    heads = ("floor", "cold start", *built, "MB")
    table = _table("model", "backend", "one face, ms: p50 (p95, p99)", *(f"ms in {size}" for size in sizes), *heads)
    for row in rows:
        latency = f"{row.latency['p50']:.2f} ({row.latency['p95']:.2f}, {row.latency['p99']:.2f})"
        floor = "–" if row.floor is None else f"{row.floor:.2f} ms, {row.share:.0%}"
        memory = "–" if row.memory is None else f"{row.memory:.0f}"
        per_face = (f"{row.per_face[size]:.2f}" for size in sizes)
        build = ["–" if row.build is None else f"{row.build:.0f} s" for _ in built]
        start = f"{row.cold_start:.0f} ms"
        table.add_row(row.model, f"{row.backend} {row.precision}", latency, *per_face, floor, start, *build, memory)
    out.print(table)
    paper = ", ".join(f"{milliseconds:g} ms on {what}" for what, milliseconds in speed.PAPER_MS.items())
    out.print(f"C-SRIP's paper, per face: {paper}", highlight=False)
    if json_file is not None:
        packages = ("fhrt", "numpy", "onnxruntime", "openvino", "tensorrt", "torch")
        report = {"machine": machine.describe(packages), "threads": threads or "all cores", "rows": [asdict(row) for row in rows]}
        write_bytes(json_file, (json.dumps(report, indent=2) + "\n").encode())
    if chart is not None:
        write_bytes(chart, speed.draw_chart(rows, chart.suffix))


class _EvalGroup(_Group):
    """`fhrt eval lite` is `fhrt eval model lite`: what is no command's name is a model's."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in {*self.commands, *self.get_help_option_names(ctx)}:
            args = ["model", *args]
        return super().parse_args(ctx, args)


eval_app = typer.Typer(cls=_EvalGroup, no_args_is_help=True, help="Score models, face detectors, or both together.")
app.add_typer(eval_app, name="eval")


@eval_app.command(name="model")
def evaluate(
    model: Annotated[str, typer.Argument(help="Name of an installed model, a bundle folder, or all.", show_default=False)],
    data: Annotated[Path, typer.Option(help="Folder with the test faces, test.tar.")],
    protocol: Annotated[
        list[str] | None,
        typer.Option(help="aligned, unaligned, noisy, camera or loose; repeatable; all of the model's size when left out."),
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first faces.")] = None,
    threads: Threads = None,
    backend: Backend = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
    json_file: JsonFile = None,
    report: Annotated[
        Path | None, typer.Option(help="Write tables, sheets and score distributions to this folder (needs matplotlib).")
    ] = None,
    recognition: Annotated[Path | None, typer.Option(help="A recognition network (model.onnx), for identity similarity.")] = None,
) -> None:
    """Score a model, or all that are installed: PSNR and SSIM, and their gain over bicubic; `model` may be left out."""
    from fhrt.files import make_folder, write_bytes
    from fhrt.metrics import Recognition
    from fhrt.protocols import compare, write_report
    from fhrt.protocols import evaluate as score
    from fhrt.protocols.report import require_matplotlib
    from fhrt.runtime import list_models, load

    if report is not None:
        if json_file is not None:
            raise BadInputError("a report has its own scores.json; leave --json out")
        require_matplotlib()
        judge = None if recognition is None else Recognition(recognition)
    elif recognition is not None:
        raise BadInputError("identity similarity is in reports only; add --report FOLDER")
    names = [card.name for card in list_models()] if model == "all" else [model]
    engines = [load(name, backend=backend, device=device, precision=precision, threads=threads) for name in names]
    if report is not None:
        make_folder(report)  # one that cannot be made shows before the scoring
    with Progress(console=err, transient=True) as progress:
        advance = _advance(progress, "Scoring")
        if report is not None:
            results = compare(engines, data, protocol, limit, advance, judge)
            conditions = {
                "faces": "test",
                "backend": ", ".join(sorted({engine.backend for engine in engines})),
                "precision": ", ".join(sorted({engine.precision for engine in engines})),
                "threads": threads or "all cores",
            }
            files = write_report(report, results, conditions)
        else:
            scored = [(engine.card.name, score(engine, data, protocol, limit, advance)) for engine in engines]
    if report is not None:
        for file in files:
            out.print(str(file), highlight=False, soft_wrap=True)
        return
    for name, rows in scored:
        table = _table("protocol", "faces", "PSNR dB", "gain", "SSIM", "gain", "ms per face", title=name)
        for row in rows:
            psnr_gain, ssim_gain = row.psnr - row.bicubic_psnr, row.ssim - row.bicubic_ssim
            scores = (f"{row.psnr:.2f}", f"{psnr_gain:+.2f}", f"{row.ssim:.3f}", f"{ssim_gain:+.3f}", f"{row.ms_per_face:.2f}")
            table.add_row(row.protocol if row.scale == 8 else f"{row.protocol} {row.scale}×", str(row.n), *scores)
        out.print(table)
    if json_file is not None:
        fields = ("protocol", "scale", "n", "psnr", "ssim", "bicubic_psnr", "bicubic_ssim", "ms_per_face")
        written = [{"model": name, "rows": [{key: getattr(row, key) for key in fields} for row in rows]} for name, rows in scored]
        write_bytes(json_file, (json.dumps(written if model == "all" else written[0], indent=2) + "\n").encode())


@eval_app.command(name="detector")
def evaluate_detector(
    data: Annotated[Path, typer.Option(help="Folder with the test photographs, test.tar, and boxes.json.")],
    detector: DetectorNames = ["auto"],  # noqa: B006
    output: ReportFolder = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Score only the first photographs.")] = None,
) -> None:
    """Score face detectors on photographs: average precision and recall by the faces' size, and time."""
    import cv2

    from fhrt.files import make_folder
    from fhrt.protocols.detector_report import by_size, overview, summarise, write_detector_report
    from fhrt.protocols.detectors import create_detectors, score_detectors
    from fhrt.protocols.report import require_matplotlib

    if output is not None:
        require_matplotlib()
    detectors = create_detectors(detector)
    if output is not None:
        make_folder(output)
    with Progress(console=err, transient=True) as progress:
        scores = score_detectors(detectors, data, limit=limit, progress=_advance(progress, "Detecting"))
    with err.status("resampling"):
        numbers = [summarise(score) for score in scores]
    _print_table("", overview(numbers))
    for one in numbers:
        _print_table(one["name"], by_size(one))
    if output is not None:
        conditions = {"data": "test", "threads": cv2.getNumThreads()}
        for file in write_detector_report(output, scores, numbers, conditions):
            out.print(str(file), highlight=False, soft_wrap=True)


@eval_app.command(name="pipeline")
def evaluate_pipeline(
    data: Annotated[Path, typer.Option(help="Folder with the test faces, test.tar.")],
    frames: Annotated[Path, typer.Option(help="Folder with the test photographs, test.tar, and boxes.json.")],
    model: Model = "lite",
    detector: DetectorNames = ["auto"],  # noqa: B006
    size: Annotated[list[int] | None, typer.Option(help="Faces' width in the photographs, pixels; 12, 16, 24 and 32; repeatable.")] = None,
    output: ReportFolder = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Set only so many faces, from all over the archive.")] = None,
    threads: Threads = None,
    backend: Backend = "auto",
    device: Device = "auto",
    precision: Precision = "auto",
) -> None:
    """Score detector and model together: known faces, set into photographs, are found, hallucinated and compared with the truth."""
    from fhrt.files import make_folder
    from fhrt.hallucinator import Hallucinator
    from fhrt.protocols.detectors import create_detectors
    from fhrt.protocols.pipeline import SIZES, score_pipeline
    from fhrt.protocols.pipeline_report import summarise, tabulate, write_pipeline_report
    from fhrt.protocols.report import require_matplotlib

    if output is not None:
        require_matplotlib()
    detectors = create_detectors(detector)
    hallucinator = Hallucinator(model, backend=backend, device=device, precision=precision, threads=threads, max_face=float("inf"))
    if output is not None:
        make_folder(output)
    with Progress(console=err, transient=True) as progress:
        score = score_pipeline(hallucinator, detectors, data, frames, size or SIZES, limit, _advance(progress, "Hallucinating"))
    numbers = summarise(score)
    engine = hallucinator.engine
    _print_table(engine.card.name, tabulate(numbers))
    if output is not None:
        conditions = {"faces": "test", "photographs": "test", "model": engine.card.name, "backend": engine.backend}
        conditions |= {"precision": engine.precision, "threads": str(threads or "all cores")}
        for file in write_pipeline_report(output, score, numbers, conditions):
            out.print(str(file), highlight=False, soft_wrap=True)


@app.command()
def doctor() -> None:
    """Say what works on this machine, and which command adds what is missing."""
    from fhrt.doctor import examine

    table = _table("what", "state", "detail")
    broken = False
    for finding in examine():
        broken |= finding.needed and not finding.works
        state = "[green]works[/green]" if finding.works else f"[{'red' if finding.needed else 'yellow'}]missing[/]"
        table.add_row(finding.what, state, escape(finding.detail))
    out.print(table)
    if broken:
        raise typer.Exit(1)


def _advance(progress: Progress, what: str) -> Callable[[int, int], None]:
    """Starts a bar of `progress`; what moves it takes how much is done, and of how much."""
    task = progress.add_task(what, total=None)
    return lambda done, total: progress.update(task, completed=done, total=total)


def _table(*heads: str, title: str | None = None) -> Table:
    """An empty one. On a narrow terminal what does not fit goes on in the next line: no figure is cut off."""
    return Table(*(Column(head, overflow="fold") for head in heads), title=title)


def _print_table(title: str, rows: Sequence[Sequence[str]]) -> None:
    """The first row is the head."""
    table = _table(*rows[0], title=escape(title))
    for row in rows[1:]:
        table.add_row(*map(escape, row))
    out.print(table)


def _names_in(folder: Path, used: dict[Path, set[str]]) -> set[str]:
    """Names that are taken in a folder of results: nothing is ever written over."""
    if folder not in used:
        used[folder] = {path.stem for path in folder.iterdir()}
    return used[folder]


def _free_name(stem: str, used: set[str]) -> str:
    """`stem`, or `stem_2`, … so that pictures of the same name from several folders do not overwrite one another."""
    name, number = stem, 1
    while name in used or f"{name}_faces" in used:
        number += 1
        name = f"{stem}_{number}"
    used |= {name, f"{name}_faces"}
    return name


def _scale_within(result: Result, scale: int) -> int:
    return max(1, min(scale, MAX_SIDE // max(result.frame.shape[:2])))


def _write_sheet(path: Path, faces: list[Face]) -> None:
    from fhrt.results import draw_pairs, write_picture

    captions = [f"{face.width:.0f} px   {face.score:.2f}" for face in faces]
    write_picture(path, draw_pairs([(face.lr, face.sr) for face in faces], captions, SHEET_WIDTH))


def _complain(message: str, console: Console = err) -> None:
    console.print(message, style="red", highlight=False, markup=False, soft_wrap=True)
