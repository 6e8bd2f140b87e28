"""The evaluator's model as a task or an objective reads it, at the weights or at one point near them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from zodist.evaluator.forward import Evaluator
from zodist.evaluator.generate import Manner, Opened, Texts, write
from zodist.evaluator.points import PointSet
from zodist.evaluator.sampling import Address
from zodist.tasks import Batch


@dataclass(frozen=True)
class Weights:
    """The evaluator's model as a task reads it.

    points: none: the weights themselves; or one point near them, see Evaluator.at.
    """

    evaluator: Evaluator
    points: PointSet | tuple[()] = ()

    def logits(self, batch: Batch) -> Tensor:
        """The logits that enter the loss: [rows, keep, columns]."""
        return self.evaluator.logits(self.points, batch)[0]

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        stops: Sequence[int],
        pad: int,
        temperature: float = 0.0,
        addresses: Sequence[Address] = (),
    ) -> Texts:
        """The tokens that follow each prompt, see Reader and zodist.evaluator.generate."""
        manner = Manner(most, tuple(stops), pad, temperature)
        return write(self.evaluator, self.points, [Opened(prompts, addresses)], manner)[0]
