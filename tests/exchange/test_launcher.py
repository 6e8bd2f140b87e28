"""Who started this process, as launchers say it in the environment."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from zodist.errors import ExchangeError
from zodist.exchange.gather import open_exchange
from zodist.exchange.launcher import start

TORCH = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_WORLD_SIZE": "4"}
DEEPSPEED = {"RANK": "3", "WORLD_SIZE": "8", "LOCAL_SIZE": "4"}
HYDRA = {"PMI_RANK": "1", "PMI_SIZE": "4", "MPI_LOCALNRANKS": "2"}
OPEN_MPI = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_SIZE": "2"}
SLURM = {"SLURM_CPUS_PER_TASK": "4", "SLURM_NTASKS": "6"}


@pytest.mark.parametrize(
    ("environment", "cores", "expected"),
    [
        ({}, 8, ("", 0, 1, 1)),
        (SLURM | {"SLURM_PROCID": "2"}, 8, ("", 0, 1, 1)),  # srun of a program that knows no MPI
        (TORCH, 8, ("torch", 3, 8, 4)),
        (DEEPSPEED, 8, ("torch", 3, 8, 4)),
        (TORCH | HYDRA, 8, ("torch", 3, 8, 4)),
        (HYDRA, 8, ("mpi", 1, 4, 2)),
        (OPEN_MPI | {"PMIX_RANK": "1"}, 8, ("mpi", 1, 4, 2)),
        (SLURM | {"PMI_RANK": "5", "PMI_SIZE": "6"}, 4, ("mpi", 5, 6, 1)),  # tasks are bound to their cores
        (SLURM | {"PMI_RANK": "5", "PMI_SIZE": "6"}, 16, ("mpi", 5, 6, 4)),  # they see all cores of the node
        (SLURM | {"PMIX_RANK": "5"}, 4, ("mpi", 5, 6, 1)),
    ],
)
def test_a_launcher_is_known_by_its_variables(environment, cores, expected):
    found = start(cores, environment)
    assert (found.by, found.worker, found.workers, found.beside) == expected


def test_one_worker_where_mpi_has_started_several_is_refused(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    for name, value in HYDRA.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ExchangeError, match="'local' is for one worker, but PMI_SIZE is 4"):
        open_exchange("local", 1.0)


def test_mpi_without_mpi4py_is_a_sentence_with_the_command():
    code = (
        "import sys; sys.modules['mpi4py'] = None\n"
        "from zodist.errors import ExchangeError\n"
        "from zodist.exchange.gather import open_exchange\n"
        "try: open_exchange('mpi', 1.0)\n"
        "except ExchangeError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.startswith("exchange.kind = 'mpi' finds no MPI") and "pip install 'zodist[mpi]'" in said


def test_signals_are_noted_before_torch_is_imported():
    """An early SIGUSR1 must not end the process: importing torch takes seconds."""
    code = (
        "import os, signal, sys\n"
        "import zodist.__main__ as program\n"
        "def at_once(*_): os.kill(os.getpid(), signal.SIGUSR1); print('alive', 'torch' in sys.modules)\n"
        "sys.addaudithook(lambda event, args: at_once() if event == 'open' and 'none.toml' in str(args[0]) else None)\n"
        "sys.argv[1:] = ['train', 'none.toml']\n"
        "program.main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 2 and done.stdout == "alive False\n", (done, signal.SIGUSR1)
