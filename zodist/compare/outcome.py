"""A comparison from its command to its files: table.md and compare.png beside results.jsonl and the runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zodist.compare.contest import Contest, threads_of
from zodist.compare.picture import draw
from zodist.compare.plan import make_plan
from zodist.compare.table import Row, markdown, notes_of, rich_table, rows_of
from zodist.compare.workers import shares
from zodist.config import load
from zodist.errors import ConfigError
from zodist.journal import write_whole

TABLE = "table.md"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a comparison has to show.  problem: the sentence about runs that could not go on, or ""."""

    out: Path
    title: str
    rows: list[Row]
    notes: list[str]
    problem: str

    def plain(self) -> dict[str, Any]:
        """The outcome as one JSON object."""
        return {"out": str(self.out), "rows": [row.plain() for row in self.rows], "notes": self.notes}

    def table(self) -> Any:
        """The table for a terminal."""
        return rich_table(self.rows, self.title, self.notes)


def compare(
    config: Path,
    methods: Sequence[str],
    *,
    budget: int,
    seeds: int,
    grid: Sequence[str],
    jobs: int = 0,
    out: Path | None = None,
    tune_budget: int = 0,
    tune_seeds: int = 1,
    say: Callable[[str], None] = lambda sentence: None,
) -> Outcome:
    """Run a comparison to its end, from wherever its folder stands, and write its files.

    jobs: runs at a time (0: one for every run.threads cores).  out: None is runs/compare-<name of the config>.
    Raises ZodistError where the user has to act before anything is run; see also Outcome.problem.
    """
    try:
        factors = [float(factor) for factor in grid]
    except ValueError:
        text = ",".join(grid)
        raise ConfigError(f"--grid {text!r} must be numbers with commas, such as 0.25,0.5,1,2,4") from None
    out = out or Path("runs") / f"compare-{config.stem}"
    threads, jobs = shares(load(config).run.threads or threads_of(out), jobs)
    plan = make_plan(
        config,
        [name.strip() for name in methods if name.strip()],
        budget=budget,
        seeds=seeds,
        out=out,
        threads=threads,
        grid=factors,
        tune_budget=tune_budget,
        tune_seeds=tune_seeds,
    )
    contest = Contest(plan, say)
    contest.run(jobs)
    rows = rows_of(contest.standings())
    notes = notes_of(plan, rows)
    write_whole(plan.out / TABLE, markdown(rows, notes))
    draw(plan.out, rows)
    title = f"{Path(plan.config.model.name).name} on {Path(plan.config.task.name).stem}"
    return Outcome(plan.out, title, rows, notes, contest.problem())
