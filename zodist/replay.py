"""Rebuild weights from the base model and a journal: no forward pass, identical bits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from zodist import journal_format, noise, params, snapshot
from zodist.assemble import DTYPES
from zodist.config import Config, load
from zodist.errors import JournalEnd, JournalError, ModelError
from zodist.journal import read
from zodist.methods import METHODS
from zodist.model import load_model
from zodist.rules import RULES
from zodist.step import Replayed, Replica


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """Weights after some steps.  verified: whether a snapshot of the same step has the same digest (None: no such)."""

    steps: int
    digest: str
    verified: bool | None
    out: Path | None


def replay(
    folder: Path, out: Path | None = None, *, model: str | None = None, steps: int | None = None
) -> Rebuilt:
    """Fold a run's journal over its base model; write a Hugging Face folder with weights and tokenizer to ``out``.

    model: where the base model lies, if not where the run's config says.  steps: stop after so many (default: all).  A
    last step that lacks rounds is left out, as if it had not begun: which rounds a step has only its method can tell.
    Raises ModelError when the base model is not the one of the journal, JournalError when the journal is damaged.
    """
    config, contents = open_run(folder)
    head = contents.header
    if head["noise"] != noise.LAW:
        raise JournalError(
            f"{folder} was made with noise law {head['noise']!r}, this zodist has {noise.LAW!r}"
        )
    begun = contents.entries[-1].step + 1 if contents.entries else 0
    if steps is not None and not 0 <= steps <= begun:
        raise JournalError(_too_many(folder, begun, steps))
    name = model or config.model.name
    loaded, tokenizer = load_model(name, DTYPES[head["model"]["dtype"]], head["model"]["attention"])
    found = params.fingerprint(loaded)
    if found != head["model"]["fingerprint"]:
        raise ModelError(
            f"{name!r} has fingerprint {found}, the journal in {folder} began with {head['model']['fingerprint']}; "
            "name the base model of the run with --model"
        )
    chosen = params.collect(loaded, head["model"]["train"], master=head["model"]["master"] == "float32")
    method = METHODS[config.method.name].build(config.method.settings)
    rule = RULES[config.rule.name](config.rule, chosen)
    lanes = config.batch.data_lanes
    replica = Replica(chosen, method, rule, seed=config.run.seed, steps=config.run.steps, data_lanes=lanes)
    answer = Replayed(contents.entries, lanes)
    while replica.step < (begun if steps is None else steps):
        try:
            replica.advance(answer)
        except JournalEnd:
            if steps is not None:
                raise JournalError(_too_many(folder, replica.step, steps)) from None
            break
    digest = params.digest(chosen)
    same = snapshot.newest(folder, head["run"], replica.step)
    verified = None
    if same is not None and same.step == replica.step:
        replica.load(same.step, same.tensors)
        verified = params.digest(chosen) == digest
        if not verified:
            raise JournalError(f"{same.path} differs from the replay of the journal at step {replica.step}")
    if out is not None:
        loaded.save_pretrained(out)
        tokenizer.save_pretrained(out)
    return Rebuilt(replica.step, f"{digest:016x}", verified, out)


def open_run(folder: Path) -> tuple[Config, journal_format.Contents]:
    """The configuration and the journal of a run folder; they must belong together."""
    contents = read(folder / "journal.jsonl")
    config = load(folder / "config.toml")
    for section, settings in config.identity().items():
        if settings != contents.header[section]:
            raise JournalError(
                f"{folder}/config.toml and journal.jsonl differ in [{section}]; restore the config that the run had"
            )
    return config, contents


def _too_many(folder: Path, done: int, steps: int) -> str:
    return f"{folder} holds {done} complete steps; ask for 0 to {done}, not {steps}"
