#!/usr/bin/env bash
# benchmarks/gpu_wheels.sh DIR [VERSION]: the wheels that fhrt needs on a Linux machine without a network, whose Python of that version (3.12)
# has torch, NumPy, OpenCV, onnx, ONNX Runtime, safetensors, typer, PyYAML and pytest; benchmarks/gpu_check.sh takes them from there
# (FHRT_WHEELS=DIR). WITH and ALONE name others: packages with all that they need, and packages whose needs are there.
set -euo pipefail
out=${1:?usage: benchmarks/gpu_wheels.sh DIR [VERSION]} version=${2:-3.12}
read -ra with <<<"${WITH-pydantic platformdirs filelock setuptools pybind11}"
read -ra alone <<<"${ALONE-lightning-fabric lightning-utilities}" # left to itself, Fabric would bring torch
options=(-q --only-binary=:all: --python-version "$version" --implementation cp --platform manylinux2014_x86_64)
for glibc in 2_17 2_24 2_27 2_28 2_31 2_34; do options+=(--platform "manylinux_${glibc}_x86_64"); done
mkdir -p "$out"
[ ${#with[@]} -eq 0 ] || "${PYTHON:-python3}" -m pip download "${options[@]}" -d "$out" "${with[@]}"
[ ${#alone[@]} -eq 0 ] || "${PYTHON:-python3}" -m pip download "${options[@]}" --no-deps -d "$out" "${alone[@]}"
du -sh "$out"
