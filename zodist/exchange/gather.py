"""The network: one verb, an all-gather of equal-size byte records in worker order.

Everything else is built on it; every sum is made after it, locally, in index order.  What networks have in common is in
frames.py, gloo in gloo.py, MPI in mpi.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, Protocol, final

from zodist.errors import ExchangeError
from zodist.exchange import stopping
from zodist.exchange.launcher import start
from zodist.exchange.threads import cores

_BEGUN = 56  # bytes that go along with the length of what is shared: both fill the smallest frame (frames.py)


class AllGather(Protocol):
    """Some workers that hand each other bytes."""

    @property
    def worker(self) -> int:
        """This worker's number, 0 .. workers - 1."""
        ...

    @property
    def workers(self) -> int:
        """The number of workers."""
        ...

    def all_gather(self, payload: bytes) -> list[bytes]:
        """The payloads of all workers, in worker order; every worker must call it with the same length.

        Raises ExchangeError if the lengths differ, a worker is lost, or the time is up.
        """
        ...


class Exchange(AllGather, Protocol):
    """A connection to all workers of a run."""

    @property
    def sent(self) -> int:
        """Payload bytes sent so far, once for each of the other workers."""
        ...

    @property
    def received(self) -> int:
        """Payload bytes received so far from the other workers."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether a worker had been asked to stop at some all-gather so far: the same answer on all workers."""
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

    def __init__(self) -> None:
        self.stopping = False

    def all_gather(self, payload: bytes) -> list[bytes]:
        self.stopping = bool(stopping.asked())
        return [bytes(payload)]

    def close(self) -> None:
        pass


def open_exchange(kind: Literal["auto", "local", "torch", "mpi"], timeout_s: float) -> Exchange:
    """The exchange that a config asks for; "auto" is that of the launcher, if it has started several processes.

    Raises ExchangeError if the workers do not meet within timeout_s seconds, or the kind does not fit.
    """
    begun = start(cores())
    if kind == "torch" or (kind == "auto" and begun.workers > 1 and begun.by == "torch"):
        from zodist.exchange.gloo import TorchExchange

        return TorchExchange(timeout_s)
    if kind == "mpi" or (kind == "auto" and begun.workers > 1):
        from zodist.exchange.mpi import MpiExchange

        return MpiExchange(timeout_s)
    if begun.workers > 1:
        raise ExchangeError(
            f"exchange.kind = 'local' is for one worker, but {begun.said} is {begun.workers}; set exchange.kind = "
            "'auto', or start one process"
        )
    return LocalExchange()


def share(exchange: AllGather, data: bytes | None) -> bytes:
    """Worker 0's bytes, on every worker; what the others pass is not looked at."""
    if exchange.worker != 0:
        data = None
    elif data is None:
        raise ValueError("worker 0 has no data to share")
    begun = b"" if data is None else len(data).to_bytes(8, "little") + data[:_BEGUN]
    first = exchange.all_gather(begun.ljust(8 + _BEGUN, b"\0"))[0]
    length = int.from_bytes(first[:8], "little")
    if length <= _BEGUN:
        return first[8 : 8 + length]
    return exchange.all_gather(bytes(length) if data is None else data)[0]


def collect(among: AllGather, count: int, size: int, make: Callable[[int], bytes]) -> list[bytes]:
    """The payloads of numbered items, each of ``size`` bytes, in order; this worker makes every W-th."""
    worker, workers = among.worker, among.workers
    own = b"".join(make(item) for item in range(worker, count, workers))
    slots = -(-count // workers)  # messages of equal size: short shares are filled up
    shares = among.all_gather(own.ljust(slots * size, b"\0"))
    places = [divmod(item, workers) for item in range(count)]
    return [shares[w][slot * size : (slot + 1) * size] for slot, w in places]
