"""The network: one verb, an all-gather of equal-size byte records in worker order.

Everything else is built on it; every sum is made after it, locally, in index order.  A frame on the wire is
the payload's length (4 bytes, little endian) and room for the payload.  Gloo ends the process if workers
pass different sizes, so the size of a frame never depends on this worker's payload alone: there is room for
the last payload that all workers agreed on, at least 64 bytes.  A longer one first sends only its length,
and goes in a second frame once all lengths are known to be equal.  The room follows from the agreed
lengths, so it is the same on every worker.

A worker that closes its exchange tells the others, who may still expect records from it: they stop with an
error that names it instead of waiting for the timeout.  After a worker is lost the exchange cannot be used
again.
"""

from __future__ import annotations

import os
from datetime import timedelta
from typing import Any, Literal, Protocol, final

import numpy as np
import torch
import torch.distributed as dist

from zodist.errors import ExchangeError

_LENGTH_BYTES = 4
_LEFT = 0xFFFFFFFF  # in place of a length: this worker closes its exchange
_LEAST_ROOM = 64
_GOODBYE_S = 5.0
_VARIABLES = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


class Exchange(Protocol):
    """A connection to all workers of a run."""

    @property
    def worker(self) -> int:
        """This worker's number, 0 .. workers - 1."""
        ...

    @property
    def workers(self) -> int:
        """The number of workers."""
        ...

    @property
    def sent(self) -> int:
        """Payload bytes sent so far, once for each of the other workers."""
        ...

    @property
    def received(self) -> int:
        """Payload bytes received so far from the other workers."""
        ...

    def all_gather(self, payload: bytes) -> list[bytes]:
        """The payloads of all workers, in worker order; every worker must call it with the same length.

        Raises ExchangeError if the lengths differ, a worker is lost, or the time is up.
        """
        ...

    def close(self) -> None:
        """Release the connection; further calls do nothing."""
        ...


@final
class LocalExchange:
    """A run of one worker."""

    worker = 0
    workers = 1
    sent = 0
    received = 0

    def all_gather(self, payload: bytes) -> list[bytes]:
        return [bytes(payload)]

    def close(self) -> None:
        pass


@final
class TorchExchange:
    """Gloo between the processes that torchrun (or anything that sets the same variables) has started.

    It makes its own process group over its own store, and neither uses nor touches torch's default group.
    """

    def __init__(self, timeout_s: float) -> None:
        """Connect to all workers; ExchangeError if they do not all appear within timeout_s seconds."""
        if not (dist.is_available() and dist.is_gloo_available()):
            raise ExchangeError(
                "this torch has no gloo; install a torch with torch.distributed, or start one worker"
            )
        # Not at the top: a torch without gloo lacks these.
        from torch.distributed.distributed_c10d import AllgatherOptions, ProcessGroupGloo  # pyright: ignore

        self.worker, self.workers, host, port = _environment()
        self.sent = 0
        self.received = 0
        self._timeout_s = timeout_s
        self._broken = ""
        try:
            store = _store(self.worker, host, port, timeout_s)
            limit = timedelta(seconds=timeout_s)
            self._group: Any = ProcessGroupGloo(store, self.worker, self.workers, limit)
        except RuntimeError as error:
            raise ExchangeError(
                f"worker {self.worker} did not find all {self.workers} workers at {host}:{port} within"
                f" {timeout_s:g} s; see if each has started and reaches it, or raise exchange.timeout_s"
            ) from error
        self._options = AllgatherOptions
        self._make_room(_LEAST_ROOM)

    def all_gather(self, payload: bytes) -> list[bytes]:
        if self._broken:
            raise ExchangeError(self._broken)
        length = len(payload)
        if length >= _LEFT:
            raise ValueError(f"a payload of {length} bytes is too long; it must be below {_LEFT}")
        fits = length <= self._room
        self._frame(length, payload if fits else b"", self._timeout_s)
        self._check(length)
        if not fits:
            self._make_room(length)
            self._frame(length, payload, self._timeout_s)
        end = _LENGTH_BYTES + length
        payloads = [row[_LENGTH_BYTES:end].tobytes() for row in self._rows]
        self.sent += (self.workers - 1) * length
        self.received += (self.workers - 1) * length
        if max(length, _LEAST_ROOM) != self._room:
            self._make_room(max(length, _LEAST_ROOM))
        return payloads

    def close(self) -> None:
        if self._group is not None and not self._broken:
            self._broken = "this worker has closed its exchange"
            try:
                # Nobody leaves before all have read the last record, which a closed socket would take away.
                self._frame(_LEFT, b"", min(_GOODBYE_S, self._timeout_s))
            except ExchangeError:
                pass  # the others are gone, or will notice
        self._group = None

    def _make_room(self, room: int) -> None:
        """The one pair of buffers, for frames of this size."""
        self._room = room
        self._send = torch.zeros(_LENGTH_BYTES + room, dtype=torch.uint8)
        self._receive = [torch.zeros_like(self._send) for _ in range(self.workers)]
        self._row = self._send.numpy()  # views: no copies, no tensors in the byte work below
        self._rows = [tensor.numpy() for tensor in self._receive]

    def _frame(self, length: int, payload: bytes, timeout_s: float) -> None:
        """One collective: length and payload of every worker into `_rows`."""
        data = length.to_bytes(_LENGTH_BYTES, "little") + payload
        self._row[: len(data)] = np.frombuffer(data, dtype=np.uint8)
        options = self._options()
        options.timeout = timedelta(seconds=timeout_s)
        try:
            self._group.allgather([self._receive], [self._send], options).wait()
        except RuntimeError as error:
            if "timed out" in str(error).lower():
                self._broken = (
                    f"worker {self.worker} had no answer from the others for {timeout_s:g} s; one of the"
                    f" {self.workers} is stopped, unreachable or slow: look there or raise exchange.timeout_s"
                )
            else:
                self._broken = (
                    f"worker {self.worker} lost its connection to another of the {self.workers} workers,"
                    " which most likely has ended: see the others' output, then start the run again"
                )
            raise ExchangeError(self._broken) from error

    def _check(self, length: int) -> None:
        """Raise ExchangeError unless every worker has sent this length."""
        for worker, row in enumerate(self._rows):
            found = int.from_bytes(row[:_LENGTH_BYTES].tobytes(), "little")
            if found == _LEFT:
                self._broken = (
                    f"worker {worker} has left the run while worker {self.worker} goes on: see its output for"
                    " the reason, then start the run again to resume it"
                )
                raise ExchangeError(self._broken)
            if found != length:
                raise ExchangeError(
                    f"worker {worker} sent {found} bytes where worker {self.worker} sent {length}; start all"
                    " workers with the same config and the same version of zodist"
                )


def open_exchange(kind: Literal["auto", "local", "torch"], timeout_s: float) -> Exchange:
    """The exchange that a config asks for; "auto" is torch if torchrun has started more than one process.

    Raises ExchangeError if the workers do not meet within timeout_s seconds, or the kind does not fit.
    """
    several = os.environ.get("WORLD_SIZE", "1") != "1"
    if kind == "torch" or (kind == "auto" and several):
        return TorchExchange(timeout_s)
    if several:
        raise ExchangeError(
            f"exchange.kind = 'local' is for one worker, but WORLD_SIZE is {os.environ['WORLD_SIZE']}; set"
            " exchange.kind = 'auto', or start one process"
        )
    return LocalExchange()


def share(exchange: Exchange, data: bytes | None) -> bytes:
    """Worker 0's bytes, on every worker; what the others pass is not looked at."""
    if exchange.worker != 0:
        data = None
    elif data is None:
        raise ValueError("worker 0 has no data to share")
    lengths = exchange.all_gather((len(data) if data is not None else 0).to_bytes(8, "little"))
    length = int.from_bytes(lengths[0], "little")
    return exchange.all_gather(bytes(length) if data is None else data)[0]


def _environment() -> tuple[int, int, str, int]:
    """Worker, workers, host and port, as torchrun passes them."""
    missing = [name for name in _VARIABLES if not os.environ.get(name)]
    if missing:
        raise ExchangeError(
            f"exchange.kind = 'torch' needs {', '.join(missing)} in the environment; start with torchrun, or"
            " set exchange.kind = 'local' for one process"
        )
    rank, world, host, port = (os.environ[name] for name in _VARIABLES)
    if not (rank.isdecimal() and world.isdecimal() and port.isdecimal() and int(rank) < int(world)):
        raise ExchangeError(
            f"RANK = {rank!r} of WORLD_SIZE = {world!r} at MASTER_PORT = {port!r} is not a worker"
        )
    return int(rank), int(world), host, int(port)


def _store(worker: int, host: str, port: int, timeout_s: float) -> Any:
    """The place where the workers of this start find each other's addresses.

    torchrun keeps its store when it restarts the workers, so the keys carry the number of the restart: a
    worker must not find the address of a dead one.  The second number is for exchanges opened in turn.
    """
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
    attempt = PrefixStore(f"zodist/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    turn = attempt.add(f"turn/{worker}", 1)
    return PrefixStore(f"{turn}", attempt)
