"""Steps of 10 to 100,000 workers that scatter, straggle and fail.

Each step every living worker draws how long its items take: log-normal around the median, some of them slowed down by a
factor.  A fixed crew waits for the last one, and a failure starts it again; an elastic crew offers what is late or was lost
to workers that are done, after a deadline, and a worker that failed comes back later.  All numbers have addresses, so a
simulation is a function of its settings, and two settings meet the same luck.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zodist import noise

SCATTER, SLOW, FAIL = 0, 1, 2  # what a number is for
LATE = 6.0  # median absolute deviations after the median, and at least TWICE: when an item is offered again
TWICE = 2.0


@dataclass(frozen=True, slots=True)
class Fleet:
    """Workers and what befalls them.

    forward_s: median seconds of a worker's items; fixed_s: exchange and update, the same for all.  spread: standard
    deviation of the logarithm of a time.  slow_share of the times are slow_factor times as long.  life_s: mean seconds of
    a worker between failures, 0: none fails.  restart_s: what a fixed crew loses by a failure; away_s: how long a failed
    worker of an elastic one is gone.
    """

    workers: int
    forward_s: float
    fixed_s: float
    spread: float = 0.1
    slow_share: float = 0.0
    slow_factor: float = 3.0
    life_s: float = 0.0
    restart_s: float = 60.0
    away_s: float = 60.0
    elastic: bool = False


@dataclass(frozen=True, slots=True)
class Simulated:
    """What happened.  step_s: float64 [steps]; failures, reissued: workers that failed, items that were offered again."""

    step_s: np.ndarray
    failures: int
    reissued: int
    useful_s: float

    @property
    def mean_s(self) -> float:
        """Mean seconds of a step, failures included."""
        return float(self.step_s.mean())

    @property
    def efficiency(self) -> float:
        """The step of a worker that neither waits nor exchanges nor loses anything, over the mean step."""
        return self.useful_s / self.mean_s


def simulate(fleet: Fleet, steps: int, seed: int = 0) -> Simulated:
    """The first ``steps`` steps."""
    times = np.empty(steps)
    back_at = np.zeros(fleet.workers)  # when a worker that failed is here again, seconds
    now, failures, reissued = 0.0, 0, 0
    for t in range(steps):
        here = back_at <= now
        alive = int(here.sum())
        if alive == 0:  # all wait for the first to come back
            now = float(back_at.min())
            here = back_at <= now
            alive = int(here.sum())
        stretch = fleet.workers / alive  # the items of those who are gone
        own = fleet.forward_s * stretch * _scatter(fleet, seed, t)[here]
        nominal = fleet.forward_s * stretch + fleet.fixed_s
        failed = _failed(fleet, seed, t, nominal)[here]
        failures += int(failed.sum())
        if fleet.elastic:
            spent, again = _elastic(own, failed)
            reissued += again
            back_at[np.flatnonzero(here)[failed]] = now + spent + fleet.fixed_s + fleet.away_s
        else:
            spent = float(own.max()) + (fleet.restart_s if failed.any() else 0.0)
        times[t] = spent + fleet.fixed_s
        now += times[t]
    useful = fleet.forward_s * float(np.exp(fleet.spread**2 / 2))
    return Simulated(times, failures, reissued, useful)


def _elastic(own: np.ndarray, failed: np.ndarray) -> tuple[float, int]:
    """When the last item is done, and how many were offered again; the first result of an item counts."""
    middle = float(np.median(own))
    deadline = max(middle + LATE * float(np.median(np.abs(own - middle))), TWICE * middle)
    late = failed | (own > deadline)
    count = int(late.sum())
    if count == 0:
        return float(own.max()), 0
    idle = len(own) - count
    rounds = -(-count // idle) if idle else 1
    redone = deadline + rounds * middle  # by workers of median speed, which are done by the deadline
    first = np.where(failed, redone, np.minimum(own, redone))
    return float(first.max()), count


def _scatter(fleet: Fleet, seed: int, step: int) -> np.ndarray:
    """Factors on the median time, float64 [workers]."""
    key = noise.derive(seed, step, SCATTER)
    z = noise.numbers(noise.GAUSSIAN, key, 0, noise.Z, 0, fleet.workers).astype(np.float64)
    factors = np.exp(fleet.spread * z)
    if fleet.slow_share:
        slow = _uniform(seed, step, SLOW, fleet.workers) < fleet.slow_share
        factors = np.where(slow, fleet.slow_factor * factors, factors)
    return factors


def _failed(fleet: Fleet, seed: int, step: int, seconds: float) -> np.ndarray:
    """Who fails during a step, bool [workers]."""
    if not fleet.life_s:
        return np.zeros(fleet.workers, bool)
    return _uniform(seed, step, FAIL, fleet.workers) < -np.expm1(-seconds / fleet.life_s)


def _uniform(seed: int, step: int, use: int, count: int) -> np.ndarray:
    """Numbers of [0, 1), float64 [count]."""
    blocks = np.arange(-(-count // 4), dtype=np.uint64)
    drawn = noise.words(noise.derive(seed, step, use), 0, noise.ORDER, blocks).reshape(-1)[:count]
    return drawn * 2.0**-32
