"""One thread budget for torch's and numba's pools, and a heap that keeps what a forward will need again.

Two pools that each have a thread per core, and workers of one host that each think the host is theirs, spin
against each other; a step then takes ten times as long.  So every worker gets its share of the cores, and
idle threads sleep.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, malloc.h
_LARGEST = 32 << 20  # bytes; the highest threshold that glibc accepts
_SMALL = 1 << 20  # bytes; what a part of a small layer has


def prepare_environment() -> None:
    """Set what the pools read when they start; called before torch is imported.  What the user has set stays."""
    # An idle OpenMP thread otherwise spins for milliseconds on the core that numba's kernel needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # numba's own pool: always there, and its idle threads sleep.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")
    # torch's store warns of every wait that ends without news, which in an elastic run is its daily business.
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    # accelerate imports DeepSpeed where it is installed, which says on standard output that it looks for an accelerator.
    if not os.path.exists("/dev/nvidiactl"):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Tell glibc to reuse freed activations rather than return them: fetching their pages anew took 10-20 % of a step.

    Buffers above 32 MB still go back at once.  Other C libraries have no such call, and need none.
    """
    _mallopt({_MMAP_THRESHOLD: _LARGEST, _TRIM_THRESHOLD: 2**31 - 1})


def return_freed_memory() -> None:
    """Tell glibc the opposite, for weights that come and go in pieces: the heap had gaps as large as all of them.

    Loading a sharded model of 344 MB left 270 MB of gaps, and 3 MB this way.
    """
    _mallopt({_MMAP_THRESHOLD: _SMALL, _TRIM_THRESHOLD: _SMALL})


def _mallopt(options: dict[int, int]) -> None:
    if any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ):
        return
    mallopt: Any = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        for option, value in options.items():
            mallopt(option, value)


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def budget(workers_on_host: int) -> int:
    """Threads for each of some workers that share a host."""
    return max(1, cores() // max(1, workers_on_host))


def set_threads(n: int) -> None:
    """Give torch and numba n threads each; they never work at the same time."""
    import numba
    import torch

    # numba first: where its threads are OpenMP's, starting them sets the number for everybody.
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
    torch.set_num_threads(n)
