"""The workers that hold one model together: torch's default process group, made of them alone.

DeepSpeed and torch cut weights over the default group unless told otherwise, in every place.  Here that group is the
shard group, so nothing has to be told, and a replica neither waits for another nor dies with it.  What travels between
replicas goes through the exchange, which has a group of its own.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, final

import numpy as np
import torch
import torch.distributed as dist
from torch.distributed import PrefixStore, TCPStore  # pyright: ignore

from zodist.errors import ExchangeError, WorkerLost
from zodist.exchange import Exchange, share
from zodist.shard.mesh import Mesh


@final
class ShardGroup:
    """This worker's shard group.  mesh: its place in it."""

    def __init__(self, mesh: Mesh, exchange: Exchange, timeout_s: float, *, cuda: bool = False) -> None:
        """Meet the others of the group; every worker of the run calls this.

        Raises ExchangeError where they do not meet within timeout_s seconds, or where this process has a default group.
        """
        if dist.is_initialized():
            raise ExchangeError(
                "shard.kind needs torch's default process group for the shard group, but this process has made one "
                "already; start the run in a process of its own"
            )
        self.mesh, limit = mesh, timedelta(seconds=timeout_s)
        self._hosted: Any = None
        address = b""
        if exchange.worker == 0:
            host = os.environ.get("MASTER_ADDR") or socket.gethostname()
            host = host if exchange.workers > 1 else "127.0.0.1"
            self._hosted = TCPStore(host, 0, is_master=True, wait_for_workers=False, timeout=limit)
            address = f"{host} {self._hosted.port}".encode()
        host, port = share(exchange, address if exchange.worker == 0 else None).decode().split()
        try:
            store = self._hosted or TCPStore(host, int(port), is_master=False, timeout=limit)
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if cuda else "gloo",
                store=PrefixStore(f"shards/{mesh.replica}", store),
                rank=mesh.place,
                world_size=mesh.size,
                timeout=limit,
            )
        except (RuntimeError, TimeoutError) as error:
            raise ExchangeError(
                f"worker {exchange.worker} did not find the {mesh.size} workers of its shard group at {host}:{port} "
                f"within {timeout_s:g} s; see if each has started and reaches it, or raise exchange.timeout_s"
            ) from error

    def all_gather(self, payload: bytes) -> list[bytes]:
        """The payloads of the workers of the group, of equal length, in their order."""
        own = torch.from_numpy(np.frombuffer(payload, np.uint8).copy())
        found = [torch.empty_like(own) for _ in range(self.mesh.size)]
        dist.all_gather(found, own)
        return [each.numpy().tobytes() for each in found]

    def numbers(self, number: int) -> list[int]:
        """A 64-bit number of every worker of the group, in their order."""
        return [int.from_bytes(found, "little") for found in self.all_gather(number.to_bytes(8, "little"))]

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While it lasts, the loss of a worker, wherever in a library it is noticed, is a WorkerLost."""
        try:
            yield
        except RuntimeError as error:
            if isinstance(error, dist.DistError) or "gloo" in str(error):
                raise WorkerLost(
                    f"the shard group of replica {self.mesh.replica} has lost a worker, or one did not answer in time "
                    f"({str(error).splitlines()[0]}); start the run again: it goes on where the journal ends"
                ) from error
            raise

    def close(self) -> None:
        """Leave the group."""
        if dist.is_initialized():
            dist.destroy_process_group()
        self._hosted = None
