"""Data lanes: which training examples a logical probe sees, as a function of (run seed, step, lane) alone.

All lanes of a run sweep the training set together, each epoch in a fresh addressed order, so that the lanes of a step
hold different examples (but for a step that spans the end of an epoch) and nothing depends on how many workers there
are.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from zodist import noise


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, n: int) -> np.ndarray:
    return noise.permutation(noise.derive(seed, epoch, 0, noise.ORDER), n)


def examples(seed: int, step: int, lane: int, lanes: int, size: int, n: int) -> np.ndarray:
    """Indices of the ``size`` examples of one lane in one step, out of ``n``: int64 [size]."""
    first = (step * lanes + lane) * size
    draws = np.arange(first, first + size)
    return np.array([_order(seed, int(d // n), n)[d % n] for d in draws], np.int64)
