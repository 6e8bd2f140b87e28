"""A run's workers, and the shard groups among them where [shard] asks for some."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

from zodist.config import Config
from zodist.exchange import Exchange, open_exchange

if TYPE_CHECKING:
    from zodist.shard.shards import Shards


@contextmanager
def joined(config: Config) -> Iterator[tuple[Exchange, Shards | None]]:
    """The exchange between all workers, and this worker's part of the model; None: it has the whole.

    kind = "store" stands for "auto" here: what needs no supervisor, one process does, or those of torchrun.
    Raises ExchangeError if the workers do not meet, WorkerLost if one of the shard group is lost while it lasts.
    """
    kind = "auto" if config.exchange.kind == "store" else config.exchange.kind
    with closing(open_exchange(kind, config.exchange.timeout_s)) as exchange:
        if config.shard.kind == "none":
            yield exchange, None
            return
        from zodist.shard.shards import Shards

        with closing(Shards(config, exchange)) as shards, shards.group.watched():
            yield shards.exchange, shards
