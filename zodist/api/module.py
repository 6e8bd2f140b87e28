"""Any torch module with a loss function, as a run takes it: its evaluator, and the parts around that.

A point is evaluated on a copy of the trained parameters: perturbed there, lent to the module by torch.func for one call,
overwritten for the next.  So the weights are never written, and the peak is one more copy of the trained parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.func import functional_call

from zodist.api.data import content
from zodist.directions import Cache, Combination, Law, Param
from zodist.errors import ModelError
from zodist.evaluator import Gather
from zodist.run import Parts
from zodist.step import Replica, Share
from zodist.tasks import Score

Loss = Callable[[Any, Any], Any]


class ModuleEvaluator:
    """Losses of a module near its weights, one point at a time.

    laws: what a seed means for a parameter, by its id.  loss(model, batch): a number, or one for each example; called
    without gradients, which it may enable for itself.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        params: Sequence[Param],
        laws: Mapping[int, Law | None],
        loss: Loss,
        *,
        parallel: bool,
    ) -> None:
        self.params, self.laws, self.parallel = params, laws, parallel
        self._measured = _Measured(model, loss)
        self._copies: dict[int, torch.Tensor] = {}

    def each(self, point: Combination, batch: Any) -> torch.Tensor:
        """Losses at a point (empty: the weights themselves): one for the batch or one for each example, float64 [n]."""
        with torch.no_grad():
            moved = self._moved(point)
            found = functional_call(self._measured, moved, (batch,)) if moved else self._measured(batch)
        values = torch.as_tensor(found).detach()
        if values.dim() > 1 or not values.numel() or values.is_complex():
            raise ModelError(
                f"the loss function returned numbers of shape {tuple(values.shape)}; return one number, or one for each "
                "example"
            )
        return values.reshape(-1).to("cpu", torch.float64)

    def mean(self, point: Combination, batches: Sequence[Any]) -> float:
        """Mean loss at a point over some batches; every number that the loss function returns counts the same."""
        found = [self.each(point, batch) for batch in batches]
        return math.fsum(float(values.sum()) for values in found) / sum(map(len, found))

    def close(self) -> None:
        """Free the copies."""
        self._copies.clear()

    def _moved(self, point: Combination) -> dict[str, torch.Tensor]:
        """Perturbed copies of the parameters that the point moves, by the name that functional_call knows."""
        moved: dict[str, torch.Tensor] = {}
        if not len(point):
            return moved
        cache: Cache = {}
        for p in self.params:
            law = self.laws.get(p.id)
            laid = None if law is None else law.lay(p, [point], cache)
            if laid is None or laid.still:
                continue
            if p.id not in self._copies:
                self._copies[p.id] = torch.empty_like(p.model).view(1, -1)
            laid.write_(p, 0, p.weights.numel(), self._copies[p.id], parallel=self.parallel)
            moved[f"model.{p.name}"] = self._copies[p.id].view(p.shape)
        return moved


class _Measured(torch.nn.Module):
    """A model and its loss as one module, so that the loss may use any part of the model."""

    def __init__(self, model: torch.nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, batch: Any) -> Any:
        return self.loss(self.model, batch)


@dataclass(frozen=True, eq=False, slots=True)
class LossTask:
    """What a run asks of a task, for a loss function: train and validation are the numbers of batches."""

    name: str
    train: range
    validation: range
    held: tuple[Sequence[Any], Sequence[Any]]
    test: range = range(0)
    warnings: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """16 hex digits over the number of batches and over what is in the first and the last."""
        return content([self.name, *self.held])


@dataclass(frozen=True, eq=False, slots=True)
class ModuleParts(Parts):
    """The parts of a run on a module.  loss: see ModuleEvaluator."""

    loss: Loss = lambda model, batch: math.nan

    def evaluator(self, replica: Replica | None = None) -> Any:
        laws = {} if replica is None else replica.directions
        return ModuleEvaluator(self.model, self.params, laws, self.loss, parallel=self.parallel)

    def losses(self, evaluator: Any, share: Share) -> np.ndarray:
        data, found = self.task.held[0], []  # type: ignore[attr-defined]
        for probe, chosen in zip(share.probes, share.examples, strict=True):
            if probe.examples:
                raise ModelError(
                    f"method.name = {self.config.method.name!r} gives every example a direction of its own, for which "
                    "zodist must know the model's layers; choose another method, or a causal language model with a task"
                )
            batches = [data[int(i)] for i in chosen]
            found.append([evaluator.mean(point, batches) for point in probe.points])
        return np.array(found, np.float64)

    def score(self, evaluator: Any, examples: Sequence[Any], gather: Gather) -> Score:
        """Mean loss over the numbers that the loss function returns for held-out batches, and its standard error."""
        data = self.task.held[1]  # type: ignore[attr-defined]

        def make(item: int) -> bytes:
            values = evaluator.each(Combination.of(), data[examples[item]]).numpy()
            mean = values.sum() / len(values)
            return np.array([len(values), mean, ((values - mean) ** 2).sum()], "<f8").tobytes()

        parts = [np.frombuffer(each, "<f8") for each in gather(len(examples), 24, make)]
        n = sum(part[0] for part in parts)
        mean = math.fsum(part[0] * part[1] for part in parts) / n
        spread = math.fsum(part[2] + part[0] * (part[1] - mean) ** 2 for part in parts)
        error = math.sqrt(spread / (n - 1) / n) if n > 1 else math.nan
        return Score(examples=int(n), loss=mean, loss_error=error)
