"""Evaluate a model, or a run's newest snapshot, on a split of a task, with any number of workers."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from zodist import snapshot
from zodist.assemble import load_parts
from zodist.config import Config
from zodist.errors import SnapshotError, TaskError
from zodist.evaluate import evaluate
from zodist.exchange import open_exchange
from zodist.launcher import start
from zodist.replay import open_run
from zodist.tasks.score import Score
from zodist.threads import budget, cores, set_threads
from zodist.together import collect


def assess(config: Config, split: str, run: Path | None) -> tuple[Score, str]:
    """Score of a split and a name for what was evaluated.  run: a run folder, whose newest snapshot is taken up."""
    # A score needs no supervisor: elastic runs are evaluated by one process, or by those of torchrun.
    kind = "auto" if config.exchange.kind == "store" else config.exchange.kind
    exchange = open_exchange(kind, config.exchange.timeout_s)
    try:
        threads = config.run.threads or budget(start(cores()).beside)
        set_threads(threads)
        parts = load_parts(config, threads)
        what = config.model.name
        if run is not None:
            contents = open_run(run)[1]
            found = snapshot.newest(run, contents.header["run"], 1 << 62)
            if found is None:
                raise SnapshotError(
                    f"{run} has no good snapshot; rebuild the weights with `zodist replay {run} --out F`"
                )
            parts.replica().load(found.step, found.tensors)
            what = f"{config.model.name} after {found.step} steps of {run}"
        examples = getattr(parts.task, split)
        if not examples:
            raise TaskError(f"task {config.task.name!r} has no {split} examples; raise task.{split}")
        return evaluate(parts.evaluator(), parts.task, examples, partial(collect, exchange)), what
    finally:
        exchange.close()
