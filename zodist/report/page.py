"""HTML pages that load nothing: one style, tables that stack on narrow screens, pictures inside the page."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from zodist.errors import ZodistError

STYLE = """
:root { color-scheme: light; --ink: #1c2430; --soft: #5b6675; --rule: #d9dee5; --good: #1a7f46; --bad: #b3372f; }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 75rem; color: var(--ink); background: #fff;
  font: 16px/1.5 system-ui, sans-serif; }
h1, h2, p, td:first-child { overflow-wrap: anywhere; } td { overflow-wrap: break-word; }
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
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 28rem), 1fr)); gap: 0 1.5rem; }
nav { display: flex; flex-wrap: wrap; gap: .2rem .9rem; } a { color: #2457a6; }
pre { overflow-x: auto; font-size: .85rem; background: #f5f7f9; padding: .8rem; }
summary { cursor: pointer; color: #2457a6; }
.key { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; padding: 0; }
.key span { display: inline-block; width: 1.8rem; margin-right: .4rem; vertical-align: middle; border-top: 3px solid; }
@media (max-width: 50rem) {
  table, tbody, tr, td { display: block; width: 100%; } thead { display: none; }
  tr { border-bottom: 1px solid var(--rule); padding: .5rem 0; }
  td { border: 0; padding: .05rem 0; text-align: right; display: flex; justify-content: space-between; gap: 1rem; }
  td:empty { display: none; }
  td::before { content: attr(data-head); color: var(--soft); text-align: left; }
  td:first-child { font-weight: 600; } td:first-child::before { content: none; }
  .words td { text-align: left; } .words td::before { content: none; }
}
"""

# A browser then refuses, and reports on its console, whatever a page would fetch from elsewhere.
LOADS_NOTHING = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def html(title: str, parts: Sequence[str]) -> str:
    """A whole page; parts: pieces of HTML."""
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{LOADS_NOTHING}">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n"
        + "\n".join(parts)
        + "\n</body>\n</html>\n"
    )


def write(path: Path, text: str) -> None:
    """Write a page.  Raises ZodistError if that fails."""
    try:
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ZodistError(f"cannot write the page {path}: {error.strerror}; give another --out") from error


def table(heads: Sequence[str], rows: Sequence[Sequence[str]], kinds: Mapping[str, str] | None = None) -> str:
    """A table whose cells carry their heads, for narrow pages that stack them.  kinds: classes of cells by their text."""
    top = "".join(f"<th>{escape(head)}</th>" for head in heads)
    body = "".join(
        "<tr>"
        + "".join(_cell(head, text, (kinds or {}).get(text)) for head, text in zip(heads, row, strict=True))
        + "</tr>\n"
        for row in rows
    )
    return f"<table>\n<thead><tr>{top}</tr></thead>\n<tbody>\n{body}</tbody>\n</table>"


def facts(pairs: Mapping[str, str]) -> str:
    """A table of two columns of text, without heads."""
    return f'<div class="words">{table(("", ""), [list(pair) for pair in pairs.items()])}</div>'


def image(data: bytes, kind: str, text: str) -> str:
    """A picture inside the page.  kind: its media type after "image/"; text: what it shows, for those who cannot see it."""
    inside = base64.b64encode(data).decode("ascii")
    return f'<img alt="{escape(text)}" src="data:image/{kind};base64,{inside}">'


def _cell(head: str, text: str, kind: str | None) -> str:
    named = f' class="{kind}"' if kind else ""
    return f'<td data-head="{escape(head)}"{named}>{escape(text)}</td>'
