"""The training loop: meet the other workers, take up the journal, step, evaluate, write snapshots and figures."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from zodist import params, stopping
from zodist.assemble import Loaded, header, load_parts, versions
from zodist.config import Config
from zodist.crew import Begun, Crew, Rebuild
from zodist.errors import JournalError, Stopped, TaskError
from zodist.evaluate import evaluate
from zodist.exchange import open_exchange
from zodist.journal_format import Entry
from zodist.launcher import start
from zodist.methods import Probe
from zodist.progress import Progress
from zodist.step import Live, Replayed
from zodist.tasks.score import Score
from zodist.threads import budget, cores, set_threads
from zodist.together import Together


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

    Every worker calls this; worker 0, or the supervisor, writes the files.  Raises ZodistError where the user has to act,
    and Stopped if it was asked to stop (zodist.stopping); the journal is intact then, and the same command goes on.
    """
    progress = Progress(config.run.steps, show=not quiet)
    try:
        with _crew(config, progress, known) as crew:
            progress.show = progress.show and crew.speaks
            return _Run(config, crew, progress, loaded).go()
    finally:
        progress.close()


@contextmanager
def _crew(config: Config, progress: Progress, known: Sequence[dict[str, Any]]) -> Iterator[Crew]:
    """The workers of the run, as [exchange] says."""
    if config.exchange.kind == "store":
        from zodist.elastic.crew import Elastic

        with closing(Elastic(config, progress.say)) as elastic:
            yield elastic
        return
    with closing(open_exchange(config.exchange.kind, config.exchange.timeout_s)) as exchange:
        with closing(Together(config, exchange, known, progress.say)) as together:
            yield together


class _Run:
    """One session of a run on one worker."""

    def __init__(self, config: Config, crew: Crew, progress: Progress, loaded: Loaded | None) -> None:
        self.config, self.crew, self.progress, self.loaded = config, crew, progress, loaded
        self.rounds = 0  # of the last step

    def go(self) -> Result:
        """Load, resume, step to the end."""
        self.progress.say(f"loading {self.config.model.name} and task {self.config.task.name}")
        begun = self._meet()
        set_threads(begun.threads)
        while True:
            self.parts = load_parts(self.config, begun.threads, self.loaded, begun.header)
            self.loaded = None  # its weights change now
            for warning in self.parts.task.warnings:
                self.progress.say(f"warning: {warning}")
            if self.config.batch.packed == "auto" and self.parts.padding:
                self.progress.say(f"batches are padded: {self.parts.padding}")
            entries = self.crew.agree(header(self.parts, begun.threads, begun.versions))
            self.replica = self.parts.replica()
            self.evaluator = self.parts.evaluator(self.replica)
            try:
                self._restore(entries)
                self._know(self.crew.open(self.start))
                self._step_all(entries)
                return self._finish()
            except Rebuild:
                continue
            finally:
                self.evaluator.close()  # a loaded model may serve another run

    def _meet(self) -> Begun:
        """The threads and versions that the run was begun with, and its header if it has been begun."""
        mine = versions(self.config)
        begun = self.crew.meet(self.config.run.threads or budget(start(cores()).beside), mine)
        if begun.header is not None:
            for name, version in begun.versions.items():
                if mine.get(name) != version:
                    self.progress.say(
                        f"warning: the run was begun with {name} {version}, this is {mine.get(name)}"
                    )
        return begun

    def _restore(self, entries: list[Entry]) -> None:
        """Bring the replica to a step from which the journal leads on."""
        done = entries[-1].step + 1 if entries else 0
        if done > self.config.run.steps:
            raise JournalError(
                f"{self.config.run.folder} holds {done} steps already, run.steps = {self.config.run.steps}; raise it, or "
                "choose another run.folder"
            )
        self.start = self.crew.restore(self.replica, entries)

    def _know(self, known: list[dict[str, Any]]) -> None:
        """Take up what is known of evaluations, and see what there is to evaluate."""
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
            self.crew.round,
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
            if self.crew.stopping:
                self._leave()
            replaying = self.left > 0
            began = time.monotonic()
            outcome = self.replica.advance(answer)
            t, total = self.replica.step, time.monotonic() - began
            if not replaying:
                trained, trained_s = trained + 1, trained_s + total
            line = {"loss": outcome.loss, "slope": outcome.slope, "lr": self.lr, "forwards": self.forwards}
            if outcome.skipped:
                line["skipped"] = outcome.skipped
            self.crew.write({"step": t, **line})
            self.progress.step(t, outcome, self.crew.sent, replaying)
            if not replaying and (t % 10 == 0 or t == c.run.steps):
                spent = {"answer_s": round(self.answered, 4), "update_s": round(total - self.answered, 4)}
                self.crew.time(t, **spent, trained=trained, trained_s=round(trained_s, 4))
            self._milestones(t, replaying)

    def _milestones(self, t: int, replaying: bool) -> None:
        """Digest, evaluation and snapshot, where they are due after step t."""
        c, last = self.config, t == self.config.run.steps
        if c.exchange.digest_every and (t % c.exchange.digest_every == 0 or last):
            digest = params.digest(self.parts.params, parallel=self.parts.parallel)
            self.crew.compare(t, digest)
            self.crew.write({"step": t, "digest": f"{digest:016x}"})
        self._evaluations(t)
        due = (c.output.snapshot_every and t % c.output.snapshot_every == 0) or last or self.crew.stopping
        if due and c.output.keep and not (replaying and not last):
            self.crew.save(t, self.replica.state, self.rounds)

    def _evaluations(self, t: int) -> None:
        """The curve on the validation split, and the held-out split before and after."""
        every, last = self.config.output.evaluate_every, self.config.run.steps
        if every and (t % every == 0 or t == last) and self.splits["validation"]:
            self._evaluation(t, "validation")
        if t in (0, last):
            self._evaluation(t, self.final)

    def _leave(self) -> NoReturn:
        """Stop after a step, because a worker was asked to; there is a snapshot of it."""
        self.crew.leave()
        why, t = stopping.asked() or "a signal to another worker", self.replica.step
        raise Stopped(
            f"stopped after {t} of {self.config.run.steps} steps ({why}); the same command goes on there"
        )

    def _losses(self, probe: Probe, indices: np.ndarray) -> np.ndarray:
        return self.parts.losses(self.evaluator, probe, indices)

    def _evaluation(self, t: int, split: str) -> None:
        """Score of a split after step t: taken from the metrics of an earlier session where they have it."""
        known = self.known.get((t, split))
        if known is None:
            examples = self.splits[split]
            limit = self.config.output.evaluate_examples if split == "validation" else 0
            score = evaluate(
                self.evaluator,
                self.parts.task,
                examples[: limit or len(examples)],
                lambda *items: self.crew.collect(f"evaluation/{t}/{split}", *items),
            )
            self.scores[t, split] = score
            known = {"step": t, "split": split, **asdict(score), "forwards": self.forwards}
        self.crew.write(known)
        self.progress.evaluation(t, split, self.scores[t, split])

    def _finish(self) -> Result:
        """The scores before and after, the plot, and the weights' digest."""
        steps, digest = self.replica.step, params.digest(self.parts.params, parallel=self.parts.parallel)
        self.crew.finish(self.config.output.plot)
        # A run whose metrics were lost no longer knows its first score, and the base weights are gone from here.
        before, after = self.scores.get((0, self.final)), self.scores[steps, self.final]
        folder, crew = Path(self.config.run.folder), self.crew
        return Result(folder, steps, before, after, f"{digest:016x}", crew.sent, crew.workers)
