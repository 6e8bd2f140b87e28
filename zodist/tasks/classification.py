"""Classification by prompting: the words of the right label should be the most likely continuation.

The score of an option is the mean log-probability of its tokens after the prompt (score = "sum": their sum), the loss the
cross-entropy over the options' scores (MeZO, arXiv:2305.17333, appendix E.4 and its code: the mean). Where every option is
one token, all options continue the same position and the normaliser over the vocabulary is common to them: it cancels in
the softmax over the options. Then one row per example and the logits of the options' tokens are enough; no
vocabulary-wide product is made. Otherwise there is one row per option. The last token of an option is only
predicted, so it is never part of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zodist.errors import TaskError
from zodist.tasks.description import Classification
from zodist.tasks.encoder import encoder
from zodist.tasks.prompt import check_fields, prompts, template, too_long, value
from zodist.tasks.source import Drawn, Rows
from zodist.tasks.task import Batch, Example, Task, left_padded

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True, eq=False)
class OneTokenBatch(Batch):
    """One row per example; the options are the batch's columns, in label order."""

    labels: Tensor

    def losses(self, logits: Tensor) -> Tensor:
        return _cross_entropy(self.scores(logits), self.labels)

    def scores(self, logits: Tensor) -> Tensor:
        return logits[:, -1].float().log_softmax(-1)


@dataclass(frozen=True, eq=False)
class OptionRowsBatch(Batch):
    """One row per example and option, options of one example together.

    targets: int64 [labels, keep], the tokens of each option on the right, 0 where it is shorter.
    counts: bool [labels, keep], True where targets holds a token of the option.
    mean: whether an option's score is the mean over its tokens, not the sum.
    """

    labels: Tensor
    targets: Tensor
    counts: Tensor
    mean: bool = True

    def losses(self, logits: Tensor) -> Tensor:
        return _cross_entropy(self.scores(logits), self.labels)

    def scores(self, logits: Tensor) -> Tensor:
        targets, counts = (x.to(logits.device, non_blocking=True) for x in (self.targets, self.counts))
        per_option = logits.float().log_softmax(-1).unflatten(0, (self.examples, len(targets)))
        index = targets.expand(self.examples, -1, -1)[..., None]
        tokens = per_option.gather(-1, index)[..., 0].masked_fill(~counts, 0.0)
        total = tokens.sum(-1)
        return (total / counts.sum(-1) if self.mean else total).log_softmax(-1)


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    return -scores.gather(1, labels.to(scores.device, non_blocking=True)[:, None])[:, 0]


@dataclass(frozen=True, eq=False)
class ClassificationTask(Task):
    """Prompts with a fixed set of continuations.

    options: the tokens of each label's words, in label order. pad: the token that fills rows on the left.
    mean: whether an option's score is the mean over its tokens, not the sum.
    """

    options: tuple[tuple[int, ...], ...]
    pad: int
    mean: bool = True

    def settings(self) -> list[Any]:
        return [*super().settings(), *([] if self.mean else ["sum"])]

    def rows(self, example: Example) -> int:
        return 1 if all(len(option) == 1 for option in self.options) else len(self.options)

    def shown(self, example: Example) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        tokens = example.tokens + self.options[example.label or 0]
        return tokens, ((len(example.tokens), len(tokens)),)

    def batch(self, examples: Sequence[Example]) -> Batch:
        labels = torch.tensor([example.label for example in examples], dtype=torch.int64)
        if all(len(option) == 1 for option in self.options):
            ids, mask, positions = left_padded([example.tokens for example in examples], self.pad)
            columns = torch.tensor([option[0] for option in self.options], dtype=torch.int64)
            return OneTokenBatch(ids, mask, positions, 1, columns, len(examples), labels)
        rows = [example.tokens + option[:-1] for example in examples for option in self.options]
        ids, mask, positions = left_padded(rows, self.pad)
        keep = max(len(option) for option in self.options)
        targets, counts, _ = left_padded(self.options, 0)
        return OptionRowsBatch(
            ids, mask, positions, keep, None, len(examples), labels, targets, counts.bool(), self.mean
        )


def build(
    description: Classification,
    splits: Mapping[str, Drawn],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    warnings: Sequence[str],
) -> ClassificationTask:
    """The task over the drawn rows of train, validation and test.

    A prompt and its longest option have at most max_tokens tokens: the prompt gives way, never the option.
    """
    form, encode = template(description, description.template), encoder(tokenizer)
    for drawn in splits.values():
        check_fields(description, [*form.fields, description.label_field], drawn.rows)
    first = form.fill(splits["train"].rows, splits["train"].indices[0])
    words = tuple(description.labels.values())
    options, apart = zip(*(encode.continuation(first, word) for word in words), strict=True)
    room = max_tokens - max(map(len, options)) - len(encode.start)
    if room < 1:
        raise TaskError(
            f"task.max_tokens = {max_tokens} leaves no room for a prompt before {max(words, key=len)!r}; "
            f"raise it by at least {1 - room}"
        )
    examples: dict[str, tuple[Example, ...]] = {}
    cut = 0
    for split, drawn in splits.items():
        tokens_of, over = prompts(form, drawn, encode, [room] * len(drawn.indices), description.shorten)
        cut += over
        examples[split] = tuple(
            Example((*encode.start, *tokens), _label(description, drawn.rows, i), drawn.rows.place(i))
            for i, tokens in zip(drawn.indices, tokens_of, strict=True)
        )
    notes = [
        *warnings,
        *_word_warnings(words, options, apart),
        *too_long(cut, max_tokens, description.shorten),
    ]
    return ClassificationTask(
        name=description.name,
        metric=description.metric,
        template=description.template,
        label_words=words,
        **examples,
        warnings=tuple(notes),
        options=tuple(map(tuple, options)),
        pad=encode.pad,
        mean=description.score == "mean",
    )


def _label(description: Classification, rows: Rows, index: int) -> int:
    found = value(rows, index, description.label_field)
    integral = isinstance(found, float) and found.is_integer()
    key = str(found).lower() if isinstance(found, bool) else str(int(found)) if integral else str(found)
    if key not in description.labels:
        raise TaskError(
            f"{rows.place(index)}: the label {found!r} (field {description.label_field!r}) has no word; add "
            f'{key} = "..." to [labels] of {description.file}, which has {", ".join(description.labels)}'
        )
    return list(description.labels).index(key)


def _word_warnings(
    words: Sequence[str], options: Sequence[Sequence[int]], apart: Sequence[bool]
) -> list[str]:
    """What is unusual about the label words under this tokenizer."""
    notes = []
    for word, separate in zip(words, apart, strict=True):
        if not separate:
            notes.append(
                f"the tokenizer joins the label word {word!r} with the end of the prompt, so it is encoded "
                f"on its own; a leading space in the word may avoid that"
            )
    several = [word for word, option in zip(words, options, strict=True) if len(option) > 1]
    if several:
        notes.append(
            f"the label words {', '.join(map(repr, several))} have several tokens, so every example takes "
            f"{len(words)} rows; words of one token make a step faster"
        )
    for i, j in combinations(range(len(words)), 2):
        if tuple(options[i]) == tuple(options[j]):
            raise TaskError(
                f"the label words {words[i]!r} and {words[j]!r} are the same tokens to this tokenizer; "
                f"choose words that differ"
            )
        if options[i][0] == options[j][0]:
            notes.append(
                f"the label words {words[i]!r} and {words[j]!r} begin with the same token, which tells nothing between "
                f"them: only their later tokens do"
            )
    return notes
