"""All workers of a run, as one of them sees them: what a run needs of the others, whoever and however many they are.

Together (together.py) has a fixed number of workers that meet in an all-gather; Elastic (elastic/crew.py) has workers that
come and go.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch

from zodist.step import Asked, Entry, Replica

Measure = Callable[[int], np.ndarray]
Make = Callable[[int], bytes]


class Rebuild(Exception):
    """This worker's weights differ from those of the others: they must be made again from the base and the journal."""


@dataclass(frozen=True, slots=True)
class Begun:
    """What the run was begun with.  header: the journal's, if there is a journal."""

    header: dict[str, Any] | None
    threads: int
    versions: dict[str, str]


class Crew(Protocol):
    """What one worker asks of all.  Calls come in the order of this class, and in the same order on every worker."""

    @property
    def speaks(self) -> bool:
        """Whether this worker shows how the run goes."""
        ...

    @property
    def workers(self) -> int:
        """The number of workers; 0 if nobody counts them."""
        ...

    @property
    def sent(self) -> int:
        """Payload bytes that this worker has sent."""
        ...

    @property
    def stopping(self) -> bool:
        """Whether this worker is to leave after the step."""
        ...

    def meet(self, threads: int, versions: dict[str, str]) -> Begun:
        """What the run was begun with; of a new run, what its first worker proposes here."""
        ...

    def agree(self, head: dict[str, Any]) -> list[Entry]:
        """Make sure that all do the same run, and return its rounds so far.  Raises ExchangeError naming the difference."""
        ...

    def restore(self, replica: Replica, entries: list[Entry]) -> int:
        """Bring the replica to a step from which the journal leads on, from a snapshot if there is one; returns it."""
        ...

    def open(self, start: int) -> list[dict[str, Any]]:
        """Be ready to write from that step on; returns the lines of evaluations that are known."""
        ...

    def round(self, asked: Asked, measure: Measure) -> np.ndarray:
        """The recorded values of a round, float32 [items, losses], on disk by now.

        measure: the losses of the items of a group, float64 [items, losses].
        """
        ...

    def collect(self, name: str, count: int, size: int, make: Make) -> list[bytes]:
        """The payloads of numbered items, each of ``size`` bytes, in order.  make: computes one, on whichever worker."""
        ...

    def compare(self, t: int, digest: int) -> None:
        """See that the weights after step t are the same everywhere; raises ExchangeError, now or later Rebuild."""
        ...

    def save(self, t: int, state: Callable[[], Mapping[str, torch.Tensor]], rounds: int) -> None:
        """A snapshot after step t, by one of the workers."""
        ...

    def write(self, line: dict[str, Any]) -> None:
        """A line of metrics.jsonl."""
        ...

    def time(self, t: int, **figures: Any) -> None:
        """A line of timings.jsonl."""
        ...

    def leave(self) -> None:
        """This worker stops after a step, because it or all were asked to."""
        ...

    def finish(self, plot: bool) -> None:
        """The last step is done, and all its lines are written.  plot: draw the picture."""
        ...

    def close(self) -> None:
        """Release everything; further calls do nothing."""
        ...
