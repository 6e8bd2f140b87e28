"""A run folder's figures as one line of results.jsonl; means and standard errors over seeds."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zodist.compare.plan import Planned
from zodist.journal import read_lines

RESULTS, FAILED = "results.jsonl", "failed.json"
SCORES = ("accuracy", "calibrated", "loss")

Line = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds.  error: its standard error, None for one seed."""

    value: float
    error: float | None
    count: int


def mean(values: Sequence[float]) -> Mean:
    """Mean of at least one number, and s / sqrt(n) with s over n - 1; no error where a number is not finite."""
    n = len(values)
    if not all(map(math.isfinite, values)):
        return Mean(math.nan, None, n)
    error = statistics.stdev(values) / math.sqrt(n) if n > 1 else None
    return Mean(statistics.fmean(values), error, n)


def line_of(run: Planned, method: str) -> Line | None:
    """The line of a run that has finished or failed, from its folder; None for one that has still to go on."""
    folder, config = run.folder, run.config
    try:
        same = (folder / "config.toml").read_text(encoding="utf-8") == config.to_toml()
    except OSError:
        return None
    if not same:
        return None
    line: Line = {
        "entry": run.entry,
        "method": method,
        "lr": run.rate,
        "seed": run.seed,
        "phase": run.phase,
        "forwards": 0,
        "steps": 0,
        "seconds": None,
        "split": None,
        "scores": None,
        "digest": None,
        "failed": None,
    }
    metrics = list(read_lines(folder / "metrics.jsonl"))
    steps = [found for found in metrics if "slope" in found]
    if steps:
        line |= {"forwards": steps[-1]["forwards"], "steps": steps[-1]["step"]}
    line["seconds"] = seconds(folder, line["steps"])
    failed = next(read_lines(folder / FAILED), None)
    if failed is not None:
        return {**line, "failed": failed["reason"]}
    last = [found for found in metrics if found["step"] == config.run.steps]
    digests = [found["digest"] for found in last if "digest" in found]
    scores = {found["split"]: found for found in last if "split" in found}
    # A run that is to end on the test split has evaluated it before its first step.
    split = "test" if any(found.get("split") == "test" for found in metrics) else "validation"
    if not digests or split not in scores:
        return None
    values = {key: scores[split][key] for key in SCORES}
    line |= {"split": split, "digest": digests[-1]}
    if not math.isfinite(values["loss"]):
        return {**line, "failed": f"its {split} loss is {values['loss']}"}
    return {**line, "scores": values}


def seconds(folder: Path, steps: int) -> float | None:
    """Wall-clock seconds of a run's steps, without evaluations and loading; None if nothing was timed.

    Sessions add up.  A session that was killed leaves up to nine steps untimed; they count as the timed ones do.
    """
    timed: dict[int, tuple[int, float]] = {}
    for line in read_lines(folder / "timings.jsonl"):
        if "trained" in line:
            timed[line["session"]] = (line["trained"], line["trained_s"])
    counted = sum(count for count, _ in timed.values())
    total = math.fsum(spent for _, spent in timed.values())
    return round(total * steps / counted, 4) if counted else None


def text(lines: Iterable[Line]) -> str:
    """The file of some lines."""
    return "".join(json.dumps(line) + "\n" for line in lines)


def best_rate(lines: Iterable[Line]) -> float | None:
    """The rate with the lowest validation loss, mean over seeds; None if a run failed at every rate.

    A failed run counts as infinitely bad.  Of equal rates the lowest is chosen.
    """
    losses: dict[float, list[float]] = {}
    for line in lines:
        losses.setdefault(line["lr"], []).append(line["scores"]["loss"] if line["scores"] else math.inf)
    finite = {rate: statistics.fmean(found) for rate, found in losses.items() if math.inf not in found}
    return min(finite, key=lambda rate: (finite[rate], rate), default=None)
