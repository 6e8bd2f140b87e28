"""The pictures of a report, as SVG: small enough that their text can be read on a telephone."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from zodist.report.course import SECONDS, Crew, Phases
from zodist.report.picture import running_mean
from zodist.report.recorded import AXES, Run
from zodist.report.slopes import Slopes, common_part, signal_to_noise

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 4.8  # inches
MOST_POINTS = 500  # of a line: more than there are dots in its picture
COLORS = (
    "#2f6db3",
    "#d1622b",
    "#2a8a57",
    "#b5458f",
    "#7a5bb8",
    "#8c6d1f",
    "#4c5866",
    "#c2363b",
    "#2a93a6",
    "#6f9a2f",
)


class Look(NamedTuple):
    """How the lines of a run look: colour; dash, in CSS and in the picture; dots, as text and in the picture."""

    color: str
    border: str
    dash: str
    sign: str
    marker: str


SHAPES = (("solid", "-", "●", "o"), ("dashed", "--", "■", "s"), ("dotted", ":", "▲", "^"))


def look(number: int) -> Look:
    """The look of the run with this number."""
    return Look(COLORS[number % len(COLORS)], *SHAPES[number // len(COLORS) % len(SHAPES)])


def curves(runs: Sequence[Run], axis: str) -> bytes | None:
    """Loss, and accuracy if it was evaluated, of all runs on an axis of AXES; None if nothing lies on it."""
    placed = [(number, run, run.place(axis, run.steps)) for number, run in enumerate(runs)]
    if not any(np.isfinite(x).any() for _, _, x in placed):
        return None
    scored = any(e["accuracy"] is not None for run in runs for e in run.reported)
    figure = _figure(2.6 * (1 + scored) + 0.3)
    panels = figure.subplots(1 + scored, 1, squeeze=False, sharex=True)[:, 0]
    for number, run, x in placed:
        color, _, dash, _, marker = look(number)
        losses = [line["loss"] for line in run.steps]
        _line(panels[0], x, running_mean(losses, 0.95), color=color, linestyle=dash, linewidth=1.3)
        if len(runs) == 1:
            _line(panels[0], x, losses, color=color, linewidth=0.5, alpha=0.3)
        scores = run.scores("validation") or run.reported
        at = run.place(axis, scores)
        for panel, name, factor in zip(panels, ("loss", "accuracy"), (1.0, 100.0), strict=False):
            known = [(i, e) for i, e in enumerate(scores) if e[name] is not None and math.isfinite(at[i])]
            if not known:
                continue
            style = dash if len(known) > 2 and panel is not panels[0] else ""
            panel.errorbar(
                [at[i] for i, _ in known],
                [factor * e[name] for _, e in known],
                [factor * e[f"{name}_error"] for _, e in known],
                color=color,
                marker=marker,
                markersize=4,
                linewidth=1.0,
                linestyle=style,
            )
        if scored and len(runs) == 1 and scores and scores[0]["majority"] is not None:
            panels[1].axhline(100 * scores[0]["majority"], color="0.5", linewidth=0.8, linestyle="--")
    _leave_out_exploded(panels[0], runs)
    panels[0].set_ylabel("loss (nats)")
    if scored:
        panels[1].set_ylabel("accuracy (%)")
    panels[-1].set_xlabel(AXES[axis])
    return _svg(figure)


def phases(found: Phases) -> bytes:
    """Seconds of a step, forward passes below, the update on top."""
    figure = _figure(2.4)
    axes = figure.subplots()
    keep = _thinned(len(found.steps))
    steps, parts = found.steps[keep], found.each[keep].T
    if len(steps) > 1:
        axes.stackplot(steps, *parts, colors=COLORS[: len(parts)], alpha=0.75, labels=[*SECONDS])
    else:
        for name, part, below, color in zip(
            SECONDS, parts, parts.cumsum(axis=0) - parts, COLORS, strict=False
        ):
            axes.bar(steps, part, 0.5, bottom=below, color=color, label=name)
    axes.set(xlabel="steps", ylabel="worker seconds of a step" if found.together else "seconds of a step")
    axes.set_ylim(bottom=0)
    _legend(axes)
    return _svg(figure)


def workers(found: Crew) -> bytes:
    """How many workers there were, with a mark for everything that happened."""
    from matplotlib.ticker import MaxNLocator

    figure = _figure(2.2)
    axes = figure.subplots()
    axes.step(found.seconds, found.workers, where="post", color=COLORS[0], label="workers that contributed")
    axes.fill_between(found.seconds, found.workers, step="post", color=COLORS[0], alpha=0.15, linewidth=0)
    kinds = {
        "started again": ("^", COLORS[2]),
        "fewer": ("x", COLORS[7]),
        "more": ("+", COLORS[2]),
        "offered again": ("|", COLORS[1]),
        "refused": ("D", COLORS[3]),
    }
    for happening in found.happenings:
        kind = next((kind for kind in kinds if kind in happening.text), "event")
        marker, color = kinds.get(kind, ("o", COLORS[6]))
        axes.plot(
            [happening.seconds], [0.0], marker, color=color, markersize=7, label=kind, clip_on=False, zorder=3
        )
    axes.set(xlabel=AXES["seconds"], ylabel="workers")
    axes.set_ylim(bottom=0, top=1.15 * max(found.workers))
    axes.set_xlim(left=0)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    _legend(axes, below=True)
    return _svg(figure)


def distribution(found: Slopes) -> bytes:
    """How often slopes of each size came, with the normal law of the same spread."""
    values = found.finite
    spread = float(values.std())
    reach = max(4 * spread, float(np.quantile(np.abs(values), 0.99))) or 1.0
    figure = _figure(2.6)
    axes = figure.subplots()
    bins = max(5, min(41, round(math.sqrt(len(values))))) | 1  # one of them has 0 in its middle
    counts, edges = np.histogram(np.clip(values, -reach, reach), bins, (-reach, reach))
    axes.stairs(counts, edges, fill=True, color=COLORS[0], alpha=0.55, label="slopes")
    if spread > 0:
        x = np.linspace(-reach, reach, 121)
        law = np.exp(-0.5 * ((x - values.mean()) / spread) ** 2) / (spread * math.sqrt(2 * math.pi))
        axes.plot(x, law * len(values) * (edges[1] - edges[0]), color="0.25", linewidth=1, label="normal law")
    axes.set(
        xlabel="slope (nats per weight unit)" if found.scaled else "loss difference (nats)", ylabel="count"
    )
    _legend(axes)
    return _svg(figure)


def noise(found: Slopes) -> bytes | None:
    """Signal to noise where there are several lanes, else the slopes' mean in units of what chance gives."""
    ratio = signal_to_noise(found)
    figure = _figure(2.4)
    axes = figure.subplots()
    if ratio is not None:
        steps, values, n = ratio
        usable = np.isfinite(values)
        if not usable.any():
            return None
        axes.plot(
            steps[usable], values[usable], ".-", color=COLORS[0], linewidth=0.8, label=f"of {n} directions"
        )
        axes.axhline(1.0, color="0.5", linewidth=0.8, linestyle="--")
        axes.set(xlabel="steps", ylabel="signal to noise")
        axes.set_ylim(bottom=0)
    else:
        steps, _, errors, n = common_part(found)
        usable = np.isfinite(errors)
        if not usable.any():
            return None
        axes.axhspan(-2, 2, color="0.5", alpha=0.15, label="chance, 95 of 100", linewidth=0)
        axes.plot(
            steps[usable], errors[usable], ".", color=COLORS[0], markersize=5, label=f"mean of {n} slopes"
        )
        axes.set(xlabel="steps", ylabel="mean / standard error")
    _legend(axes)
    return _svg(figure)


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(WIDTH, height), layout="constrained")


def _svg(figure: Figure) -> bytes:
    """The figure's bytes; the same for equal figures."""
    from matplotlib import rc_context

    out = io.BytesIO()
    for axes in figure.axes:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=9)
    with rc_context({"svg.hashsalt": "zodist"}):
        figure.savefig(out, format="svg", metadata={"Date": None})
    return out.getvalue()


def _line(axes: Axes, x: Any, y: Any, **style: Any) -> None:
    """A line through the finite points, thinned out."""
    keep = _thinned(len(y))
    axes.plot(np.asarray(x)[keep], np.asarray(y, float)[keep], **style)


def _thinned(count: int) -> np.ndarray:
    """Places of at most MOST_POINTS, the first and the last among them."""
    return np.unique(np.linspace(0, max(0, count - 1), min(count, MOST_POINTS)).round().astype(int))


def _leave_out_exploded(axes: Axes, runs: Sequence[Run]) -> None:
    """End the loss axis a little above where the runs began: one that explodes would flatten all others."""
    means = [np.array(running_mean([line["loss"] for line in run.steps], 0.95)) for run in runs if run.steps]
    firsts = [mean[:20][np.isfinite(mean[:20])] for mean in means]
    top = 1.5 * max((float(first.max()) for first in firsts if len(first)), default=math.inf)
    if any((mean > top).any() for mean in means):
        axes.set_ylim(top=top)
        axes.set_title("losses far above the start are cut off", fontsize=8)


def _legend(axes: Axes, *, below: bool = False) -> None:
    """Names of what is drawn, each once, where they hide least or below the axes."""
    handles, labels = axes.get_legend_handles_labels()
    once = dict(zip(labels, handles, strict=True))
    if below:
        axes.figure.legend(
            once.values(), once.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
        )
    elif once:
        axes.legend(once.values(), once.keys(), fontsize=8, frameon=False, loc="best")
