"""Forward passes of a method's steps, counted by driving it with made-up losses: no model, no data.

One forward = one point evaluated on the batch of one data lane, batch.size examples.  A method is a generator, so its
questions can be counted without answering them truly; methods of two rounds a step are asked twice, and steps that
refresh something cost what they cost.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from zodist.config import Method
from zodist.methods import METHODS, StepSeeds
from zodist.models import params

ALIKE = 256  # after so many steps of one cost all are taken to cost the same


@dataclass(frozen=True, slots=True)
class Cost:
    """What a budget pays for: ``steps`` whole steps, which take ``forwards`` forward passes."""

    steps: int
    forwards: int

    @property
    def per_step(self) -> float:
        """Mean forward passes of a step; 0 where not one step was affordable."""
        return self.forwards / self.steps if self.steps else 0.0


def forwards_of_steps(method: Method, data_lanes: int) -> Iterator[int]:
    """Forward passes of step 0, 1, 2, ... of a method with these settings."""
    for rounds in rounds_of_steps(method, data_lanes):
        yield sum(rounds)


def rounds_of_steps(method: Method, data_lanes: int) -> Iterator[list[int]]:
    """The forward passes of each round of step 0, 1, 2, ... of a method with these settings.

    What a method changes over the length of a run is as in the last step of one, since the length is what is looked for.
    """
    made = METHODS[method.name].build(method.settings)
    weights = params.collect(_made_up())
    made.begin(weights)
    for param in weights:
        made.direction(param)
        made.update(param)
    step = 0
    while True:
        generator = made.step(StepSeeds(0, step, step + 1))
        probes, rounds = next(generator), list[int]()
        while True:
            rounds.append(data_lanes * sum(probe.forwards for probe in probes))
            shape = (len(probes), probes[0].losses)
            # Finite, unequal and changing, so that a method has differences to work with.
            losses = 1.0 + 0.1 * np.sin(np.arange(np.prod(shape), dtype=np.float64) + step).reshape(shape)
            try:
                probes = generator.send(losses)
            except StopIteration as stop:
                if stop.value.then is not None:
                    stop.value.then()
                break
        yield rounds
        step += 1


def forwards_per_step(method: Method, data_lanes: int, steps: int = 4) -> float:
    """Mean forward passes of the first steps."""
    counts = forwards_of_steps(method, data_lanes)
    return sum(next(counts) for _ in range(steps)) / steps


def within(budget: int, method: Method, data_lanes: int) -> Cost:
    """The most steps whose forward passes do not exceed a budget."""
    steps = total = 0
    seen: set[int] = set()
    for forwards in forwards_of_steps(method, data_lanes):
        if total + forwards > budget:
            break
        steps, total = steps + 1, total + forwards
        seen.add(forwards)
        if steps == ALIKE and len(seen) == 1:
            more = (budget - total) // forwards
            return Cost(steps + more, total + more * forwards)
    return Cost(steps, total)


def _made_up() -> nn.Module:
    """A matrix and a vector with values that are all different."""
    matrix = torch.linspace(-1.0, 1.0, 256 * 256).view(256, 256)
    return nn.ParameterDict({"weight": nn.Parameter(matrix), "bias": nn.Parameter(matrix[0].clone())})
