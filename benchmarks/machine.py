"""What a benchmark ran on, its load included."""

import os

from fhrt import machine

PACKAGES = ("fhrt", "numpy", "onnxruntime", "openvino", "torch", "opencv-python-headless", "scikit-image")


def describe() -> dict[str, object]:
    """As `fhrt.machine.describe`, with the memory in GiB and the load average of the last minute."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return machine.describe(PACKAGES) | {"memory_gib": round(memory, 1), "load_average": round(os.getloadavg()[0], 2)}
