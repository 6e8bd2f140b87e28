"""`zodist scale`: zodist and four other ways to train, on links of every rate and delay."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from zodist.errors import ConfigError, ZodistError


def scale(
    out: Annotated[Path, typer.Option(help="Folder of results; the same command goes on there.")] = Path(
        "scale"
    ),
    model: Annotated[
        list[str] | None, typer.Option(help="random-1m (default), hub name, folder; repeatable.")
    ] = None,
    systems: Annotated[
        str, typer.Option(help="With commas: zodist, naive, ddp, ddp-lora, diloco-50, diloco-500.")
    ] = "zodist,naive,ddp,ddp-lora,diloco-50,diloco-500",
    methods: Annotated[str, typer.Option(help="Of zodist, with commas.")] = "mezo",
    rates: Annotated[
        str, typer.Option(help="Mbit/s of a host's link, with commas; none: no limit.")
    ] = "1,10,100,1000,none",
    delays: Annotated[str, typer.Option(help="Milliseconds one way, with commas.")] = "0,10,50",
    workers: Annotated[str, typer.Option(help="Numbers of workers, with commas.")] = "1,2,4,8",
    probes: Annotated[str, typer.Option(help="Probes of a step of all workers, with commas.")] = "8,64",
    jitter_ms: Annotated[float, typer.Option(min=0, help="Each frame's delay varies by as much.")] = 0.0,
    loss: Annotated[float, typer.Option(min=0, max=0.5, help="Share of frames that are lost.")] = 0.0,
    batch: Annotated[int, typer.Option(min=1, help="Examples of a worker's batch.")] = 4,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of an example.")] = 32,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
    noise: Annotated[str, typer.Option(help="gaussian or rademacher.")] = "rademacher",
    threads: Annotated[int, typer.Option(min=1, help="Of a worker.")] = 1,
    steps: Annotated[int, typer.Option(min=1, help="Measured steps of a cell.")] = 30,
    warmup: Annotated[int, typer.Option(min=1, help="Steps before them.")] = 5,
    cell_seconds: Annotated[
        float, typer.Option(min=1, help="Fewer steps where they would take longer.")
    ] = 120.0,
    loopback: Annotated[bool, typer.Option(help="No namespaces, nothing shaped, even as root.")] = False,
    steps_to_target: Annotated[
        list[str] | None,
        typer.Option(
            help="SYSTEM=STEPS that you measured to some loss, repeatable: who is first, on which link."
        ),
    ] = None,
    only_plots: Annotated[bool, typer.Option(help="Draw what OUT holds; measure nothing.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the cells, one JSON object a line.")] = False,
) -> None:
    """Measure steps, phases and bytes on the wire for every rate, delay and number of workers, beside four other ways.

    As root on Linux every worker is a host of its own, a network namespace whose link has the rate and the delay.  Without
    root, or with --loopback, the workers share loopback and nothing is shaped.  Under torchrun or Slurm the machines are
    taken as they are.  Writes cells.jsonl and, as PNG and SVG, step.png, efficiency.png, bytes.png and crossover.png.
    """
    from zodist.exchange import start
    from zodist.methods import METHODS
    from zodist.scale.cell import Cell, Link, grid
    from zodist.scale.network import missing
    from zodist.scale.sweep import Results, sweep

    def say(sentence: str) -> None:
        typer.echo(sentence, err=True)

    for name in methods.split(","):
        if name not in METHODS:
            raise ConfigError(f"--methods {name!r} is no method; `zodist methods` lists them")
    targets = _targets(steps_to_target or [])
    counts = [_number(text, int, "--workers") for text in workers.split(",")]
    cells = []
    for name in [] if only_plots else model or ["random-1m"]:
        first = Cell("zodist", name, 1, 1, Link(jitter_ms=jitter_ms, loss=loss), batch=batch, tokens=tokens)
        cells += grid(
            replace(first, dtype=dtype, noise=noise, threads=threads),
            systems=systems.split(","),
            methods=methods.split(","),
            workers=counts,
            probes=[_number(text, int, "--probes") for text in probes.split(",")],
            rates=[
                None if text == "none" else _number(text, float, "--rates", 1e-3) for text in rates.split(",")
            ],
            delays=[_number(text, float, "--delays") for text in delays.split(",")],
        )
    options: dict[str, Any] = {"steps": steps, "warmup": warmup, "limit_s": cell_seconds, "say": say}
    begun = start(1)
    if only_plots:
        lines = Results(out).lines
    elif begun.workers > 1:
        from zodist.scale.allocation import sweep_allocation

        lines = sweep_allocation(cells, out, **options)
        if begun.worker:
            return
    else:
        why = "" if loopback else missing()
        if why:
            say(f"no shaped links: {why}; the workers share loopback")
        # Without shaping the same measurement would be made for every link.
        chosen = [cell for cell in cells if not cell.link.shaped] if loopback or why else cells
        if not chosen:
            raise ConfigError("loopback has one link only, which is not shaped: give --rates none --delays 0")
        lines = sweep(chosen, out, loopback=bool(loopback or why), **options)
    _finish(lines, out, targets, as_json, say)


def _finish(
    lines: list[dict[str, Any]], out: Path, targets: dict[str, float], as_json: bool, say: Any
) -> None:
    """Plots, and in words where zodist loses."""
    from zodist.scale.crossover import crossover, draw_map, sentence
    from zodist.scale.picture import draw_all

    measured = [line for line in lines if "error" not in line]
    if not any("step_s" in line for line in measured):
        why = next((line["error"] for line in lines if "error" in line), "all were left out")
        raise ConfigError(f"{out} has no measured cell to draw: {why}")
    if as_json:
        for line in lines:
            typer.echo(json.dumps(line))
    made = draw_all(measured, out)
    if targets:
        firsts = crossover(measured, targets)
        made += draw_map(firsts, out)
        say(sentence(firsts))
    say(f"folder   {out}: cells.jsonl, {', '.join(path.name for path in made)}")
    failed = [line["error"] for line in lines if "error" in line]
    if failed:
        raise ZodistError(
            f"{len(failed)} cells failed, the first with: {failed[0]}; the same command tries them again"
        )


def _targets(texts: list[str]) -> dict[str, float]:
    found = {}
    for text in texts:
        name, _, steps = text.partition("=")
        found[name] = _number(steps, float, "--steps-to-target SYSTEM=")
    return found


def _number(text: str, kind: Any, option: str, least: float = 0.0) -> Any:
    """A number of an option; of whole ones at least 1."""
    try:
        found = kind(text)
    except ValueError:
        raise ConfigError(f"{option} {text!r} is not a number") from None
    least = max(least, 1) if kind is int else least
    if not found >= least:
        raise ConfigError(f"{option} {text} must be at least {least:g}")
    return found
