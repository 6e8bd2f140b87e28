"""Rebuild weights from the base model and a journal: no forward pass, identical bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from zodist import noise
from zodist.adapter import attached
from zodist.config import Config, load
from zodist.errors import JournalEnd, JournalError, ModelError
from zodist.journal import CONFIG, JOURNAL, METRICS, read, read_lines, snapshot
from zodist.journal import format as journal_format
from zodist.models import DTYPES, load_model, params
from zodist.run import early
from zodist.run.assemble import replica_of
from zodist.run.export import export
from zodist.step import Average, Replayed, Replica


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Weights after some steps.  verified: whether a snapshot of the same step has the same digest (None: no such)."""

    steps: int
    digest: str
    verified: bool | None
    out: Path | None


def replay(
    folder: Path,
    out: Path | None = None,
    *,
    model: str | None = None,
    steps: int | None = None,
    average: float | None = None,
) -> Rebuilt:
    """Fold a run's journal over its base model; write a Hugging Face folder with weights and tokenizer to ``out``.

    model: where the base model lies, if not where the run's config says.  steps: stop after so many (default: all).  A
    last step that lacks rounds is left out, as if it had not begun: which rounds a step has only its method can tell.
    average: the weights become their running average with this decay (zodist.step.average), and the digest is that of these.
    Raises ModelError when the base model is not the one of the journal, JournalError when the journal is damaged.
    """
    config, contents = open_run(folder)
    check(contents, folder, steps)
    said = contents.header["model"]
    loaded, tokenizer = load_model(model or config.model.name, DTYPES[said["dtype"]], said["attention"])
    mean = None if average is None else Average(average)
    replica = fold(config, contents, loaded, folder, steps, mean)
    rebuilt = _compared(replica, contents, folder, out)
    if mean is not None:
        mean.give(replica.params)
        rebuilt = replace(rebuilt, digest=f"{params.digest(replica.params):016x}")
    if out is not None:
        evaluations = [line for line in read_lines(folder / METRICS) if "split" in line]
        # The run's evaluations are of its weights, not of their average.
        known = evaluations if average is None else []
        export(out, loaded, tokenizer, config, contents, replica, known, average)
    return rebuilt


def rebuild(model: torch.nn.Module, folder: str | Path, *, steps: int | None = None) -> Rebuilt:
    """Make a model in memory, which holds the base weights, the one that a run's folder leads to; no forward pass.

    steps: stop after so many (default: all).  Raises ModelError, with the weights untouched, when it is another base model.
    """
    folder = Path(folder)
    config, contents = open_run(folder)
    check(contents, folder, steps)
    return _compared(fold(config, contents, model, folder, steps), contents, folder, None)


def _compared(replica: Replica, contents: journal_format.Contents, folder: Path, out: Path | None) -> Rebuilt:
    """The digest of a replica that was folded, compared with the snapshot of the same step if there is one."""
    digest = params.digest(replica.params)
    same = snapshot.newest(folder, contents.header["run"], replica.step)
    verified = None
    if same is not None and same.step == replica.step:
        replica.load(same.step, same.tensors)
        verified = params.digest(replica.params) == digest
        if not verified:
            raise JournalError(f"{same.path} differs from the replay of the journal at step {replica.step}")
    return Rebuilt(replica.step, f"{digest:016x}", verified, out)


def open_run(folder: Path) -> tuple[Config, journal_format.Contents]:
    """The configuration and the journal of a run folder; they must belong together."""
    contents = read(folder / JOURNAL)
    config = load(folder / CONFIG)
    belong_together(config, contents, folder)
    return config, contents


def belong_together(config: Config, contents: journal_format.Contents, where: Path) -> None:
    """See that a configuration says what the header of a journal says.  Raises JournalError if not."""
    said = config.identity()
    for section in {**said, "adapter": None, "objective": None}:
        if said.get(section) != contents.header.get(section):
            raise JournalError(
                f"{where}/config.toml and journal.jsonl differ in [{section}]; restore the config that the run had"
            )


def check(contents: journal_format.Contents, where: Path, steps: int | None) -> None:
    """See that a journal can be folded here, and has so many steps, before a model is loaded."""
    law, begun = contents.header["noise"], _begun(contents.entries)
    if law != noise.LAW:
        raise JournalError(f"{where} was made with noise law {law!r}, this zodist has {noise.LAW!r}")
    if steps is not None and not 0 <= steps <= begun:
        raise JournalError(_too_many(where, begun, steps))


def fold(
    config: Config,
    contents: journal_format.Contents,
    base: Any,
    where: Path,
    steps: int | None = None,
    mean: Average | None = None,
) -> Replica:
    """The state machine after a journal's steps; the weights of ``base`` change.  mean: takes in the weights of each step.

    Raises ModelError, with the weights untouched, when ``base`` is not the model that the run began with.
    """
    head = contents.header
    found = params.fingerprint(base)
    if found != head["model"]["fingerprint"]:
        raise ModelError(
            f"the model has fingerprint {found}, the journal in {where} began with {head['model']['fingerprint']}; "
            "give the base model that the run began with (--model)"
        )
    model = attached(base, config.model.adapter, config.adapter, config.run.seed)
    chosen = params.collect(model, head["model"]["train"], master=head["model"]["master"] == "float32")
    replica = replica_of(config, chosen)
    answer = Replayed(contents.entries, config.batch.data_lanes)
    last = _begun(contents.entries) if steps is None else steps
    if mean is not None:
        mean.begin(chosen)
    while replica.step < last:
        try:
            replica.advance(answer)
            if mean is not None:
                mean.take(chosen)
        except JournalEnd:
            if steps is not None:
                raise JournalError(_too_many(where, replica.step, steps)) from None
            break
    return replica


def best_step(folder: Path) -> int:
    """The step of a run after which the validation loss was lowest.  Raises JournalError if it was never evaluated."""
    found = early.best(early.course(read_lines(folder / METRICS)))
    if found is None:
        raise JournalError(
            f"{folder / METRICS} has no evaluation on the validation split; set output.evaluate_every, or name a step"
        )
    return found


def _begun(entries: Sequence[journal_format.Entry]) -> int:
    """Steps that have at least one round."""
    return entries[-1].step + 1 if entries else 0


def _too_many(where: Path, done: int, steps: int) -> str:
    return f"{where} holds {done} complete steps; ask for 0 to {done}, not {steps}"
