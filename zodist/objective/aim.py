"""The number of each point of a probe under objectives other than the loss, and that of an evaluation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from zodist import noise
from zodist.directions import Combination
from zodist.errors import TaskError
from zodist.evaluator import Manner, Opened, Texts, Weights, write
from zodist.objective.judged import JudgedTask, opened
from zodist.tasks import (
    ChoiceTask,
    ClassificationTask,
    Example,
    GenerationTask,
    Score,
    Task,
    WritingTask,
    accuracy,
    macro_f1,
)

if TYPE_CHECKING:
    from zodist.config import Config
    from zodist.evaluator import Evaluator
    from zodist.methods import Probe

Pieces = Sequence[Sequence[Example]]


class Objective(Protocol):
    """What a run makes small in place of the loss."""

    def values(
        self,
        evaluator: Evaluator,
        probes: Sequence[Probe],
        pieces: Sequence[Pieces],
        places: Sequence[tuple[int, int]],
    ) -> np.ndarray:
        """The number of every point of some probes: float64 [probes, points]; NaN where the model's numbers are NaN.

        pieces: the examples of each probe, as they share forwards.  places: step and data lane of each.
        """
        ...

    def aim(self, score: Score) -> float:
        """The number of an evaluation."""
        ...


def objective_of(config: Config, task: Task) -> Objective | None:
    """What [objective] says of this task; None: the loss.  Raises TaskError where the task has no such figure."""
    c, kind = config.objective, config.objective.kind
    if kind == "loss":
        return None
    if isinstance(task, JudgedTask):
        return Written(kind, task.inner, task, c.samples, c.temperature, config.run.seed)
    if isinstance(task, ClassificationTask) and kind in ("accuracy", "f1"):
        return Answered(kind, task)
    if isinstance(task, ChoiceTask) and (kind == "accuracy" or kind == "f1" and task.named):
        return Measured(kind, task)
    if isinstance(task, GenerationTask) and kind in ("f1", "exact"):
        return Written(kind, task, task, c.samples, c.temperature, config.run.seed)
    raise TaskError(
        f"objective.kind = {kind!r} is no figure of task {task.name!r}, whose metric is {task.metric!r}"
    )


def _aim(kind: str, score: Score) -> float:
    found = getattr(score, kind)
    return -found if kind == "reward" else 1.0 - found


@dataclass(frozen=True, eq=False, slots=True)
class Answered:
    """1 - accuracy, or 1 - F1 over the labels, of the batch's most likely options."""

    kind: str
    task: ClassificationTask

    def values(
        self,
        evaluator: Evaluator,
        probes: Sequence[Probe],
        pieces: Sequence[Pieces],
        places: Sequence[tuple[int, int]],
    ) -> np.ndarray:
        return np.array(
            [self._of_probe(evaluator, probe.points, own) for probe, own in zip(probes, pieces, strict=True)]
        )

    def _of_probe(self, evaluator: Evaluator, points: Sequence[Combination], pieces: Pieces) -> list[float]:
        found: list[list[torch.Tensor]] = [[] for _ in points]
        for piece in pieces:
            batch = self.task.batch(piece)
            fit = evaluator.points_of(batch.input_ids.numel())
            for first in range(0, len(points), fit):
                for n, logits in enumerate(evaluator.logits(points[first : first + fit], batch), first):
                    scores = batch.scores(logits)
                    assert scores is not None  # a classification has options
                    found[n].append(scores.cpu())
        labels = torch.tensor([example.label for piece in pieces for example in piece])
        return [self._number(torch.cat(own), labels) for own in found]

    def _number(self, scores: torch.Tensor, labels: torch.Tensor) -> float:
        if scores.isnan().any():
            return math.nan
        return 1.0 - (accuracy(scores, labels) if self.kind == "accuracy" else macro_f1(scores, labels)[0])

    def aim(self, score: Score) -> float:
        return _aim(self.kind, score)


@dataclass(frozen=True, eq=False, slots=True)
class Measured:
    """1 - accuracy or 1 - F1 as an evaluation of the task has them, point by point."""

    kind: str
    task: Task

    def values(
        self,
        evaluator: Evaluator,
        probes: Sequence[Probe],
        pieces: Sequence[Pieces],
        places: Sequence[tuple[int, int]],
    ) -> np.ndarray:
        pairs = zip(probes, pieces, strict=True)
        return np.array([[self._number(evaluator, at, own) for at in probe.points] for probe, own in pairs])

    def _number(self, evaluator: Evaluator, point: Combination, pieces: Pieces) -> float:
        reader = Weights(evaluator, evaluator.at([point]))
        figures = torch.cat([self.task.measure(reader, piece) for piece in pieces])
        if figures[:, 0].isnan().any():
            return math.nan
        return self.aim(self.task.score(figures, [example for piece in pieces for example in piece]))

    def aim(self, score: Score) -> float:
        return _aim(self.kind, score)


@dataclass(frozen=True, eq=False, slots=True)
class Written:
    """Minus the mean reward, 1 - mean F1 or 1 - share of equal answers, over the examples and their samples.

    task: has the prompts.  judge: compares with references, or has the reward.
    """

    kind: str
    task: WritingTask
    judge: GenerationTask | JudgedTask
    samples: int
    temperature: float
    seed: int

    def values(
        self,
        evaluator: Evaluator,
        probes: Sequence[Probe],
        pieces: Sequence[Pieces],
        places: Sequence[tuple[int, int]],
    ) -> np.ndarray:
        manner = Manner(self.task.most, self.task.stops, self.task.pad, self.temperature)
        points = [point for probe in probes for point in probe.points]
        keys = [noise.derive(self.seed, *place, noise.TOKEN) for place in places]
        found: list[list[float]] = [[] for _ in points]
        for some in zip(*pieces, strict=True):  # a piece of each probe
            rows = [
                Opened(*opened(self.task, own, self.samples, key))
                for own, key in zip(some, keys, strict=True)
            ]
            each = [n for n, probe in enumerate(probes) for _ in probe.points]
            texts = write(evaluator, points, [rows[n] for n in each], manner)
            for n, probe, own in zip(range(len(points)), each, texts, strict=True):
                found[n] += self._numbers(some[probe], own)
        means = [math.fsum(own) / len(own) for own in found]
        return np.reshape([-x if self.kind == "reward" else 1.0 - x for x in means], (len(probes), -1))

    def _numbers(self, examples: Sequence[Example], texts: Texts) -> list[float]:
        """What is to be large, of each text."""
        judge = self.judge
        if isinstance(judge, JudgedTask):
            return judge.rewards(examples, texts)
        every = [example for example in examples for _ in range(self.samples)]
        place = ("exact", "f1").index(self.kind)
        return [
            math.nan if text is None else judge.compared(example, judge.text(text))[place]
            for example, text in zip(every, texts, strict=True)
        ]

    def aim(self, score: Score) -> float:
        return _aim(self.kind, score)
