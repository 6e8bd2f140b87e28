"""Numbers that sum up an evaluation. Everything is computed in float64 on the CPU.

scores: [examples, labels], log-probabilities of the options; labels: int64 [examples]; losses: [examples].
An example with a NaN score counts as wrong.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """An evaluation. The classification figures are None for plain text.

    loss, loss_error: mean loss per example and its standard error.
    accuracy, accuracy_error: share of right answers and its standard error.
    calibrated: accuracy after each option's bias is removed, see `calibrated_accuracy`.
    majority: share of the most frequent label, which a constant answer reaches.
    """

    examples: int
    loss: float
    loss_error: float
    accuracy: float | None = None
    accuracy_error: float | None = None
    calibrated: float | None = None
    majority: float | None = None


def summary(losses: Tensor, scores: Tensor | None = None, labels: Tensor | None = None) -> Score:
    """All figures of one evaluation over at least one example."""
    losses = losses.detach().to("cpu", torch.float64)
    n = len(losses)
    error = losses.std().item() / math.sqrt(n) if n > 1 else math.nan
    score = Score(examples=n, loss=losses.mean().item(), loss_error=error)
    if scores is None or labels is None:
        return score
    right = accuracy(scores, labels)
    return Score(
        examples=n,
        loss=score.loss,
        loss_error=error,
        accuracy=right,
        accuracy_error=standard_error(right, n),
        calibrated=calibrated_accuracy(scores, labels),
        majority=majority(labels),
    )


def accuracy(scores: Tensor, labels: Tensor) -> float:
    """Share of examples whose right option has the highest score; of equal options the first is chosen."""
    scores, labels = scores.detach().to("cpu", torch.float64), labels.cpu()
    right = (scores.argmax(1) == labels) & ~scores.isnan().any(1)
    return right.double().mean().item()


def standard_error(share: float, n: int) -> float:
    """Standard error of a share of n independent examples: sqrt(p (1 - p) / n)."""
    return math.sqrt(share * (1.0 - share) / n)


def calibrated_accuracy(scores: Tensor, labels: Tensor) -> float:
    """Accuracy after subtracting from each option's score its median over these examples.

    For two options this puts the threshold at the median score, so that half of the examples get each answer:
    what the model tells apart, whatever it likes to say. Labels are not used in choosing the threshold. A
    gain in accuracy without one here is a change of bias.
    """
    scores = scores.detach().to("cpu", torch.float64)
    return accuracy(scores - scores.nanquantile(0.5, dim=0), labels)


def majority(labels: Tensor) -> float:
    """Share of the most frequent label."""
    return labels.bincount().max().item() / len(labels)
