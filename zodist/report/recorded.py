"""What a run folder holds, read once and put in order: steps, evaluations, clock, bytes, workers, settings, diagnosis."""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from zodist.errors import JournalError
from zodist.journal import read, read_lines
from zodist.step import Entry, records

DIAGNOSIS = "diagnose.json"


@dataclass(frozen=True)
class Run:
    """A run as its files tell it.

    name: what tells it from the others of a report.  steps, evaluations, digests: lines of metrics.jsonl; without it the
    steps have the losses of the journal.  timings: lines of timings.jsonl.  config: the text of config.toml.
    diagnosis: what ``zodist diagnose --json`` printed into diagnose.json.  missing: sentences on what is not there.
    """

    name: str
    folder: Path
    header: dict[str, Any]
    entries: list[Entry]
    steps: list[dict[str, Any]]
    evaluations: list[dict[str, Any]]
    digests: list[dict[str, Any]]
    timings: list[dict[str, Any]]
    config: str
    diagnosis: dict[str, Any]
    missing: list[str]

    @property
    def count(self) -> int:
        """Steps begun."""
        return self.entries[-1].step + 1 if self.entries else 0

    @property
    def method(self) -> str:
        """The method's name."""
        return self.header["method"]["name"]

    @cached_property
    def sessions(self) -> list[list[dict[str, Any]]]:
        """The lines of timings.jsonl by session."""
        numbers = sorted({line["session"] for line in self.timings})
        return [[line for line in self.timings if line["session"] == number] for number in numbers]

    @cached_property
    def clock(self) -> tuple[np.ndarray, np.ndarray]:
        """Steps, and the seconds after which each was reached first; breaks between sessions are left out."""
        marks, before = [(0.0, 0.0)], 0.0
        for session in self.sessions:
            for line in session:
                if line["step"] > marks[-1][0]:
                    marks.append((line["step"], before + line["seconds"]))
            before += session[-1]["seconds"]
        return np.array([step for step, _ in marks]), np.array([second for _, second in marks])

    @property
    def seconds(self) -> float | None:
        """All sessions, from the first step they took up to the last line they wrote."""
        return math.fsum(session[-1]["seconds"] for session in self.sessions) if self.sessions else None

    @property
    def workers(self) -> int:
        """The most that took part at a time, 0 if that was not written."""
        return max((line["workers"] for line in self.timings if "workers" in line), default=0)

    @property
    def traffic(self) -> tuple[int, int] | None:
        """Payload bytes sent and received, evaluations and digests included.

        By the worker that wrote the files; in an elastic run by all workers together.
        """
        last = [counted[-1] for s in self.sessions if (counted := [line for line in s if "sent" in line])]
        return (sum(e["sent"] for e in last), sum(e["received"] for e in last)) if last else None

    @cached_property
    def record_bytes(self) -> np.ndarray:
        """Bytes of all records up to each step, float64 [steps + 1]: what has to cross the network, whoever computes it."""
        total = np.zeros(self.count + 1)
        for entry in self.entries:
            items, k = entry.values.shape
            total[entry.step + 1] += items * records.record_bytes(k)
        return total.cumsum()

    def place(self, axis: str, lines: Sequence[dict[str, Any]]) -> np.ndarray:
        """Where lines of metrics.jsonl lie on an axis of AXES; NaN where that is not known."""
        step = np.array([line["step"] for line in lines], float)
        if axis == "steps":
            return step
        if axis == "forwards":
            return np.array([line.get("forwards", math.nan) for line in lines], float)
        if axis == "bytes":
            return np.interp(step, np.arange(self.count + 1), self.record_bytes, right=math.nan)
        marks, seconds = self.clock
        found = np.interp(step, marks, seconds, right=math.nan)
        return found if len(marks) > 1 else np.full_like(found, math.nan)

    def scores(self, split: str) -> list[dict[str, Any]]:
        """The evaluations of a split, by step."""
        return sorted((e for e in self.evaluations if e["split"] == split), key=lambda e: e["step"])

    @property
    def reported(self) -> list[dict[str, Any]]:
        """The evaluations of the split that a run is judged by: test, if it was evaluated."""
        return self.scores("test") or self.scores("validation")


AXES = {
    "steps": "steps",
    "forwards": "forward passes of a batch",
    "seconds": "seconds, without breaks",
    "bytes": "bytes of records",
}


def recorded(folders: Sequence[Path]) -> list[Run]:
    """The runs of some folders.  Raises JournalError for a folder without a journal, or with a damaged one."""
    names = short_names(folders)
    return [_one(folder, name) for folder, name in zip(folders, names, strict=True)]


def short_names(folders: Sequence[Path]) -> list[str]:
    """The ends of the paths, as long as they must be to differ."""
    paths = [folder.absolute().parts for folder in folders]
    length = 1
    while (
        length < max(map(len, paths), default=0) and len({p[-length:] for p in paths}) < len({*paths})
    ):  # fmt: skip
        length += 1
    return ["/".join(path[-length:]) for path in paths]


def _one(folder: Path, name: str) -> Run:
    journal = folder / "journal.jsonl"
    if not journal.exists():
        raise JournalError(f"{folder} holds no journal.jsonl; name a run folder")
    contents, missing = read(journal), []
    lines, timings = list(read_lines(folder / "metrics.jsonl")), list(read_lines(folder / "timings.jsonl"))
    steps = [line for line in lines if "slope" in line]
    if not steps and contents.entries:
        missing.append("metrics.jsonl has no steps; losses are those of the journal, evaluations are unknown")
        steps = _losses(contents.entries)
    if not timings:
        missing.append("timings.jsonl is missing or empty; seconds, phases and workers are unknown")
    config = _text(folder / "config.toml")
    if not config:
        missing.append("config.toml is missing; the settings are those of the journal's header")
    if not contents.entries:
        missing.append("no step has been taken yet")
    diagnosis = _diagnosis(folder, missing)
    return Run(
        name=name,
        folder=folder,
        header=contents.header,
        entries=contents.entries,
        steps=steps,
        evaluations=[line for line in lines if "split" in line],
        digests=[line for line in lines if "digest" in line],
        timings=timings,
        config=config,
        diagnosis=diagnosis,
        missing=missing,
    )


def _losses(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    """Lines as of metrics.jsonl, of what the journal alone can tell."""
    found: dict[int, list[float]] = {}
    for entry in entries:
        losses = records.from_values(entry.values)
        if np.isfinite(losses).any():
            found.setdefault(entry.step + 1, []).append(float(np.nanmean(losses)))
    return [{"step": step, "loss": losses[0]} for step, losses in found.items()]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _diagnosis(folder: Path, missing: list[str]) -> dict[str, Any]:
    """What diagnose.json says; {} if there is none."""
    text = _text(folder / DIAGNOSIS)
    try:
        found = json.loads(text) if text else {}
        if not isinstance(found, dict) or (found and not isinstance(found.get("step"), int)):
            raise ValueError
    except ValueError:
        missing.append(f"{DIAGNOSIS} is not what `zodist diagnose --json` prints")
        return {}
    return found


def settings(run: Run) -> dict[str, str]:
    """All settings as "section.key": value; from the journal's header where config.toml is missing or unreadable."""
    try:
        tables = tomllib.loads(run.config)
    except tomllib.TOMLDecodeError:
        tables = {}
    tables = tables or {k: v for k, v in run.header.items() if isinstance(v, dict)}
    return {
        f"{section}.{key}": value if isinstance(value, str) else json.dumps(value)
        for section, table in tables.items()
        for key, value in table.items()
    }


def differing(runs: Sequence[Run]) -> dict[str, dict[str, list[str]]]:
    """The settings that all runs have and in which they differ: their values, and the names of the runs that have each."""
    every = [settings(run) for run in runs]
    found: dict[str, dict[str, list[str]]] = {}
    for key in every[0] if every else ():
        if key == "run.folder" or any(key not in one for one in every):
            continue
        values: dict[str, list[str]] = {}
        for run, one in zip(runs, every, strict=True):
            values.setdefault(one[key], []).append(run.name)
        if len(values) > 1:
            found[key] = values
    return found
