"""Closed forms for ``Method.linear_moments``: of slope * direction, averaged, on a loss with a constant gradient g.

For one direction z whose numbers have variance 1, |g| = 1 and d weights: E[(g . z)^2 |z|^2] = d for signs, d + 2 for
Gaussian numbers.  For two, E[(g . z) (g . z') z . z'] = 1 if they are independent; if they are one noise with Walsh
codes whose product is w, it is (sum of w) (sum of g^2 w), which is 0 where sizes are multiples of w's period, and 2 on
top of that for Gaussian numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from zodist.noise import walsh

Gradients = Mapping[str, np.ndarray]
Moments = tuple[float, float]


def averaged(one: float, two: float, count: int) -> float:
    """E|mean of count vectors|^2: one is E|x|^2 of each, two is E[x . x'] of two of them."""
    return (one + (count - 1) * two) / count


def dense(gradients: Gradients, noise: str, coupling: str, count: int) -> Moments:
    """The mean over ``count`` dense directions."""
    square, numbers = size(gradients)
    more = 0.0 if noise == "rademacher" else 2.0
    two = more * square + unbalanced(gradients, count) if coupling == "walsh" else square
    return square, averaged((numbers + more) * square, two, count)


def unbalanced(gradients: Gradients, count: int) -> float:
    """The mean of (sum of w) (sum of g^2 w) over all pairs of ``count`` Walsh codes."""
    length = 1 << max(count - 1, 0).bit_length()
    places, energy = np.zeros(length), np.zeros(length)
    for g in gradients.values():
        at = np.arange(g.size) % length
        np.add.at(places, at, 1.0)
        np.add.at(energy, at, np.square(g).reshape(-1))
    codes = np.arange(count)
    pairs = np.bincount((codes[:, None] ^ codes).reshape(-1), minlength=length)
    return float(pairs[1:] @ (walsh(places) * walsh(energy))[1:]) / max(count * (count - 1), 1)


def left_out(parts: Iterable[tuple[np.ndarray, np.ndarray, float]], count: int) -> Moments:
    """Gaussian directions of covariance C, weighed by leave-one-out losses with k = ``count`` degrees of freedom.

    parts: g, C g and the trace of C for every parameter.  The estimate is the sample covariance times g: its square is
    (1 + 1/k) |C g|^2 + (g . C g) tr C / k, by the second moment of Wishart's law.
    """
    along = square = trace = 0.0
    for g, damped, own in parts:
        along += float((g * damped).sum())
        square += float((damped * damped).sum())
        trace += own
    return along, (1.0 + 1.0 / count) * square + along * trace / count


def size(gradients: Gradients) -> tuple[float, int]:
    """|g|^2 and the number of weights."""
    return math.fsum(float(np.square(g).sum()) for g in gradients.values()), sum(
        g.size for g in gradients.values()
    )


def root_chi(k: int) -> float:
    """E of the root of a chi-squared with k degrees of freedom."""
    return math.sqrt(2.0) * math.exp(math.lgamma((k + 1) / 2) - math.lgamma(k / 2))
