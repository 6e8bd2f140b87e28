"""Classification by prompting: the words of the right label should be the most likely continuation.

The score of an option is the mean log-probability of its tokens after the prompt, the loss the cross-entropy
over the options' scores (MeZO, arXiv:2305.17333, appendix E.4 and its code). Where every option is one token,
all options continue the same position and the normaliser over the vocabulary is common to them: it cancels in the softmax
over the options. Then one row per example and the logits of the options' tokens are enough; no
vocabulary-wide product is made. Otherwise there is one row per option. The last token of an option is only
predicted, so it is never part of a row.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zodist.errors import TaskError
from zodist.tasks.description import Description
from zodist.tasks.prompt import check_fields, encoder, template, value
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
    """

    labels: Tensor
    targets: Tensor
    counts: Tensor

    def losses(self, logits: Tensor) -> Tensor:
        return _cross_entropy(self.scores(logits), self.labels)

    def scores(self, logits: Tensor) -> Tensor:
        targets, counts = self.targets.to(logits.device), self.counts.to(logits.device)
        per_option = logits.float().log_softmax(-1).unflatten(0, (self.examples, len(targets)))
        index = targets.expand(self.examples, -1, -1)[..., None]
        tokens = per_option.gather(-1, index)[..., 0].masked_fill(~counts, 0.0)
        return (tokens.sum(-1) / counts.sum(-1)).log_softmax(-1)


def _cross_entropy(scores: Tensor, labels: Tensor) -> Tensor:
    return -scores.gather(1, labels.to(scores.device)[:, None])[:, 0]


@dataclass(frozen=True, eq=False)
class ClassificationTask(Task):
    """Prompts with a fixed set of continuations.

    options: the tokens of each label's words, in label order. pad: the token that fills rows on the left.
    """

    options: tuple[tuple[int, ...], ...]
    pad: int

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
            ids, mask, positions, keep, None, len(examples), labels, targets, counts.bool()
        )


def build(
    description: Description,
    splits: Mapping[str, Drawn],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    warnings: Sequence[str],
) -> ClassificationTask:
    """The task over the drawn rows of train, validation and test.

    A prompt and its longest option have at most max_tokens tokens: the prompt loses its beginning, after the
    start token, never its end and never the option.
    """
    prompt, encode = template(description), encoder(tokenizer)
    for drawn in splits.values():
        check_fields(description, [*prompt.fields, description.label_field], drawn.rows)
    texts = {split: [prompt.fill(drawn.rows, i) for i in drawn.indices] for split, drawn in splits.items()}
    words = tuple(description.labels.values())
    options, apart = zip(*(encode.continuation(texts["train"][0], word) for word in words), strict=True)
    room = max_tokens - max(map(len, options)) - len(encode.start)
    if room < 1:
        raise TaskError(
            f"task.max_tokens = {max_tokens} leaves no room for a prompt before {max(words, key=len)!r}; "
            f"raise it by at least {1 - room}"
        )
    examples: dict[str, tuple[Example, ...]] = {}
    cut = 0
    for split, drawn in splits.items():
        found = []
        for i, tokens in zip(drawn.indices, encode(texts[split]), strict=True):
            place = drawn.rows.place(i)
            if not tokens and not encode.start:
                raise TaskError(f"{place}: the prompt is empty; remove the row, or add words to the template")
            cut += len(tokens) > room
            found.append(Example((*encode.start, *tokens[-room:]), _label(description, drawn.rows, i), place))
        examples[split] = tuple(found)
    notes = [*warnings, *_word_warnings(words, options, apart)]
    if cut:
        notes.append(f"{cut} prompts are longer than task.max_tokens = {max_tokens} and lose their beginning")
    return ClassificationTask(
        name=description.name,
        metric=description.metric,
        template=description.template,
        label_words=words,
        **examples,
        warnings=tuple(notes),
        options=tuple(map(tuple, options)),
        pad=encode.pad,
    )


def _label(description: Description, rows: Rows, index: int) -> int:
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
            notes.append(f"the label words {words[i]!r} and {words[j]!r} begin with the same token")
    return notes
