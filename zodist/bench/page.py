"""The report as one HTML file: machine, targets, and a table and a plot for every benchmark, with nothing to load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from zodist.bench.line import Line, amount, by_setting, cells, columns, legend
from zodist.bench.picture import png
from zodist.bench.targets import Verdict
from zodist.report import facts, html, image, table

VERDICTS = {"reached": "reached", "not reached": "missed"}  # classes of cells


def page(
    machine: Mapping[str, str], verdicts: Sequence[Verdict], sections: Mapping[str, Sequence[Line]]
) -> str:
    """The page of a report.

    machine: label and text.  sections: the lines of every benchmark by its name; those without lines are left out.
    """
    shown = {name: lines for name, lines in sections.items() if lines}
    links = "".join(f'<a href="#{escape(name)}">{escape(name)}</a>' for name in shown)
    count = sum(verdict.reached is True for verdict in verdicts)
    judged = sum(verdict.reached is not None for verdict in verdicts)
    parts = [
        "<h1>zodist bench</h1>",
        f"<p>{count} of {judged} targets reached that were measured in this run; {len(verdicts) - judged} not measured.</p>",
        f'<nav><a href="#targets">targets</a>{links}<a href="#machine">machine</a></nav>',
        '<h2 id="targets">Targets</h2>',
        table(("target", "asked", "measured", ""), [_judged(verdict) for verdict in verdicts], VERDICTS),
        *(_section(name, lines) for name, lines in shown.items()),
        '<h2 id="machine">Machine</h2>',
        facts(machine),
    ]
    return html("zodist bench", parts)


def _judged(verdict: Verdict) -> list[str]:
    words = {True: "reached", False: "not reached", None: "not measured"}
    figure = amount(verdict.figure, verdict.target.unit)
    return [verdict.target.text, verdict.target.bound, figure, words[verdict.reached]]


def _section(name: str, lines: Sequence[Line]) -> str:
    """Heading, a table for each setting, and the plot of one benchmark."""
    parts = [f'<h2 id="{escape(name)}">{escape(name)}</h2>']
    for setting, found in by_setting(lines).items():
        heads = columns(found)
        notes = "".join(f"<li>{escape(text)}</li>" for text in legend(found))
        rows = [cells(line, len(heads)) for line in found]
        parts += [f"<h3>{escape(setting)}</h3>", table(heads, rows), f"<ul>{notes}</ul>"]
    parts.append(image(png(lines), "png", f"plot of {name}"))
    return "\n".join(parts)
