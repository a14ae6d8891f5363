"""Builds the native module; everything else is in pyproject.toml.

FHRT_CUDA=1 adds the CUDA kernels (needs nvcc; the CUDA runtime is linked statically, so that the module still imports on machines without
CUDA). FHRT_CUDA_ARCHS chooses the devices, e.g. "90" or "80;86"; all supported ones when left out.
"""

import os
import re
import shutil
import subprocess
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup

ARCHS = "75;80;86;89;90;120"

ParallelCompile("FHRT_BUILD_JOBS", default=0).install()


class BuildExt(build_ext):
    """Compiles csrc/*/*.cu with nvcc first, where CUDA is asked for."""

    def build_extension(self, ext: Pybind11Extension) -> None:
        if os.environ.get("FHRT_CUDA") == "1":
            self._add_cuda(ext)
        super().build_extension(ext)

    def _add_cuda(self, ext: Pybind11Extension) -> None:
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            raise RuntimeError("FHRT_CUDA=1 needs nvcc (the CUDA toolkit) on the PATH")
        archs = os.environ.get("FHRT_CUDA_ARCHS", ARCHS).split(";")
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
        codes.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")  # PTX, for devices yet to come
        objects = Path(self.build_temp) / "cuda"
        objects.mkdir(parents=True, exist_ok=True)
        for source in sorted(glob("csrc/*/*.cu")):
            made = str(objects / (Path(source).stem + ".o"))
            options = ["-std=c++17", "-O3", "--threads", "0", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
            subprocess.run([nvcc, *options, *codes, "-c", source, "-o", made], check=True)
            ext.extra_objects.append(made)
        ext.define_macros.append(("FHRT_CUDA", "1"))
        ext.library_dirs.append(_toolkit(nvcc) + "/lib64")
        ext.libraries += ["cudart_static", "dl", "rt"]


def _toolkit(nvcc: str) -> str:
    """The toolkit's folder as nvcc itself names it: nvcc on the PATH may be a link or a wrapper."""
    told = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    found = re.search(r"^#\$ TOP=(\S+)", told, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{nvcc} does not say where its toolkit lies")
    return found[1]


setup(
    cmdclass={"build_ext": BuildExt},
    ext_modules=[
        Pybind11Extension(
            "fhrt._C",
            sorted(glob("csrc/**/*.cpp", recursive=True)),
            cxx_std=17,
            # No -march=native: one wheel runs on any x86-64 machine.
            extra_compile_args=["-O3", "-fvisibility=hidden", "-pthread"],
            extra_link_args=["-pthread"],
        )
    ],
)
