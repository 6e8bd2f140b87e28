"""A run's weights as a folder of the Hugging Face hub: model, tokenizer, and a card made from the run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from zodist.adapter import save
from zodist.config import Config
from zodist.errors import ModelError
from zodist.journal import Contents
from zodist.run.card import Facts, card
from zodist.step import Replica

CARD = "README.md"


def export(
    out: Path,
    model: Any,
    tokenizer: Any,
    config: Config,
    contents: Contents,
    replica: Replica,
    evaluations: Sequence[Mapping[str, Any]],
    average: float | None = None,
) -> None:
    """Write weights, tokenizer and card; of a run with an adapter, its weights alone, as peft does.

    model: the base model that the replica was folded over.  evaluations: the lines of metrics.jsonl that have a split.
    average: the decay, where the replica's weights have become their running average.

    Raises ModelError if the folder cannot be written.
    """
    entries = [entry for entry in contents.entries if entry.step < replica.step]
    text = card(Facts(config, contents.header, entries, replica, evaluations, average))
    try:
        if config.model.adapter:
            save(out, model, config.model.adapter, config.adapter, replica.params)
        else:
            model.save_pretrained(out)
        tokenizer.save_pretrained(out)
        (out / CARD).write_text(text, encoding="utf-8")
    except OSError as error:
        raise ModelError(f"cannot write the model to {out}: {error.strerror or error}") from error
