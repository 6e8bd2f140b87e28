"""The commands under ``zodist bench``."""

from __future__ import annotations

import json
import tomllib
from typing import Annotated, Any

import typer

bench_app = typer.Typer(
    no_args_is_help=True, help="Measure zodist against its physical limits and its peers."
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line for programs.")]


@bench_app.command()
def step(
    model: Annotated[str, typer.Option(help="Hub name, folder, or smollm2-135m.")] = "smollm2-135m",
    noise: Annotated[str, typer.Option(help="gaussian or rademacher.")] = "rademacher",
    batch: Annotated[int, typer.Option(min=1, help="Examples in a batch.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of an example.")] = 32,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    probes: Annotated[int, typer.Option(min=1, help="Two-sided probes in a step.")] = 1,
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0: all cores.")] = 0,
    repeats: Annotated[
        int, typer.Option(min=1, help="Rounds, in each of which every variant runs once.")
    ] = 7,
    columns: Annotated[int, typer.Option(min=0, help="Vocabulary entries in the loss; 0: all.")] = 2,
    as_json: Json = False,
) -> None:
    """Time a training step beside two bare forward passes and the in-place MeZO step as published.

    All run in one process on the same model, batch and threads, in turn; peak memory is taken in a process of its own
    for each.
    """
    from zodist.bench.step import measure_step, table
    from zodist.threads import budget

    result = measure_step(
        model=model,
        noise=noise,
        batch=batch,
        tokens=tokens,
        dtype=dtype,
        probes=probes,
        threads=threads or budget(1),
        repeats=repeats,
        columns=columns,
    )
    if as_json:
        typer.echo(json.dumps(result))
        return
    from rich.console import Console

    Console().print(table(result))


@bench_app.command()
def methods(
    names: Annotated[list[str] | None, typer.Argument(help="Methods; none: all.")] = None,
    model: Annotated[str, typer.Option(help="Hub name, folder, or smollm2-135m.")] = "smollm2-135m",
    noise: Annotated[
        str, typer.Option(help="gaussian or rademacher, where a method has the choice.")
    ] = "rademacher",
    batch: Annotated[int, typer.Option(min=1, help="Examples in a batch.")] = 16,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens of an example.")] = 32,
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "bfloat16",
    threads: Annotated[int, typer.Option(min=0, help="Threads; 0: all cores.")] = 0,
    repeats: Annotated[int, typer.Option(min=1, help="Steps of each method, in turn with MeZO's.")] = 5,
    given: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of one method: method.key=value (TOML).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Time a step of every method beside a MeZO step with as many forward passes."""
    from zodist.bench.methods import measure_methods, table
    from zodist.errors import ConfigError
    from zodist.threads import budget

    own: dict[str, dict[str, Any]] = {}
    for text in given or []:
        place, equals, value = text.partition("=")
        method, dot, key = place.partition(".")
        try:
            own.setdefault(method, {})[key] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            equals = ""
        if not (equals and dot and key):
            raise ConfigError(f"--set {text!r} must read method.key=value, such as pgap.rank=16")
    lines = measure_methods(
        names or [],
        model=model,
        noise=noise,
        batch=batch,
        tokens=tokens,
        dtype=dtype,
        threads=threads or budget(1),
        repeats=repeats,
        given=own,
    )
    if as_json:
        for line in lines:
            typer.echo(json.dumps(line))
        return
    from rich.console import Console

    Console().print(table(lines))
