"""Developer sessions: `nox` runs tests, lint and types; `nox -s bench` measures."""

import nox

nox.options.sessions = ["tests", "lint", "types"]


@nox.session
def tests(session: nox.Session) -> None:
    """Run the test suite; arguments after -- go to pytest."""
    session.install("-e", ".[dev]")
    session.run("pytest", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Check style."""
    session.install("ruff")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    session.install("-e", ".[dev]")
    session.run("mypy", "fhrt")


@nox.session
def bench(session: nox.Session) -> None:
    """Measure the lite model and the native ops on this machine; results go to benchmarks/results."""
    session.install("-e", ".[dev]")
    session.run("python", "-m", "benchmarks", "model", "lite", "--json", "benchmarks/results/model-lite.json")
    session.run("python", "-m", "benchmarks", "kernels", "--json", "benchmarks/results/kernels.json")


@nox.session
def gpu(session: nox.Session) -> None:
    """On a CUDA machine: GPU tests, compute-sanitizer, benchmarks; after --: the folder of the report, options of tools/gpu_report.py."""
    session.install("-e", ".[dev]", env={"FHRT_FORCE_CUDA": "1"})
    session.run("python", "tools/gpu_report.py", "gpu", *(session.posargs or ["runs/gpu"]))


@nox.session
def trt(session: nox.Session) -> None:
    """On a CUDA machine: TensorRT's tests and the engines of every system; arguments as of gpu."""
    session.install("-e", ".[dev,tensorrt]", env={"FHRT_FORCE_CUDA": "1"})
    session.run("python", "tools/gpu_report.py", "trt", *(session.posargs or ["runs/trt"]))
