"""The training loop: meet the other workers, take up the journal, step, evaluate, write snapshots and figures."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from zodist import journal_format, params, snapshot
from zodist.assemble import Loaded, header, load_parts, versions
from zodist.config import Config
from zodist.errors import ExchangeError, JournalError, TaskError
from zodist.evaluate import evaluate
from zodist.exchange import Exchange, open_exchange, share
from zodist.journal import Journal, make_folder
from zodist.journal_format import Contents, Entry
from zodist.methods import Probe
from zodist.metrics import Metrics, Timings, write_whole
from zodist.progress import Progress
from zodist.report import plot
from zodist.step import Live, Replayed
from zodist.tasks.score import Score
from zodist.threads import budget, set_threads

JOURNAL, CONFIG, METRICS, TIMINGS = "journal.jsonl", "config.toml", "metrics.jsonl", "timings.jsonl"


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished run has to show.  digest: 16 hex digits of the weights; sent: payload bytes of this worker."""

    folder: Path
    steps: int
    before: Score | None
    after: Score
    digest: str
    sent: int
    workers: int


def train(
    config: Config,
    *,
    quiet: bool = False,
    loaded: Loaded | None = None,
    known: Sequence[dict[str, Any]] = (),
) -> Result:
    """Run a configuration to its last step, from wherever its journal stands.

    loaded: the configuration's base model and task, if they are in memory; the model's trained weights change.  known:
    evaluations of the base model that need not be made again, as they stand in metrics.jsonl.

    Every worker calls this; worker 0 writes the files.  Raises ZodistError where the user has to act; the journal is
    intact then, and the same command goes on.
    """
    exchange = open_exchange(config.exchange.kind, config.exchange.timeout_s)
    try:
        with_run = _Run(config, exchange, quiet, loaded, known)
        try:
            return with_run.go()
        finally:
            with_run.close()
    finally:
        exchange.close()


class _Run:
    """One session of a run on one worker."""

    def __init__(
        self,
        config: Config,
        exchange: Exchange,
        quiet: bool,
        loaded: Loaded | None,
        known: Sequence[dict[str, Any]],
    ) -> None:
        self.config, self.exchange, self.loaded, self.given = config, exchange, loaded, known
        self.folder, self.first = Path(config.run.folder), exchange.worker == 0
        self.journal: Journal | None = None
        self.metrics: Metrics | None = None
        self.timings: Timings | None = None
        self.rounds = 0  # of the last step
        self.progress = Progress(config.run.steps, show=self.first and not quiet)

    def close(self) -> None:
        """Release files and the screen."""
        self.progress.close()
        for opened in (self.journal, self.metrics, self.timings):
            if opened is not None:
                opened.close()

    def go(self) -> Result:
        """Load, resume, step to the end."""
        self.progress.say(f"loading {self.config.model.name} and task {self.config.task.name}")
        found, threads, made_by = self._meet()
        set_threads(threads)
        self.parts = load_parts(self.config, threads, self.loaded)
        for warning in self.parts.task.warnings:
            self.progress.say(f"warning: {warning}")
        head = header(self.parts, threads, made_by)
        entries = self._agree(head, found)
        self.replica = self.parts.replica()
        self.evaluator = self.parts.evaluator(self.replica)
        try:
            self._restore(entries)
            self._open_files()
            self._step_all(entries)
            return self._finish()
        finally:
            self.evaluator.close()  # a loaded model may serve another run

    def _meet(self) -> tuple[Contents | None, int, dict[str, str]]:
        """The journal as worker 0 finds it, if any, and the threads and versions that the run was begun with."""
        path = self.folder / JOURNAL
        raw = b""
        if self.first and path.exists():
            try:
                raw = path.read_bytes()
            except OSError as error:
                raise JournalError(f"cannot read the journal {path}: {error.strerror}") from error
        raw = share(self.exchange, raw if self.first else None)
        found = None if journal_format.is_torn_header(raw) else journal_format.parse(raw, path)
        threads = self.config.run.threads or budget(int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
        made_by = versions()
        if found is not None:
            old = found.header
            if not self.config.run.threads:
                threads = old.get("threads", threads)
            for name, version in old.get("versions", {}).items():
                if made_by.get(name) != version:
                    self.progress.say(
                        f"warning: the run was begun with {name} {version}, this is {made_by.get(name)}"
                    )
            made_by = old.get("versions", made_by)
        everyone = share(self.exchange, json.dumps([threads, made_by]).encode() if self.first else None)
        threads, made_by = json.loads(everyone)
        return found, threads, made_by

    def _agree(self, head: dict[str, Any], found: Contents | None) -> list[Entry]:
        """Open the journal; all workers must be about to do the same run.  Returns the rounds that it holds."""
        path = self.folder / JOURNAL
        theirs = json.loads(share(self.exchange, json.dumps(head).encode() if self.first else None))
        different = journal_format.difference(theirs, head)
        flags = self.exchange.all_gather(b"\1" if different else b"\0")
        if different:
            raise ExchangeError(
                f"worker {self.exchange.worker} is set up for another run than worker 0: {different}; give all "
                "workers the same configuration, model and data"
            )
        odd = [worker for worker, flag in enumerate(flags) if flag != b"\0"]
        if odd:
            raise ExchangeError(
                f"worker {odd[0]} is set up for another run than worker 0; its output says in what"
            )
        if self.first:
            self.journal = Journal.create(path, head) if found is None else Journal.open(path, head)
        self.run = journal_format.run_id(head)
        return [] if found is None else found.entries

    def _restore(self, entries: list[Entry]) -> None:
        """Take up the newest snapshot; bring every worker to the step that the most advanced one starts from."""
        done = entries[-1].step + 1 if entries else 0
        if done > self.config.run.steps:
            raise JournalError(
                f"{self.folder / JOURNAL} holds {done} steps already, run.steps = {self.config.run.steps}; raise it, or "
                "choose another run.folder"
            )
        # The last step may lack its later rounds: it is then done again, with the rounds that the journal has.
        found = snapshot.newest(self.folder, self.run, done, entries[-1].round + 1 if entries else 0)
        if found is not None:
            self.replica.load(found.step, found.tensors)
        steps = [
            int.from_bytes(b, "little")
            for b in self.exchange.all_gather(self.replica.step.to_bytes(8, "little"))
        ]
        self.start = max(steps)
        silent = Replayed([e for e in entries if e.step >= self.replica.step], self.config.batch.data_lanes)
        while self.replica.step < self.start:
            self.replica.advance(silent)
        if done:
            self.progress.say(
                f"resuming after {done} steps ({self.start} from a snapshot, the rest from the journal)"
            )

    def _open_files(self) -> None:
        known: list[dict[str, Any]] = []
        if self.first:
            make_folder(self.folder)
            write_whole(self.folder / CONFIG, self.config.to_toml())
            self.metrics = Metrics(self.folder / METRICS, self.start)
            self.timings = Timings(self.folder / TIMINGS, self.exchange.workers, self.start)
            known = [*self.given, *self.metrics.evaluations]
        known = json.loads(share(self.exchange, json.dumps(known).encode() if self.first else None))
        self.known = {(line["step"], line["split"]): line for line in known}
        self.scores = {
            key: Score(**{f.name: line[f.name] for f in fields(Score)}) for key, line in self.known.items()
        }
        task = self.parts.task
        self.splits = {"validation": task.validation, "test": task.test}
        self.final = "test" if task.test and self.config.output.test else "validation"
        if not self.splits[self.final]:
            raise TaskError(
                f"task {task.name!r} has no examples to evaluate on; set task.validation or task.test above 0"
            )

    def _step_all(self, entries: list[Entry]) -> None:
        c, task = self.config, self.parts.task
        pending = [e for e in entries if e.step >= self.start]
        self.forwards, self.lr, self.answered = (
            sum(self.replica.method.count(e.values) for e in entries if e.step < self.start),
            0.0,
            0.0,
        )
        live = Live(
            self.exchange,
            self.journal,
            self._losses,
            seed=c.run.seed,
            data_lanes=c.batch.data_lanes,
            batch=c.batch.size,
            examples=len(task.train),
        )
        replayed, self.left = Replayed(pending, c.batch.data_lanes), len(pending)

        def answer(step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int) -> np.ndarray:
            if self.left:
                self.left -= 1
                values = replayed(step, round, lr, probes, lanes)
            else:
                began = time.monotonic()
                values = live(step, round, lr, probes, lanes)
                self.answered = time.monotonic() - began
            self.forwards += self.replica.method.count(values)
            self.rounds = round + 1
            self.lr = lr
            return values

        trained, trained_s = 0, 0.0  # steps of this session that were not replayed, and what they took
        if self.start == 0:
            self._evaluations(0)
        elif self.start == c.run.steps:
            self._evaluation(c.run.steps, self.final)  # the last session may have ended before it was written
        while self.replica.step < c.run.steps:
            replaying = self.left > 0
            began = time.monotonic()
            outcome = self.replica.advance(answer)
            t, total = self.replica.step, time.monotonic() - began
            if not replaying:
                trained, trained_s = trained + 1, trained_s + total
            line = {"loss": outcome.loss, "slope": outcome.slope, "lr": self.lr, "forwards": self.forwards}
            if outcome.skipped:
                line["skipped"] = outcome.skipped
            self._write({"step": t, **line})
            self.progress.step(t, outcome, self.exchange.sent, replaying)
            if self.timings is not None and not replaying and (t % 10 == 0 or t == c.run.steps):
                spent = {"answer_s": round(self.answered, 4), "update_s": round(total - self.answered, 4)}
                spent |= {"trained": trained, "trained_s": round(trained_s, 4)}
                traffic = {
                    "sent": self.exchange.sent,
                    "received": self.exchange.received,
                    "records_sent": live.sent,
                }
                self.timings.write(t, **spent, **traffic)
            self._milestones(t, replaying)

    def _milestones(self, t: int, replaying: bool) -> None:
        """Digest, evaluation and snapshot, where they are due after step t."""
        c, last = self.config, t == self.config.run.steps
        if c.exchange.digest_every and (t % c.exchange.digest_every == 0 or last):
            self._compare_digests(t)
        self._evaluations(t)
        due = (c.output.snapshot_every and t % c.output.snapshot_every == 0) or last
        if due and c.output.keep and self.first and not (replaying and not last):
            snapshot.save(self.folder, t, self.replica.state(), self.run, c.output.keep, self.rounds)

    def _evaluations(self, t: int) -> None:
        """The curve on the validation split, and the held-out split before and after."""
        every, last = self.config.output.evaluate_every, self.config.run.steps
        if every and (t % every == 0 or t == last) and self.splits["validation"]:
            self._evaluation(t, "validation")
        if t in (0, last):
            self._evaluation(t, self.final)

    def _losses(self, probe: Probe, indices: np.ndarray) -> np.ndarray:
        return self.parts.losses(self.evaluator, probe, indices)

    def _compare_digests(self, t: int) -> None:
        own = params.digest(self.parts.params, parallel=self.parts.parallel)
        everybody = self.exchange.all_gather(own.to_bytes(8, "little"))
        if len(set(everybody)) > 1:
            right = max(everybody, key=everybody.count)
            odd = [str(worker) for worker, theirs in enumerate(everybody) if theirs != right]
            majority = everybody.count(right) * 2 > len(everybody)
            who = f"the weights of worker {', '.join(odd)}" if majority else "the workers' weights"
            listed = ", ".join(f"{int.from_bytes(theirs, 'little'):016x}" for theirs in everybody)
            raise ExchangeError(
                f"after step {t} {who} differ (digests {listed}): memory or software is at fault there; start the run "
                "again to rebuild all workers from the journal"
            )
        self._write({"step": t, "digest": f"{own:016x}"})

    def _evaluation(self, t: int, split: str) -> None:
        """Score of a split after step t: taken from the metrics of an earlier session where they have it."""
        known = self.known.get((t, split))
        if known is None:
            examples = self.splits[split]
            limit = self.config.output.evaluate_examples if split == "validation" else 0
            score = evaluate(
                self.evaluator, self.parts.task, examples[: limit or len(examples)], self.exchange
            )
            self.scores[t, split] = score
            known = {"step": t, "split": split, **asdict(score), "forwards": self.forwards}
        self._write(known)
        self.progress.evaluation(t, split, self.scores[t, split])

    def _write(self, line: dict[str, Any]) -> None:
        if self.metrics is not None:
            self.metrics.write(line)

    def _finish(self) -> Result:
        """The scores before and after, the plot, and the weights' digest."""
        steps, digest = self.replica.step, params.digest(self.parts.params, parallel=self.parts.parallel)
        if self.first and self.config.output.plot:
            self.progress.say("drawing the plot")
            plot(self.folder)
        # A run whose metrics were lost no longer knows its first score, and the base weights are gone from here.
        before, after = self.scores.get((0, self.final)), self.scores[steps, self.final]
        return Result(
            self.folder, steps, before, after, f"{digest:016x}", self.exchange.sent, self.exchange.workers
        )
