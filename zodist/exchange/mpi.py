"""MPI between the processes that mpirun, or srun with PMI, has started: the same frames, one Iallgather each.

MPI libraries wait by spinning, which takes the cores from the workers that still compute, and know no timeout.  So a
collective is started, and asked for with short sleeps in between until it is done or the time is up.

MPI cannot go on without a process that died: the launcher ends all of them, and the same command resumes the run.
"""

from __future__ import annotations

import atexit
import time
from typing import Any, final

from zodist.errors import ExchangeError
from zodist.exchange.frames import FramedExchange

_SPIN_S = 50e-6  # on an idle machine the answer comes within this
_SHORTEST_S, _LONGEST_S = 20e-6, 1e-3  # between two looks


@final
class MpiExchange(FramedExchange):
    """All processes of MPI's world, on a communicator of its own."""

    def __init__(self, timeout_s: float) -> None:
        """Connect to all workers; ExchangeError if there is no MPI or they do not all come within timeout_s seconds."""
        self._mpi = mpi = _initialised()
        world = mpi.COMM_WORLD
        worker, workers = world.Get_rank(), world.Get_size()
        try:
            self._world, request = world.Idup()
            self._wait(request, timeout_s)
        except (TimeoutError, ConnectionError) as error:
            atexit.unregister(mpi.Finalize)
            raise ExchangeError(
                f"worker {worker} did not find all {workers} workers of MPI within {timeout_s:g} s; see if each has "
                "started, or raise exchange.timeout_s"
            ) from error
        super().__init__(worker, workers, timeout_s)

    def _buffers(self) -> None:
        pass  # MPI takes the arrays as they are

    def _swap(self, timeout_s: float) -> None:
        try:
            self._wait(self._world.Iallgather(self._own, self._all), timeout_s)
        except (TimeoutError, ConnectionError):
            atexit.unregister(self._mpi.Finalize)  # it would wait for the others
            raise

    def _wait(self, request: Any, timeout_s: float) -> None:
        began, pause = time.monotonic(), _SHORTEST_S
        try:
            while not request.Test():
                waited = time.monotonic() - began
                if waited > timeout_s:
                    raise TimeoutError
                if waited > _SPIN_S:
                    time.sleep(pause)
                    pause = min(2 * pause, _LONGEST_S)
        except self._mpi.Exception as error:
            raise ConnectionError(str(error)) from error

    def _release(self) -> None:
        pass  # the communicator ends with MPI: freeing it is another collective


def _initialised() -> Any:
    """The module mpi4py.MPI with MPI started; if it is by us, it ends with the process."""
    try:
        import mpi4py

        mpi4py.rc.initialize = mpi4py.rc.finalize = False
        from mpi4py import MPI
    except (ImportError, RuntimeError) as error:
        raise ExchangeError(
            f"exchange.kind = 'mpi' finds no MPI ({error}); pip install 'zodist[mpi]', or mpi4py for the MPI of this "
            "cluster"
        ) from error
    if not MPI.Is_initialized():
        MPI.Init_thread()
        atexit.register(MPI.Finalize)
    return MPI
