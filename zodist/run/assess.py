"""Evaluate a model, or a run's newest snapshot, on a split of a task, with any number of workers."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path

from zodist.config import Config
from zodist.errors import ConfigError, SnapshotError, TaskError
from zodist.exchange import budget, collect, cores, set_threads, start
from zodist.journal import snapshot
from zodist.run.assemble import Parts, load, load_parts
from zodist.run.evaluate import evaluate
from zodist.run.replay import check, fold, open_run
from zodist.shard import joined
from zodist.step import Average
from zodist.tasks import Score


def assess(
    config: Config,
    split: str,
    run: Path | None,
    *,
    steps: int | None = None,
    average: float | None = None,
    warn: Callable[[str], object] = lambda sentence: None,
) -> tuple[Score, str]:
    """Score of a split and a name for what was evaluated.

    run: a run folder, whose newest snapshot is taken up; with steps or average, its journal is replayed instead: so many
    steps, or all, and the running average of their weights with this decay.  warn: told what is odd about the task.
    """
    with joined(config) as (exchange, shards):
        threads = config.run.threads or budget(start(cores()).beside)
        set_threads(threads)
        what = config.model.name
        if run is not None and (steps is not None or average is not None):
            if shards is not None:
                raise ConfigError(
                    "--best and --average replay a journal over a whole model; set shard.kind = 'none'"
                )
            parts, what = _replayed(config, threads, run, steps, average)
            run = None
        else:
            parts = load_parts(config, threads, shards=shards)
        if run is not None:
            contents = open_run(run)[1]
            found = snapshot.newest(run, contents.header["run"], 1 << 62)
            if found is None:
                raise SnapshotError(
                    f"{run} has no good snapshot; rebuild the weights with `zodist replay {run} --out F`"
                )
            parts.replica().load(found.step, found.tensors if shards is None else shards.own(found.tensors))
            what = f"{config.model.name} after {found.step} steps of {run}"
        for warning in parts.task.warnings:
            warn(warning)
        examples = getattr(parts.task, split)
        if not examples:
            raise TaskError(f"task {config.task.name!r} has no {split} examples; raise task.{split}")
        with closing(parts.evaluator()) as evaluator:
            return evaluate(evaluator, parts.task, examples, partial(collect, exchange)), what


def _replayed(
    config: Config, threads: int, run: Path, steps: int | None, average: float | None
) -> tuple[Parts, str]:
    """The parts of a run with the weights that its journal gives, and a name for them."""
    contents, loaded = open_run(run)[1], load(config)
    check(contents, run, steps)
    mean = None if average is None else Average(average)
    replica = fold(config, contents, loaded.model, run, steps, mean)
    if mean is not None:
        mean.give(replica.params)
    parts = load_parts(config, threads, loaded)
    for param, found in zip(parts.params, replica.params, strict=True):  # an adapter is a fresh one
        param.weights.copy_(found.weights)
        param.publish()
    smooth = "" if average is None else f", averaged with decay {average:g}"
    return parts, f"{config.model.name} after {replica.step} steps of {run}{smooth}"
