"""The command line.  `python -m zodist` is the same program; torchrun starts it on every worker.

Heavy packages are imported by the command that needs them, after the environment of their thread pools is set.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from zodist.bench import bench_app
from zodist.elastic import supervise
from zodist.errors import ConfigError, Stopped, WorkerLost, ZodistError
from zodist.exchange import prepare_environment, start, stopping
from zodist.plan import plan
from zodist.report import report
from zodist.scale import scale
from zodist.share import apply, replay, share
from zodist.tasks import tasks_app

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    help="Fine-tune language models on many nodes with forward passes alone: workers exchange seeds and losses, "
    "16 bytes a probe, and all stay bit-identical.",
)
app.add_typer(bench_app, name="bench")
app.add_typer(tasks_app, name="tasks")
app.command()(supervise)
app.command()(report)
for command in (plan, scale, replay, share, apply):
    app.command()(command)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object for programs.")]


def _worker() -> int:
    return start(1).worker


def _warn(sentence: str) -> None:
    if _worker() == 0:
        print(f"warning: {sentence}", file=sys.stderr)


def _print(value: Any) -> None:
    print(json.dumps(value))


@app.command()
def train(
    config: Annotated[
        Path, typer.Argument(help="TOML file: one file is one run.  Or a supervisor's HOST:PORT.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes, such as rule.lr=1e-4.")
    ] = None,
    quiet: Annotated[bool, typer.Option(help="No progress, only the result.")] = False,
    check: Annotated[bool, typer.Option(help="Only read the configuration, and say if it is right.")] = False,
    as_json: Json = False,
) -> None:
    """Fine-tune a model, or go on with a run that was interrupted.

    One process:   [bold]zodist train configs/quickstart.toml[/bold]
    Two processes: [bold]torchrun --nproc-per-node 2 -m zodist train configs/quickstart.toml[/bold]

    The run folder (run.folder) receives config.toml, journal.jsonl, metrics.jsonl, timings.jsonl, snapshots and plot.png.
    The same command resumes it, with any number of workers; the weights are the same to the bit.  SIGUSR1 or SIGTERM:
    the run finishes its step, writes a snapshot and leaves with status 75 (0 under torchrun).
    """
    stopping.listen()  # before torch is imported: that takes seconds
    from zodist.config import load

    if not config.exists() and ":" in config.name:
        from zodist.elastic import fetch

        settings = fetch(str(config), overrides or ())
    else:
        settings = load(config, overrides or ())
    if check:
        return
    from zodist.run import train as run

    result = run(settings, quiet=quiet)
    if _worker() != 0:
        return
    before = result.before
    figures = {
        "folder": str(result.folder),
        "steps": result.steps,
        "accuracy_before": before and before.accuracy,
        "accuracy_after": result.after.accuracy,
        "accuracy_error": result.after.accuracy_error,
        "calibrated_before": before and before.calibrated,
        "calibrated_after": result.after.calibrated,
        "f1_before": before and before.f1,
        "f1_after": result.after.f1,
        "reward_before": before and before.reward,
        "reward_after": result.after.reward,
        "loss_before": before and before.loss,
        "loss_after": result.after.loss,
        "examples": result.after.examples,
        "digest": result.digest,
        "bytes_sent": result.sent,
        "workers": result.workers,
    }
    if as_json:
        _print(figures)
        return
    from zodist.report import amount
    from zodist.run import sentence

    if before is not None:
        print(f"before   {sentence(before)}")
    print(f"after    {sentence(result.after)}")
    gain = _gain(result)
    if gain:
        print(gain)
    print(f"weights  {result.digest} after {result.steps} steps; this worker sent {amount(result.sent)}")
    picture = ", plot.png" if settings.output.plot else ""
    print(f"folder   {result.folder}: config, journal, metrics, snapshot{picture}")
    print("next     zodist inspect " + str(result.folder))
    print(
        f"         zodist replay {result.folder} --out tuned     (base model + journal -> Hugging Face folder)"
    )
    print('         launch/quickstart.sh --model NAME --task FILE.toml     (docs/tasks.md, "Your own task")')


def _gain(result: Any) -> str:
    """How many standard errors the reward or the accuracy rose by, both evaluations counted."""
    before, after = result.before, result.after
    name = "reward" if after.reward is not None else "accuracy"
    if before is None or getattr(before, name) is None or getattr(after, name) is None:
        return ""
    error = (getattr(before, f"{name}_error") ** 2 + getattr(after, f"{name}_error") ** 2) ** 0.5
    rise = getattr(after, name) - getattr(before, name)
    many = f", {rise / error:.1f} standard errors" if error else ""
    return f"change   {rise:+.4f}{many}" if name == "reward" else f"change   {100 * rise:+.1f} points{many}"


@app.command()
def evaluate(
    config: Annotated[
        Path, typer.Argument(help="TOML file of a run, or a run folder (then its newest snapshot).")
    ],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Changes.")] = None,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "test",
    base: Annotated[
        bool, typer.Option(help="Of a run folder: the base model, without the snapshot.")
    ] = False,
    best: Annotated[
        bool, typer.Option("--best", help="Of a run folder: the step of the lowest validation loss.")
    ] = False,
    average: Annotated[
        float | None, typer.Option(help="Of a run folder: the weights' average over its steps, as 0.99.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Evaluate a model on a task: loss, accuracy, calibrated accuracy, F1 or exact match, with standard errors.

    With torchrun the examples are shared out; the figures are the same for any number of workers.
    """
    from dataclasses import asdict

    from zodist.config import load

    folder = config if config.is_dir() else None
    settings = load(folder / "config.toml" if folder else config, overrides or ())
    if split not in ("train", "validation", "test"):
        raise ConfigError(f"--split {split!r} must be train, validation or test")
    if (best or average is not None) and (folder is None or base):
        raise ConfigError("--best and --average are of a run: name its folder, and leave out --base")
    from zodist.run import assess, best_step

    steps = best_step(folder) if best and folder else None
    run = None if base else folder
    score, what = assess(settings, split, run, steps=steps, average=average, warn=_warn)
    if _worker() == 0:
        if as_json:
            _print({"model": what, "task": settings.task.name, "split": split, **asdict(score)})
        else:
            from zodist.run import sentence

            print(f"{what} on {settings.task.name} ({split}): {sentence(score)}")


@app.command()
def inspect(
    run: Annotated[Path, typer.Argument(help="Run folder, or a journal.jsonl.")],
    as_json: Json = False,
) -> None:
    """Say what a run is: method, steps, losses, evaluations, bytes; and check every checksum."""
    from zodist.journal import inspect as look

    found = look(run)
    if as_json:
        _print(found)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(title=found["folder"], show_header=False)
    for name, value in found.items():
        if name == "evaluations":
            for e in value:
                accuracy = (
                    ""
                    if e["accuracy"] is None
                    else f"accuracy {e['accuracy']:.1%} ± {e['accuracy_error']:.1%}, "
                )
                table.add_row(f"{e['split']}, step {e['step']}", f"{accuracy}loss {e['loss']:.4f}")
        elif name != "folder":
            table.add_row(name, "" if value is None else str(value))
    Console().print(table)


@app.command()
def diagnose(
    run: Annotated[Path, typer.Argument(help="Run folder.")],
    examples: Annotated[int, typer.Option(min=1, help="Training examples whose gradient is taken.")] = 256,
    as_json: Json = False,
) -> None:
    """Compare what a method has learned with the true gradient, by backpropagation: for understanding, not for training."""
    from zodist.run import diagnose as look

    found = look(run, examples)
    if as_json:
        _print(found)
        return
    for name, value in found.items():
        print(f"{name:22} {value:.4g}" if isinstance(value, float) else f"{name:22} {value}")


@app.command()
def methods(as_json: Json = False) -> None:
    """List the zeroth-order methods: paper, what their replay needs, forward passes of a step."""
    from zodist.methods import METHODS

    rows = [
        {
            "name": name,
            "paper": entry.kind.paper,
            "replay": entry.kind.replay,
            "forwards_per_step": entry.kind.forwards,
            "from": entry.origin,
        }
        for name, entry in METHODS.items()
    ]
    if as_json:
        _print(rows)
        return
    from rich.console import Console
    from rich.table import Table

    table = Table(*(name.replace("_", " ") for name in rows[0]))
    for row in rows:
        table.add_row(*row.values())
    Console().print(table)


@app.command()
def compare(
    config: Annotated[Path, typer.Argument(help="TOML file of a run: task, model, batch, schedule, output.")],
    methods: Annotated[
        str, typer.Option(help="Names with commas; methods/NAME.toml beside CONFIG, or a method.")
    ],
    budget: Annotated[int, typer.Option(min=1, help="Forward passes of a reported run.")],
    seeds: Annotated[int, typer.Option(min=1, help="Reported runs of each method.")],
    grid: Annotated[str, typer.Option(help="Factors of rule.lr that are tried.")] = "0.25,0.5,1,2,4",
    jobs: Annotated[int, typer.Option(min=0, help="Runs at a time; 0: one for every run.threads cores.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Folder (default: runs/compare-NAME).")] = None,
    tune_budget: Annotated[int, typer.Option(min=0, help="Forward passes of a tuning run; 0: --budget.")] = 0,
    tune_seeds: Annotated[int, typer.Option(min=1, help="Runs for each rate that is tried.")] = 1,
    as_json: Json = False,
) -> None:
    """Compare methods at equal forward passes, each with its learning rate tuned on the validation split.

    MeZO at 1, 2 and 4 times its tuned rate, MeZO averaged over more probes and the loss-normalised step (meazo) always
    take part.  The same command goes on after an interruption.  Writes table.md, compare.png, results.jsonl and the run
    folders.
    """
    from zodist.compare import compare as run

    if start(1).workers > 1:
        raise ConfigError(
            "compare starts processes of its own; run it without torchrun or mpirun, with --jobs"
        )
    outcome = run(
        config,
        methods.split(","),
        budget=budget,
        seeds=seeds,
        grid=grid.split(","),
        jobs=jobs,
        out=out,
        tune_budget=tune_budget,
        tune_seeds=tune_seeds,
        say=lambda sentence: print(sentence, file=sys.stderr, flush=True),
    )
    if as_json:
        _print(outcome.plain())
    else:
        from rich.console import Console

        Console().print(outcome.table())
        print(f"folder   {outcome.out}: table.md, compare.png, results.jsonl, runs/")
    if outcome.problem:
        raise ZodistError(outcome.problem)


def main() -> None:
    """Run a command; a mistake of the user's is one sentence on standard error and exit code 2."""
    prepare_environment()
    try:
        app()
    except Stopped as news:
        if _worker() == 0:
            print(f"zodist: {news}", file=sys.stderr)
        # torchrun would take any other status for a failure and start the workers again.
        sys.exit(0 if "TORCHELASTIC_RUN_ID" in os.environ else stopping.STATUS)
    except WorkerLost as error:
        print(f"zodist: {error}", file=sys.stderr)
        sys.exit(69)  # EX_UNAVAILABLE of sysexits.h
    except ZodistError as error:
        # All workers read the same configuration: one of them says what is wrong with it.
        if not isinstance(error, ConfigError) or _worker() == 0:
            print(f"zodist: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("zodist: interrupted; the same command goes on where the journal ends", file=sys.stderr)
        sys.exit(130)


if __name__ == "__main__":
    main()
