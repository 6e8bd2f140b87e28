"""Numbers that sum up an evaluation. Everything is computed in float64 on the CPU.

scores: [examples, labels], log-probabilities of the options; labels: int64 [examples]; losses: [examples].
An example with a NaN score counts as wrong.  A standard error of a mean is that of independent examples; that of F1 over
labels, which is no mean, is the jackknife's: every example is left out once.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Score:
    """An evaluation. A figure that the task does not have is None.

    loss, loss_error: mean loss per example and its standard error.
    accuracy, accuracy_error: share of right answers and its standard error.
    calibrated: accuracy after each option's bias is removed, see `calibrated_accuracy`; where rows have options of their
    own, after the likelihood of the option without the content is removed.
    majority: share of the most frequent label, which a constant answer reaches.
    f1, f1_error: classification: mean over the labels of F1; else mean over the examples of the F1 of words.
    exact, exact_error: share of written answers equal to a reference.
    by_sum: accuracy by the sum of an option's log-probabilities, without division by its length.
    reward, reward_error: mean of what a reward function gives, and its standard error.
    aim: what the run makes small, where that is not the loss.
    """

    examples: int
    loss: float
    loss_error: float
    accuracy: float | None = None
    accuracy_error: float | None = None
    calibrated: float | None = None
    majority: float | None = None
    f1: float | None = None
    f1_error: float | None = None
    exact: float | None = None
    exact_error: float | None = None
    by_sum: float | None = None
    reward: float | None = None
    reward_error: float | None = None
    aim: float | None = None

    @property
    def criterion(self) -> float:
        """What tells the better of two evaluations of a run, the lower one."""
        return self.loss if self.aim is None else self.aim


def summary(losses: Tensor, scores: Tensor | None = None, labels: Tensor | None = None) -> Score:
    """All figures of one evaluation over at least one example."""
    loss, error = mean(losses)
    n = len(losses)
    if scores is None or labels is None:
        return Score(examples=n, loss=loss, loss_error=error)
    right = accuracy(scores, labels)
    f1, f1_error = macro_f1(scores, labels)
    return Score(
        examples=n,
        loss=loss,
        loss_error=error,
        accuracy=right,
        accuracy_error=standard_error(right, n),
        calibrated=calibrated_accuracy(scores, labels),
        majority=majority(labels),
        f1=f1,
        f1_error=f1_error,
    )


def mean(values: Tensor) -> tuple[float, float]:
    """Mean over independent examples and its standard error, NaN for a single one."""
    values = values.detach().to("cpu", torch.float64)
    n = len(values)
    return values.mean().item(), values.std().item() / math.sqrt(n) if n > 1 else math.nan


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


def macro_f1(scores: Tensor, labels: Tensor) -> tuple[float, float]:
    """Mean of F1 over the labels that occur, as truth or as answer, and its jackknife standard error.

    An example with a NaN score is an answer of no label.
    """
    scores, labels = scores.detach().to("cpu", torch.float64), labels.cpu()
    n, size = scores.shape
    answers = torch.where(scores.isnan().any(1), size, scores.argmax(1))
    table = (
        (labels * (size + 1) + answers).bincount(minlength=size * (size + 1)).view(size, size + 1).double()
    )
    # All examples of one cell of the table are alike, so each cell is left out once.
    found = [(0.0, 0.0)]
    for row, column in table.nonzero().tolist():
        short = table.clone()
        short[row, column] -= 1
        found.append((_f1(short), table[row, column].item()))
    values, counts = torch.tensor(found[1:], dtype=torch.float64).unbind(1)
    around = (values * counts).sum() / n
    error = math.sqrt((n - 1) / n * (counts * (values - around) ** 2).sum().item()) if n > 1 else math.nan
    return _f1(table), error


def _f1(table: Tensor) -> float:
    """Macro F1 of counts [label, answer]; the last answer is that of no label."""
    right, truth, answered = table.diagonal(), table.sum(1), table[:, :-1].sum(0)
    occurs = truth + answered > 0
    return (2 * right / (truth + answered).clamp(min=1))[occurs].mean().item() if occurs.any() else 0.0
