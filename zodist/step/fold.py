"""One step of the replicated state machine, live or replayed: the same code with another source of answers.

``Replica`` holds what every worker holds: weights, rule state, method state.  It asks an answer function for the values of
each round, hands their losses to the method, and applies the outcome.  ``Replayed`` answers from the journal; a session
(zodist.run.train) answers by having all workers measure, and its values are in the journal before anything is applied.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Protocol

import numpy as np
import torch

from zodist import noise
from zodist.directions import Gradient, Param
from zodist.errors import JournalEnd, JournalError, ZodistError
from zodist.methods import Method, Outcome, Probe, StepSeeds, misfit
from zodist.step import records, robust
from zodist.step.records import Entry
from zodist.step.rules import Rule, schedule
from zodist.step.shaping import Shape, Shaping


class Answer(Protocol):
    """Gives the recorded values of one round: float32 [items, k], item = probe * data lanes + lane.

    lanes: the items of the step's first round; item n reads data lane n mod lanes, so that the rounds of a step see the
    same batches.
    """

    def __call__(
        self, step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int
    ) -> np.ndarray: ...


class Replica:
    """Weights, rule and method of one worker; ``advance`` folds one step in.

    directions: the method's laws for probes, by parameter id, for the evaluator; updates: what its gradients move by.
    clip: what is done to losses out of proportion (zodist.step.robust); outliers: how many the last step had.  shaping: what
    losses are to each other (zodist.step.shaping).
    """

    def __init__(
        self,
        params: Sequence[Param],
        method: Method,
        rule: Rule,
        *,
        seed: int,
        steps: int,
        data_lanes: int,
        clip: robust.Clip = "none",
        shaping: Shaping = "none",
    ) -> None:
        self.params, self.method, self.rule = params, method, rule
        self.seed, self.steps, self.data_lanes = seed, steps, data_lanes
        self.clip: robust.Clip = clip
        self.shaping: Shaping = shaping
        self.outliers = 0
        method.begin(params)
        self.directions = {p.id: method.direction(p) for p in params}
        self.updates = {p.id: method.update(p) for p in params}
        self.step = 0

    def advance(self, answer: Answer) -> Outcome[Gradient]:
        """One step.

        Raises ZodistError, with the weights untouched, when no probe has a finite loss, or the outcome does not fit.
        """
        t = self.step
        lr = schedule(self.rule.settings, t, self.steps)
        generator = self.method.step(StepSeeds(self.seed, t, self.steps))
        probes = next(generator)
        round, lanes, outliers = 0, len(probes) * self.data_lanes, 0
        first: np.ndarray | None = None
        shape: Shape | None = None
        while True:
            values = answer(t, round, lr, probes, lanes)
            combined = robust.combine(values, self.data_lanes, self.clip, first)
            first, outliers = values if first is None else first, outliers + combined.outliers
            by_lane = records.from_values(combined.values).reshape(len(probes), combined.lanes, -1)
            if self.shaping != "none":
                shape = shape or Shape.of(by_lane, self.shaping)
                by_lane = shape(by_lane)
            losses = by_lane[:, 0]
            for lane in range(1, combined.lanes):  # lanes are averaged in their order, in float64
                losses = losses + by_lane[:, lane]
            losses = losses / combined.lanes
            try:
                probes = generator.send(losses)
            except StopIteration as stop:
                outcome: Outcome[Gradient] = stop.value
                break
            round += 1
        if shape is not None:
            outcome = replace(outcome, loss=shape.loss)
        if outcome.empty:
            raise ZodistError(
                f"step {t}: no probe has a finite loss, so there is nothing to learn from; the weights are those after "
                f"{t} steps; lower rule.lr or method.eps, or use model.dtype = 'bfloat16' or 'float32'"
            )
        if wrong := misfit(self.method, outcome, self.updates.values()):
            raise ZodistError(f"step {t}: {wrong}")
        rounding = noise.derive(self.seed, t, 0, noise.ROUNDING)
        self.rule.apply_(outcome.gradient, self.updates, lr, rounding)
        if outcome.then is not None:
            outcome.then()
        self.step, self.outliers = t + 1, outliers
        return outcome

    def state(self) -> dict[str, torch.Tensor]:
        """Everything that the fold changes, by name, for a snapshot."""
        tensors = {f"weights/{p.name}": p.weights for p in self.params}
        tensors |= {f"rule/{name}": value for name, value in self.rule.state().items()}
        tensors |= {f"method/{name}": torch.from_numpy(value) for name, value in self.method.state().items()}
        return tensors

    def load(self, step: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Take up a snapshot; a lazy mapping is read one tensor at a time."""
        for p in self.params:
            p.weights.copy_(tensors[f"weights/{p.name}"].view(-1))
            p.publish()
        self.rule.load(_Part(tensors, "rule/"))
        self.method.load({name: value.numpy() for name, value in _Part(tensors, "method/").items()})
        self.step = step


class _Part(Mapping[str, torch.Tensor]):
    """The tensors whose names begin with a prefix, without it."""

    def __init__(self, tensors: Mapping[str, torch.Tensor], prefix: str) -> None:
        self._tensors, self._prefix = tensors, prefix

    def __getitem__(self, name: str) -> torch.Tensor:
        return self._tensors[self._prefix + name]

    def __iter__(self) -> Iterator[str]:
        return (name[len(self._prefix) :] for name in self._tensors if name.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)


class Replayed:
    """Answers from journal entries; an answer that does not fit the question is an error, never a guess.

    Raises JournalEnd where there is no further entry.  A step that it stops has changed nothing.
    """

    def __init__(self, entries: Iterable[Entry], data_lanes: int) -> None:
        self._entries: Iterator[Entry] = iter(entries)
        self.data_lanes = data_lanes

    def __call__(self, step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int) -> np.ndarray:
        """The next entry's values."""
        entry = next(self._entries, None)
        if entry is None:
            raise JournalEnd(f"the journal ends before step {step} round {round}")
        shape = (len(probes) * self.data_lanes, probes[0].losses)
        if (entry.step, entry.round, entry.values.shape) != (step, round, shape) or entry.lr != lr:
            raise JournalError(
                f"step {step} round {round} asks for losses {shape} at lr {lr!r}; the journal has step {entry.step} "
                f"round {entry.round}, {entry.values.shape} at lr {entry.lr!r}: was the configuration changed?"
            )
        return entry.values
