"""Data lanes: a sweep over the training set that needs no shuffling state and no knowledge of the workers."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from zodist.step import lanes

SEEDS = st.integers(0, 2**64 - 1)
SMALL = st.integers(1, 9)


def sweep(seed: int, steps: int, count: int, size: int, n: int) -> np.ndarray:
    """All examples of some steps in the order of steps and lanes."""
    return np.concatenate(
        [lanes.examples(seed, t, lane, count, size, n) for t in range(steps) for lane in range(count)]
    )


@settings(deadline=None)
@given(SEEDS, SMALL, SMALL, st.integers(1, 60))
def test_every_epoch_sees_every_example_once(seed, count, size, n):
    """Also where a batch is larger than the training set, and where an epoch ends inside a batch."""
    steps = -(-3 * n // (count * size))
    seen = sweep(seed, steps, count, size, n)
    for epoch in range(3):
        assert sorted(seen[epoch * n : (epoch + 1) * n]) == list(range(n))


@settings(deadline=None)
@given(SEEDS, st.integers(0, 300), SMALL, SMALL, st.integers(1, 200))
def test_lanes_of_a_step_within_one_epoch_hold_different_examples(seed, step, count, size, n):
    """A step across the end of an epoch may meet an example again: it takes from two sweeps."""
    first, last = step * count * size, (step + 1) * count * size - 1
    seen = [lanes.examples(seed, step, lane, count, size, n) for lane in range(count)]
    assert all(chosen.dtype == np.int64 and chosen.shape == (size,) for chosen in seen)
    every = np.concatenate(seen)
    assert every.min() >= 0 and every.max() < n
    if first // n == last // n:
        assert len(set(every.tolist())) == count * size


@settings(deadline=None)
@given(SEEDS, st.permutations(list(range(12))), st.integers(5, 40))
def test_examples_do_not_depend_on_what_was_asked_before(seed, order, n):
    """Twelve addresses over several epochs, more than are remembered, in any order."""
    asked = [(seed + k % 2, k // 2, k % 3) for k in range(12)]
    lanes._order.cache_clear()
    want = [lanes.examples(s % 2**64, 9 * t, lane, 3, 4, n) for s, t, lane in asked]
    for k in order:
        s, t, lane = asked[k]
        assert (lanes.examples(s % 2**64, 9 * t, lane, 3, 4, n) == want[k]).all()


def test_epochs_and_seeds_have_orders_of_their_own():
    seen = sweep(1, 3, 10, 10, 100).reshape(3, 100)
    other = sweep(2, 1, 10, 10, 100)
    rows = [*seen.tolist(), other.tolist()]
    assert len({tuple(row) for row in rows}) == 4


def test_the_sweep_is_pinned():
    """It is part of what a journal's losses mean."""
    assert sweep(7, 3, 2, 2, 5).tolist() == [2, 3, 4, 0, 1, 2, 4, 3, 0, 1, 0, 2]
