"""A task in which a reward function judges what the model writes, for objective.kind = "reward"."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from math import fsum, nan
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np
import torch
from torch import Tensor

from zodist import noise
from zodist.errors import TaskError
from zodist.evaluator import Address
from zodist.objective.reward import Reward, Written, reward_of
from zodist.tasks import Batch, Example, Reader, Score, Task, WritingTask, mean

if TYPE_CHECKING:
    from zodist.config import Config

_EVALUATION = 0xFFFFFFFF  # stands where a step's data lane does


@dataclass(frozen=True, eq=False)
class JudgedTask(Task):
    """inner: the task itself.  samples, temperature: of [objective].  key: of what an evaluation draws, the same in all."""

    inner: WritingTask
    reward: Reward
    samples: int
    temperature: float
    key: int

    @property
    def width(self) -> int:
        return self.inner.width + 1

    def rows(self, example: Example) -> int:
        return max(self.inner.rows(example), self.samples)

    def batch(self, examples: Sequence[Example]) -> Batch:
        return self.inner.batch(examples)

    def shown(self, example: Example) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        return self.inner.shown(example)

    def settings(self) -> list[Any]:
        return self.inner.settings()

    def measure(self, reader: Reader, examples: Sequence[Example]) -> Tensor:
        """The inner task's figures, and last the mean reward over an example's samples."""
        prompts, addresses = opened(self.inner, examples, self.samples, self.key)
        how = self.inner.most, self.inner.stops, self.inner.pad, self.temperature
        rewards = self.rewards(examples, reader.write(prompts, *how, addresses))
        means = [fsum(own) / self.samples for own in np.reshape(rewards, (-1, self.samples))]
        last = torch.tensor(means, dtype=torch.float32)[:, None]
        return torch.cat([self.inner.measure(reader, examples), last], 1) if self.inner.width else last

    def rewards(self, examples: Sequence[Example], texts: Sequence[Sequence[int] | None]) -> list[float]:
        """The reward of each text, written on from the examples in turn, each ``samples`` times; NaN where there is none."""
        given = [self.inner.given(example) for example in examples for _ in range(self.samples)]
        written = [
            Written(own.prompt, self.inner.text(text), own.reference, own.row)
            for own, text in zip(given, texts, strict=True)
            if text is not None
        ]
        found = iter(self.reward(written) if written else ())
        return [nan if text is None else next(found) for text in texts]

    def score(self, figures: Tensor, examples: Sequence[Example]) -> Score:
        reward, error = mean(figures[:, -1])
        if not self.inner.width:
            return Score(len(figures), -reward, error, reward=reward, reward_error=error)
        return replace(self.inner.score(figures[:, :-1], examples), reward=reward, reward_error=error)


def opened(
    task: WritingTask, examples: Sequence[Example], samples: int, key: int
) -> tuple[list[tuple[int, ...]], list[Address]]:
    """The prompts of some examples, each ``samples`` times, and the addresses of what is drawn for them.

    An example is named by its prompt's tokens, so its draws are the same whatever batch it is in.
    """
    prompts = [task.prompt(example) for example in examples]
    names = [crc32(np.array(prompt, "<u4").tobytes()) for prompt in prompts]
    addresses = [Address(key, name, sample) for name in names for sample in range(samples)]
    return [prompt for prompt in prompts for _ in range(samples)], addresses


def judged(task: Task, config: Config, reward: Reward | None = None) -> Task:
    """The task as [objective] has it: with a reward function, if it says so.  reward: the function, if it is at hand.

    Raises TaskError where the task and the objective do not go together.
    """
    c = config.objective
    if c.kind != "reward":
        if isinstance(task, WritingTask) and not task.width:
            raise TaskError(
                f"task {task.name!r} has prompts and no answers, so it has no loss; set objective.kind = 'reward' and "
                "objective.function or objective.command"
            )
        return task
    if not isinstance(task, WritingTask):
        raise TaskError(
            f"objective.kind = 'reward' judges what a model writes, and task {task.name!r} has it choose; choose a task of "
            "kind 'prompts' or 'generation', or objective.kind = 'accuracy'"
        )
    own = {f.name: getattr(task, f.name) for f in fields(Task)}
    return JudgedTask(
        **{**own, "metric": "reward"},
        inner=task,
        reward=reward or reward_of(c, config.exchange.timeout_s),
        samples=c.samples,
        temperature=c.temperature,
        key=noise.derive(config.run.seed, 0, _EVALUATION, noise.TOKEN),
    )
