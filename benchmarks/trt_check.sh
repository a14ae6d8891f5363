#!/usr/bin/env bash
# benchmarks/trt_check.sh [--rehearse] [--only STEP]... [--limit SECONDS] BUNDLE OUT: TensorRT's engines of every system, built, compared with
# ONNX Runtime, timed cut and whole, captured in CUDA graphs, and opened a second time from the cache. OUT gets summary.md, results.json, log.txt.
# BUNDLE is a folder with a Python of its own: py/bin/python3.10 with TensorRT 8.6 and CuPy in py/lib/python3.10/site-packages, or part-NN files
# that joined are a .tar.xz of py; these are unpacked once, into FHRT_TRT (default /tmp/fhrt-trt). Nothing of the network, TensorRT or CUDA's
# toolkit need be installed. FHRT_WHEELS names a folder with wheels for that Python (benchmarks/gpu_wheels.sh makes it, see CONTRIBUTING.md), and
# fhrt/_C must have been built for it. PYTHON names a Python with torch, which makes bundles of systems that ship without weights.
# A check that ran out of time goes on when it is called again: engines stay in FHRT_TRT/cache.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
kept=${FHRT_TRT:-/tmp/fhrt-trt}
arguments=("$@")
[ $# -ge 2 ] || { echo "usage: benchmarks/trt_check.sh [--rehearse] [--only STEP]... BUNDLE OUT" >&2; exit 2; }
bundle=${arguments[-2]}
unset 'arguments[-2]'
if [ -d "$bundle/py" ]; then
  home=$(realpath "$bundle/py")
else
  home=$kept/py
  if [ ! -x "$home/bin/python3.10" ]; then
    mkdir -p "$kept/unpacking"
    cat "$bundle"/part-* | tar -x -J -C "$kept/unpacking"
    mv "$kept/unpacking/py" "$home" # whole or not at all
  fi
fi
if [ -n "${FHRT_WHEELS:-}" ] && [ ! -d "$kept/site" ]; then
  "${PYTHON:-python3}" -m pip install -q --no-index --no-deps --no-compile --python-version 3.10 --implementation cp --only-binary=:all: \
    $(for glibc in 2_17 2_24 2_27 2_28 2_31 2_34; do printf -- '--platform manylinux_%s_x86_64 ' $glibc; done) \
    --platform manylinux2014_x86_64 --target "$kept/site.partial" "$FHRT_WHEELS"/*.whl
  mv "$kept/site.partial" "$kept/site"
fi
mkdir -p "$kept/scratch"
export TORCH_PYTHONPATH=${PYTHONPATH:+$PYTHONPATH:}$root FHRT_CACHE=$kept/cache PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
torch_python=$(command -v "${PYTHON:-python3}")
site=$home/lib/python3.10/site-packages
export PYTHONHOME=$home PYTHONPATH=$kept/site:$root LD_LIBRARY_PATH=$home/lib:$site/tensorrt${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
exec "$home/bin/python3.10" -m benchmarks.trt_check --scratch "$kept/scratch" --torch-python "$torch_python" "${arguments[@]}"
