#!/usr/bin/env bash
# One command for a CUDA machine: benchmarks/gpu_check.sh RESULTS_DIR. Builds and installs the package, runs the GPU tests (a missing
# GPU is a failure, not a skip) and the benchmarks, whose JSON goes to RESULTS_DIR.
# There are no CUDA kernels yet, they come with the next issue: until then the benchmarks measure the CPU of the GPU machine, and
# without a test marked gpu pytest ends with code 5, which fails this check on purpose.
set -euo pipefail
[ $# -eq 1 ] || { echo "usage: benchmarks/gpu_check.sh RESULTS_DIR" >&2; exit 2; }
mkdir -p "$1"
results=$(realpath "$1")
cd "$(dirname "$0")/.."

pip install -q -e ".[dev]"
python -m benchmarks model lite --json "$results/model-lite.json"
python -m benchmarks ops --json "$results/ops.json"
FHRT_REQUIRE_GPU=1 pytest -m gpu
