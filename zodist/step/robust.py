"""What a round's losses are worth when some of them may be wrong: rule.clip, a part of the fold.

The journal has what the workers reported; this is done to it on every worker and in every replay, before a method sees the
losses.  So it holds for all methods, and nobody has to agree on who lied.  Judged are an item's *measurements* (an item is
one probe on one data lane): its differences (records.py) and, after the first round of a step, by how much its mean loss has
moved since, which some methods compare.

    "mad"      An item's size is the root mean square of its measurements.  A size above 4 times the median size of the
               round is brought down to that: all measurements of the item by one factor, signs kept.  Probes have
               different directions, but their slopes have one law, symmetric about zero: so the median size is the median
               absolute deviation about the known centre, and 4 of them are 2.7 standard deviations of a normal law.
    "trimmed"  The data lanes of a probe measure one direction on several batches.  A probe's measurement is the mean over
               its lanes without the largest and the smallest quarter, one at least.
    "median"   The same with the median, so that a majority of right lanes is enough: the median of means, a lane being the
               mean of its batch.  Of normal noise it keeps 74 % of the mean's accuracy with three lanes, 64 % with many.

"mad" bounds a lie; it cannot know a wrong sign, which costs twice its share of the signal.  The other two outvote any lie,
for the price of three or more lanes a probe.  Mean losses only have to make sense as figures: under "mad" one that is off
the median of the step by more than the median itself and 6 median absolute deviations is brought back to there.

Trimmed mean and median over workers: Yin, Chen, Ramchandran, Bartlett 2018, arXiv:1803.01498.  Ours: to apply them to the
lanes of one direction, for a coordinate of a gradient is nowhere to be had here; the sizes; the figures 4, 6 and a quarter.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

Clip = Literal["none", "mad", "trimmed", "median"]
LEAST_LANES = 3  # of which one may be wrong

_SIZES = 4.0
_DEVIATIONS = 6.0
_QUARTER = 4


@dataclass(frozen=True, eq=False, slots=True)
class Combined:
    """A round as the method shall see it.

    values: float32 [probes * lanes, k] as in records.py.  lanes: how many are left.  outliers: items out of proportion by
    the rule of "mad", whatever was done with them, and lanes left out because a loss was not finite.
    """

    values: np.ndarray
    lanes: int
    outliers: int


def combine(values: np.ndarray, lanes: int, clip: Clip, first: np.ndarray | None = None) -> Combined:
    """Apply rule.clip to the recorded values of a round.

    values: float32 [probes * lanes, k], probe by probe.  first: those of the step's first round, in a later one.
    Items whose losses are not finite are left to the method, unless other lanes of the probe make up for them.
    """
    if clip == "none":
        return Combined(values, lanes, 0)
    wide = values.astype(np.float64)
    differences, levels = wide[:, :-1], wide[:, -1]
    later = first is not None and len(first) == len(values)
    if later:
        assert first is not None
        base = first[:, -1].astype(np.float64)
        with np.errstate(invalid="ignore"):
            measured = np.column_stack([differences, levels - base])
    else:
        measured, base = differences, levels
    fine = np.isfinite(measured).all(axis=1) & np.isfinite(base)
    factors, bases = _factors(measured, fine), _brought_back(base, fine)
    far = fine & ((factors < 1.0) | (bases != base))
    if clip == "mad":
        measured, base = measured[far] * factors[far, None], bases[far]
        found = values.copy()
        found[far] = _values(measured, base, later)
        return Combined(found, lanes, int(far.sum()))
    table = np.column_stack([measured, base])
    table[~fine] = np.nan
    table = _over_lanes(table.reshape(-1, lanes, table.shape[1]), clip)
    return Combined(_values(table[:, :-1], table[:, -1], later), 1, int((far | ~fine).sum()))


def _factors(measured: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """What to multiply the measurements of each item with: float64 [items], 1 where they are in proportion."""
    factors = np.ones(len(measured))
    width = measured.shape[1]
    if not width or not fine.any():
        return factors
    sizes = np.array([math.sqrt(math.fsum(row) / width) for row in measured[fine] ** 2])
    bound = _SIZES * float(np.median(sizes))
    if bound > 0.0:  # else most are zero, and there is nothing to compare with
        factors[fine] = bound / np.maximum(sizes, bound)
    return factors


def _brought_back(base: np.ndarray, fine: np.ndarray) -> np.ndarray:
    """Mean losses, float64 [items], none of them far from the others."""
    if not fine.any():
        return base
    middle = float(np.median(base[fine]))
    far = max(abs(middle), _DEVIATIONS * float(np.median(np.abs(base[fine] - middle))))
    return np.where(fine, np.clip(base, middle - far, middle + far), base)


def _over_lanes(table: np.ndarray, clip: Clip) -> np.ndarray:
    """One row of measurements for each probe, float64 [probes, m], from [probes, lanes, m]; NaN without a majority.

    A lane that is not finite is NaN in all its measurements.
    """
    probes, lanes, width = table.shape
    counts = np.isfinite(table[:, :, -1]).sum(axis=1)
    table = np.sort(table, axis=1)  # NaN last
    found = np.full((probes, width), np.nan)
    for count in np.unique(counts[2 * counts > lanes]):
        most = (count - 1) // 2
        cut = most if clip == "median" else min(most, max(1, count // _QUARTER))
        kept = table[counts == count, cut : count - cut]
        total = kept[:, 0].copy()
        for lane in range(1, kept.shape[1]):  # in order: the same on every machine
            total += kept[:, lane]
        found[counts == count] = total / kept.shape[1]
    return found


def _values(measured: np.ndarray, base: np.ndarray, later: bool) -> np.ndarray:
    """Records' values, float32 [items, k], of measurements and the mean losses that they started from."""
    if later:
        measured, base = measured[:, :-1], base + measured[:, -1]
    return np.column_stack([measured, base]).astype(np.float32)
