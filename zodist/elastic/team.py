"""The processes that are one worker of an elastic run: one by itself, or a shard group.

The processes of a group do all that a worker does at the same time and in the same order, each with its own part of the
weights, and hear the same from the supervisor (shared_line.py).  If one of them dies, all end, and what has started them
starts them again; the other workers of the run go on meanwhile.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Protocol, final

import torch

from zodist.config import Config
from zodist.elastic.connection import Connection
from zodist.elastic.keys import ROUND
from zodist.elastic.shared_line import SharedLine
from zodist.errors import ConfigError
from zodist.exchange import Exchange, level, open_exchange
from zodist.journal import Tensors
from zodist.step import Entry, Replica

if TYPE_CHECKING:
    from zodist.shard import Shards

Make = Callable[[int], bytes]
_SECONDS = struct.Struct("<d")


class Team(Protocol):
    """What a worker asks of its processes; each of them asks the same."""

    @property
    def shards(self) -> Shards | None:
        """The model in parts; None: this process has all of it."""
        ...

    @property
    def speaks(self) -> bool:
        """Whether this process says what a person should know."""
        ...

    def line(self, address: str, timeout_s: float) -> Connection | SharedLine:
        """A line to the supervisor.  Raises WorkerLost if nobody answers."""
        ...

    def width(self, name: str) -> int:
        """How many items of a collection are computed at a time."""
        ...

    def compute(self, items: Sequence[int], width: int, size: int, make: Make) -> tuple[list[bytes], float]:
        """The payloads of at most ``width`` items, each of ``size`` bytes, and the seconds that they have taken."""
        ...

    def decided(self, answer: bool) -> bool:
        """One process's answer to what each may see differently."""
        ...

    def own(self, tensors: Tensors) -> Mapping[str, torch.Tensor]:
        """Of a snapshot, what this process holds."""
        ...

    def level(self, replica: Replica, entries: Sequence[Entry]) -> int:
        """Bring all processes to the step of the most advanced one, by replay, and return that step."""
        ...


@final
class Alone:
    """One process with the whole model."""

    shards = None
    speaks = True

    def line(self, address: str, timeout_s: float) -> Connection:
        return Connection(address, timeout_s)

    def width(self, name: str) -> int:
        return 1

    def compute(self, items: Sequence[int], width: int, size: int, make: Make) -> tuple[list[bytes], float]:
        began = time.monotonic()
        return [make(item) for item in items], time.monotonic() - began

    def decided(self, answer: bool) -> bool:
        return answer

    def own(self, tensors: Tensors) -> Mapping[str, torch.Tensor]:
        return tensors

    def level(self, replica: Replica, entries: Sequence[Entry]) -> int:
        return replica.step


@final
class Group:
    """A shard group.  exchange: among its processes, without waiting for anybody's forwards."""

    def __init__(self, shards: Shards, exchange: Exchange) -> None:
        self.shards, self._exchange = shards, exchange
        self.speaks = exchange.worker == 0

    def line(self, address: str, timeout_s: float) -> SharedLine:
        return SharedLine(self._exchange, address, timeout_s)

    def width(self, name: str) -> int:
        """One for each process, unless all of them evaluate a probe together."""
        return self._exchange.workers // (self.shards.each if name.startswith(ROUND) else 1)

    def compute(self, items: Sequence[int], width: int, size: int, make: Make) -> tuple[list[bytes], float]:
        """Item n is this process's if n is its place, or if all compute it together."""
        began, place = time.monotonic(), self._exchange.worker % width
        payload = make(items[place]) if place < len(items) else bytes(size)
        spent = _SECONDS.pack(time.monotonic() - began)
        found = self.shards.exchange.all_gather(spent + payload)
        seconds = max(_SECONDS.unpack_from(each)[0] for each in found)
        return [each[_SECONDS.size :] for each in found[: len(items)]], seconds

    def decided(self, answer: bool) -> bool:
        return self._exchange.all_gather(bytes([answer]))[0] == b"\1"

    def own(self, tensors: Tensors) -> Mapping[str, torch.Tensor]:
        return self.shards.own(tensors)

    def level(self, replica: Replica, entries: Sequence[Entry]) -> int:
        return level(self._exchange, replica, entries)


@contextmanager
def team_of(config: Config) -> Iterator[Team]:
    """The team that this process is in: the processes of its launcher where [shard] asks for groups, else itself.

    Raises ExchangeError if the processes do not meet, WorkerLost if one is lost while it lasts.
    """
    if config.shard.kind == "none":
        yield Alone()
        return
    from zodist.shard import Shards

    # While the first process waits for the supervisor the others wait for it, and it is to give up before them.
    with closing(open_exchange("auto", 2 * config.exchange.timeout_s)) as exchange:
        with closing(Shards(config, exchange)) as shards, shards.group.watched():
            if shards.group.mesh.replicas > 1:
                size = shards.group.mesh.size
                raise ConfigError(
                    f"{exchange.workers} processes were started together and shard.size is {size}: with exchange.kind = "
                    f"'store' every shard group has a launcher of its own; start {size} processes in each"
                )
            yield Group(shards, exchange)
