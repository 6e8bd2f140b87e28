"""The training loop: meet the other workers, take up the journal, step, evaluate, write snapshots and figures."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from zodist.config import Config
from zodist.errors import JournalError, Stopped, TaskError
from zodist.exchange import Begun, Crew, Rebuild, Together, budget, cores, set_threads, start, stopping
from zodist.methods import Probe
from zodist.run import early
from zodist.run.assemble import Loaded, Parts, header, load_parts, versions
from zodist.run.progress import Progress
from zodist.shard import joined
from zodist.step import Division, Entry, Replayed, Share
from zodist.tasks import Score

if TYPE_CHECKING:
    from zodist.shard import Shards

MakeParts = Callable[[Begun], Parts]


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
    and Stopped if it was asked to stop (zodist.exchange.stopping); the journal is intact then, and the same command goes on.
    """
    progress = Progress(config.run.steps, show=not quiet)
    try:
        with _crew(config, progress, known) as (crew, shards):
            progress.show = progress.show and crew.speaks
            return Session(config, crew, progress, _maker(config, loaded, shards)).go()
    finally:
        progress.close()


@contextmanager
def _crew(
    config: Config, progress: Progress, known: Sequence[dict[str, Any]]
) -> Iterator[tuple[Crew, Shards | None]]:
    """The workers of the run, as [exchange] says, and the model in parts, where [shard] says so."""
    if config.exchange.kind == "store":
        from zodist.elastic import Elastic, team_of

        with team_of(config) as team, closing(Elastic(config, progress.say, team)) as elastic:
            yield elastic, team.shards
        return
    with joined(config) as (exchange, shards):
        with closing(Together(config, exchange, known, progress.say, shards)) as together:
            yield together, shards


def _maker(config: Config, loaded: Loaded | None, shards: Shards | None) -> MakeParts:
    """Parts of what is in memory the first time, then from disk: by then the weights have changed."""
    held = [loaded]

    def make(begun: Begun) -> Parts:
        first, held[0] = held[0], None
        return load_parts(config, begun.threads, first, begun.header, shards)

    return make


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was taken.  step: counted from 1; loss and slope: as in Outcome; lr: of the step.

    forwards: forward passes of a batch so far, on all workers.  skipped: probes whose loss was not finite.  sent: payload
    bytes of this worker so far.  replayed: whether its losses were in the journal already.
    """

    step: int
    loss: float
    slope: float
    lr: float
    forwards: int
    skipped: int
    sent: int
    replayed: bool


class Session:
    """One session of a run on one worker: meet, begin, steps, finish, and in any case release.

    make: the parts of the run, with the base weights.
    """

    def __init__(self, config: Config, crew: Crew, progress: Progress, make: MakeParts) -> None:
        self.config, self.crew, self.progress, self._make = config, crew, progress, make
        self.rounds, self.end = (
            0,
            config.run.steps,
        )  # rounds of the last step; the step after which the run is done
        self.evaluator: Any = None
        self.update_s = self.answered = 0.0  # seconds of all updates; of a step's answers

    def go(self) -> Result:
        """Load, resume, step to the end."""
        self.progress.say(f"loading {self.config.model.name} and task {self.config.task.name}")
        begun = self.meet()
        set_threads(begun.threads)
        while True:
            try:
                self.begin(begun)
                if not self.splits[self.final]:
                    raise TaskError(
                        f"task {self.parts.task.name!r} has no examples to evaluate on; set task.validation or task.test "
                        "above 0"
                    )
                for _ in self.steps():
                    pass
                steps, digest, crew = self.replica.step, self.finish(), self.crew
                before, after = self.scores.get((0, self.final)), self.scores[steps, self.final]
                return Result(
                    Path(self.config.run.folder), steps, before, after, digest, crew.sent, crew.workers
                )
            except Rebuild:
                continue
            finally:
                self.release()

    def begin(self, begun: Begun) -> None:
        """Load the model and bring it to the step from which the journal leads on."""
        self.parts = self._make(begun)
        for warning in self.parts.task.warnings:
            self.progress.say(f"warning: {warning}")
        if self.config.batch.packed == "auto" and self.parts.padding:
            self.progress.say(f"batches are padded: {self.parts.padding}")
        self.together = self.parts.together(begun.header, self.crew.workers)
        self.entries = self.crew.agree(header(self.parts, begun.threads, begun.versions, self.together))
        self.replica = self.parts.replica()
        self.evaluator = self.parts.evaluator(self.replica)
        self._restore(self.entries)
        self._know(self.crew.open(self.start))
        passed = [e.values for e in self.entries if e.step < self.start]
        self.forwards, self.lr = sum(map(self.replica.method.count, passed)), 0.0

    def release(self) -> None:
        """Give the model back as it was but for its weights: it may serve another run."""
        if self.evaluator is not None:
            self.evaluator.close()

    def meet(self) -> Begun:
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
            key: Score(**{f.name: line[f.name] for f in fields(Score) if f.name in line})
            for key, line in self.known.items()
        }
        task = self.parts.task
        self.splits = {"validation": task.validation, "test": task.test}
        self.final = "test" if task.test and self.config.output.test else "validation"

    def steps(self) -> Iterator[Taken]:
        """Step to the end; yields each step when all that is due after it is done."""
        c, task, entries = self.config, self.parts.task, self.entries
        pending = [e for e in entries if e.step >= self.start]
        self._division = Division(
            c.run.seed, c.batch.data_lanes, c.batch.size, len(task.train), self.together
        )
        self._replayed, self.left = Replayed(pending, c.batch.data_lanes), len(pending)
        trained, trained_s = 0, 0.0  # steps of this session that were not replayed, and what they took
        if self._enough(self.start):
            self.end = self.start
        if self.start in (0, self.end):
            self._evaluations(
                self.start
            )  # at the end, since the last session may have ended before they were written
        while self.replica.step < self.end:
            if self.crew.stopping:
                self._leave()
            replaying = self.left > 0
            began, self.answered = time.monotonic(), 0.0
            outcome = self.replica.advance(self._answer)
            t, total = self.replica.step, time.monotonic() - began
            if not replaying:
                trained, trained_s = trained + 1, trained_s + total
                self.update_s += total - self.answered
            line = {"loss": outcome.loss, "slope": outcome.slope, "lr": self.lr, "forwards": self.forwards}
            if outcome.skipped:
                line["skipped"] = outcome.skipped
            if self.replica.outliers:
                line["outliers"] = self.replica.outliers
            self.crew.write({"step": t, **line})
            self.progress.step(t, outcome, self.crew.sent, replaying)
            if not replaying and (t % 10 == 0 or t == self.end):
                spent = {"update_s": round(self.update_s, 4), "trained_s": round(trained_s, 4)}
                self.crew.time(t, trained=trained, **spent)
            self._milestones(t, replaying)
            figures = outcome.loss, outcome.slope, self.lr, self.forwards, outcome.skipped, self.crew.sent
            yield Taken(t, *figures, replaying)

    def _milestones(self, t: int, replaying: bool) -> None:
        """Digest, evaluation and snapshot, where they are due after step t."""
        c, every = self.config, self.config.exchange.digest_every
        if every and (t % every == 0 or t == self.end):
            self._compare(t)
        self._evaluations(t)
        if t < self.end and self._enough(t):
            self.end = t
            self.progress.say(f"the validation loss has not fallen for {c.output.patience} evaluations: done")
            if every and t % every:
                self._compare(t)
            if self.final != "validation":
                self.evaluation(t, self.final)
        last = t == self.end
        due = (c.output.snapshot_every and t % c.output.snapshot_every == 0) or last or self.crew.stopping
        if due and c.output.keep and not (replaying and not last):
            self.crew.save(t, self.replica.state, self.rounds)

    def _compare(self, t: int) -> None:
        """Compare the weights' digest with the other workers'."""
        digest = self.parts.digest()
        self.crew.compare(t, digest)
        self.crew.write({"step": t, "digest": f"{digest:016x}"})

    def _enough(self, t: int) -> bool:
        """Whether the run is done after step t, before its last."""
        seen = {
            step: score.criterion for (step, split), score in self.scores.items() if split == "validation"
        }
        return early.enough(seen, t, self.config.output.patience)

    def _evaluations(self, t: int) -> None:
        """The curve on the validation split, and the held-out split before and after."""
        every = self.config.output.evaluate_every
        if every and (t % every == 0 or t == self.end) and self.splits["validation"]:
            self.evaluation(t, "validation")
        if t in (0, self.end) and self.splits[self.final]:
            self.evaluation(t, self.final)

    def _leave(self) -> NoReturn:
        """Stop after a step, because a worker was asked to; there is a snapshot of it."""
        self.crew.leave()
        why, t = stopping.asked() or "a signal to another worker", self.replica.step
        raise Stopped(
            f"stopped after {t} of {self.config.run.steps} steps ({why}); the same command goes on there"
        )

    def _answer(self, step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int) -> np.ndarray:
        """The values of a round: those of the journal, if it has them.

        Else every worker measures its share (``_measure``), and the crew brings the shares together, and has them in the
        journal before it gives them back.  The replica, which has asked, hands them to the method and applies what it makes
        of them.
        """
        if self.left:
            self.left -= 1
            values = self._replayed(step, round, lr, probes, lanes)
        else:
            began = time.monotonic()
            asked = self._division.asked(step, round, lr, probes, lanes)
            values = self.crew.round(asked, lambda group: self._measure(asked.share(group)))
            self.answered += time.monotonic() - began
        self.forwards += self.replica.method.count(values)
        self.rounds, self.lr = round + 1, lr
        return values

    def _measure(self, share: Share) -> np.ndarray:
        """The losses of some items, float64 [items, k]: by forwards of the model, or as the objective says."""
        return self.parts.losses(self.evaluator, share)

    def evaluation(self, t: int, split: str) -> Score:
        """Score of a split after step t: taken from the metrics of an earlier session where they have it."""
        known = self.known.get((t, split))
        if known is None:
            examples = self.splits[split]
            limit = self.config.output.evaluate_examples if split == "validation" else 0
            score = self.parts.score(
                self.evaluator,
                examples[: limit or len(examples)],
                lambda *items: self.crew.collect(f"evaluation/{t}/{split}", *items),
            )
            self.scores[t, split] = score
            known = {"step": t, "split": split, **asdict(score), "forwards": self.forwards}
        self.crew.write(known)
        self.progress.evaluation(t, split, self.scores[t, split])
        return self.scores[t, split]

    def finish(self) -> str:
        """Close the books and draw the plot; returns the digest of the weights, 16 hexadecimal digits."""
        digest = self.parts.digest()
        self.crew.finish(self.config.output.plot)
        return f"{digest:016x}"
