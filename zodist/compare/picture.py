"""The curves of a comparison: loss and accuracy against forward passes and against seconds, one line a row."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zodist.compare.plan import MEZO, folder_of
from zodist.compare.results import Line, Mean, mean, seconds
from zodist.compare.table import Row
from zodist.errors import JournalError
from zodist.journal import read_lines

PICTURE = "compare.png"
COLOURED = 10  # colours that are told apart; of more rows these, and MeZO, are shown in colour


@dataclass(frozen=True, slots=True)
class Curve:
    """A row's evaluations on one split, means over seeds: where they lie, loss in nats, accuracy in percent."""

    split: str
    forwards: list[float]
    seconds: list[float] | None
    loss: list[Mean]
    accuracy: list[Mean] | None


def curve_of(out: Path, runs: Sequence[Line]) -> Curve | None:
    """The curve of a row's runs that did not fail: on the validation split, or before and after on the reported one."""
    found = []
    for line in runs:
        if line["scores"] is None:
            continue
        folder = folder_of(out, line["entry"], line["lr"], line["seed"])
        metrics = [m for m in read_lines(folder / "metrics.jsonl") if "split" in m]
        own = [m for m in metrics if m["split"] == "validation"] or [
            m for m in metrics if m["split"] == line["split"]
        ]
        found.append((line, sorted(own, key=lambda m: m["step"]), seconds(folder, line["steps"])))
    if not found:
        return None
    points = list(zip(*(evaluations for _, evaluations, _ in found), strict=True))
    clock = None
    if all(spent is not None for *_, spent in found):
        # At the run's mean pace: what a step takes varies with the machine's other work, not with the method.
        clock = [
            mean(
                [
                    (spent or 0.0) * m["step"] / line["steps"]
                    for m, (line, _, spent) in zip(at, found, strict=True)
                ]
            )
            for at in points
        ]
    scored = all(m["accuracy"] is not None for at in points for m in at)
    return Curve(
        split=found[0][1][0]["split"],
        forwards=[mean([m["forwards"] for m in at]).value for at in points],
        seconds=None if clock is None else [at.value for at in clock],
        loss=[mean([m["loss"] for m in at]) for at in points],
        accuracy=[mean([100 * m["accuracy"] for m in at]) for at in points] if scored else None,
    )


def draw(out: Path, rows: Sequence[Row]) -> Path:
    """Draw compare.png in a comparison's folder and return its path; the legend is in the order of the rows.

    Where there are more rows than colours, the best of them and MeZO have one, and the others are thin and grey.
    """
    from matplotlib.figure import Figure

    curves = [(row, found) for row in rows if (found := curve_of(out, row.runs)) is not None]
    accuracy = all(curve.accuracy is not None for _, curve in curves) and bool(curves)
    height = 3.6 * (1 + accuracy)
    figure = Figure(figsize=(12.0, height), layout="constrained")
    panels = figure.subplots(1 + accuracy, 2, squeeze=False, sharey="row")
    labels = [row.label for row, _ in curves]
    best = labels if len(labels) <= COLOURED else [name for name in labels if name != MEZO][: COLOURED - 1]
    bright = [name for name in labels if name in (*best, MEZO)]
    others = "others"
    for row, curve in curves:
        grey = row.label not in bright
        label = row.label
        if grey:
            label, others = others, "_"  # which matplotlib leaves out of the legend
        style = {"color": "0.8", "linewidth": 0.7, "zorder": 1} if grey else _style(bright.index(row.label))
        for axes, y in zip(panels, (curve.loss, curve.accuracy), strict=False):
            if y is None:
                continue
            values = [at.value for at in y]
            low = [at.value - (at.error or 0.0) for at in y]
            high = [at.value + (at.error or 0.0) for at in y]
            for panel, x in zip(axes, (curve.forwards, curve.seconds), strict=True):
                if x is None:
                    continue
                panel.plot(x, values, label=label, **style)
                if not grey:
                    panel.fill_between(x, low, high, color=style["color"], alpha=0.12, linewidth=0)
    _leave_out_exploded(panels[0][0], [curve for _, curve in curves])
    split = curves[0][1].split if curves else "validation"
    names = (f"{split} loss (nats)", f"{split} accuracy (%)")
    for axes, name in zip(panels, names, strict=False):
        for panel, label in zip(axes, ("forward passes of a batch", "seconds of training"), strict=True):
            panel.set_xlabel(label)
            panel.grid(alpha=0.3)
        axes[0].set_ylabel(f"{name}, mean ± standard error")
    handles, labels = panels[0][0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside right center", fontsize=8, title="by final loss")
    path = out / PICTURE
    try:
        figure.savefig(path, dpi=130)
    except OSError as error:
        raise JournalError(f"cannot write {path}: {error.strerror}") from error
    return path


def _style(number: int) -> dict[str, Any]:
    return {"color": f"C{number}", "linewidth": 1.3}


def _leave_out_exploded(panel: Any, curves: Sequence[Curve]) -> None:
    """End the loss axis a little above the base model's loss: one run that explodes would flatten all others."""
    if not curves:
        return
    top = 1.25 * max(curve.loss[0].value for curve in curves)
    seen = [at.value for curve in curves for at in curve.loss if at.value <= top]
    if len(seen) < sum(len(curve.loss) for curve in curves):
        low = min(seen)
        panel.set_ylim(low - 0.05 * (top - low), top)
        panel.set_title("losses far above the start are cut off", fontsize=8)
