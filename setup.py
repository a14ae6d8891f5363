"""Builds the native module; everything else is in pyproject.toml."""

from glob import glob

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension
from setuptools import setup

ParallelCompile("FHRT_BUILD_JOBS", default=0).install()

setup(
    ext_modules=[
        Pybind11Extension(
            "fhrt._C",
            sorted(glob("csrc/**/*.cpp", recursive=True)),
            cxx_std=17,
            # No -march=native: one wheel runs on any x86-64 machine.
            extra_compile_args=["-O3", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
        )
    ]
)
