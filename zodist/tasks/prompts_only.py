"""Prompts alone: the model writes on, and a reward function says what that is worth (objective.kind = "reward").

There is nothing to be likely, so such a task has no loss of its own: an evaluation tells the reward, and its negative stands
where other tasks have the loss.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NoReturn

from zodist.errors import TaskError
from zodist.tasks.description import Prompts
from zodist.tasks.encoder import encoder
from zodist.tasks.prompt import check_fields, prompts, template, too_long, value
from zodist.tasks.source import Drawn
from zodist.tasks.task import Batch, Example, Reader
from zodist.tasks.writing import Given, WritingTask, ends

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class PromptExample(Example):
    """A prompt.  reference: a right answer, if the task names the field of one.  row: the fields of its row, JSON-able."""

    reference: str | None = None
    row: Mapping[str, Any] = field(default_factory=dict)

    def content(self) -> list[Any]:
        return [*super().content(), self.reference, self.row]


@dataclass(frozen=True, eq=False)
class PromptTask(WritingTask):
    """Prompts that a reward function's task is made of, see zodist.objective.judged."""

    @property
    def width(self) -> int:
        return 0

    def shown(self, example: Example) -> tuple[tuple[int, ...], tuple[tuple[int, int], ...]]:
        return example.tokens, ()

    def prompt(self, example: Example) -> tuple[int, ...]:
        return example.tokens

    def given(self, example: Example) -> Given:
        assert isinstance(example, PromptExample)
        return Given(self.encode.text(example.tokens), example.reference, example.row)

    def batch(self, examples: Sequence[Example]) -> Batch:
        self._refuse()

    def measure(self, reader: Reader, examples: Sequence[Example]) -> Any:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise TaskError(
            f"task {self.name!r} has prompts and no answers, so this, which is about the loss, needs another"
        )


def build(
    description: Prompts,
    splits: Mapping[str, Drawn],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    warnings: Sequence[str],
) -> PromptTask:
    """The task over the drawn rows; a prompt and most_tokens are at most max_tokens."""
    form, encode = template(description, description.template), encoder(tokenizer)
    room = max_tokens - description.most_tokens - len(encode.start)
    if room < 1:
        raise TaskError(
            f"task.max_tokens = {max_tokens} leaves no room for a prompt before an answer of {description.most_tokens} "
            f"tokens; raise it, or lower most_tokens of {description.file}"
        )
    named = description.reference_field
    examples: dict[str, tuple[Example, ...]] = {}
    cut = 0
    for split, drawn in splits.items():
        check_fields(description, [*form.fields, *([named] if named else [])], drawn.rows)
        tokens_of, over = prompts(form, drawn, encode, [room] * len(drawn.indices), description.shorten)
        cut += over
        examples[split] = tuple(
            PromptExample(
                (*encode.start, *tokens),
                None,
                drawn.rows.place(i),
                reference=str(value(drawn.rows, i, named)) if named else None,
                row=json.loads(json.dumps(drawn.rows.records[i], default=str)),
            )
            for i, tokens in zip(drawn.indices, tokens_of, strict=True)
        )
    return PromptTask(
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
    )
