"""Probes whose points lie on one side: what the methods share that compare several points of one batch."""

from __future__ import annotations

import numpy as np

from zodist.directions import Combination
from zodist.methods.method import Probe


def one_sided(names: np.ndarray, signs: np.ndarray, eps: float, *, clean: bool = False) -> tuple[Probe, ...]:
    """A probe for every row of seeds, with a point at sign * eps along each.

    names: uint64 [probes, points]; signs: float64 of the same shape, see StepSeeds.signs.  clean: the weights themselves
    come last, so that the recorded differences are those to their loss.
    """
    last = (Combination.of(),) if clean else ()
    shifts = eps * signs
    return tuple(
        Probe(int(own[0]), (*(Combination(own[k : k + 1], shift[k : k + 1]) for k in range(len(own))), *last))
        for own, shift in zip(names, shifts, strict=True)
    )
