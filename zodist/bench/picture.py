"""The plot of a benchmark: a bar for each figure, with its ceiling and its peer marked on it."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zodist.bench.line import Line, amount
from zodist.errors import ZodistError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH = 4.8  # inches: on a telephone's page the text is still large enough to read
DOTS = 200  # per inch: sharp on screens of two dots a pixel
WIDE_RANGE = 30.0  # figures that differ by more are drawn on a logarithmic axis
BAR, MARK, PEER = "#4477aa", "#222222", "#cc6677"


def draw(lines: Sequence[Line]) -> Figure:
    """One panel for each unit."""
    from matplotlib.figure import Figure

    units = list(dict.fromkeys(line.unit for line in lines))
    panels = [[line for line in lines if line.unit == unit] for unit in units]
    heights = [0.36 * len(panel) + 0.75 for panel in panels]
    figure = Figure(figsize=(WIDTH, sum(heights) + 0.5), layout="constrained")
    all_axes = figure.subplots(len(panels), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, panel, unit in zip(all_axes, panels, units, strict=True):
        _panel(axes, panel, unit)
    handles = {}
    for axes in all_axes:
        found, labels = axes.get_legend_handles_labels()
        handles |= dict(zip(labels, found, strict=True))
    figure.legend(
        handles.values(), handles.keys(), loc="outside lower center", ncols=3, fontsize=8, frameon=False
    )
    return figure


def _panel(axes, lines: Sequence[Line], unit: str) -> None:
    """The figures of one unit, in order from the top."""
    places, several = range(len(lines)), len({line.case for line in lines}) > 1
    axes.barh(places, [line.value for line in lines], height=0.34, color=BAR, label="measured")
    for mark, color, name in (("|", MARK, "ceiling"), ("D", PEER, "peer")):
        marked = [(getattr(line, name), place) for place, line in enumerate(lines) if getattr(line, name)]
        if marked:
            size = 130 if mark == "|" else 16
            axes.scatter(*zip(*marked, strict=True), marker=mark, color=color, s=size, label=name, zorder=3)
    shown = [x for line in lines for x in (line.value, line.ceiling, line.peer) if x and x > 0]
    if shown and max(shown) > WIDE_RANGE * min(shown):
        axes.set_xscale("log")
        axes.set_xlim(min(shown) / 2, max(shown) * 2)
    for place, line in enumerate(lines):
        axes.annotate(
            f"{line.name if several else line.what}: {amount(line.value, line.unit)}",
            (0, place - 0.24),
            xycoords=("axes fraction", "data"),
            xytext=(2, 0),
            textcoords="offset points",
            fontsize=7.5,
            va="bottom",
        )
    axes.set(ylim=(len(lines) - 0.6, -0.9), yticks=[])
    axes.set_xlabel(unit, fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.25)
    axes.spines[["top", "right", "left"]].set_visible(False)


def save(lines: Sequence[Line], path: Path) -> None:
    """Write the plot as a PNG file.  Raises ZodistError if that fails."""
    try:
        path.write_bytes(png(lines))
    except OSError as error:
        raise ZodistError(f"cannot write the plot {path}: {error.strerror}; give another --plot") from error


def png(lines: Sequence[Line]) -> bytes:
    """The plot as the bytes of a PNG file."""
    out = io.BytesIO()
    draw(lines).savefig(out, format="png", dpi=DOTS)
    return out.getvalue()
