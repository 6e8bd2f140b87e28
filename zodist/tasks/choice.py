"""Multiple choice: every row has options of its own, and the right one should be the most likely continuation.

Trained on the likelihood of the right option's tokens (the first, of several right ones), as MeZO's code does
(arXiv:2305.17333, appendix E.4); here the mean over an example's tokens and then over examples, where that code takes the
mean over all tokens of a batch.  An evaluation compares the mean log-probability of each option's tokens, or with
score = "sum" their sum; the accuracy by the sum is told besides.  Calibrated: by the log-probability after the prompt less
that after a neutral prompt (Holtzman et al. 2021, arXiv:2104.08315).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zodist.config import shown
from zodist.errors import TaskError
from zodist.tasks.answers import compare
from zodist.tasks.description import Choice
from zodist.tasks.encoder import Encoder, encoder
from zodist.tasks.prompt import Template, check_fields, prompts, template, too_long, value
from zodist.tasks.score import Score, mean, standard_error
from zodist.tasks.source import Drawn, Rows
from zodist.tasks.surprise import SurpriseTask, continuations
from zodist.tasks.task import Example, Reader

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOSS, RIGHT, BY_SUM, CALIBRATED, F1 = range(5)  # what an evaluation takes down of an example


@dataclass(frozen=True)
class ChoiceExample(Example):
    """A prompt with options; tokens: the prompt and the right option.

    options: tokens of each.  words: their text.  right: which of them are right, label the first.  neutral: tokens of a
    prompt without the content; none: not calibrated.
    """

    options: tuple[tuple[int, ...], ...] = ()
    words: tuple[str, ...] = ()
    right: tuple[int, ...] = ()
    neutral: tuple[int, ...] = ()

    @property
    def prompt(self) -> tuple[int, ...]:
        """The tokens before the option."""
        return self.tokens[: self.targets[0][0]]

    def content(self) -> list[Any]:
        return [*super().content(), self.options, self.right, self.neutral]


@dataclass(frozen=True, eq=False)
class ChoiceTask(SurpriseTask):
    """mean: whether an option's score is the mean over its tokens, not the sum.  named: options are answers with words."""

    mean: bool
    calibrated: bool
    named: bool

    @property
    def width(self) -> int:
        return F1 + 1

    def rows(self, example: Example) -> int:
        return len(_choice(example).options)

    def measure(self, reader: Reader, examples: Sequence[Example]) -> Tensor:
        found = torch.full((len(examples), self.width), torch.nan)
        own = [_choice(example) for example in examples]
        # A forward has examples of equally many options, so that what they begin with is shared where rows are packed.
        order = sorted(range(len(own)), key=lambda i: len(own[i].options))
        for _, group in groupby(order, key=lambda i: len(own[i].options)):
            some = list(group)
            chosen = [own[i] for i in some]
            sums, lengths = self._likelihoods(reader, chosen, [e.prompt for e in chosen])
            prior = (
                self._likelihoods(reader, chosen, [e.neutral for e in chosen])[0] if self.calibrated else None
            )
            for place, i in enumerate(some):
                bare = None if prior is None else prior[place]
                found[i] = self._figures(own[i], sums[place], lengths[place], bare)
        return found

    def _likelihoods(
        self, reader: Reader, examples: Sequence[ChoiceExample], heads: Sequence[Sequence[int]]
    ) -> tuple[Tensor, Tensor]:
        """Log-probability of each option after a prompt of its example, and its tokens: float64 [examples, options]."""
        rows = [
            ((*head, *option[:-1]), option)
            for example, head in zip(examples, heads, strict=True)
            for option in example.options
        ]
        batch = continuations(rows, self.pad, len(examples))
        found, lengths = batch.surprise(reader.logits(batch))
        shape = len(examples), -1
        return -found.double().cpu().view(shape), lengths.double().cpu().view(shape)

    def _figures(self, example: ChoiceExample, sums: Tensor, lengths: Tensor, prior: Tensor | None) -> Tensor:
        if sums.isnan().any():
            return torch.tensor([torch.nan, 0.0, 0.0, 0.0, 0.0])
        means, label = sums / lengths, example.label or 0
        best = int((means if self.mean else sums).argmax())
        calibrated = torch.nan if prior is None else float(int((sums - prior).argmax()) in example.right)
        references = [example.words[i] for i in example.right]
        f1 = compare(example.words[best], references, "squad")[1] if self.named else torch.nan
        by_sum = float(int(sums.argmax()) in example.right)
        return torch.tensor([-means[label].item(), float(best in example.right), by_sum, calibrated, f1])

    def score(self, figures: Tensor, examples: Sequence[Example]) -> Score:
        loss, loss_error = mean(figures[:, LOSS])
        accuracy = mean(figures[:, RIGHT])[0]
        f1, f1_error = mean(figures[:, F1]) if self.named else (None, None)
        return Score(
            examples=len(figures),
            loss=loss,
            loss_error=loss_error,
            accuracy=accuracy,
            accuracy_error=standard_error(accuracy, len(figures)),
            calibrated=mean(figures[:, CALIBRATED])[0] if self.calibrated else None,
            f1=f1,
            f1_error=f1_error,
            by_sum=mean(figures[:, BY_SUM])[0],
        )


def _choice(example: Example) -> ChoiceExample:
    assert isinstance(example, ChoiceExample)
    return example


def build(
    description: Choice,
    splits: Mapping[str, Drawn],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    warnings: Sequence[str],
) -> ChoiceTask:
    """The task over the drawn rows; a prompt and its longest option have at most max_tokens tokens.

    An option that is longer than half of that loses its end.
    """
    form, encode = template(description, description.template), encoder(tokenizer)
    neutral = template(description, description.neutral, "neutral", least=0)
    named = bool(description.options_field)
    texts = [description.option] if named else description.options
    forms = [template(description, text, "option", least=0) for text in texts]
    wanted = {field for one in (form, neutral, *forms) for field in one.fields} - {"option"}
    wanted |= {description.options_field, description.answers_field} if named else {description.label_field}
    examples: dict[str, tuple[Example, ...]] = {}
    cut = joined = 0
    for split, drawn in splits.items():
        check_fields(description, sorted(wanted), drawn.rows)
        words = [_words(description, forms, drawn.rows, i) for i in drawn.indices]
        heads = [form.fill(drawn.rows, i) for i in drawn.indices]
        options, apart = _options(encode, heads, [texts for texts, _ in words], max_tokens // 2)
        joined += apart
        room = [max_tokens - max(map(len, own)) - len(encode.start) for own in options]
        if min(room, default=1) < 1:
            raise TaskError(f"task.max_tokens = {max_tokens} leaves no room for a prompt; raise it")
        tokens_of, over = prompts(form, drawn, encode, room, description.shorten)
        cut += over
        found = []
        for i, tokens, own, (_, names) in zip(drawn.indices, tokens_of, options, words, strict=True):
            right = _right(description, names, drawn.rows, i)
            prompt = (*encode.start, *tokens)
            bare: tuple[int, ...] = ()
            if description.neutral:
                bare = (*encode.start, *encode([neutral.fill(drawn.rows, i)])[0])
            whole = prompt + own[right[0]]
            targets = ((len(prompt), len(whole)),)
            found.append(
                ChoiceExample(whole, right[0], drawn.rows.place(i), targets, own, tuple(names), right, bare)
            )
        examples[split] = tuple(found)
    notes = [*warnings, *too_long(cut, max_tokens, description.shorten)]
    if joined:
        notes.append(
            f"the tokenizer joins {joined} options with the end of their prompt, so they are encoded on their own; a "
            f"leading space in the option may avoid that"
        )
    return ChoiceTask(
        name=description.name,
        metric=description.metric,
        template=description.template,
        label_words=(),
        **examples,
        warnings=tuple(notes),
        pad=encode.pad,
        mean=description.score == "mean",
        calibrated=bool(description.neutral),
        named=named,
    )


def _words(
    description: Choice, forms: Sequence[Template], rows: Rows, index: int
) -> tuple[list[str], list[str]]:
    """The text of each option of a row as it follows the prompt, and by which it is named."""
    if not description.options_field:
        texts = [form.fill(rows, index) for form in forms]
        return texts, texts
    names = value(rows, index, description.options_field)
    if not isinstance(names, (list, tuple)) or len(names) < 2:
        raise TaskError(
            f"{rows.place(index)}: the field {description.options_field!r} must list two options or more, found "
            f"{shown(names)}"
        )
    names = list(dict.fromkeys(map(str, names)))
    texts = []
    for name in names:
        text = forms[0].fill(rows, index, {"option": name})
        texts.append(text.replace(description.placeholder, name) if description.placeholder else text)
    return texts, names


def _options(
    encode: Encoder, heads: Sequence[str], texts: Sequence[Sequence[str]], longest: int
) -> tuple[list[tuple[tuple[int, ...], ...]], int]:
    """The tokens of every option of every prompt, and how many the tokenizer joins with their prompt."""
    pairs = [(head, text) for head, own in zip(heads, texts, strict=True) for text in own]
    tokens, joined = encode.continuations([head for head, _ in pairs], [text for _, text in pairs])
    every = iter(tokens)
    return [tuple(tuple(next(every))[:longest] for _ in own) for own in texts], joined


def _right(description: Choice, names: Sequence[str], rows: Rows, index: int) -> tuple[int, ...]:
    """Which options of a row are right."""
    if not description.options_field:
        found = value(rows, index, description.label_field)
        text = description.replace.get(description.label_field, {}).get(str(found), str(found))
        if text not in map(str, range(len(names))):
            raise TaskError(
                f"{rows.place(index)}: the label {found!r} (field {description.label_field!r}) must be the number of an "
                f"option, 0 to {len(names) - 1}; correct it, or map it with [replace.{description.label_field}]"
            )
        return (int(text),)
    answers = value(rows, index, description.answers_field)
    answers = [answers] if isinstance(answers, str) else list(answers)
    right = tuple(names.index(str(answer)) for answer in dict.fromkeys(answers) if str(answer) in names)
    if not right:
        raise TaskError(
            f"{rows.place(index)}: none of the answers {shown(answers)} (field {description.answers_field!r}) is among the "
            f"options; correct the row or remove it"
        )
    return right
