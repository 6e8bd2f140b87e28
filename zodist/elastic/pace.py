"""When an item is overdue: after the median of what recent items took, plus 6 times their median absolute deviation.

No sooner than after twice the median, so that steady times do not make it strict.

The deadline only decides when work is offered to somebody else; no result depends on it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

import numpy as np

_REMEMBERED = 64
_DEVIATIONS = 6.0
_LEAST_S = 0.25  # below this the machines' own hiccups decide
_UNKNOWN_S = 10.0  # before the first result: a worker may still be compiling


class Pace:
    """What items of one kind take."""

    def __init__(self) -> None:
        self._seconds: deque[float] = deque(maxlen=_REMEMBERED)

    def add(self, seconds: Iterable[float]) -> None:
        """Take note of finished items."""
        self._seconds.extend(one for one in seconds if 0 <= one < 1e9)

    def limit(self) -> float:
        """Seconds after which an item that somebody has claimed is given to another."""
        if not self._seconds:
            return _UNKNOWN_S
        times = np.array(self._seconds)
        median = float(np.median(times))
        deviation = float(np.median(np.abs(times - median)))
        return max(_LEAST_S, 2 * median, median + _DEVIATIONS * deviation)
