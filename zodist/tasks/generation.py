"""Questions with written answers: the model writes on, and its words are compared with the references.

Trained on the likelihood of the first reference's tokens (MeZO, arXiv:2305.17333, appendix E.4).  An evaluation writes the
most likely token again and again, up to the stop or most_tokens, and takes the text before the stop; equality and F1 of
words are those of answers.py, the best of all references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zodist.errors import TaskError
from zodist.tasks.answers import compare
from zodist.tasks.description import Generation
from zodist.tasks.encoder import encoder
from zodist.tasks.prompt import check_fields, prompts, template, too_long, value
from zodist.tasks.score import Score, mean, standard_error
from zodist.tasks.source import Drawn, Rows
from zodist.tasks.surprise import SurpriseBatch, surprise_batch
from zodist.tasks.task import Example, Reader
from zodist.tasks.writing import Given, WritingTask, ends

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

LOSS, EXACT, F1 = range(3)  # what an evaluation takes down of an example


@dataclass(frozen=True)
class AnswerExample(Example):
    """A prompt and the first reference's tokens.  answers: the references."""

    answers: tuple[str, ...] = ()

    def content(self) -> list[Any]:
        return [*super().content(), self.answers]


@dataclass(frozen=True, eq=False)
class GenerationTask(WritingTask):
    """rules: of answers.py."""

    rules: str

    def batch(self, examples: Sequence[Example]) -> SurpriseBatch:
        return surprise_batch(examples, self.pad)

    def prompt(self, example: Example) -> tuple[int, ...]:
        return example.tokens[: example.targets[0][0]]

    def given(self, example: Example) -> Given:
        return Given(self.encode.text(self.prompt(example)), self._answers(example)[0], None)

    @property
    def width(self) -> int:
        return F1 + 1

    def measure(self, reader: Reader, examples: Sequence[Example]) -> Tensor:
        batch = self.batch(examples)
        losses = batch.losses(reader.logits(batch)).cpu().float()
        written = reader.write([self.prompt(e) for e in examples], self.most, self.stops, self.pad)
        found = [
            [loss, *self.compared(example, self.text(tokens))]
            for example, loss, tokens in zip(examples, losses.tolist(), written, strict=True)
        ]
        return torch.tensor(found, dtype=torch.float32)

    def compared(self, example: Example, answer: str) -> tuple[float, float]:
        """Whether an answer equals a reference, 0 or 1, and its largest F1 with one."""
        return compare(answer, self._answers(example), self.rules)

    def _answers(self, example: Example) -> tuple[str, ...]:
        assert isinstance(example, AnswerExample)
        return example.answers

    def score(self, figures: Tensor, examples: Sequence[Example]) -> Score:
        loss, loss_error = mean(figures[:, LOSS])
        exact = mean(figures[:, EXACT])[0]
        f1, f1_error = mean(figures[:, F1])
        return Score(
            examples=len(figures),
            loss=loss,
            loss_error=loss_error,
            f1=f1,
            f1_error=f1_error,
            exact=exact,
            exact_error=standard_error(exact, len(figures)),
        )


def build(
    description: Generation,
    splits: Mapping[str, Drawn],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    warnings: Sequence[str],
) -> GenerationTask:
    """The task over the drawn rows.  A prompt has at most max_tokens less the larger of its answer and most_tokens.

    An answer that is longer than half of max_tokens loses its end.
    """
    form, encode = template(description, description.template), encoder(tokenizer)
    reply = template(description, description.answer, "answer")
    wanted = ({*form.fields, *reply.fields} - {"answer"}) | {description.answers_field}
    examples: dict[str, tuple[Example, ...]] = {}
    cut = 0
    for split, drawn in splits.items():
        check_fields(description, sorted(wanted), drawn.rows)
        answers = [_answers(description, drawn.rows, i) for i in drawn.indices]
        heads = [form.fill(drawn.rows, i) for i in drawn.indices]
        words = [
            reply.fill(drawn.rows, i, {"answer": own[0]})
            for i, own in zip(drawn.indices, answers, strict=True)
        ]
        replies = [own[: max_tokens // 2] for own in encode.continuations(heads, words)[0]]
        room = [max_tokens - max(len(own), description.most_tokens) - len(encode.start) for own in replies]
        if min(room, default=1) < 1:
            raise TaskError(
                f"task.max_tokens = {max_tokens} leaves no room for a prompt before an answer of {description.most_tokens} "
                f"tokens; raise it, or lower most_tokens of {description.file}"
            )
        tokens_of, over = prompts(form, drawn, encode, room, description.shorten)
        cut += over
        found = []
        for i, tokens, own, texts in zip(drawn.indices, tokens_of, replies, answers, strict=True):
            start = len(encode.start) + len(tokens)
            whole = (*encode.start, *tokens, *own)
            found.append(
                AnswerExample(whole, None, drawn.rows.place(i), ((start, len(whole)),), tuple(texts))
            )
        examples[split] = tuple(found)
    return GenerationTask(
        name=description.name,
        metric=description.metric,
        template=description.template,
        label_words=(),
        **examples,
        warnings=(*warnings, *too_long(cut, max_tokens, description.shorten)),
        pad=encode.pad,
        encode=encode,
        stops=ends(encode, description.stop),
        stop=description.stop,
        most=description.most_tokens,
        rules=description.normalise,
    )


def _answers(description: Generation, rows: Rows, index: int) -> list[str]:
    """The references of a row, at least one."""
    found = value(rows, index, description.answers_field)
    found = list(found) if isinstance(found, (list, tuple)) else [found]
    if not found:
        raise TaskError(
            f"{rows.place(index)}: the field {description.answers_field!r} lists no answer; add one or remove the row"
        )
    return list(dict.fromkeys(map(str, found)))
