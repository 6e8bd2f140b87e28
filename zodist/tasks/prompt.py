"""From a row of data to token rows: templates, tokens, truncation."""

from __future__ import annotations

import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zodist.errors import TaskError
from zodist.tasks.description import Description
from zodist.tasks.source import Rows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Template:
    """A prompt with {field} places. parts: (literal text before, field) pairs; the last field may be None."""

    parts: tuple[tuple[str, str | None], ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields named, in the order of the text."""
        return tuple(field for _, field in self.parts if field is not None)

    def fill(self, rows: Rows, index: int) -> str:
        """The prompt of one row; TaskError, naming the row, for a field it lacks or that is null."""
        return "".join(
            text + ("" if field is None else str(value(rows, index, field))) for text, field in self.parts
        )


def template(description: Description) -> Template:
    """The checked template: plain {field} places only, at least one."""

    def fail(why: str) -> TaskError:
        return TaskError(f"{description.file}: template = {description.template!r} {why}")

    try:
        parsed = list(string.Formatter().parse(description.template))
    except ValueError as error:
        raise fail(f"is not a template ({error}); write {{{{ and }}}} for braces in the text") from None
    fields = [field for _, field, _, _ in parsed if field is not None]
    if any(spec or conversion for _, _, spec, conversion in parsed) or not all(fields):
        raise fail("may hold only plain {field} places; write {{ and }} for braces in the text")
    if not fields:
        raise fail("names no field; write {field} where the row's text goes")
    return Template(tuple((text, field) for text, field, _, _ in parsed))


def check_fields(description: Description, wanted: Sequence[str], rows: Rows) -> None:
    """TaskError, with the fields the data has, when one of the wanted fields is not among them."""
    for field in wanted:
        if field not in rows.fields:
            raise TaskError(
                f"{description.file} names the field {field!r}, which {rows.origin} lacks (its fields are "
                f"{', '.join(rows.fields)}); correct the name"
            )


def value(rows: Rows, index: int, field: str) -> Any:
    """The value of one field of one row; TaskError naming the row when it is absent or null."""
    found = rows.records[index].get(field)
    if found is None:
        raise TaskError(
            f"{rows.place(index)}: the row has no value for the field {field!r}; add it or remove the row"
        )
    return found


@dataclass(frozen=True)
class Encoder:
    """A tokenizer and, apart, its start token if it has one: truncation from the left must not lose it."""

    tokenizer: PreTrainedTokenizerBase
    start: tuple[int, ...]
    pad: int

    def __call__(self, texts: Sequence[str]) -> list[list[int]]:
        """Tokens of each text without any special token."""
        return (
            self.tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if texts else []
        )  # pyright: ignore[reportReturnType]

    def continuation(self, prompt: str, words: str) -> tuple[list[int], bool]:
        """Tokens of `words` after `prompt`, and whether the two keep apart.

        They do not if the tokenizer joins the end of the prompt with the beginning of the words; then the
        words are encoded on their own, so that the prompt's tokens stay the same whatever follows.
        """
        head, joint = self([prompt, prompt + words])
        if joint[: len(head)] == head and len(joint) > len(head):
            return joint[len(head) :], True
        return self([words])[0], False


def encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """The encoder of a tokenizer; padding is masked out, so any token serves where none is set."""
    bos = tokenizer.bos_token_id
    begins = list(tokenizer("a")["input_ids"])[:1]  # pyright: ignore[reportArgumentType]
    start = (int(bos),) if bos is not None and begins == [bos] else ()  # pyright: ignore[reportArgumentType]
    pad = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
    return Encoder(tokenizer, start, int(pad))  # pyright: ignore[reportArgumentType]
