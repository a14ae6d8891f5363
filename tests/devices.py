"""Which device the tests marked ``gpu`` run on: CUDA, or by FHRT_TEST_DEVICE=cpu the processor, as a rehearsal of their lines."""

import os

import pytest
import torch

from fhrt import _C

DEVICE = os.environ.get("FHRT_TEST_DEVICE", "cuda")


def need_device() -> None:
    """Skips where the device is missing, or fails where FHRT_REQUIRE_GPU says that it must be there."""
    missing = None if torch.cuda.is_available() else "no CUDA device"
    missing = missing or (None if hasattr(_C, "cuda") else "fhrt was built without CUDA (there was no nvcc)")
    if missing is None or DEVICE == "cpu":
        return
    if os.environ.get("FHRT_REQUIRE_GPU") == "1":
        pytest.fail(missing)
    pytest.skip(missing)
