"""Rounds: everything that is compared runs once in each, in turn, so that what else the machine does hits all alike."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import median
from time import perf_counter
from typing import Any

from zodist.bench.line import Line
from zodist.errors import ConfigError

Seconds = dict[str, float]
LEAST = 2  # rounds that a time limit leaves, if so many were asked for


def seconds(run: Callable[[], Any]) -> float:
    """Wall-clock seconds of one call."""
    start = perf_counter()
    run()
    return perf_counter() - start


def timed(name: str, run: Callable[[], Any]) -> Callable[[], Seconds]:
    """A run that gives its own seconds by name."""
    return lambda: {name: seconds(run)}


class Rounds:
    """The seconds of every round by name, after one that loads code, compiles kernels and sizes buffers."""

    def __init__(
        self, runs: Sequence[Callable[[], Seconds]], repeats: int, limit_s: float = math.inf
    ) -> None:
        """Run the rounds: ``repeats``, or fewer where they would take longer than limit_s seconds, but at least two."""
        if repeats < 1:
            raise ConfigError(f"repeats = {repeats} must be >= 1")
        start, self.times = perf_counter(), dict[str, list[float]]()
        for number in range(repeats + 1):
            if number > LEAST and (perf_counter() - start) * (number + 1) / number > limit_s:
                break
            found: Seconds = {}
            for run in runs:
                found |= run()
            if number:
                for name, value in found.items():
                    self.times.setdefault(name, []).append(value)

    def median(self, name: str) -> float:
        """The median of one name's seconds."""
        return median(self.times[name])

    def line(
        self,
        bench: str,
        what: str,
        name: str,
        *,
        setting: str,
        case: str = "",
        ceiling: str = "",
        ceiling_is: str = "",
        peer: str = "",
        peer_is: str = "",
        amount: float = 0.0,
        unit: str = "s",
        note: str = "",
    ) -> Line:
        """The figure of one name: its seconds, or with ``amount`` the rate amount / seconds in ``unit``.

        ceiling, peer: names of what ran in the same rounds; their figures are made the same way.
        """

        def figure(s: float) -> float:
            return amount / s if amount else s

        own = [figure(s) for s in self.times[name]]
        return Line(
            bench,
            what,
            figure(self.median(name)),
            unit,
            setting=setting,
            more=bool(amount),
            low=min(own),
            high=max(own),
            rounds=len(own),
            ceiling=figure(self.median(ceiling)) if ceiling else None,
            ceiling_is=ceiling_is,
            peer=figure(self.median(peer)) if peer else None,
            peer_is=peer_is,
            note=note,
            case=case,
        )
