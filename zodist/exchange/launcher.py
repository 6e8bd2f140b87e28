"""Who started this process: torchrun, an MPI launcher or nobody, and as which worker of how many.

Read from the environment, without torch and without MPI; whether the workers find each other is the exchange's matter.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# What numbers the processes, what counts them, and what counts those of this host.
_MPI = (
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALNRANKS"),  # MPICH, Intel MPI, srun --mpi=pmi2
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_SIZE"),  # Open MPI
    ("PMIX_RANK", "SLURM_NTASKS", ""),  # srun --mpi=pmix
)


@dataclass(frozen=True, slots=True)
class Start:
    """How this process was started.

    by: the launcher; "" for one process alone.  said: the variable with the number of workers, for messages.  beside:
    workers that share the cores which this process may use, itself included.
    """

    by: Literal["", "torch", "mpi"]
    worker: int
    workers: int
    beside: int
    said: str


def start(cores: int, environment: Mapping[str, str] = os.environ) -> Start:
    """What the environment says; torchrun's variables come first, for it may itself run under an MPI launcher.

    cores: that this process may use.  Where Slurm tells the cores of a task, they say how many tasks share these:
    one if tasks are bound to cores of their own.
    """

    def number(name: str, default: int) -> int:
        text = environment.get(name, "")
        return int(text) if text.isdecimal() else default

    if environment.get("WORLD_SIZE"):
        beside = number("LOCAL_WORLD_SIZE", number("LOCAL_SIZE", 1))  # the second is of DeepSpeed's launcher
        workers = number("WORLD_SIZE", 1)
        return Start("torch", number("RANK", 0), workers, beside, "WORLD_SIZE")
    for rank, size, local in _MPI:
        if rank in environment and number(size, 0):
            each = number("SLURM_CPUS_PER_TASK", 0)
            beside = number(local, cores // each if each else 1)
            return Start("mpi", number(rank, 0), number(size, 1), max(1, beside), size)
    return Start("", 0, 1, 1, "")
