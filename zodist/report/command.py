"""`zodist report`: one page and a view on the terminal of one run or several."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.")],
    out: Annotated[
        Path | None,
        typer.Option(help="The page; default: report.html in the run folder, of several runs in this one."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")] = False,
) -> None:
    """Report on runs: curves, phases, workers, slopes and their noise, settings; several runs are compared.

    Writes one HTML file that loads nothing and needs no server, and prints the same in short.  Reads the run folders alone:
    no model is loaded, and a run that is going on may be looked at.
    """
    from zodist.report.document import page
    from zodist.report.page import write
    from zodist.report.recorded import recorded
    from zodist.report.summary import figures

    found = recorded(runs)
    path = out or (runs[0] if len(runs) == 1 else Path()) / "report.html"
    write(path, page(found))
    if as_json:
        typer.echo(json.dumps({"page": str(path), "runs": [figures(run) for run in found]}))
        return
    from rich.console import Console

    from zodist.report.screen import show

    show(found, Console())
    typer.echo(f"page     {path}")
