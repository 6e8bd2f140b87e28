"""`zodist supervise`: the process that holds an elastic run's store and journal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from zodist.exchange import stopping


def supervise(
    config: Annotated[Path, typer.Argument(help="TOML file of the run.")],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as rule.lr=1e-4.")
    ] = None,
    bind: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 for all.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: a free one.")] = 0,
) -> None:
    """Supervise an elastic run: workers may come, hang, die and leave, and its bits do not depend on it.

    Workers: [bold]zodist train HOST:PORT[/bold], as the first line of output names it; they may be started before, during
    and after this.  The run folder (run.folder) receives the files of a run.  It needs no GPU, loads no model, and may be
    killed and started again with the same --port at any moment.  Bind to another address than the default only where all
    who can reach it are trusted, or with exchange.key_file.
    """
    stopping.listen()
    from zodist.config import load
    from zodist.elastic.supervisor import serve

    settings = load(config, overrides or ())
    steps = serve(settings, bind, port, lambda text: typer.echo(text, err=True), typer.echo)
    if settings.output.plot:
        from zodist.report import plot

        plot(Path(settings.run.folder))
    typer.echo(f"{steps} steps done; folder {settings.run.folder}", err=True)
