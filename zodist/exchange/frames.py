"""What travels between workers: frames of equal size, and what they say besides the payload.

A frame is the payload's length (4 bytes, little endian) and room for the payload.  Networks end the process, or hang,
if workers pass different sizes, so the size of a frame never depends on this worker's payload alone: there is room for
the last payload that all workers agreed on, at least 64 bytes.  A longer one first sends only its length, and goes in
a second frame once all lengths are known to be equal.  The room follows from the agreed lengths, so it is the same on
every worker.

The highest bit of the length says that its worker was asked to stop.  All workers see the same frames, so after an
all-gather all give the same answer to whether the run should stop: no message is added, and nobody runs ahead.

A worker that closes its exchange tells the others, who may still expect records from it: they stop with an error that
names it instead of waiting for the timeout.  After a worker is lost the exchange cannot be used again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from zodist.errors import ExchangeError, WorkerLost
from zodist.exchange import stopping

_LENGTH_BYTES = 4
_STOP = 1 << 31
_LEFT = _STOP - 1  # in place of a length: this worker closes its exchange
_LEAST_ROOM = 64
_GOODBYE_S = 5.0


class FramedExchange(ABC):
    """An exchange over a network that can swap the frames of all workers; see zodist.exchange.gather.Exchange."""

    def __init__(self, worker: int, workers: int, timeout_s: float) -> None:
        """For a subclass whose network is connected."""
        self.worker, self.workers = worker, workers
        self.sent = self.received = 0
        self.stopping = False
        self._timeout_s = timeout_s
        self._broken = ""
        self._closed = False
        self._make_room(_LEAST_ROOM)

    @abstractmethod
    def _buffers(self) -> None:
        """Prepare for frames of the size of `_own`."""

    @abstractmethod
    def _swap(self, timeout_s: float) -> None:
        """One collective: `_own` of every worker into the rows of `_all`, in worker order.

        Raises TimeoutError if it takes longer than timeout_s seconds, ConnectionError if a worker is lost.
        """

    @abstractmethod
    def _release(self) -> None:
        """Give the network back; called once."""

    def all_gather(self, payload: bytes) -> list[bytes]:
        """The payloads of all workers; see the interface."""
        if self._broken:
            raise WorkerLost(self._broken)
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
        payloads = [row[_LENGTH_BYTES:end].tobytes() for row in self._all]
        self.sent += (self.workers - 1) * length
        self.received += (self.workers - 1) * length
        if max(length, _LEAST_ROOM) != self._room:
            self._make_room(max(length, _LEAST_ROOM))
        return payloads

    def close(self) -> None:
        """Tell the others and release the network."""
        if self._closed:
            return
        self._closed = True
        if not self._broken:
            try:
                # Nobody leaves before all have read the last record, which a closed connection would take away.
                self._frame(_LEFT, b"", min(_GOODBYE_S, self._timeout_s))
            except ExchangeError:
                pass  # the others are gone, or will notice
            self._broken = "this worker has closed its exchange"
        self._release()

    def _make_room(self, room: int) -> None:
        """The buffers for frames of this size."""
        self._room = room
        self._own = np.zeros(_LENGTH_BYTES + room, np.uint8)
        self._all = np.zeros((self.workers, _LENGTH_BYTES + room), np.uint8)
        self._buffers()

    def _frame(self, length: int, payload: bytes, timeout_s: float) -> None:
        """Length and payload of every worker into `_all`."""
        word = length | _STOP if stopping.asked() else length
        data = word.to_bytes(_LENGTH_BYTES, "little") + payload
        self._own[: len(data)] = np.frombuffer(data, np.uint8)
        try:
            self._swap(timeout_s)
        except TimeoutError as error:
            self._broken = (
                f"worker {self.worker} had no answer from the others for {timeout_s:g} s; one of the {self.workers} is "
                "stopped, unreachable or slow: look there or raise exchange.timeout_s"
            )
            raise WorkerLost(self._broken) from error
        except ConnectionError as error:
            self._broken = (
                f"worker {self.worker} lost its connection to another of the {self.workers} workers, which most likely "
                "has ended: see the others' output, then start the run again"
            )
            raise WorkerLost(self._broken) from error
        words = self._all[:, :_LENGTH_BYTES].copy().view("<u4")[:, 0]
        self._lengths = [int(word) & (_STOP - 1) for word in words]
        self.stopping = self.stopping or bool((words & _STOP).any())

    def _check(self, length: int) -> None:
        """Raise ExchangeError unless every worker has sent this length."""
        for worker, found in enumerate(self._lengths):
            if found == _LEFT:
                self._broken = (
                    f"worker {worker} has left the run while worker {self.worker} goes on: see its output for the "
                    "reason, then start the run again to resume it"
                )
                raise ExchangeError(self._broken)
            if found != length:
                raise ExchangeError(
                    f"worker {worker} sent {found} bytes where worker {self.worker} sent {length}; start all workers "
                    "with the same config and the same version of zodist"
                )
