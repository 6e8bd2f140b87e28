"""Plain text: the loss is the mean negative log-likelihood of a document's tokens, given those before.

The last token of a document is only predicted, so a row holds all but that one; the first is only given,
unless the tokenizer has a start token. The whole vocabulary enters the normaliser, at every position.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from zodist.errors import TaskError
from zodist.tasks.description import Description
from zodist.tasks.prompt import check_fields, encoder, template
from zodist.tasks.source import Drawn
from zodist.tasks.task import Batch, Example, Task, left_padded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class TextBatch(Batch):
    """targets: int64 [examples, keep], the token that follows each position; 0 on padding."""

    targets: Tensor

    def losses(self, logits: Tensor) -> Tensor:
        targets, mask = self.targets.to(logits.device), self.attention_mask.to(logits.device)
        # logsumexp and not log_softmax: no second vocabulary-wide tensor
        numbers = logits.float()
        chosen = numbers.gather(-1, targets[..., None])[..., 0]
        surprise = (numbers.logsumexp(-1) - chosen).masked_fill(mask == 0, 0.0)
        return surprise.sum(-1) / mask.sum(-1)

    def scores(self, logits: Tensor) -> None:
        return None


@dataclass(frozen=True, eq=False)
class TextTask(Task):
    """pad: the token that fills rows on the left."""

    pad: int

    def batch(self, examples: Sequence[Example]) -> Batch:
        ids, mask, positions = left_padded([example.tokens[:-1] for example in examples], self.pad)
        targets, _, _ = left_padded([example.tokens[1:] for example in examples], 0)
        return TextBatch(ids, mask, positions, ids.shape[1], None, len(examples), None, targets)


def build(
    description: Description,
    splits: Mapping[str, Drawn],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    warnings: Sequence[str],
) -> TextTask:
    """The task over the drawn rows; a document keeps its first max_tokens tokens.

    A document of a single token predicts nothing and is left out, with a warning.
    """
    document, encode = template(description), encoder(tokenizer)
    if max_tokens < 2:
        raise TaskError(f"task.max_tokens = {max_tokens} leaves no token to predict; set it to 2 or more")
    examples: dict[str, tuple[Example, ...]] = {}
    cut = short = 0
    for split, drawn in splits.items():
        check_fields(description, document.fields, drawn.rows)
        found = []
        texts = [document.fill(drawn.rows, i) for i in drawn.indices]
        for i, tokens in zip(drawn.indices, encode(texts), strict=True):
            tokens = (*encode.start, *tokens)
            cut += len(tokens) > max_tokens
            short += len(tokens) < 2
            if len(tokens) > 1:
                found.append(Example(tokens[:max_tokens], None, drawn.rows.place(i)))
        if drawn.indices and not found:
            raise TaskError(
                f"{drawn.rows.origin}: no document drawn for {split} has two tokens; give longer documents"
            )
        examples[split] = tuple(found)
    notes = [*warnings]
    if short:
        notes.append(f"{short} documents of fewer than two tokens are left out")
    if cut:
        notes.append(f"{cut} documents are longer than task.max_tokens = {max_tokens} and lose their end")
    return TextTask(
        name=description.name,
        metric=description.metric,
        template=description.template,
        label_words=(),
        **examples,
        warnings=tuple(notes),
        pad=encode.pad,
    )
