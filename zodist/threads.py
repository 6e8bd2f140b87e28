"""One thread budget for torch's and numba's pools.

Two pools that each have a thread per core, and workers of one host that each think the host is theirs, spin against each
other; a step then takes ten times as long.  So every worker gets its share of the cores, and idle threads sleep.
"""

from __future__ import annotations

import os


def prepare_environment() -> None:
    """Set what the pools read when they start; called before torch is imported.  What the user has set stays."""
    # An idle OpenMP thread otherwise spins for milliseconds on the core that numba's kernel needs.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    # numba's own pool: always there, and its idle threads sleep.
    os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")


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

    torch.set_num_threads(n)
    numba.set_num_threads(min(n, numba.config.NUMBA_NUM_THREADS))  # type: ignore[attr-defined]
