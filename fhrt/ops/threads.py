"""How many threads the native operations use."""

from __future__ import annotations

import os

from fhrt import _C
from fhrt.errors import BadInputError
from fhrt.machine import cores, usable_cores

if usable_cores() < cores():  # by a container's quota, of which the native module asks nobody
    os.environ.setdefault("FHRT_NUM_THREADS", str(usable_cores()))


def set_num_threads(count: int) -> None:
    """Use ``count`` threads for every native CPU op; 0 restores the default (FHRT_NUM_THREADS, or the cores that the process may use)."""
    if count < 0:
        raise BadInputError(f"the number of threads must not be negative, got {count}")
    _C.set_num_threads(count)


def stay_alone() -> None:
    """From now on native CPU ops that the calling thread runs wake no others: for one of several threads that share the cores."""
    _C.stay_alone()


def get_num_threads() -> int:
    """Threads that the native CPU ops use."""
    return int(_C.get_num_threads())
