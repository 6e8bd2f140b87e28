"""Rows in which some tokens carry the loss: their mean negative log-likelihood, given those before.

The last token of a row is only predicted, so a row holds all but that one.  The whole vocabulary enters the normaliser, at
every position that carries the loss.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from zodist.tasks.task import Batch, Example, Task, left_padded


@dataclass(frozen=True, eq=False)
class SurpriseBatch(Batch):
    """targets: int64 [rows, keep], the token that follows each position; counts: bool [rows, keep], whether it counts."""

    targets: Tensor
    counts: Tensor

    def losses(self, logits: Tensor) -> Tensor:
        total, tokens = self.surprise(logits)
        return total / tokens

    def surprise(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Negative log-likelihood of each row's tokens that count, float32 [rows], and how many they are."""
        targets, counts = (x.to(logits.device, non_blocking=True) for x in (self.targets, self.counts))
        # logsumexp and not log_softmax: no second vocabulary-wide tensor
        numbers = logits.float()
        chosen = numbers.gather(-1, targets[..., None])[..., 0]
        found = (numbers.logsumexp(-1) - chosen).masked_fill(~counts, 0.0)
        return found.sum(-1), counts.sum(-1)

    def scores(self, logits: Tensor) -> None:
        return None


def surprise_batch(examples: Sequence[Example], pad: int) -> SurpriseBatch:
    """One row for each example; its targets carry the loss, of which the last is the example's last token."""
    ranges = [example.targets or ((1, len(example.tokens)),) for example in examples]
    marks = []
    for example, own in zip(examples, ranges, strict=True):
        mark = [0] * len(example.tokens)
        for start, stop in own:
            mark[start:stop] = [1] * (stop - start)
        marks.append(mark[own[0][0] :])
    rows = [(e.tokens[:-1], e.tokens[own[0][0] :]) for e, own in zip(examples, ranges, strict=True)]
    return continuations(rows, pad, len(examples), marks)


def continuations(
    rows: Sequence[tuple[Sequence[int], Sequence[int]]],
    pad: int,
    examples: int,
    marks: Sequence[Sequence[int]] | None = None,
) -> SurpriseBatch:
    """A batch of (tokens of a row, the last tokens that they predict).

    marks: for each predicted token whether it counts, 0 or 1; None: all do.
    """
    ids, mask, positions = left_padded([row for row, _ in rows], pad)
    targets, real, _ = left_padded([ends for _, ends in rows], 0)
    counts = real if marks is None else left_padded(marks, 0)[0]
    return SurpriseBatch(
        ids, mask, positions, targets.shape[1], None, examples, None, targets, counts.to(torch.bool)
    )


@dataclass(frozen=True, eq=False)
class SurpriseTask(Task):
    """A task trained on the likelihood of given tokens.  pad: the token that fills rows on the left."""

    pad: int

    def batch(self, examples: Sequence[Example]) -> SurpriseBatch:
        return surprise_batch(examples, self.pad)
