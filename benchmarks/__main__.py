"""`python -m benchmarks model lite`, `kernels`, `pipeline` and others: tables on the screen, JSON with the machine's description."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from benchmarks import machine
from fhrt.errors import BadInputError, FhrtError

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Measure fhrt on this machine.")
out = Console(width=None if sys.stdout.isatty() else 140)

Threads = Annotated[int, typer.Option(min=1, help="CPU threads of every candidate.")]
Runs = Annotated[int, typer.Option(min=1, help="Measured rounds; each calls every candidate once.")]
Warmup = Annotated[int, typer.Option(min=0, help="Rounds before these, not counted.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the results to this file.")]
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@app.command()
def model(
    name: Annotated[str, typer.Argument(help="A shipped model or a bundle folder.")] = "lite",
    batch: Annotated[list[int], typer.Option(min=1, help="Faces per call; repeatable.")] = [1, 4, 16],  # noqa: B006
    backend: Annotated[list[str], typer.Option(help="Of the engine; repeatable.")] = ["auto"],  # noqa: B006
    precision: Annotated[list[str], typer.Option(help="Of the engine, with every backend; repeatable.")] = ["auto"],  # noqa: B006
    device: Annotated[str, typer.Option(help="Of the engine: auto, cpu, cuda or cuda:N; the plain session stays on the CPU.")] = "auto",
    peer: Annotated[list[str], typer.Option(help="Also eager, compile (both torch) or onnxruntime-cuda; repeatable.")] = [],  # noqa: B006
    threads: Threads = CORES,
    runs: Runs = 100,
    warmup: Warmup = 10,
    json_file: Json = None,
) -> None:
    """Time a model: fhrt's engines, a plain ONNX Runtime session of its fp32 graph, uint8 to uint8, and a whole picture.

    A system without weights is timed with random ones (needs torch). Exit code 1 when an engine takes over 10 % more than the
    plain session; on a device, than one of the peers.
    """
    from benchmarks import models

    try:
        unknown = set(peer) - set(models.PEERS)
        if unknown:
            raise BadInputError(f"there is no peer {', '.join(sorted(unknown))}; there are: {', '.join(models.PEERS)}")
        choices = {"backends": backend, "precisions": precision, "device": device, "peers": peer}
        with models.bundle(name) as (folder, weights):
            rows, picture, frame = models.measure(folder, batch, **choices, threads=threads, runs=runs, warmup=warmup)
    except FhrtError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from error
    table = Table(
        "batch",
        "backend",
        "precision",
        "engine",
        "session",
        "engine / session",
        "times faster",
        "uint8 to uint8",
        *peer,
        title=f"{name}, {weights} weights: ms per face, median (p95)",
    )
    for row in rows:
        columns = (f"{key}_ms_per_face" for key in ("engine", "session", "hallucinate"))
        engine, session, hallucinate = (_milliseconds(row[column]) if column in row else "–" for column in columns)
        faster = ("–", "–") if row["ratio"] is None else (f"{row['ratio']:.3f}", f"{1 / row['ratio']:.2f}")
        others = (_milliseconds(times) if isinstance(times, dict) else times for times in row["peers"].values())
        table.add_row(str(row["batch"]), row["backend"], row["precision"], engine, session, *faster, hallucinate, *others)
    out.print(table)
    stages = "  ".join(f"{stage} {_milliseconds(times)}" for stage, times in picture["stages_ms"].items())
    out.print(f"demo picture, {picture['faces']} faces, ms: {stages}", highlight=False, soft_wrap=True)
    for row in frame:
        took = "  ".join(f"{part} {value:.2f}" for part, value in row["ms"].items())
        out.print(f"1080p frame, {row['faces']} boxes given, frame: {row['frame']}; ms: {took}", highlight=False, soft_wrap=True)
    conditions = {"model": name, "weights": weights, "device": device, "threads": threads, "runs": runs, "warmup": warmup}
    _write(json_file, "model", conditions, rows, picture=picture, frame=frame)
    if not all(row["within_limit"] for row in rows):
        typer.secho("an engine takes over 10 % more than what it is held to", fg=typer.colors.RED, err=True)
        raise typer.Exit(1)


@app.command()
def engines(
    name: Annotated[str, typer.Argument(help="A shipped model or a bundle folder.")] = "lite",
    precision: Annotated[str, typer.Option(help="fp16 or fp32.")] = "fp16",
    batch: Annotated[list[int], typer.Option(min=1, help="Faces per call, of 1, 2, 4, 8, 16 and 32; repeatable.")] = [1, 32],  # noqa: B006
    runs: Runs = 100,
    rehearse: Annotated[bool, typer.Option("--rehearse", help="ONNX Runtime on the CPU in place of TensorRT.")] = False,
    json_file: Json = None,
) -> None:
    """Build a model's TensorRT engines, cut and whole; compare with ONNX Runtime; time them; open them again.

    A system without weights is built with random ones (needs torch). Exit code 1 where a plan fails or differs by more than it may.
    """
    from benchmarks import engines as built
    from benchmarks import models

    if precision not in built.LEAST_DB:
        raise typer.BadParameter(f"precision is {' or '.join(built.LEAST_DB)}, not {precision}")
    try:
        with models.bundle(name) as (folder, weights):
            rows = built.measure(str(folder), precision, batch, runs, rehearse)
    except FhrtError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from error
    for row in rows:
        out.print_json(data=row, indent=None)
    _write(json_file, "tensorrt", {"model": name, "weights": weights, "runs": runs, "rehearsed": rehearse}, rows)
    if any("error" in row or min(each["parity_db"] for each in row["batches"]) < row["aim_db"] for row in rows):
        raise typer.Exit(1)


@app.command()
def kernels(
    device: Annotated[str, typer.Option(help='Torch\'s name: "cpu" or "cuda".')] = "cpu",
    threads: Threads = CORES,
    runs: Runs = 100,
    warmup: Warmup = 10,
    json_file: Json = None,
) -> None:
    """Time each native op beside its usual alternative (needs torch). Exit code 1 where one is not as many times faster as it must be."""
    from benchmarks import kernels as native

    rows, bandwidth = native.measure(device, threads, runs, warmup)
    table = Table(
        "op",
        "shape",
        "native",
        "peer",
        "times faster",
        "required",
        "GB/s",
        "of copy",
        title=f"ms per call, median (p95); copying: {bandwidth:.1f} GB/s",
    )
    for row in rows:
        times = (_milliseconds(row["native_ms"]), _milliseconds(row["usual_ms"]))
        style = None if row["reached"] else "red"
        faster = (f"{row['times_faster']:.1f}", f"{row['required']:g}", f"{row['gb_per_s']:.1f}", f"{row['share_of_copy']:.0%}")
        table.add_row(row["op"], row["shape"], *times, *faster, style=style)
    out.print(table)
    _write(json_file, "kernels", {"device": device, "threads": threads, "runs": runs, "warmup": warmup}, rows, copy_gb_per_s=bandwidth)
    if not all(row["reached"] for row in rows):
        raise typer.Exit(1)


@app.command()
def resources(json_file: Json = None) -> None:
    """List what each CUDA kernel takes of every supported device, as nvcc says. Exit code 1 where one spills registers."""
    from benchmarks import resources as compiled

    try:
        rows = [row for source in compiled.SOURCES for row in compiled.measure(source)]
    except FhrtError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from error
    by_target: dict[str, dict[int, compiled.Row]] = {}
    for row in rows:
        by_target.setdefault(str(row["kernel"]), {})[int(row["target"])] = row
    targets = compiled.TARGETS
    table = Table("kernel", *(f"sm_{target}" for target in targets), title="registers, bytes of shared memory")
    for kernel, found in sorted(by_target.items()):
        table.add_row(kernel, *(f"{found[target]['registers']}, {found[target]['shared']}" for target in targets))
    out.print(table)
    _write(json_file, "resources", {}, rows)
    if any(row["stores"] or row["loads"] for row in rows):
        raise typer.Exit(1)


@app.command()
def tracking(
    data: Annotated[Path, typer.Option(help="Folder of the face archive; its test split is used.")],
    every: Annotated[list[int], typer.Option(min=1, help="Frames from one detection to the next; repeatable.")] = [1, 5, 10],  # noqa: B006
    k: Annotated[list[int], typer.Option(min=1, help="Crops that are fused; repeatable.")] = [1, 2, 4, 8],  # noqa: B006
    scenes: Annotated[int, typer.Option(min=1, help="Made-up scenes of about 20 faces.")] = 6,
    video: Annotated[list[Path] | None, typer.Option(help="Also a film, whose detections at every fifth frame are followed.")] = None,
    runs: Runs = 200,
    warmup: Warmup = 20,
    json_file: Json = None,
) -> None:
    """Score tracks and fused faces on made-up scenes whose truth is known, and time both for 30 faces (needs scipy)."""
    from benchmarks import tracking as tracked

    try:
        rows, fused = tracked.tracks(data, every, scenes), tracked.fusion(data, k, scenes)
        films = [row for path in video or [] for row in tracked.between(path, 5)]
        times = tracked.speed(data, runs, warmup)
    except (FhrtError, OSError) as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from error
    for title, found in (("tracks", rows), ("fused faces", fused), ("between detections", films)):
        if found:
            table = Table(*found[0], title=title)
            for row in found:
                table.add_row(*(f"{value:.3f}" if isinstance(value, float) else str(value) for value in row.values()))
            out.print(table)
    stages = "  ".join(f"{name.removesuffix('_ms')} {_milliseconds(each)}" for name, each in times.items() if name.endswith("_ms"))
    out.print(f"ms per frame of {times['faces']} faces: {stages}", highlight=False, soft_wrap=True)
    _write(json_file, "tracking", {"scenes": scenes, "runs": runs, "warmup": warmup}, rows, fusion=fused, films=films, times=times)


@app.command()
def pipeline(
    cameras: Annotated[list[int], typer.Option(min=1, help="Cameras at once; repeatable.")] = [1, 4, 16, 32],  # noqa: B006
    seconds: Annotated[float, typer.Option(min=1, help="Measured, of each number of cameras.")] = 20,
    stub: Annotated[float | None, typer.Option(help="Instead of the network: a pause of so many ms per batch.")] = None,
    stub_detector: Annotated[float | None, typer.Option(help="Instead of the detector: a pause of so many ms per frame.")] = None,
    faces: Annotated[int, typer.Option(min=0, help="That the stub detector finds in each frame.")] = 2,
    clip: Annotated[Path | None, typer.Option(help="Measure the overhead on this film instead of cameras.")] = None,
    runs: Annotated[int, typer.Option(min=1, help="Of the film.")] = 3,
    name: Annotated[str, typer.Option("--model", help="A shipped model or a bundle folder.")] = "lite",
    detector: Annotated[str, typer.Option(help="As in `fhrt stream`.")] = "auto",
    detect_every: Annotated[int, typer.Option(min=1, help="As in `fhrt stream`.")] = 5,
    fuse: Annotated[int, typer.Option(min=1, help="As in `fhrt stream`.")] = 4,
    files: Annotated[bool, typer.Option("--files", help="Files played at their own speed, though the RTSP server is there.")] = False,
    json_file: Json = None,
) -> None:
    """Frame age, drops and CPU of many cameras in one stream; or the CPU time of a film beside decoding, detecting and the network."""
    from benchmarks import pipeline as streamed
    from fhrt.hallucinator import Hallucinator

    options = {"detect_every": detect_every, "fuse": fuse}
    conditions = {"model": name, "detector": detector, "stub_ms": stub, "stub_detector_ms": stub_detector, **options}
    try:
        hallucinator = Hallucinator(
            name, detector=detector if stub_detector is None else streamed.StubDetector(faces, stub_detector / 1000)
        )
        if stub is not None:
            hallucinator.engine = streamed.StubEngine(hallucinator.engine.card, stub / 1000)
        if clip is not None:
            rows = [streamed.overhead(hallucinator, clip, **options, runs=runs)]
            conditions["runs"] = runs
        else:
            conditions |= {"seconds": seconds, "faces": faces if stub_detector is not None else None}
            rows = list(streamed.cameras(hallucinator, cameras, seconds, server=not files and streamed.has_server(), **options))
    except FhrtError as error:
        typer.secho(str(error), fg=typer.colors.RED, err=True)
        raise typer.Exit(2) from error
    for row in rows:
        out.print_json(data=row, indent=None)
    _write(json_file, "pipeline", conditions, rows)


def _milliseconds(times: dict[str, float]) -> str:
    return f"{times['median']:.3f} ({times['p95']:.3f})"


def _write(path: Path | None, benchmark: str, conditions: dict[str, Any], rows: list[dict[str, Any]], **more: Any) -> None:
    if path is None:
        return
    report = {"benchmark": benchmark, "machine": machine.describe(), "conditions": conditions, "rows": rows, **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    app()
