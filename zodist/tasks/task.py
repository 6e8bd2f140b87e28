"""What a task is to the rest of zodist: examples, batches of token rows, losses read off the logits, and figures.

A batch is a function of its examples and nothing else: same examples, same tensors. Rows are padded on the
left, so that the logits that matter are the last ones of every row, and a model is asked for those alone.
"""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from zodist.tasks.score import Score, summary


@dataclass(frozen=True)
class Example:
    """One row of the data, tokenised.

    tokens: the prompt (classification), or the prompt and what should follow it, or the whole document; already cut to the
    task's max_tokens.
    label: index of the right option; None where there are no options.
    place: where the row came from, for messages ("train.jsonl:12").
    targets: ranges of tokens that carry the loss, [start, stop); none: all that have one before them (text), or tokens of
    the options (classification).
    """

    tokens: tuple[int, ...]
    label: int | None
    place: str
    targets: tuple[tuple[int, int], ...] = ()

    def content(self) -> list[Any]:
        """What makes the example what it is, JSON-able: it enters the task's fingerprint."""
        return [self.tokens, self.label, *([self.targets] if self.targets else [])]


@dataclass(frozen=True, eq=False)
class Batch(ABC):
    """Token rows for one forward pass, and the way from its logits to losses.

    input_ids, attention_mask, position_ids: int64 [rows, T], padded on the left; positions count real tokens
    from 0.
    keep: the model is called with logits_to_keep = keep, since only the last `keep` positions enter the loss.
    columns: int64 [C], the only vocabulary entries that enter the loss; None means all of them.
    examples: how many examples the rows stand for; their order is that of the examples given.
    labels: int64 [examples], the right option of each; None where there are no options.
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
        """Log-probability of each option among them, float32 [examples, labels]; None without options."""


class Reader(Protocol):
    """A model as an evaluation uses it."""

    def logits(self, batch: Batch) -> Tensor:
        """The logits that enter the loss: [rows, keep, columns]."""
        ...

    def write(
        self,
        prompts: Sequence[Sequence[int]],
        most: int,
        stops: Sequence[int],
        pad: int,
        temperature: float = 0.0,
        addresses: Sequence[Any] = (),
    ) -> Sequence[Sequence[int] | None]:
        """The next tokens after each prompt, one after the other: at most ``most``, to a stop and with it.

        The most likely ones; with a temperature, drawn as the addresses say (zodist.evaluator.sampling), one for each prompt.  None
        for a prompt at which the model's numbers are NaN.
        """
        ...


@dataclass(frozen=True, eq=False)
class Task(ABC):
    """Examples of three disjoint sets, the way to batch them, and the figures of an evaluation.

    metric: the figure of an evaluation that comes first: "accuracy", "f1", "exact" or "loss".
    label_words: the option text of each label, in label order; empty where rows have options of their own, or none.
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
        """The rows of these examples to train on, in this order; at least one example."""

    @property
    def width(self) -> int:
        """How many numbers an evaluation takes down of an example."""
        return 1 + len(self.label_words)

    def rows(self, example: Example) -> int:
        """How many token rows the evaluation of an example takes."""
        return 1

    def measure(self, reader: Reader, examples: Sequence[Example]) -> Tensor:
        """What an evaluation takes down of each example: float32 [examples, width], the loss first."""
        batch = self.batch(examples)
        logits = reader.logits(batch)
        found, scores = batch.losses(logits)[:, None], batch.scores(logits)
        return found if scores is None else torch.cat([found, scores], 1)

    def score(self, figures: Tensor, examples: Sequence[Example]) -> Score:
        """All figures of an evaluation.  figures: of `measure`, float32 [examples, width], for at least one example."""
        if figures.shape[1] == 1:
            return summary(figures[:, 0])
        return summary(figures[:, 0], figures[:, 1:], torch.tensor([e.label for e in examples]))

    def shown(self, example: Example) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        """An example as it is trained on: its tokens, and the ranges of them that carry the loss."""
        return example.tokens, example.targets or ((1, len(example.tokens)),)

    def settings(self) -> list[Any]:
        """What a loss depends on besides the examples, JSON-able."""
        return [self.metric, self.template, self.label_words]

    def fingerprint(self) -> str:
        """16 hex digits that differ when any example, its order, the template or a label word differs.

        Where the data lie does not enter, so moving a file keeps the fingerprint.
        """
        digest = hashlib.sha256(json.dumps(self.settings()).encode())
        for split in (self.train, self.validation, self.test):
            digest.update(json.dumps([e.content() for e in split]).encode())
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
