#!/usr/bin/env bash
# One command for a CUDA machine: benchmarks/gpu_check.sh RESULTS_DIR. Builds the package with its CUDA kernels for this machine's device,
# runs the GPU tests (a missing GPU is a failure, not a skip), once more under compute-sanitizer where it is installed, and the benchmarks;
# logs and JSON go to RESULTS_DIR. Every step runs even when one before it fails; the exit code is 1 when any did.
set -uo pipefail
[ $# -eq 1 ] || { echo "usage: benchmarks/gpu_check.sh RESULTS_DIR" >&2; exit 2; }
mkdir -p "$1"
results=$(realpath "$1")
cd "$(dirname "$0")/.."
failed=0

step() { # NAME SECONDS COMMAND...: its output to NAME.log
  local name=$1 seconds=$2
  shift 2
  echo "== $name"
  if timeout "$seconds" "$@" >"$results/$name.log" 2>&1; then
    tail -n 2 "$results/$name.log"
  else
    echo "FAILED ($?): $name"
    tail -n 25 "$results/$name.log"
    failed=1
  fi
}

arch=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader | head -n 1 | tr -d .)
nvidia-smi --query-gpu=name,driver_version,compute_cap --format=csv >"$results/device.csv"
export FHRT_FORCE_CUDA=1 FHRT_CUDA_ARCHS="$arch" FHRT_REQUIRE_GPU=1

# Without a network: needs torch, pybind11, setuptools and pytest already there (no conftest, no plugins).
step build 180 python -m pip install -q --no-build-isolation --no-deps -e .
step tests 120 python -m pytest --noconftest -o addopts= -q -m gpu tests/ops/test_gpu.py
if command -v compute-sanitizer >/dev/null; then
  for tool in memcheck racecheck; do
    step "$tool" 120 compute-sanitizer --tool "$tool" --error-exitcode 1 \
      python -m pytest --noconftest -o addopts= -q -m gpu tests/ops/test_gpu.py -k "not 1080 and not capture and not (2-64-128)"
  done
fi
step kernels 120 python -m benchmarks kernels --device cuda --json "$results/kernels.json"
# The engines need more of a machine than the kernels do; say what is missing rather than fail.
if missing=$(python -c 'import cv2, onnx, onnxruntime, platformdirs, pydantic, safetensors' 2>&1); then
  step engines 120 python -m pytest --noconftest -o addopts= -q -rs -m gpu tests/runtime/test_gpu_backends.py
  step model 60 python -m benchmarks model lite --backend torch --device cuda --precision fp16 --batch 1 --batch 32 --runs 50 \
    --json "$results/model-lite-torch.json"
  if python -c 'import tensorrt' 2>/dev/null; then
    step parser 60 python -m pytest --noconftest -o addopts= -q -m trt tests/runtime/test_trt.py
    step model_trt 120 python -m benchmarks model lite --backend tensorrt --device cuda --precision fp16 --batch 1 --batch 32 --runs 50 \
      --json "$results/model-lite-tensorrt.json"
  fi
else
  echo "== engines: left out, ${missing##*$'\n'}"
fi
exit $failed
