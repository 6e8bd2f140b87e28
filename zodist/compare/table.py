"""The rows of a comparison, on a terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zodist.compare.contest import Standing
from zodist.compare.plan import Plan, rounded
from zodist.compare.results import Line, Mean, mean
from zodist.compare.workers import BEFORE
from zodist.journal import read_lines

COLUMNS = (
    "method",
    "forwards / step",
    "steps",
    "rate",
    "accuracy (%)",
    "calibrated (%)",
    "loss (nats)",
    "seconds / forward",
)
AT_END = "†"
DIVERGED = "‡"
FOOTNOTES = {
    AT_END: "the best rate lies at an end of the grid: a wider one may hold a better rate",
    DIVERGED: "some runs diverged; the figures are those of the others",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One row.  Means over the seeds that did not fail; None where there is nothing to average.

    rate: None if no rate of the grid worked.  at_end: the tuned rate is the lowest or the highest of its grid.  failed:
    reported runs that failed.  runs: the lines behind the row.
    """

    label: str
    method: str
    forwards_per_step: float
    steps: int
    rate: float | None
    at_end: bool
    accuracy: Mean | None
    calibrated: Mean | None
    loss: Mean | None
    seconds_per_forward: float | None
    failed: int
    runs: tuple[Line, ...]

    def plain(self) -> dict[str, Any]:
        """The row as one JSON object."""

        def figures(found: Mean | None) -> dict[str, Any] | None:
            return (
                None if found is None else {"mean": found.value, "error": found.error, "seeds": found.count}
            )

        scores = {"accuracy": self.accuracy, "calibrated": self.calibrated, "loss": self.loss}
        return {
            "label": self.label,
            "method": self.method,
            "forwards_per_step": self.forwards_per_step,
            "steps": self.steps,
            "rate": self.rate,
            "rate_at_end_of_grid": self.at_end,
            **{name: figures(found) for name, found in scores.items()},
            "seconds_per_forward": self.seconds_per_forward,
            "failed": self.failed,
        }


def rows_of(standings: Sequence[Standing]) -> list[Row]:
    """One row an entry, and one for each further multiple of its rate; sorted by loss, failures last."""
    rows = []
    for s in standings:
        if s.rate is None:
            rows.append(_row(s, s.entry.label, None, False, ()))
            continue
        at_end = s.rate in (s.entry.rates[0], s.entry.rates[-1])
        for multiple in s.entry.multiples:
            rate = rounded(multiple * s.rate)
            runs = tuple(line for line in s.finals if line["lr"] == rate)
            label = s.entry.label if multiple == 1 else f"{s.entry.label} x{multiple}"
            rows.append(_row(s, label, rate, at_end and multiple == 1, runs))
    return sorted(
        rows, key=lambda row: (row.loss is None, bool(row.failed), row.loss.value if row.loss else 0.0)
    )


def _row(s: Standing, label: str, rate: float | None, at_end: bool, runs: tuple[Line, ...]) -> Row:
    scored = [line for line in runs if line["scores"]]

    def over_seeds(key: str) -> Mean | None:
        values = [line["scores"][key] for line in scored if line["scores"][key] is not None]
        return mean(values) if values else None

    timed = [line["seconds"] / line["forwards"] for line in scored if line["seconds"] is not None]
    final = s.entry.final
    scores = {key: over_seeds(key) for key in ("accuracy", "calibrated", "loss")}
    return Row(
        label,
        s.entry.method.name,
        final.per_step,
        final.steps,
        rate,
        at_end,
        **scores,
        seconds_per_forward=mean(timed).value if timed else None,
        failed=len(runs) - len(scored),
        runs=runs,
    )


def notes_of(plan: Plan, rows: Sequence[Row]) -> list[str]:
    """What a reader of the table has to know besides it."""
    split = next((line["split"] for row in rows for line in row.runs if line["split"]), "validation")
    seeds = f"mean ± standard error over {plan.seeds} seeds" if plan.seeds > 1 else "one seed"
    tried, task = len(plan.entries[0].rates), Path(plan.config.task.name).stem
    tuning = f"{plan.tune_seeds} seed{'s' if plan.tune_seeds > 1 else ''} of their own"
    notes = [
        f"{task}, {split} split, {seeds}; every run took at most {plan.budget} forward passes of "
        f"{plan.config.batch.size} examples; each rate is the best of {tried} by validation loss after "
        f"{plan.tune_budget} forward passes, on {tuning}"
    ]
    before = {line["line"]["split"]: line["line"] for line in read_lines(plan.out / BEFORE)}.get(split)
    if before is not None:
        scores = f"loss {before['loss']:.4f}"
        if before["accuracy"] is not None:
            names = [name for name in ("accuracy", "calibrated") if before[name] is not None]
            shares = [f"{name} {before[name]:.1%}" for name in names]
            constant = [] if before["majority"] is None else [f"majority {before['majority']:.1%}"]
            scores = ", ".join([*shares, scores, *constant])
        notes.append(f"before training: {scores} ({before['examples']} examples)")
    return [*notes, *plan.notes]


def _shown(found: Mean | None, form: Callable[[float], str]) -> str:
    if found is None:
        return "-"
    return form(found.value) + (f" ± {form(found.error)}" if found.error is not None else "")


def _cells(row: Row) -> list[str]:
    def percent(value: float) -> str:
        return f"{100 * value:.1f}"

    rate = "none worked" if row.rate is None else f"{row.rate:g}{f' {AT_END}' if row.at_end else ''}"
    loss = _shown(row.loss, lambda value: f"{value:.4f}")
    if row.failed:
        loss = f"{loss} {DIVERGED} {row.failed} of {len(row.runs)}" if row.loss else "diverged"
    pace = "-" if row.seconds_per_forward is None else f"{row.seconds_per_forward:.3g}"
    scores = [_shown(row.accuracy, percent), _shown(row.calibrated, percent), loss]
    return [row.label, f"{row.forwards_per_step:g}"[:6], str(row.steps), rate, *scores, pace]


def _footnotes(cells: Sequence[Sequence[str]], notes: Sequence[str]) -> list[str]:
    written = " ".join(cell for row in cells for cell in row)
    return [*(f"{mark} {said}" for mark, said in FOOTNOTES.items() if mark in written), *notes]


def markdown(rows: Sequence[Row], notes: Sequence[str] = ()) -> str:
    """The table for a README, with its footnotes below."""
    cells = [_cells(row) for row in rows]
    lines = ["| " + " | ".join(COLUMNS) + " |", "|---|" + "---:|" * (len(COLUMNS) - 1)]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in cells]
    return "\n".join(lines) + "\n" + "".join(f"\n{note}\n" for note in _footnotes(cells, notes))


def rich_table(rows: Sequence[Row], title: str, notes: Sequence[str] = ()) -> Any:
    """The table for a terminal."""
    from rich.box import SIMPLE
    from rich.table import Table

    cells = [_cells(row) for row in rows]
    table = Table(
        title=title,
        box=SIMPLE,
        collapse_padding=True,
        pad_edge=False,
        caption="\n".join(_footnotes(cells, notes)),
        caption_justify="left",
    )
    for column in COLUMNS:
        first = column == COLUMNS[0]
        table.add_column(column, justify="left" if first else "right", no_wrap=first)
    for row in cells:
        table.add_row(*row)
    return table
