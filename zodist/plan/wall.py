"""Weak scaling: one probe a worker, 10 to 100,000 workers, four kinds of populations.

With independent directions every worker draws all numbers of all probes when it moves its weights: the work of a step grows
with the workers, so from some number on more of them make it slower.  Directions that share one base noise (Walsh codes), or
that are thin (low-rank), take that wall away.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from zodist.errors import ZodistError
from zodist.plan.calibration import Calibration
from zodist.plan.cost import Coupling, Job, cost, efficiency
from zodist.plan.shapes import Shape
from zodist.plan.simulation import Fleet, simulate

WORKERS = (10, 30, 100, 300, 1_000, 3_000, 10_000, 30_000, 100_000)
SIMULATED_STEPS = 20
MOST_DRAWS = 2_000_000  # numbers that one simulated point may draw


@dataclass(frozen=True, slots=True)
class Population:
    """A law of directions and how probes share it."""

    name: str
    law: str
    coupling: Coupling


POPULATIONS = (
    Population("independent, Gaussian", "gaussian", "independent"),
    Population("independent, Rademacher", "rademacher", "independent"),
    Population("Walsh-coded, Rademacher", "rademacher", "walsh"),
    Population("low-rank, Rademacher", "rademacher", "low-rank"),
)


@dataclass(frozen=True, slots=True)
class Point:
    """One number of workers of one population.  efficiency: of the model; simulated: with stragglers and failures."""

    population: str
    workers: int
    step_s: float
    replay_share: float
    efficiency: float
    simulated: float


def scaling(
    shape: Shape,
    job: Job,
    machine: Calibration,
    *,
    workers: Sequence[int] = WORKERS,
    slow_share: float = 0.01,
    life_s: float = 30 * 86_400.0,
    seed: int = 0,
) -> list[Point]:
    """Every population at every number of workers; simulated as elastic crews with these stragglers and failures."""
    found = []
    for population in POPULATIONS:
        for count in workers:
            own = replace(job, workers=count * job.shard, probes=count, lanes=1)
            own = replace(own, law=population.law, coupling=population.coupling)
            spent = cost(shape, own, machine)
            fleet = Fleet(
                count,
                spent.forward_s,
                spent.exchange_s + spent.update_s,
                spread=machine.spread,
                slow_share=slow_share,
                life_s=life_s,
                elastic=True,
            )
            steps = max(2, min(SIMULATED_STEPS, MOST_DRAWS // count))
            happened = simulate(fleet, steps, seed)
            ideal = cost(shape, replace(own, workers=job.shard, probes=1), machine).step_s
            found.append(
                Point(
                    population.name,
                    count,
                    spent.step_s,
                    spent.replay_share,
                    efficiency(shape, own, machine),
                    ideal / happened.mean_s,
                )
            )
    return found


def half(points: Sequence[Point], population: str) -> int | None:
    """The first number of workers at which the efficiency is below one half; None: at none of them."""
    return next((p.workers for p in points if p.population == population and p.efficiency < 0.5), None)


def draw(points: Sequence[Point], title: str, path: Path) -> None:
    """The picture, as the format that the path's ending names.  Raises ZodistError if it cannot be written."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.subplots()
    for population in dict.fromkeys(p.population for p in points):
        own = [p for p in points if p.population == population]
        (line,) = axes.plot([p.workers for p in own], [p.efficiency for p in own], label=population)
        axes.plot(
            [p.workers for p in own], [p.simulated for p in own], "o", color=line.get_color(), markersize=4
        )
    axes.set_xscale("log")
    axes.set(xlabel="workers, one probe each", ylabel="efficiency", ylim=(0, 1.05))
    axes.set_title(title, fontsize=9)
    axes.legend(frameon=False, fontsize=8, title="lines: model; dots: simulated, elastic", title_fontsize=7)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    try:
        figure.savefig(path, dpi=200)
    except (OSError, ValueError) as error:
        raise ZodistError(f"cannot write the plot {path}: {error}; give another --plot") from error
