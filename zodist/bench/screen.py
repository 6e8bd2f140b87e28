"""The lines of a benchmark as tables on the screen."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table

from zodist.bench.line import Line, by_setting, cells, columns, legend

LEAST = 14  # characters of a column of words


def tables(lines: Sequence[Line]) -> Iterator[Table]:
    """A table for each setting: one row a line; what ceilings and peers are stands below."""
    for setting, found in by_setting(lines).items():
        rounds = max(line.rounds for line in found)
        medians = [f"medians of {rounds:,} rounds, in turn"] if rounds > 1 else []
        caption = "\n".join([*medians, *legend(found)])
        out = Table(
            title=f"{found[0].bench}: {setting}",
            title_justify="left",
            caption=caption,
            caption_justify="left",
            box=SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        heads = columns(found)
        rows = [cells(line, len(heads)) for line in found]
        filled = [place for place in range(len(heads)) if any(row[place] for row in rows)]
        for place in filled:
            if place == 0 or heads[place] == "note":
                out.add_column(heads[place], min_width=LEAST)
            else:
                out.add_column(heads[place], justify="right", no_wrap=True)
        for row in rows:
            out.add_row(*(row[place] for place in filled))
        yield out
