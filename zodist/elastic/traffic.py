"""What the workers of an elastic run have sent, received and spent: each says so now and then, the supervisor adds up."""

from __future__ import annotations

import struct
from dataclasses import astuple, dataclass

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from zodist.elastic.frames import Refused, Seal

_FIGURES = struct.Struct("<QQQddd")
BYTES, SECONDS = ("sent", "received", "records_sent"), ("forward_s", "gather_s", "update_s")


@dataclass(frozen=True, slots=True)
class Traffic:
    """Payload bytes and seconds of one worker.

    records_sent: bytes of its records alone, without their messages' frames.  forward_s, gather_s, update_s: in forward
    passes, in waiting for the others and the exchange, and in moving the weights.
    """

    sent: int = 0
    received: int = 0
    records_sent: int = 0
    forward_s: float = 0.0
    gather_s: float = 0.0
    update_s: float = 0.0

    def since(self, before: Traffic) -> bytes:
        """What came after an earlier moment, as the payload of a message."""
        return _FIGURES.pack(*(a - b for a, b in zip(astuple(self), astuple(before), strict=True)))


class Ledger:
    """The newest figures of every worker that has ever joined."""

    def __init__(self, store: TCPStore, seal: Seal) -> None:
        self._store, self._seal = store, seal
        self._known: dict[int, Traffic] = {}
        self._before: set[int] = set()

    def total(self, here: set[int]) -> Traffic:
        """Sums over all workers.  here: those that may have news."""
        for worker in here | self._before:  # who has left since the last time has said its last
            key = f"traffic/{worker}"
            if self._store.check([key]):
                try:
                    payload = self._seal.open(self._store.get(key), key, size=_FIGURES.size).payload
                except Refused:
                    continue
                self._known[worker] = Traffic(*_FIGURES.unpack(payload))
        self._before = here
        known = [astuple(one) for one in self._known.values()]
        return Traffic(*map(sum, zip(*known, strict=True)))
