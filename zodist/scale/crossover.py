"""Who reaches a loss first, on which link: measured seconds of a step x measured steps to the loss.

The steps are the user's own measurement on a real task; nothing is assumed here.  A system whose step was not measured on a
link takes part with its lower bound, and wins nowhere by it: a bound can only say that somebody else was faster.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zodist.errors import ConfigError
from zodist.scale.picture import COLORS, NO_LIMIT, Line, common, figures, label, rate_text, save


@dataclass(frozen=True, slots=True)
class First:
    """A link and what its systems take to the loss.  seconds: by name, the fastest first; bounds: names of lower bounds."""

    mbit: float | None
    delay_ms: float
    workers: int
    seconds: dict[str, float]
    bounds: frozenset[str]

    @property
    def winner(self) -> str:
        """The fastest of the measured; with "?" where a mere bound is faster, which settles nothing."""
        measured = [name for name in self.seconds if name not in self.bounds]
        if not measured:
            return "?"
        fastest = next(iter(self.seconds))
        return measured[0] if fastest == measured[0] else f"{measured[0]}?"

    @property
    def margin(self) -> float:
        """The best of zodist over the best of the others: above 1 zodist loses.

        0 if one of them is missing, or if a mere bound of another is below zodist's time, which settles nothing.
        """
        ours = [
            s for name, s in self.seconds.items() if name.startswith("zodist") and name not in self.bounds
        ]
        theirs = {name: s for name, s in self.seconds.items() if not name.startswith("zodist")}
        if not ours or not theirs:
            return 0.0
        measured = [s for name, s in theirs.items() if name not in self.bounds]
        if measured and min(measured) < min(ours):
            return min(ours) / min(measured)
        return min(ours) / min(theirs.values()) if min(theirs.values()) >= min(ours) else 0.0


def crossover(lines: Sequence[Line], targets: Mapping[str, float]) -> list[First]:
    """Every link of the largest number of workers.

    targets: steps to the loss by system, or by a name as in the plots.  Raises ConfigError if none of them was measured.
    """
    lines = common(lines)
    workers = max(line["workers"] for line in lines)
    found: dict[tuple[float | None, float], list[tuple[float, str, bool]]] = {}
    for line in lines:
        steps = targets.get(label(line), targets.get(line["system"]))
        if steps is None or line["workers"] != workers:
            continue
        step_s, _, _, measured = figures(line)
        found.setdefault((line["mbit"], line["delay_ms"]), []).append((step_s * steps, label(line), measured))
    if not found:
        names = ", ".join(dict.fromkeys(line["system"] for line in lines))
        raise ConfigError(f"--steps-to-target names {', '.join(targets)}; measured were {names}")
    return [
        First(
            mbit,
            delay,
            workers,
            {name: seconds for seconds, name, _ in sorted(entries)},
            frozenset(name for _, name, measured in entries if not measured),
        )
        for (mbit, delay), entries in found.items()
    ]


def sentence(firsts: Sequence[First]) -> str:
    """Where zodist loses, in words."""
    known = [first for first in firsts if first.margin]
    lost = [first for first in known if first.margin > 1]
    open_ = f"; {len(firsts) - len(known)} links are not settled" if len(known) < len(firsts) else ""
    if not known:
        return (
            "no link is settled: steps to the loss, or measured steps, of zodist or of all others are missing"
        )
    if not lost:
        return f"zodist is first on all {len(known)} links that are settled, with these steps{open_}"
    listed = ", ".join(f"{_link(first)} ({first.winner} {first.margin:.3g} times sooner)" for first in lost)
    if len(lost) == len(known):
        return f"zodist loses on all {len(known)} links that are settled: {listed}{open_}"
    return f"zodist loses on {len(lost)} of {len(known)} links, and is first on the others: {listed}{open_}"


def draw_map(firsts: Sequence[First], out: Path) -> list[Path]:
    """Rate against delay, the winner's name and color in each field; the paths of crossover.png and .svg."""
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    rates = sorted({first.mbit or NO_LIMIT for first in firsts})
    delays = sorted({first.delay_ms for first in firsts})
    figure = Figure(figsize=(1.6 + 1.35 * len(rates), 1.4 + 0.9 * len(delays)), layout="constrained")
    axes: Any = figure.subplots()
    for first in firsts:
        x, y = rates.index(first.mbit or NO_LIMIT), delays.index(first.delay_ms)
        system = first.winner.partition(",")[0].rstrip("?")
        axes.add_patch(Rectangle((x, y), 1, 1, color=COLORS.get(system, "#dddddd"), alpha=0.35, lw=0))
        ratio = f"\nzodist {first.margin:.2g} x" if first.margin else ""
        axes.text(
            x + 0.5,
            y + 0.5,
            f"{system}{'?' if first.winner.endswith('?') else ''}{ratio}",
            ha="center",
            va="center",
            fontsize=8,
        )
    axes.set(xlim=(0, len(rates)), ylim=(0, len(delays)), xlabel="Mbit/s of a host", ylabel="ms one way")
    axes.set_xticks([x + 0.5 for x in range(len(rates))], [rate_text(rate) for rate in rates])
    axes.set_yticks([y + 0.5 for y in range(len(delays))], [f"{d:g}" for d in delays])
    axes.set_title(
        f"first at the loss, {firsts[0].workers} workers; below: zodist's time over the best other's",
        fontsize=8,
    )
    return save(figure, out, "crossover")


def _link(first: First) -> str:
    rate = "no limit" if first.mbit is None else f"{first.mbit:g} Mbit/s"
    return f"{rate} and {first.delay_ms:g} ms"
