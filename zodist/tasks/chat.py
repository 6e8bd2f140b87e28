"""Chat: messages under the tokenizer's chat template; what the assistant says carries the loss, its end-of-turn token too.

A turn of the assistant begins where the template, given the messages before it, would have the assistant begin
(add_generation_prompt), and ends where the template, given the messages up to it, ends, without the space after the turn.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zodist.config import shown
from zodist.errors import TaskError
from zodist.tasks.description import Chat
from zodist.tasks.encoder import encoder
from zodist.tasks.prompt import check_fields, value
from zodist.tasks.source import Drawn, Rows
from zodist.tasks.surprise import SurpriseTask
from zodist.tasks.task import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build(
    description: Chat,
    splits: Mapping[str, Drawn],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    warnings: Sequence[str],
) -> SurpriseTask:
    """The task over the drawn conversations, each up to its last turn of the assistant.

    One of more than max_tokens tokens loses its beginning; one in which nothing is left to predict is left out.
    """
    if not tokenizer.chat_template:
        raise TaskError(
            f"{description.file} is a chat task, and the tokenizer {tokenizer.name_or_path!r} has no chat template; choose "
            f"the model's instruct version, or another kind of task"
        )
    if not tokenizer.is_fast:
        raise TaskError(
            f"{description.file} is a chat task, and {type(tokenizer).__name__} cannot tell where its tokens stand in the "
            f"text; choose a model with a fast tokenizer"
        )
    examples: dict[str, tuple[Example, ...]] = {}
    cut = bare = 0
    for split, drawn in splits.items():
        check_fields(description, [description.messages_field], drawn.rows)
        found = []
        for i in drawn.indices:
            tokens, marks = _tokens(tokenizer, _messages(description, drawn.rows, i), drawn.rows.place(i))
            last = max((n for n, mark in enumerate(marks) if mark), default=-1) + 1
            tokens, marks = tokens[:last], marks[:last]
            cut += len(tokens) > max_tokens
            tokens, marks = tokens[-max_tokens:], marks[-max_tokens:]
            targets = _ranges([False, *marks[1:]])  # nothing predicts the first token
            bare += not targets
            if targets:
                found.append(Example(tuple(tokens), None, drawn.rows.place(i), targets))
        if drawn.indices and not found:
            raise TaskError(
                f"{drawn.rows.origin}: no conversation drawn for {split} has a turn of the assistant; correct the data"
            )
        examples[split] = tuple(found)
    notes = [*warnings]
    if bare:
        notes.append(f"{bare} conversations without a turn of the assistant are left out")
    if cut:
        notes.append(
            f"{cut} conversations are longer than task.max_tokens = {max_tokens} and lose their beginning"
        )
    return SurpriseTask(
        name=description.name,
        metric=description.metric,
        template=str(tokenizer.chat_template),
        label_words=(),
        **examples,
        warnings=tuple(notes),
        pad=encoder(tokenizer).pad,
    )


def _messages(description: Chat, rows: Rows, index: int) -> list[dict[str, Any]]:
    """The messages of a row, each with role and content."""
    found = value(rows, index, description.messages_field)
    good = isinstance(found, (list, tuple)) and len(found) > 0
    if not good or not all(isinstance(m, Mapping) and {"role", "content"} <= set(m) for m in found):
        raise TaskError(
            f"{rows.place(index)}: the field {description.messages_field!r} must list messages with role and content, found "
            f"{shown(found)}"
        )
    return [dict(message) for message in found]


def _tokens(
    tokenizer: PreTrainedTokenizerBase, messages: list[dict[str, Any]], place: str
) -> tuple[list[int], list[bool]]:
    """The tokens of a conversation, and which of them the assistant says."""

    def text(some: list[dict[str, Any]], ask: bool) -> str:
        try:
            return str(tokenizer.apply_chat_template(some, tokenize=False, add_generation_prompt=ask))
        except Exception as error:  # a template may raise anything
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise TaskError(
                f"{place}: the chat template refuses the messages ({reason}); correct the row"
            ) from None

    whole, turns = text(messages, False), []
    for n, message in enumerate(messages):
        if message["role"] == "assistant":
            before, after = text(messages[:n], True), text(messages[: n + 1], False)
            if not whole.startswith(before) or not whole.startswith(after):
                raise TaskError(
                    f"{place}: the chat template writes message {n + 1} otherwise when more messages follow, so what it "
                    f"says cannot be told apart; split the conversation after each turn of the assistant"
                )
            turns.append((len(before), len(after.rstrip())))
    encoded = tokenizer(whole, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    spans: Any = encoded["offset_mapping"]
    marks = [any(start <= first < stop for start, stop in turns) for first, _ in spans]
    return list(encoded["input_ids"]), marks  # pyright: ignore[reportArgumentType]


def _ranges(marks: Sequence[bool]) -> tuple[tuple[int, int], ...]:
    """The runs of True, as [start, stop)."""
    edges = [n for n in range(len(marks) + 1) if (n < len(marks) and marks[n]) != (n > 0 and marks[n - 1])]
    return tuple(zip(edges[::2], edges[1::2], strict=True))
