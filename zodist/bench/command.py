"""The commands under ``zodist bench``."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from zodist.bench.line import Line
    from zodist.bench.variants import Settings

bench_app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Measure zodist against its physical limits and its peers, all measured in the same run.",
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line for programs.")]
Plot = Annotated[Path | None, typer.Option(help="Write a plot of the figures to this PNG file.")]
Model = Annotated[str, typer.Option(help="Hub name, folder, or smollm2-135m.")]
Law = Annotated[str, typer.Option(help="gaussian or rademacher, where there is a choice.")]
Batch = Annotated[int, typer.Option(min=1, help="Examples in a batch.")]
Tokens = Annotated[int, typer.Option("--tokens", "--seq-len", min=1, help="Tokens of an example.")]
Dtype = Annotated[str, typer.Option(help="float32, bfloat16 or float16.")]
Probes = Annotated[int, typer.Option(min=1, help="Two-sided probes in a step.")]
Threads = Annotated[int, typer.Option(min=0, help="Threads; 0: all cores.")]
Repeats = Annotated[int, typer.Option(min=1, help="Rounds, in each of which everything compared runs once.")]
Numbers = Annotated[int, typer.Option(min=1024, help="Numbers of the tensor.")]

DEFAULT, MANY = "smollm2-135m", 1 << 24


def _settings(
    model: str,
    noise: str,
    batch: int,
    tokens: int,
    dtype: str,
    threads: int,
    probes: int = 1,
    columns: int = 2,
) -> Settings:
    from zodist.bench.variants import Settings

    return Settings(model, noise, batch, tokens, dtype, probes, _threads(threads), columns, wide=1024)


def _threads(asked: int) -> int:
    from zodist.exchange import budget

    return asked or budget(1)


def _quiet_profiler() -> None:
    """Keep torch's profiler from writing each start and stop to standard error; it asks when torch is imported."""
    os.environ.setdefault("KINETO_LOG_LEVEL", "7")


def _show(lines: Sequence[Line], as_json: bool, plot: Path | None) -> None:
    """Print the figures, and draw them."""
    if plot is not None:
        from zodist.bench.picture import save

        save(lines, plot)
    if as_json:
        for line in lines:
            typer.echo(json.dumps(line.plain()))
        return
    from rich.console import Console

    from zodist.bench.line import by_bench
    from zodist.bench.screen import tables

    for found in by_bench(lines).values():
        for table in tables(found):
            Console().print(table)


@bench_app.command()
def noise(
    numbers: Numbers = MANY,
    threads: Threads = 0,
    repeats: Repeats = 7,
    as_json: Json = False,
    plot: Plot = None,
) -> None:
    """Random numbers and perturbed weights per second, beside torch's copy_ and torch's own random numbers."""
    from zodist.bench.noise import measure_noise

    _show(measure_noise(numbers=numbers, threads=_threads(threads), repeats=repeats), as_json, plot)


@bench_app.command()
def step(
    model: Model = DEFAULT,
    noise: Law = "rademacher",
    batch: Batch = 16,
    tokens: Tokens = 32,
    dtype: Dtype = "bfloat16",
    probes: Probes = 1,
    threads: Threads = 0,
    repeats: Repeats = 7,
    columns: Annotated[int, typer.Option(min=0, help="Vocabulary entries in the loss; 0: all.")] = 2,
    sentences: Annotated[
        bool,
        typer.Option(help="Rows as long as SST-2's prompts, packed; what it is compared with is padded."),
    ] = False,
    points: Annotated[
        list[int] | None,
        typer.Option(
            help="Instead: evaluate all probes with so many points a forward (even), beside a forward for each; repeatable."
        ),
    ] = None,
    as_json: Json = False,
    plot: Plot = None,
) -> None:
    """A training step beside two bare forward passes and the in-place MeZO step as published, and where its time goes.

    All run in one process on the same model, batch and threads, in turn.
    """
    _quiet_profiler()
    from zodist.bench.population import measure_population
    from zodist.bench.step import measure_step

    settings = replace(
        _settings(model, noise, batch, tokens, dtype, threads, probes, columns), sentences=sentences
    )
    if points:
        lines = measure_population(settings, points, repeats=repeats)
    else:
        lines = measure_step(settings, repeats=repeats)
    _show(lines, as_json, plot)


@bench_app.command()
def update(
    model: Model = DEFAULT,
    noise: Law = "rademacher",
    dtype: Dtype = "bfloat16",
    threads: Threads = 0,
    repeats: Repeats = 5,
    as_json: Json = False,
    plot: Plot = None,
) -> None:
    """The update of all weights by 1 to 65,536 probes, coded or of independent seeds, beside a copy of the weights."""
    from zodist.bench.update import measure_update

    _show(measure_update(_settings(model, noise, 1, 1, dtype, threads), repeats=repeats), as_json, plot)


@bench_app.command()
def exchange(
    workers: Annotated[
        list[int] | None, typer.Option(help="Processes on this machine; repeatable. Default: 2 and 4.")
    ] = None,
    blocks: Annotated[int, typer.Option(min=1, help="Blocks, in turn with those of the peer.")] = 7,
    rounds: Annotated[int, typer.Option(min=2, help="Rounds of a block.")] = 200,
    as_json: Json = False,
    plot: Plot = None,
) -> None:
    """A round of 16-byte records between processes over loopback, beside a plain TCP ping-pong of the same bytes."""
    from zodist.bench.exchange import measure_exchange

    _show(measure_exchange(workers or (2, 4), blocks=blocks, rounds=rounds), as_json, plot)


@bench_app.command()
def methods(
    names: Annotated[list[str] | None, typer.Argument(help="Methods; none: all.")] = None,
    model: Model = DEFAULT,
    noise: Law = "rademacher",
    batch: Batch = 16,
    tokens: Tokens = 32,
    dtype: Dtype = "bfloat16",
    threads: Threads = 0,
    repeats: Repeats = 5,
    given: Annotated[
        list[str] | None, typer.Option("--set", help="A setting of one method: method.key=value (TOML).")
    ] = None,
    as_json: Json = False,
    plot: Plot = None,
) -> None:
    """A step of every method beside as many bare forwards, and beside a MeZO step with as many forward passes."""
    from zodist.bench.methods import measure_methods
    from zodist.errors import ConfigError

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
    settings = _settings(model, noise, batch, tokens, dtype, threads)
    _show(measure_methods(names or [], settings, repeats=repeats, given=own), as_json, plot)


@bench_app.command()
def memory(
    model: Model = DEFAULT,
    noise: Law = "rademacher",
    batch: Batch = 16,
    tokens: Tokens = 32,
    dtype: Dtype = "bfloat16",
    probes: Probes = 1,
    threads: Threads = 0,
    as_json: Json = False,
    plot: Plot = None,
) -> None:
    """Peak memory of a bare forward, of a step and of the in-place step, each in a process of its own."""
    from zodist.bench.memory import measure_memory

    _show(measure_memory(_settings(model, noise, batch, tokens, dtype, threads, probes)), as_json, plot)


@bench_app.command()
def adamw(
    config: Annotated[Path, typer.Argument(help="TOML file of a run.")],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes.")] = None,
    lr: Annotated[float, typer.Option(help="The highest rate of rule.schedule, in place of rule.lr.")] = 1e-5,
    steps: Annotated[int, typer.Option(min=0, help="Steps; 0: run.steps.")] = 0,
    as_json: Json = False,
) -> None:
    """First-order training of a run's configuration, for comparison: same model, parameters, data and evaluation.

    By backpropagation, with float32 weights, or float32 copies of 16-bit ones.  Nothing is written; --json prints the loss
    of every step, the validation curve (output.evaluate_every) and the figures before and after.
    """
    from zodist.bench.adamw import train
    from zodist.config import load

    given = [*(overrides or []), *([f"run.steps={steps}"] if steps else [])]
    found = train(load(config, given), lr=lr)
    if as_json:
        typer.echo(json.dumps(found.plain()))
        return
    from zodist.run import sentence

    for step, score in found.validation.items():
        typer.echo(f"step {step:5d}  validation: {sentence(score)}")
    typer.echo(f"before   {sentence(found.before)}")
    typer.echo(f"after    {sentence(found.after)}")
    typer.echo(f"         {len(found.losses)} steps of {found.examples} examples at rate {found.lr:g}")


@bench_app.command()
def shards(
    model: Annotated[str, typer.Argument(help="Folder or config.json, hub name, or a built-in shape.")],
    kind: Annotated[str, typer.Option(help="zero or fsdp.")] = "zero",
    workers: Annotated[int, typer.Option(min=1, help="Processes on this machine.")] = 2,
    size: Annotated[int, typer.Option(min=1, help="Workers of a shard group.")] = 2,
    offload: Annotated[str, typer.Option(help="none, cpu or nvme (mapped files).")] = "none",
    limit_gib: Annotated[
        float, typer.Option(min=0, help="Of private memory a worker, set with RLIMIT_DATA; 0: none.")
    ] = 0.0,
    layers: Annotated[
        list[int] | None,
        typer.Option(help="Only so many; twice: the step of the whole model is calculated from the two."),
    ] = None,
    batch: Batch = 2,
    tokens: Annotated[int, typer.Option(min=3, help="Tokens of an example.")] = 8,
    probes: Probes = 2,
    steps: Annotated[int, typer.Option(min=2, help="Steps; the first is not timed.")] = 3,
    threads: Threads = 0,
    folder: Annotated[Path | None, typer.Option(help="Where the model is written meanwhile.")] = None,
    as_json: Json = False,
    plot: Plot = None,
) -> None:
    """Real steps of a large random model, cut into shards, on workers with a limit of memory; nothing is compared.

    The model is written to disk (2 bytes a parameter), so is a copy for every replica with --offload nvme.
    """
    from zodist.bench.shards import Shards, measure_shards
    from zodist.exchange import budget

    cuts = layers or []
    asked = Shards(
        model=model,
        kind=kind,
        workers=workers,
        size=size,
        offload=offload,
        limit=int(limit_gib * 2**30),
        layers=cuts[0] if len(cuts) == 1 else 0,
        batch=batch,
        tokens=tokens,
        probes=probes,
        steps=steps,
        threads=threads or budget(workers),
        folder=str(folder or ""),
    )
    _show(measure_shards(asked, cuts if len(cuts) > 1 else ()), as_json, plot)


@bench_app.command(name="all")
def every(
    report: Annotated[
        Path, typer.Option(help="Folder for index.html, results.jsonl, machine.json and the plots.")
    ],
    model: Model = DEFAULT,
    dtype: Dtype = "bfloat16",
    numbers: Numbers = MANY,
    threads: Threads = 0,
    as_json: Json = False,
) -> None:
    """All of these within some minutes, and a page with the tables, the plots and the targets."""
    _quiet_profiler()
    from zodist.bench.everything import measure_all, write_report

    settings = _settings(model, "rademacher", 16, 32, dtype, threads)
    lines = measure_all(
        settings, numbers=numbers, workers=(2, 4), say=lambda sentence: typer.echo(sentence, err=True)
    )
    verdicts = write_report(lines, settings.threads, report)
    _show(lines, as_json, None)
    if not as_json:
        for verdict in verdicts:
            words = {True: "reached", False: "NOT reached", None: "not measured"}[verdict.reached]
            figure = "" if verdict.figure is None else f": {verdict.figure:.3g} {verdict.target.unit}"
            typer.echo(f"{words:13} {verdict.target.text} {verdict.target.bound}{figure}")
        typer.echo(f"report        {report / 'index.html'}")
