"""A report on a terminal: a table of the runs, then each run in a few lines."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from zodist.report.course import MEANING, crew
from zodist.report.picture import running_mean
from zodist.report.recorded import DIAGNOSIS, Run, differing
from zodist.report.summary import duration, figures, row, slope_words

BARS = "▁▂▃▄▅▆▇█"
WIDTH = 48  # characters of a line of bars
SHOWN_HEADS = ("run", "steps", "forwards", "before", "after", "time", "records")
SHOWN_HAPPENINGS = 10


def show(runs: Sequence[Run], console: Console) -> None:
    """Print the runs."""
    found = [figures(run) for run in runs]
    if len(runs) > 1:
        table = Table()
        for head in SHOWN_HEADS:
            table.add_column(head, overflow="fold")
        for one in found:
            cells = row(one) | {split: _short(one[split]) for split in ("before", "after")}
            table.add_row(*(escape(cells[head]) for head in SHOWN_HEADS))
        console.print(table)
        for key, values in differing(runs).items():
            console.print(f"{key}: {', '.join(values)}", markup=False, highlight=False)
    for run, one in zip(runs, found, strict=True):
        table = Table(title=escape(run.name), title_justify="left", show_header=False, box=None)
        told = (
            {} if len(runs) > 1 else {head: text for head, text in row(one).items() if text and head != "run"}
        )
        table_rows = {**told, **_lines(run)}
        if one["slopes"]:
            table_rows |= slope_words(one["slopes"])
        whole = sum(one["phases"].values()) or 1.0
        for name, spent in one["phases"].items():
            table_rows[f"phase {name}"] = f"{duration(spent)}, {spent / whole:.0%}: {MEANING[name]}"
        table_rows["diagnosis"] = _diagnosed(run)
        for head, text in table_rows.items():
            table.add_row(escape(head), escape(text))
        for text in run.missing:
            table.add_row("note", escape(text))
        console.print(table)


def _short(found: Mapping[str, Any] | None) -> str:
    """An evaluation in two numbers."""
    if found is None:
        return ""
    if found.get("reward") is not None:
        return f"{found['reward']:.3f}"
    accuracy, loss = found["accuracy"], f"{found['loss']:.3f}"
    return loss if accuracy is None else f"{accuracy:.1%} {loss}"


def _lines(run: Run) -> dict[str, str]:
    """The loss as bars, and what the workers did."""
    losses = running_mean([line["loss"] for line in run.steps], 0.95)
    told = {"loss, step by step": bars(losses)} if losses else {}
    went = crew(run)
    if run.workers:
        told["workers"] = f"{run.workers}, {went.sessions} session{'s' * (went.sessions > 1)}"
    for happening in went.happenings[:SHOWN_HAPPENINGS]:
        place = f"step {happening.step}, {duration(happening.seconds)}"
        told[place] = f"{told[place]}; {happening.text}" if place in told else happening.text
    left = len(went.happenings) - SHOWN_HAPPENINGS
    return told if left <= 0 else {**told, "and": f"{left} more, on the page"}


def _diagnosed(run: Run) -> str:
    if not run.diagnosis:
        return f"not measured; zodist diagnose {run.folder} --json > {run.folder / DIAGNOSIS}"
    shown = {name: value for name, value in run.diagnosis.items() if isinstance(value, float)}
    return (
        ", ".join(f"{name} {value:.4g}" for name, value in shown.items()) + f" (step {run.diagnosis['step']})"
    )


def bars(values: Sequence[float]) -> str:
    """A line of numbers as a row of bars, the ends of their range named."""
    count = min(WIDTH, len(values))
    picked = [values[round(i * (len(values) - 1) / max(1, count - 1))] for i in range(count)]
    finite = [value for value in picked if math.isfinite(value)]
    if not finite:
        return "no finite value"
    low, high = min(finite), max(finite)
    scale = (len(BARS) - 1) / (high - low) if high > low else 0.0
    drawn = "".join(BARS[round((v - low) * scale)] if math.isfinite(v) else " " for v in picked)
    return f"{drawn}  {low:.4g} to {high:.4g}"
