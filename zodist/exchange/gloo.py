"""Gloo between the processes that torchrun has started, or anything that sets the same variables.

Frames are small, so what counts is how many messages follow one another: small ones go directly from every worker to
every other (all-to-all, one hop), large ones round a ring (all-gather), which needs no copy for each worker.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, final

import numpy as np
import torch
import torch.distributed as dist

from zodist.errors import ExchangeError
from zodist.exchange.frames import FramedExchange
from zodist.exchange.meeting import meet

DIRECT_BYTES = 1 << 20  # of the frames of all workers, the most that is copied for each
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@final
class TorchExchange(FramedExchange):
    """It makes its own process group over its own store, and neither uses nor touches torch's default group.

    initialised: the program has called torch.distributed.init_process_group; its group makes ours, over its own store.
    """

    def __init__(self, timeout_s: float, *, initialised: bool = False) -> None:
        """Connect to all workers; ExchangeError if they do not all appear within timeout_s seconds."""
        if not (dist.is_available() and dist.is_gloo_available()):
            raise ExchangeError(
                "this torch has no gloo; install a torch with torch.distributed, or start one worker"
            )
        # Not at the top: a torch without gloo lacks these.
        from torch._C._distributed_c10d import AllgatherOptions, AllToAllOptions, ProcessGroupGloo

        self._ring_options, self._direct_options = AllgatherOptions, AllToAllOptions
        self._registered = initialised
        limit = timedelta(seconds=timeout_s)
        if initialised:
            self._group: Any = dist.new_group(timeout=limit, backend="gloo")
            super().__init__(dist.get_rank(), dist.get_world_size(), timeout_s)
            return
        worker, workers, host, port = _environment()
        try:
            self._group = ProcessGroupGloo(
                _store(worker, workers, host, port, timeout_s), worker, workers, limit
            )
        except (RuntimeError, TimeoutError) as error:
            raise ExchangeError(
                f"worker {worker} did not find all {workers} workers at {host}:{port} within {timeout_s:g} s; see if "
                "each has started and reaches it, or raise exchange.timeout_s"
            ) from error
        super().__init__(worker, workers, timeout_s)

    def _buffers(self) -> None:
        self._direct = self._all.nbytes <= DIRECT_BYTES
        self._copies = np.zeros_like(self._all) if self._direct else self._own
        self._send, self._receive = torch.from_numpy(self._copies), torch.from_numpy(self._all)  # views

    def _swap(self, timeout_s: float) -> None:
        options = (self._direct_options if self._direct else self._ring_options)()
        options.timeout = timedelta(seconds=timeout_s)
        try:
            if self._direct:
                self._copies[:] = self._own
                self._group.alltoall_base(self._receive, self._send, [], [], options).wait()
            else:
                self._group.allgather([list(self._receive)], [self._send], options).wait()
        except RuntimeError as error:
            late = "timed out" in str(error).lower()
            raise (TimeoutError if late else ConnectionError)(str(error)) from error

    def _release(self) -> None:
        if self._registered and dist.is_initialized():
            dist.destroy_process_group(self._group)
        self._group = None


def _environment() -> tuple[int, int, str, int]:
    """Worker, workers, host and port, as torchrun passes them."""
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing:
        raise ExchangeError(
            f"exchange.kind = 'torch' needs {', '.join(missing)} in the environment; start with torchrun, or set "
            "exchange.kind = 'local' for one process"
        )
    rank, world, host, port = (os.environ[name] for name in _VARIABLES)
    if not (rank.isdecimal() and world.isdecimal() and port.isdecimal() and int(rank) < int(world)):
        raise ExchangeError(
            f"RANK = {rank!r} of WORLD_SIZE = {world!r} at MASTER_PORT = {port!r} is not a worker"
        )
    return int(rank), int(world), host, int(port)


def _store(worker: int, workers: int, host: str, port: int, timeout_s: float) -> Any:
    """The place where the workers of this start find each other's addresses."""
    hosted_by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    from torch.distributed import PrefixStore, TCPStore  # pyright: ignore

    store = TCPStore(
        host,
        port,
        is_master=worker == 0 and not hosted_by_agent,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
        multi_tenant=True,  # torch's own default group may have its store at this address
    )
    return PrefixStore(f"zodist/{meet(PrefixStore('zodist', store), worker, workers, timeout_s)}", store)
