"""The order of a comparison's runs, and how it goes on after it was killed.

First every entry tries its rates; as soon as all of an entry's are known its reported runs follow.  What has finished is
read from the run folders, so nothing depends on this process's memory, and the order of the runs changes no figure.

OUT/comparison.json   what all runs have in common, and the entries so far; another comparison is refused
OUT/results.jsonl     one line a finished run, in the order of the plan
OUT/runs/ENTRY/RATE-seedK/   the run folders
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from zodist.compare.plan import Entry, Plan, Planned
from zodist.compare.results import RESULTS, Line, best_rate, line_of, text
from zodist.compare.workers import Workers, start
from zodist.errors import ConfigError, JournalError
from zodist.journal import difference, make_folder, write_whole

COMPARISON = "comparison.json"


def threads_of(out: Path) -> int:
    """The threads of a run that the comparison in a folder was begun with; 0 if there is none.

    The last bits of a loss depend on them, so they stay where run.threads leaves the choice open.
    """
    try:
        return int(json.loads((out / COMPARISON).read_text(encoding="utf-8"))["config"]["run"]["threads"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


@dataclass(frozen=True, slots=True)
class Standing:
    """Where an entry stands.  rate: the tuned one (None: no rate worked, or tuning goes on)."""

    entry: Entry
    tuning: list[Line]
    rate: float | None
    finals: list[Line]


@dataclass
class Contest:
    """A comparison at work.  say: is told what happens, one sentence at a time."""

    plan: Plan
    say: Callable[[str], None] = lambda sentence: None
    lines: dict[Path, Line] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)

    def run(self, jobs: int) -> None:
        """Do what is left to do, up to ``jobs`` runs at a time.

        A run that diverges is a result.  One that needs somebody to act does not stop the others: see `problem`.
        Raises ZodistError when the folder is in use or holds another comparison.
        """
        out = self.plan.out
        make_folder(out)
        lock = FileLock(out / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise JournalError(
                f"another process is at work on the comparison in {out}; wait for it"
            ) from None
        try:
            self._agree()
            workers = start(out, jobs)
            try:
                self._work(workers)
            finally:
                workers.close()
        finally:
            lock.release()

    def problem(self) -> str:
        """The sentence about runs that could not go on; "" if there were none."""
        if not self.broken:
            return ""
        name, reason = next(iter(self.broken.items()))
        others = f" (and {len(self.broken) - 1} more)" if len(self.broken) > 1 else ""
        return (
            f"run {name}{others} cannot go on: {reason.rstrip('.')}; the runs that do not wait for it are done, and "
            "the same command goes on"
        )

    def standings(self) -> list[Standing]:
        """What is known of every entry."""
        found = []
        for entry in self.plan.entries:
            tuning = self._known(self.plan.tuning(entry))
            rate = self._tuned(entry)
            finals = self._known(self.plan.finals(entry, rate)) if rate is not None else []
            found.append(Standing(entry, tuning, rate, finals))
        return found

    def _agree(self) -> None:
        """The folder must be empty or hold this comparison; entries may be added to it."""
        path = self.plan.out / COMPARISON
        own = self.plan.identity()
        entries = {entry.name: entry.plain() for entry in self.plan.entries}
        if path.exists():
            try:
                held = json.loads(path.read_text(encoding="utf-8"))
                there = held.pop("entries")
            except (OSError, ValueError, KeyError, AttributeError) as error:
                raise JournalError(f"{path} cannot be read ({error}); choose another --out") from error
            common = {name: entry for name, entry in entries.items() if name in there}
            different = difference(held, own) or difference({name: there[name] for name in common}, common)
            if different:
                raise ConfigError(
                    f"{self.plan.out} holds another comparison: {different}; choose another --out, or delete it"
                )
            entries = {**there, **entries}
        write_whole(path, json.dumps({**own, "entries": entries}, indent=1) + "\n")

    def _work(self, workers: Workers) -> None:
        waiting: deque[Planned] = deque()
        tuning = {e.name: e for e in self.plan.entries}
        for entry in self.plan.entries:
            waiting.extend(self._left(self.plan.tuning(entry)))
        self._reported(tuning, waiting)
        self._write()
        busy = 0
        while waiting or busy:
            while waiting and workers.free():
                workers.submit(waiting.popleft())
                busy += 1
            run, answer = workers.next()
            busy -= 1
            line = None if "error" in answer else line_of(run, self._entry(run).method.name)
            if line is None:
                self.broken[run.name] = answer.get("error", "it ended without its figures")
                self.say(f"{run.phase} {run.name}: {self.broken[run.name]}")
                continue
            self.lines[run.folder] = line
            self._reported(tuning, waiting)
            self._write()
            left = (
                len(waiting) + busy + self.plan.seeds * sum(len(entry.multiples) for entry in tuning.values())
            )
            self.say(f"{run.phase} {run.name}: {_figures(line)} ({left} runs to go)")

    def _reported(self, tuning: dict[str, Entry], waiting: deque[Planned]) -> None:
        """Queue the reported runs of entries whose rates are all known; they leave ``tuning``."""
        for entry in list(tuning.values()):
            if len(self._known(self.plan.tuning(entry))) < len(self.plan.tuning(entry)):
                continue
            del tuning[entry.name]
            rate = self._tuned(entry)
            if rate is None:
                self.say(f"{entry.name}: no rate of its grid worked")
            else:
                waiting.extend(self._left(self.plan.finals(entry, rate)))

    def _tuned(self, entry: Entry) -> float | None:
        runs = self.plan.tuning(entry)
        known = self._known(runs)
        return best_rate(known) if len(known) == len(runs) else None

    def _left(self, runs: list[Planned]) -> list[Planned]:
        """Take up what has finished; the others."""
        left = []
        for run in runs:
            line = self.lines.get(run.folder) or line_of(run, self._entry(run).method.name)
            if line is None:
                left.append(run)
            else:
                self.lines[run.folder] = line
        return left

    def _known(self, runs: list[Planned]) -> list[Line]:
        return [self.lines[run.folder] for run in runs if run.folder in self.lines]

    def _entry(self, run: Planned) -> Entry:
        return next(entry for entry in self.plan.entries if entry.name == run.entry)

    def _write(self) -> None:
        """results.jsonl, in the order of the plan whatever the order of the runs."""
        ordered = [line for s in self.standings() for line in (*s.tuning, *s.finals)]
        write_whole(self.plan.out / RESULTS, text(ordered))


def _figures(line: Line) -> str:
    if line["failed"]:
        return f"failed: {line['failed']}"
    return f"{line['split']} loss {line['scores']['loss']:.4f}"
