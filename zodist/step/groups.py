"""Which items of a round are evaluated together: some probes on one lane of data, in one forward if they fit.

A group is fixed by the run's settings, so its losses have the same bits whoever evaluates it, and however many workers
there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Groups:
    """The items of a round, probe * lanes + lane, by groups of ``size`` probes, probe // size * lanes + lane.

    The last group of a lane may be short.  With size 1 a group is an item and has its number.
    """

    items: int
    lanes: int = 1
    size: int = 1

    @property
    def count(self) -> int:
        """How many groups there are."""
        return -(-self.items // (self.lanes * self.size)) * self.lanes

    def members(self, group: int) -> np.ndarray:
        """The items of a group, int64, in order."""
        row = self.table(group, group + 1)[0]
        return row[row >= 0]

    def share(self, worker: int, workers: int) -> np.ndarray:
        """The items of the groups worker, worker + workers, ...: int64, in the order of these groups."""
        rows = self.table(worker, self.count, workers).reshape(-1)
        return rows[rows >= 0]

    def table(self, start: int, stop: int, step: int = 1) -> np.ndarray:
        """The items of some groups, int64 [groups, size]; a short group is filled up with -1."""
        groups = np.arange(start, stop, step)[:, None]
        probes = groups // self.lanes * self.size + np.arange(self.size)
        return np.where(probes < self.items // self.lanes, probes * self.lanes + groups % self.lanes, -1)
