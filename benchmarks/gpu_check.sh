#!/usr/bin/env bash
# One command for a CUDA machine, in under nine minutes: benchmarks/gpu_check.sh [--rehearse] [--only STEP]... [--data DIR] OUT
# Builds the kernels for the device that is here, runs every GPU test (a missing device is a failure, not a skip), measures kernels, models and
# training beside their aims, and runs the kernels once more under compute-sanitizer. OUT gets summary.md, results.json and log.txt.
# Needs torch and nvcc. Other packages may come as wheels, for there may be no network: FHRT_WHEELS names their folder (benchmarks/gpu_wheels.sh
# makes it). --rehearse does the same on the CPU. PYTHON names the interpreter. Exit code 1 when anything failed.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-python3}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
if [ -n "${FHRT_WHEELS:-}" ]; then
  "$python" -m pip install -q --no-index --no-deps --no-compile --target "$scratch/site" "$FHRT_WHEELS"/*.whl
fi
export PYTHONPATH="$scratch/site:$root" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 FHRT_CACHE="$scratch/cache"
"$python" -m benchmarks.gpu_check --scratch "$scratch" "$@"
