"""The plots of a sweep: step time against rate, what is lost to the network against workers, bytes against model size.

A filled mark is a measured median with its quartiles; a hollow triangle is a lower bound, bytes over rate, where a step
would have taken too long to measure.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zodist.errors import ZodistError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Line = dict[str, Any]
COLORS = {
    "zodist": "#1a7f46",
    "naive": "#b3372f",
    "ddp": "#4477aa",
    "ddp-lora": "#ccaa33",
    "diloco-50": "#aa4499",
    "diloco-500": "#66bbcc",
}
NO_LIMIT = 10_000.0  # Mbit/s, where links without limit are drawn


def draw_all(lines: Sequence[Line], out: Path) -> list[Path]:
    """All plots that the lines allow, as PNG and SVG; the paths."""
    made: list[Path] = []
    for name, figure in (
        ("step", steps_against_rate(lines)),
        ("efficiency", share_against_workers(lines)),
        ("bytes", bytes_against_size(lines)),
    ):
        made += save(figure, out, name)
    return made


def save(figure: Figure, out: Path, name: str) -> list[Path]:
    """Write a figure as PNG and SVG.  Raises ZodistError if that fails."""
    made = []
    for ending in ("png", "svg"):
        path = out / f"{name}.{ending}"
        try:
            figure.savefig(path, dpi=200)
        except OSError as error:
            raise ZodistError(
                f"cannot write the plot {path}: {error.strerror}; choose another --out"
            ) from error
        made.append(path)
    return made


def label(line: Line) -> str:
    """A system's name; of zodist with method and probes."""
    if line["system"] == "zodist":
        return f"zodist, {line['method']}, {line['probes']} probes"
    return f"{line['system']}, {line['probes']} probes" if line["probes"] else line["system"]


def figures(line: Line) -> tuple[float, float, float, bool]:
    """Seconds of a step: median and quartiles; whether they are measured, or all the least that a step takes."""
    if "bound_s" in line:
        return (line["bound_s"],) * 3 + (False,)
    step = line["step_s"]
    return step["median"], step["low"], step["high"], True


def rate_text(rate: float) -> str:
    """A rate of an axis for people."""
    return "no limit" if rate == NO_LIMIT else f"{rate:g}"


def common(lines: Sequence[Line]) -> list[Line]:
    """The lines of the model that has most of them."""
    models = [line["model"] for line in lines]
    return [line for line in lines if line["model"] == max(models, key=models.count)]


def steps_against_rate(lines: Sequence[Line]) -> Figure:
    """A panel for each delay, at the largest number of workers."""
    from matplotlib.figure import Figure

    lines = common(lines)
    workers = max(line["workers"] for line in lines)
    shown = [line for line in lines if line["workers"] == workers]
    delays = sorted({line["delay_ms"] for line in shown})
    figure = Figure(figsize=(1.2 + 3.4 * len(delays), 4.0), layout="constrained")
    for axes, delay in zip(
        figure.subplots(1, len(delays), sharey=True, squeeze=False)[0], delays, strict=True
    ):
        for name in dict.fromkeys(label(line) for line in shown):
            own = [line for line in shown if label(line) == name and line["delay_ms"] == delay]
            _series(axes, [(line["mbit"] or NO_LIMIT, line) for line in own], name)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="Mbit/s of a host",
            title=f"{delay:g} ms one way",
        )
        rates = sorted({line["mbit"] or NO_LIMIT for line in shown})
        axes.set_xticks(rates, [rate_text(rate) for rate in rates], minor=False)
        axes.set_xticks([], minor=True)
        _tidy(axes)
    figure.axes[0].set_ylabel("seconds of a step")
    _legend(
        figure,
        f"{shown[0]['model']}, {workers} workers on {shown[0].get('cores', '?')} cores, {shown[0].get('hosts', '')}",
    )
    return figure


def share_against_workers(lines: Sequence[Line]) -> Figure:
    """What part of a step is not lost to waiting and exchanging, on the slowest measured link and on the fastest."""
    from matplotlib.figure import Figure

    lines = [line for line in common(lines) if "step_s" in line]
    several = [line for line in lines if line["workers"] > 1] or lines
    links = sorted({(-(line["mbit"] or NO_LIMIT), line["delay_ms"]) for line in several})
    chosen = list(dict.fromkeys((links[0], links[-1])))
    figure = Figure(figsize=(1.2 + 3.4 * len(chosen), 4.0), layout="constrained")
    for axes, (rate, delay) in zip(
        figure.subplots(1, len(chosen), sharey=True, squeeze=False)[0], chosen, strict=True
    ):
        here = [
            e
            for e in lines
            if e["workers"] == 1 or (-(e["mbit"] or NO_LIMIT), e["delay_ms"]) == (rate, delay)
        ]
        for name in dict.fromkeys(label(line) for line in here):
            own = sorted((e for e in here if label(e) == name), key=lambda e: e["workers"])
            parts = [
                1 - (e["wait_s"]["median"] + e["exchange_s"]["median"]) / e["step_s"]["median"] for e in own
            ]
            axes.plot(
                [e["workers"] for e in own],
                parts,
                "o-",
                color=_color(own[0]),
                ms=4,
                label=name,
                alpha=_alpha(own[0]),
            )
        axes.set(xlabel="workers", ylim=(0, 1.05), title=f"{rate_text(-rate)} Mbit/s, {delay:g} ms")
        axes.set_xticks(sorted({line["workers"] for line in lines}))
        _tidy(axes)
    figure.axes[0].set_ylabel("share of a step outside the network")
    _legend(figure, f"{lines[0]['model']}: forward, backward and update over the whole step")
    return figure


def bytes_against_size(lines: Sequence[Line]) -> Figure:
    """Bytes that a worker's interface sent in a step, by the parameters of the model.

    At the number of workers that most models were measured with.
    """
    from matplotlib.figure import Figure

    several = [line for line in lines if "wire_sent_bytes" in line and "outer" not in line]
    counts = {
        e["workers"]: len({o["model"] for o in several if o["workers"] == e["workers"]}) for e in several
    }
    workers = max(counts, key=lambda count: (counts[count], count))
    shown = [line for line in several if line["workers"] == workers]
    figure = Figure(figsize=(5.2, 4.0), layout="constrained")
    axes = figure.subplots()
    for name in dict.fromkeys(label(line) for line in shown):
        own = sorted((e for e in shown if label(e) == name), key=lambda e: e["parameters"])
        places = [e["parameters"] for e in own]
        axes.plot(
            places,
            [e["wire_sent_bytes"] for e in own],
            "o",
            color=_color(own[0]),
            label=name,
            ms=4,
            alpha=_alpha(own[0]),
        )
        axes.plot(places, [e["payload_bytes"] for e in own], "_", color=_color(own[0]), ms=9)
    axes.set(xscale="log", yscale="log", xlabel="parameters", ylabel="bytes that a worker sends in a step")
    _tidy(axes)
    _legend(figure, f"{workers} workers; dots: interface counters, dashes: our own count of payload")
    return figure


def _series(axes: Any, points: Sequence[tuple[float, Line]], name: str) -> None:
    """A line through what was measured, triangles at bounds."""
    for measured in (True, False):
        own = sorted((x, *figures(e)[:3]) for x, e in points if figures(e)[3] == measured)
        if not own:
            continue
        x, middle, low, high = (list(column) for column in zip(*own, strict=True))
        style: dict[str, Any] = {"color": _color(points[0][1]), "alpha": _alpha(points[0][1])}
        style["label"] = name if measured else f"{name}, at least"
        if measured:
            spread = [
                [m - v for m, v in zip(middle, low, strict=True)],
                [v - m for m, v in zip(middle, high, strict=True)],
            ]
            axes.errorbar(x, middle, yerr=spread, fmt="o-", ms=4, **style)
        else:
            axes.plot(x, middle, "^", mfc="none", ms=6, **style)


def _color(line: Line) -> str:
    return COLORS.get(line["system"], "#222222")


def _alpha(line: Line) -> float:
    """Fainter with more probes, so that both can be seen."""
    return 1.0 if line["probes"] < 16 else 0.55


def _tidy(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.title.set_fontsize(9)


def _legend(figure: Figure, title: str) -> None:
    """One legend for all panels, below; the title above."""
    found: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            found.setdefault(name, handle)
    figure.legend(
        found.values(), found.keys(), loc="outside lower center", ncols=3, fontsize=7, frameon=False
    )
    figure.suptitle(title, fontsize=9)
