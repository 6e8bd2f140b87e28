"""What a round's numbers are to each other: rule.shaping, a part of the fold.

The journal has what the workers reported; this is done to it on every worker and in every replay, after rule.clip and before
a method sees the losses.  It is for objectives whose size means little, such as a reward's.  A *group* is what one data lane
of all probes of a step has in its first round, every point a number; a number less the mean of its item (the points of one
probe on one lane, which see the same examples) is the item's *advantage*.  Where an item is a single number, that itself.

    "group"    Advantages over their standard deviation in the group, zero where all are equal.  With one probe this is the
               group-relative advantage of GRPO (Shao et al. 2024, arXiv:2402.03300, section 4.1.1: less the mean, over the
               standard deviation); with several each keeps a baseline of its own, because each has examples of its own.
    "rank"     The centred rank of the advantage in the group: the lowest is -1/2, the highest 1/2, equal ones share their
               mean rank (Salimans et al. 2017, arXiv:1703.03864, section 2; its code ranks plain returns).

Both are maps that the first round fixes and that later rounds of the step go through as well, so that a method which
compares rounds compares like with like; under "rank" what lies beyond the group has the rank of its nearest.  Numbers that
are not finite stay so, and the rest of their item with them; they count in no group.

What it does to a two-sided method: with N probes the group is N pairs +a_n, -a_n.  "group" divides all N slopes by the root
mean square of the a_n: their ratios and so the direction of the update stay, its length no longer depends on the scale of
the objective nor on how steep it is, as under FZOO's rule.  "rank" keeps the sign of a slope and replaces its size by its
place among the N, from 1 / (2 N - 1) to 1 of what an eps makes of it: no single pair can dominate.  With one probe either
would leave the sign alone, of one size, and is refused: that is rule.name = 'sign' along one direction.
A mean loss in the figures of a run is that of the numbers as reported; a slope is in units of what the method saw.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from zodist.errors import ConfigError

Shaping = Literal["none", "group", "rank"]
LEAST = 3  # numbers of a group: two differ in nothing but which is the higher one


@dataclass(frozen=True, eq=False, slots=True)
class Shape:
    """The map of a step.

    centres: float64 [items, lanes, 1], what a number is compared with.  groups: the advantages of each lane, sorted float64.
    loss: mean of what was reported, over the items that are finite; NaN if none is.
    """

    kind: Shaping
    centres: np.ndarray
    groups: tuple[np.ndarray, ...]
    loss: float

    @classmethod
    def of(cls, losses: np.ndarray, kind: Shaping) -> Shape:
        """The map that the first round of a step fixes.

        losses: float64 [probes, lanes, points].  Raises ConfigError where a group would leave nothing but a sign.
        """
        probes, lanes, points = losses.shape
        if probes * points < LEAST:
            raise ConfigError(
                f"rule.shaping = {kind!r} compares the numbers of a step, of which the method asks for {probes * points} on "
                "each data lane, so that only a sign would be left; set method.probes to 2 or more, or rule.shaping = 'none'"
            )
        fine = np.logical_and.reduce(np.isfinite(losses), axis=2)
        means = np.array(
            [[math.fsum(own) / points for own in item] for item in np.where(fine[..., None], losses, 0.0)]
        )
        centres = means[..., None] if points > 1 else np.zeros((probes, lanes, 1))
        groups = tuple(
            np.sort((losses[:, lane] - centres[:, lane])[fine[:, lane]].reshape(-1)) for lane in range(lanes)
        )
        count = int(fine.sum())
        return cls(kind, centres, groups, math.fsum(means[fine]) / count if count else math.nan)

    def __call__(self, losses: np.ndarray) -> np.ndarray:
        """The numbers of a round as the method shall see them: float64 of the same shape."""
        fine = np.logical_and.reduce(np.isfinite(losses), axis=2)
        centres = self.centres[np.arange(len(losses)) % len(self.centres)]
        with np.errstate(invalid="ignore"):  # of the rows that are put back
            advantages = losses - centres
        shaped = np.empty_like(losses)
        for lane, group in enumerate(self.groups):
            place = _standardised if self.kind == "group" else _ranked
            shaped[:, lane] = place(np.where(fine[:, lane, None], advantages[:, lane], 0.0), group)
        return np.where(fine[..., None], shaped, losses)


def _standardised(advantages: np.ndarray, group: np.ndarray) -> np.ndarray:
    if not len(group):
        return advantages
    mean = math.fsum(group) / len(group)
    spread = math.sqrt(math.fsum((group - mean) ** 2) / len(group))
    return (advantages - mean) / spread if spread > 0.0 else np.zeros_like(advantages)


def _ranked(advantages: np.ndarray, group: np.ndarray) -> np.ndarray:
    if len(group) < 2:
        return np.zeros_like(advantages)
    below, up_to = np.searchsorted(group, advantages, "left"), np.searchsorted(group, advantages, "right")
    ranks = (below + up_to - 1) / 2.0  # equal ones have the ranks below .. up_to - 1
    return np.clip(ranks / (len(group) - 1), 0.0, 1.0) - 0.5
