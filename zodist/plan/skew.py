"""How much later than the average the slowest of many workers is, if their times scatter log-normally."""

from __future__ import annotations

import math

import numpy as np

_POINTS, _REACH = 4001, 9.0  # of the integral, in standard deviations of the logarithm


def slowest(workers: int, sigma: float) -> float:
    """The mean of the largest of so many log-normal times, over the median time of one.

    sigma: standard deviation of a time's logarithm.  By integrating 1 - F(x)^W; 1 where nothing scatters.
    """
    if sigma < 0 or workers < 1:
        raise ValueError(f"{workers} workers with sigma {sigma}: the slowest of them has no time")
    if sigma == 0:
        return 1.0
    z = np.linspace(-_REACH, _REACH, _POINTS)
    below = np.array([0.5 * math.erfc(-float(x) / math.sqrt(2.0)) for x in z])  # of the standard normal
    x = np.exp(sigma * z)
    return float(x[0] + np.trapezoid(1.0 - below**workers, x))


def average(sigma: float) -> float:
    """The mean of a log-normal time over its median."""
    return math.exp(sigma * sigma / 2.0)


def wait_share(workers: int, sigma: float) -> float:
    """What a worker waits for the slowest on average, over its own mean time."""
    return slowest(workers, sigma) / average(sigma) - 1.0
