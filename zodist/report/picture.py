"""The picture of a run: loss and accuracy against forward passes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from zodist.errors import JournalError
from zodist.journal import read_lines


def plot(folder: Path) -> Path:
    """Draw plot.png from the run's metrics.jsonl and return its path."""
    from matplotlib.figure import Figure  # half a second, and only the end of a run needs it

    lines = list(read_lines(folder / "metrics.jsonl"))
    steps = [line for line in lines if "slope" in line]
    evaluations = {
        split: [line for line in lines if line.get("split") == split] for split in ("validation", "test")
    }
    figure = Figure(figsize=(9.0, 3.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    judged = False
    if steps:
        forwards, losses = [line["forwards"] for line in steps], [line["loss"] for line in steps]
        left.plot(forwards, losses, color="0.8", linewidth=0.7, label="training, per step")
        left.plot(forwards, running_mean(losses), color="C0", label="training, running mean")
    for color, (split, found) in zip(("C1", "C2"), evaluations.items(), strict=True):
        if not found:
            continue
        x = [line["forwards"] for line in found]
        line = "-" if len(found) > 2 else ""  # before and after alone are no curve
        left.errorbar(
            x,
            [e["loss"] for e in found],
            [e["loss_error"] for e in found],
            color=color,
            marker="o",
            linestyle=line,
            label=split,
        )
        if found[0].get("reward") is not None:
            reward, error = [e["reward"] for e in found], [e["reward_error"] for e in found]
            label = f"{split} ± standard error"
            right.errorbar(x, reward, error, color=color, marker="o", linestyle=line, label=label)
            judged = True
        if found[0]["accuracy"] is None:
            continue
        accuracy, error = [100 * e["accuracy"] for e in found], [100 * e["accuracy_error"] for e in found]
        right.errorbar(
            x, accuracy, error, color=color, marker="o", linestyle=line, label=f"{split} ± standard error"
        )
        if found[0]["calibrated"] is not None:
            right.plot(
                x,
                [100 * e["calibrated"] for e in found],
                color=color,
                linestyle=":" if line else "",
                marker="" if line else "x",
                label=f"{split}, calibrated",
            )
        constant = found[0]["majority"]
        if constant is not None:
            right.axhline(
                100 * constant, color=color, linewidth=0.7, linestyle="--", label=f"{split}, majority"
            )
    left.set(
        xlabel="forward passes of a batch", ylabel="minus reward" if judged else "loss (nats)", title="loss"
    )
    name, unit = ("reward", "reward") if judged else ("accuracy", "accuracy (%)")
    right.set(xlabel="forward passes of a batch", ylabel=unit, title=name)
    for axes in (left, right):
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=7)
        axes.grid(alpha=0.3)
    path = folder / "plot.png"
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise JournalError(f"cannot write {path}: {error.strerror}") from error
    return path


def running_mean(values: Sequence[float], keep: float = 0.97) -> list[float]:
    """Exponential running mean, without the bias of its start; values that are not finite are left out of it."""
    total, weight, means = 0.0, 0.0, []
    for value in values:
        if math.isfinite(value):
            total, weight = keep * total + (1 - keep) * value, keep * weight + (1 - keep)
        means.append(total / weight if weight else math.nan)
    return means
