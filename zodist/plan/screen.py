"""The answers of ``zodist plan`` as tables on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from zodist.bench import amount
from zodist.plan.advice import Split, Verdict
from zodist.plan.against import PHASES, Compared
from zodist.plan.cost import Cost, Job
from zodist.plan.memory import Fit
from zodist.plan.wall import Point


def _table(title: str, *heads: str) -> Table:
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, show_header=any(heads))
    for place, head in enumerate(heads):
        made.add_column(head, justify="left" if place == 0 else "right")
    return made


def cost_table(job: Job, spent: Cost, efficiency: float) -> Table:
    """The phases of a step."""
    title = f"{job.workers:,} workers, {job.probes:,} probes x {job.lanes} lanes of {job.batch} x {job.tokens} tokens"
    table = _table(title, "", "a step")
    for name, seconds in zip(
        PHASES, (spent.forward_s, spent.wait_s, spent.exchange_s, spent.update_s), strict=True
    ):
        table.add_row(name.removesuffix("_s"), amount(seconds, "s"))
    table.add_row("whole step", amount(spent.step_s, "s"))
    table.add_row("efficiency", f"{efficiency:.0%}")
    table.add_row("replay share", f"{spent.replay_share:.0%}")
    table.add_row("payload a worker sends", f"{spent.payload:,} bytes")
    return table


def split_table(found: Sequence[Split]) -> Table:
    """The ways to share out the items, the best first."""
    table = _table("probes x data lanes, best first", "probes x lanes", "step", "replay", "time x variance")
    best = found[0].score
    for split in found[:5]:
        table.add_row(
            f"{split.job.probes:,} x {split.job.lanes}",
            amount(split.cost.step_s, "s"),
            f"{split.cost.replay_share:.0%}",
            f"{split.score / best:.2f}",
        )
    return table


def verdict_table(found: Sequence[Verdict], ours: float) -> Table:
    """Other ways of training beside ours."""
    table = _table("other ways", "way", "step", "zodist's step", "to the same loss", "memory")
    for verdict in found:
        slower = verdict.slower
        words = f"{slower:.3g} x sooner" if slower > 1 else f"{1 / slower:.3g} x later"
        fits = "" if verdict.fits else ", does not fit"
        table.add_row(
            verdict.way.name,
            amount(verdict.step_s, "s"),
            amount(ours, "s"),
            words,
            f"{verdict.bytes_ / 1e9:.3g} GB{fits}",
        )
    return table


def fit_table(found: Fit) -> Table:
    """How a model lies on machines."""
    where = "in the nodes' memory, fetched layer by layer" if found.offloaded else "on the devices"
    table = _table("layout", "", "")
    table.add_row("weights", where)
    table.add_row("devices that share a copy", f"{found.job.shard}")
    table.add_row("copies", f"{found.job.replicas:,}")
    table.add_row("two-sided probes in a forward", f"{found.pairs}")
    table.add_row("memory of a device", f"{found.bytes_ / 1e9:.3g} GB")
    table.add_row("fetching all weights once", amount(found.fetch_s, "s"))
    table.add_row("step", amount(found.step_s, "s"))
    return table


def scaling_table(points: Sequence[Point]) -> Table:
    """Efficiency by population and workers; simulated in brackets."""
    populations = list(dict.fromkeys(p.population for p in points))
    table = _table("weak scaling: efficiency (simulated, elastic)", "workers", *populations)
    for count in dict.fromkeys(p.workers for p in points):
        row = [p for p in points if p.workers == count]
        table.add_row(f"{count:,}", *(f"{p.efficiency:.0%} ({p.simulated:.0%})" for p in row))
    return table


def compared_table(found: Sequence[Compared]) -> Table:
    """Predictions beside measurements."""
    table = _table(
        "predicted / measured", "cell", *(name.removesuffix("_s") for name in PHASES), "step", "error"
    )
    for item in found:
        cell = item.cell
        rate = "no limit" if cell["mbit"] is None else f"{cell['mbit']:g} Mbit/s"
        probes = f", {cell['probes']} probes" if cell["probes"] else ""
        name = f"{cell['system']}, {rate}, {cell['delay_ms']:g} ms, {cell['workers']} workers{probes}"
        phases = [_pair(*pair) for pair in zip(item.predicted, item.measured, strict=True)] or [""] * len(
            PHASES
        )
        table.add_row(name, *phases, _pair(item.predicted_s, item.measured_s), f"{item.error:+.0%}")
    return table


def _pair(ours: float, theirs: float) -> str:
    return f"{amount(ours, 's')} / {amount(theirs, 's')}"
