"""The model card of a run: what was trained on what, how, and what came of it; every word from the run's own files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zodist.config import Config, on_hub, portable
from zodist.methods import METHODS
from zodist.models import params
from zodist.report import amount
from zodist.step import Entry, Replica, records

_SPAN = 50  # steps at each end whose losses are averaged
# Title, and the names of value and standard error in metrics.jsonl.
_FIGURES = (
    ("accuracy", "accuracy", "accuracy_error"),
    ("calibrated accuracy", "calibrated", ""),
    ("F1", "f1", "f1_error"),
    ("exact match", "exact", "exact_error"),
)


@dataclass(frozen=True, eq=False, slots=True)
class Facts:
    """What a card says.  evaluations: lines of metrics.jsonl; entries: the journal's, those of the replica's steps alone.

    average: the decay, where the weights are their running average.
    """

    config: Config
    header: Mapping[str, Any]
    entries: Sequence[Entry]
    replica: Replica
    evaluations: Sequence[Mapping[str, Any]]
    average: float | None = None


def card(facts: Facts) -> str:
    """Markdown with the front matter that the Hugging Face hub reads."""
    config = portable(facts.config)
    model, task = Path(config.model.name).name, facts.header["task"]["name"]
    lines = [
        "---",
        *([f"base_model: {config.model.name}"] if on_hub(config) else []),
        f"library_name: {'peft' if config.model.adapter else 'transformers'}",
        "pipeline_tag: text-generation",
        "tags:",
        *(f"- {tag}" for tag in ("zodist", "zeroth-order", config.method.name)),
        "---",
        "",
        f"# {model} trained on {task}",
        "",
        *_scores(facts),
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in _rows(facts, config)),
        "",
        "## Reproduce",
        "",
        "No gradient was computed; the weights are a function of the base model and the journal of losses alone. With the "
        "run's folder, or with the file that `zodist share` makes of it:",
        "",
        "```",
        f"zodist replay {config.run.folder} --out FOLDER{_options(facts)}",
        *(["zodist apply FILE --out FOLDER"] if facts.average is None else []),
        "```",
        "",
        "The run itself, `zodist train config.toml`, with this `config.toml`:",
        "",
        "```toml",
        config.to_toml().rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)


def _options(facts: Facts) -> str:
    """What `zodist replay` is told besides the folder."""
    short = f" --steps {facts.replica.step}" if facts.replica.step < facts.config.run.steps else ""
    return short if facts.average is None else f"{short} --average {facts.average:g}"


def _scores(facts: Facts) -> list[str]:
    """A table of the evaluations before and after on one split: that of the last evaluation of these steps."""
    last = facts.replica.step
    after = [line for line in facts.evaluations if line["step"] == last]
    if not after:
        return []
    split = next((line["split"] for line in after if line["split"] == "test"), after[0]["split"])
    shown = [
        (name, line)
        for name, step in (("before", 0), (f"after {last} steps", last))
        for line in facts.evaluations
        if line["step"] == step and line["split"] == split
    ]
    figures = [f for f in _FIGURES if all(line.get(f[1]) is not None for _, line in shown)]
    plain = [name for name in ("reward", "loss") if all(line.get(name) is not None for _, line in shown)]
    head = ["", *(title for title, _, _ in figures), *plain]
    rows = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    for name, line in shown:
        cells = [name]
        for _, value, error in figures:
            cells.append(f"{line[value]:.1%}" + (f" ± {line[error]:.1%}" if error else ""))
        cells += [f"{line[name]:.4f} ± {line[f'{name}_error']:.4f}" for name in plain]
        rows.append(f"| {' | '.join(cells)} |")
    examples = shown[-1][1]["examples"]
    return [*rows, "", f"{examples} examples of the split {split!r}; ± is the standard error.", ""]


def _rows(facts: Facts, config: Config) -> list[tuple[str, str]]:
    head, replica, entries = facts.header, facts.replica, facts.entries
    base = config.model.name if on_hub(config) else Path(config.model.name).name
    tables = config.identity()
    trained = sum(p.weights.numel() for p in replica.params)
    chosen = f"whose names match `{config.model.train}`" if config.model.train else "all"
    copy = ", with a float32 copy" if config.model.master == "float32" else ""
    forwards = sum(replica.method.count(e.values) for e in entries)
    sent = sum(len(e.values) * records.record_bytes(e.values.shape[1]) for e in entries)
    versions = ", ".join(f"{name} {version}" for name, version in head.get("versions", {}).items())
    return [
        ("base model", f"{base}, fingerprint `{head['model']['fingerprint']}`"),
        ("task", f"{head['task']['name']}, fingerprint `{head['task']['fingerprint']}`"),
        ("parameters", f"{trained:,} numbers in {len(replica.params)} tensors, {chosen}"),
        ("weights", f"{config.model.dtype}{copy}; digest `{params.digest(replica.params):016x}`"),
        ("method", f"{config.method.name}: {METHODS[config.method.name].kind.paper}"),
        *((f"[{name}]", _settings(table)) for name, table in tables.items()),
        ("steps", f"{replica.step:,} of {config.run.steps:,}, seed {config.run.seed}"),
        ("forward passes of a batch", f"{forwards:,}"),
        *_losses(entries),
        ("records of losses", f"{amount(sent)} in all"),
        ("made with", versions),
        ("run", f"`{head['run']}`"),
    ]


def _settings(table: Mapping[str, Any]) -> str:
    return ", ".join(f"`{key} = {value!r}`" for key, value in table.items() if value is not None)


def _losses(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """Mean loss of the training batches over the first and the last steps."""
    losses: dict[int, float] = {}
    for e in entries:
        if e.round == 0:
            found = records.from_values(e.values)
            if np.isfinite(found).any():
                losses[e.step] = math.fsum(found[np.isfinite(found)]) / np.isfinite(found).sum()
    span = min(_SPAN, len(losses) // 2)
    if not span:
        return []
    values = list(losses.values())
    first, last = math.fsum(values[:span]) / span, math.fsum(values[-span:]) / span
    return [("training loss", f"{first:.4f} over the first {span} steps, {last:.4f} over the last {span}")]
