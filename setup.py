"""Builds the native module; everything else is in pyproject.toml.

Where nvcc is on the PATH the CUDA kernels are built too; the CUDA runtime is linked statically, so that the module imports on machines
without CUDA all the same. FHRT_NO_CUDA=1 leaves them out, FHRT_FORCE_CUDA=1 fails where they cannot be built. FHRT_CUDA_ARCHS chooses the
devices, e.g. "90" or "80;86"; all supported ones when left out. FHRT_WEIGHTS chooses the bundles of fhrt/weights that the package
carries, e.g. "lite" or "lite;urdgn"; all when left out (the others can be added later: fhrt models add).
"""

import hashlib
import json
import os
import platform
import re
import shutil
import subprocess
from glob import glob
from pathlib import Path

from pybind11.setup_helpers import ParallelCompile, Pybind11Extension, build_ext
from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.errors import OptionError

ARCHS = "75;80;86;89;90;120"
# The *_simd.cpp files are compiled once for each of these; csrc/isa.cpp chooses among them when the program runs.
ISAS = {"base": [], "avx2": ["-mavx2", "-mfma", "-mbmi2"]}
ISAS["avx512"] = [*ISAS["avx2"], *(f"-mavx512{part}" for part in ("f", "bw", "vl", "dq", "cd"))]
# Speed only: the kernels neither trap floating-point exceptions nor read errno.
OPTIONS = ["-O3", "-std=c++17", "-fno-trapping-math", "-fno-math-errno", "-fvisibility=hidden", "-pthread", "-Wno-psabi"]

VARIABLES = ("FHRT_NO_CUDA", "FHRT_FORCE_CUDA", "FHRT_CUDA_ARCHS", "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS")  # of a build

ParallelCompile("FHRT_BUILD_JOBS", default=0).install()


class BuildExt(build_ext):
    """Compiles csrc/*/*_simd.cpp for every instruction set first, and csrc/*/*.cu where there is nvcc.

    It takes minutes, and is left out where nothing changed: neither a source nor what it was built with.
    """

    def build_extension(self, ext: Pybind11Extension) -> None:
        module, record = Path(self.get_ext_fullpath(ext.name)), Path(self.build_temp) / "built.json"
        built = json.loads(record.read_text()) if record.exists() else {}
        how = [_digest([__file__, *ext.depends]), shutil.which("nvcc"), *(os.environ.get(name) for name in VARIABLES)]
        if not self.force and module.exists() and built.get(str(module)) == [module.stat().st_mtime_ns, *how]:
            self.announce(f"{module} is up to date", 2)
            return
        self.force = True  # setuptools looks at some files' times only
        self._add_simd(ext)
        if os.environ.get("FHRT_NO_CUDA") != "1":
            try:
                self._add_cuda(ext)
            except (RuntimeError, subprocess.CalledProcessError) as error:
                if os.environ.get("FHRT_FORCE_CUDA") == "1":
                    raise
                self.warn(f"fhrt is built without CUDA: {error}")
                if isinstance(error, subprocess.CalledProcessError):
                    how = []  # another try may have more luck
        super().build_extension(ext)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(json.dumps(built | {str(module): [module.stat().st_mtime_ns, *how]}))

    def _add_simd(self, ext: Pybind11Extension) -> None:
        for isa, options in ISAS.items() if platform.machine() in ("x86_64", "AMD64") else [("base", [])]:
            ext.extra_objects += self.compiler.compile(
                sorted(glob("csrc/*/*_simd.cpp")),
                output_dir=str(Path(self.build_temp) / isa),
                macros=[("FHRT_ISA", isa)],
                extra_postargs=[*OPTIONS, *options],
            )

    def _add_cuda(self, ext: Pybind11Extension) -> None:
        nvcc = shutil.which("nvcc")
        if nvcc is None:
            raise RuntimeError("nvcc (the CUDA toolkit) is not on the PATH")
        archs = os.environ.get("FHRT_CUDA_ARCHS", ARCHS).split(";")
        codes = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in archs]
        codes.append(f"-gencode=arch=compute_{archs[-1]},code=compute_{archs[-1]}")  # PTX, for devices yet to come
        toolkit = _toolkit(nvcc)
        objects = Path(self.build_temp) / "cuda"
        objects.mkdir(parents=True, exist_ok=True)
        made: list[str] = []
        for source in sorted(glob("csrc/*/*.cu")):
            made.append(str(objects / (Path(source).stem + ".o")))
            options = ["-std=c++17", "-O3", "--threads", "0", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
            subprocess.run([nvcc, *options, *codes, "-c", source, "-o", made[-1]], check=True)
        ext.extra_objects += made
        ext.define_macros.append(("FHRT_CUDA", "1"))
        ext.extra_link_args.append(f"-L{toolkit}/lib64")
        ext.libraries += ["cudart_static", "dl", "rt"]


class BuildPy(build_py):
    """Leaves the bundles out that FHRT_WEIGHTS does not name."""

    def run(self) -> None:
        built = Path(self.build_lib) / "fhrt" / "weights"
        if not self.editable_mode and built.resolve() != Path("fhrt/weights").resolve():
            shutil.rmtree(built, ignore_errors=True)  # those of an earlier build: pip builds in the source folder, which keeps them
        super().run()

    def find_data_files(self, package: str, src_dir: str) -> list[str]:
        files = super().find_data_files(package, src_dir)
        if package != "fhrt" or "FHRT_WEIGHTS" not in os.environ:
            return files
        wanted = set(filter(None, os.environ["FHRT_WEIGHTS"].split(";")))
        bundles = {file: Path(file).parent.name for file in files if Path(file).parent.parent.name == "weights"}
        if not wanted <= set(bundles.values()):
            raise OptionError(f"FHRT_WEIGHTS names {sorted(wanted)}; there are {sorted(set(bundles.values()))}")
        return [file for file in files if bundles.get(file, "") in wanted | {""}]


def _digest(paths: list[str]) -> str:
    """Of the files' names and contents."""
    contents = hashlib.sha256()
    for path in sorted(path for path in paths if os.path.isfile(path)):
        contents.update(f"{path}\0{os.path.getsize(path)}\0".encode() + Path(path).read_bytes())
    return contents.hexdigest()


def _toolkit(nvcc: str) -> str:
    """The toolkit's folder as nvcc itself names it: nvcc on the PATH may be a link or a wrapper."""
    told = subprocess.run([nvcc, "--dryrun", "-E", "-x", "cu", os.devnull], capture_output=True, text=True).stderr
    found = re.search(r"^#\$ TOP=(\S+)", told, re.MULTILINE)
    if found is None:
        raise RuntimeError(f"{nvcc} does not say where its toolkit lies")
    return found[1]


setup(
    cmdclass={"build_ext": BuildExt, "build_py": BuildPy},
    ext_modules=[
        Pybind11Extension(
            "fhrt._C",
            sorted(set(glob("csrc/**/*.cpp", recursive=True)) - set(glob("csrc/*/*_simd.cpp"))),
            depends=glob("csrc/**/*", recursive=True),  # headers, and what is compiled aside
            cxx_std=17,
            # No -march=native: one wheel runs on any x86-64 machine, and on each with the best that it has.
            extra_compile_args=OPTIONS,
            extra_link_args=["-pthread"],
        )
    ],
)
