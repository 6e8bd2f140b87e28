"""What a task is to the rest of zodist: examples, batches of token rows, and losses read off the logits.

A batch is a function of its examples and nothing else: same examples, same tensors. Rows are padded on the
left, so that the logits that matter are the last ones of every row, and a model is asked for those alone.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Example:
    """One row of the data, tokenised.

    tokens: the prompt (classification) or the whole document (text), already cut to the task's max_tokens.
    label: index into the task's label words; None for plain text.
    place: where the row came from, for messages ("train.jsonl:12").
    """

    tokens: tuple[int, ...]
    label: int | None
    place: str


@dataclass(frozen=True, eq=False)
class Batch(ABC):
    """Token rows for one forward pass, and the way from its logits to losses.

    input_ids, attention_mask, position_ids: int64 [rows, T], padded on the left; positions count real tokens
    from 0.
    keep: the model is called with logits_to_keep = keep, since only the last `keep` positions enter the loss.
    columns: int64 [C], the only vocabulary entries that enter the loss; None means all of them.
    examples: how many examples the rows stand for; their order is that of the examples given.
    labels: int64 [examples], the right option of each; None for plain text.
    """

    input_ids: Tensor
    attention_mask: Tensor
    position_ids: Tensor
    keep: int
    columns: Tensor | None
    examples: int
    labels: Tensor | None

    @abstractmethod
    def losses(self, logits: Tensor) -> Tensor:
        """Loss of each example, float32 [examples], computed in float32.

        logits: [rows, keep, C], or [rows, keep, vocabulary] where columns is None; any float dtype and
        device.
        """

    @abstractmethod
    def scores(self, logits: Tensor) -> Tensor | None:
        """Log-probability of each option among them, float32 [examples, labels]; None for plain text."""


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """Examples of three disjoint sets, and the way to batch them.

    metric: what an evaluation reports, "accuracy" or "loss".
    label_words: the option text of each label, in label order; empty for plain text.
    warnings: what works but is probably not what was wanted, one sentence each.
    """

    name: str
    metric: str
    template: str
    label_words: tuple[str, ...]
    train: Sequence[Example]
    validation: Sequence[Example]
    test: Sequence[Example]
    warnings: tuple[str, ...]

    @abstractmethod
    def batch(self, examples: Sequence[Example]) -> Batch:
        """The rows of these examples, in this order; at least one example."""

    def fingerprint(self) -> str:
        """16 hex digits that differ when any example, its order, the template or a label word differs.

        Where the data lie does not enter, so moving a file keeps the fingerprint.
        """
        digest = hashlib.sha256(json.dumps([self.metric, self.template, self.label_words]).encode())
        for split in (self.train, self.validation, self.test):
            digest.update(json.dumps([[e.tokens, e.label] for e in split]).encode())
        return digest.hexdigest()[:16]


def left_padded(rows: Sequence[Sequence[int]], pad: int) -> tuple[Tensor, Tensor, Tensor]:
    """input_ids, attention_mask and position_ids, int64 [rows, longest row], with `pad` on the left.

    Positions are the running count of real tokens minus one, 0 on padding: a row's numbers do not depend on
    the rows it shares a batch with.
    """
    width = max(len(row) for row in rows)
    ids = torch.tensor([[pad] * (width - len(row)) + list(row) for row in rows], dtype=torch.int64)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], dtype=torch.int64)
    return ids, mask, (mask.cumsum(1) - 1).clamp(min=0)
