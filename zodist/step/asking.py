"""What a round asks of all workers: which items there are, and which probes and training examples a group of them has."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zodist.methods import Probe
from zodist.step.groups import Groups
from zodist.step.lanes import examples


@dataclass(frozen=True, slots=True)
class Share:
    """The items of one group, to be measured together.

    probes: of each item.  examples: int64 [batch], the training examples of each.  places: the step and data lane of each,
    which name what is drawn for these examples, the same in all rounds of a step.
    """

    probes: tuple[Probe, ...]
    examples: tuple[np.ndarray, ...]
    places: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Division:
    """How the rounds of a run are divided into items and groups; a function of its settings and of its data alone.

    batch: examples of an item, out of so many ``examples``.  probes_per_forward: of a group.
    """

    seed: int
    data_lanes: int
    batch: int
    examples: int
    probes_per_forward: int = 1

    def asked(self, step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int) -> Asked:
        """One round's question.  lanes: the items of the step's first round, see zodist.step.Answer."""
        seeds = np.array([probe.seed for probe in probes for _ in range(self.data_lanes)], np.uint64)
        groups = Groups(len(seeds), self.data_lanes, min(self.probes_per_forward, len(probes)))
        return Asked(step, round, lr, seeds, probes[0].losses, groups, probes, lanes, self)


@dataclass(frozen=True, eq=False, slots=True)
class Asked:
    """One round's question to all workers.

    seeds: of its items, uint64 [items], item = probe * data lanes + lane.  losses: of each item.  groups: which items are
    measured together.  probes: of the round.  lanes: the items of the step's first round.
    """

    step: int
    round: int
    lr: float
    seeds: np.ndarray
    losses: int
    groups: Groups
    probes: tuple[Probe, ...]
    lanes: int
    division: Division

    def share(self, group: int) -> Share:
        """What has to be measured for one group."""
        d, items = self.division, self.groups.members(group).tolist()
        return Share(
            tuple(self.probes[item // d.data_lanes] for item in items),
            tuple(
                examples(d.seed, self.step, item % self.lanes, self.lanes, d.batch, d.examples)
                for item in items
            ),
            tuple((self.step, item % self.lanes) for item in items),
        )
