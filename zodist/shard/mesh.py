"""Who holds which part of the weights: workers in rows of shard groups, one copy of the model in each group."""

from __future__ import annotations

from dataclasses import dataclass

from zodist.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Mesh:
    """The place of one worker in R replicas times S shards; the workers of a group are consecutive.

    replica: which copy of the model, 0 .. replicas - 1.  place: which part of it, 0 .. size - 1.
    """

    replicas: int
    size: int
    replica: int
    place: int


def mesh(worker: int, workers: int, beside: int, size: int) -> Mesh:
    """The mesh over all workers.  size: workers of a group; 0: all workers of a host, of which there are ``beside``.

    Raises ConfigError where the workers cannot be cut into groups of that size.
    """
    wanted = size or beside
    if workers % wanted:
        how = f"shard.size = {size}" if size else f"shard.size = 0, which is the {beside} workers of a host,"
        fit = ", ".join(str(n) for n in range(1, workers + 1) if workers % n == 0)
        raise ConfigError(
            f"{how} does not divide the {workers} workers into groups; set shard.size to one of {fit}"
        )
    return Mesh(workers // wanted, wanted, *divmod(worker, wanted))
