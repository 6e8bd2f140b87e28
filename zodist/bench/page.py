"""The report as one HTML file: machine, targets, and a table and a plot for every benchmark, with nothing to load."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

from zodist.bench.line import Line, amount, by_setting, cells, columns, legend
from zodist.bench.picture import png
from zodist.bench.targets import Verdict

STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6675; --rule: #d9dee5; --good: #1a7f46; --bad: #b3372f; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 75rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .3rem; padding-top: .8rem; border-top: 2px solid var(--rule); }
p, ul { margin: .4rem 0; } ul { padding-left: 1.2rem; color: var(--soft); font-size: .9rem; }
h3 { font-size: 1rem; font-weight: 600; margin: 1.2rem 0 0; color: var(--soft); }
table { border-collapse: collapse; width: 100%; margin: .8rem 0; font-size: .92rem; }
th { text-align: right; font-weight: 600; color: var(--soft); padding: .3rem .5rem; border-bottom: 2px solid var(--rule); }
td { text-align: right; padding: .3rem .5rem; border-bottom: 1px solid var(--rule); vertical-align: top;
  font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; } td:first-child { min-width: 12rem; }
.words td { text-align: left; } .words td + td { font-variant-numeric: normal; }
.reached { color: var(--good); font-weight: 600; } .missed { color: var(--bad); font-weight: 600; }
img { display: block; width: 100%; max-width: 40rem; margin: 1rem 0; }
nav { display: flex; flex-wrap: wrap; gap: .2rem .9rem; } a { color: #2457a6; }
@media (max-width: 50rem) {
  table, tbody, tr, td { display: block; width: 100%; } thead { display: none; }
  tr { border-bottom: 1px solid var(--rule); padding: .5rem 0; }
  td { border: 0; padding: .05rem 0; text-align: right; display: flex; justify-content: space-between; gap: 1rem; }
  td:empty { display: none; }
  td::before { content: attr(data-head); color: var(--soft); text-align: left; }
  td:first-child { font-weight: 600; } td:first-child::before { content: none; }
  .words td { text-align: right; }
}
"""


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
        _table(("target", "asked", "measured", ""), [_judged(verdict) for verdict in verdicts]),
        *(_section(name, lines) for name, lines in shown.items()),
        '<h2 id="machine">Machine</h2>',
        f'<div class="words">{_table(("", ""), [list(pair) for pair in machine.items()])}</div>',
    ]
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>zodist bench</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


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
        parts += [f"<h3>{escape(setting)}</h3>", _table(heads, rows), f"<ul>{notes}</ul>"]
    picture = base64.b64encode(png(lines)).decode("ascii")
    parts.append(f'<img alt="plot of {escape(name)}" src="data:image/png;base64,{picture}">')
    return "\n".join(parts)


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table whose cells carry their heads, for narrow pages that stack them."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(
        "<tr>" + "".join(_cell(head, text) for head, text in zip(heads, row, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f"<table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def _cell(head: str, text: str) -> str:
    kind = {"reached": ' class="reached"', "not reached": ' class="missed"'}.get(text, "")
    return f'<td data-head="{escape(head)}"{kind}>{escape(text)}</td>'
