"""Tasks in which the model writes on from a prompt."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zodist.tasks.encoder import Encoder
from zodist.tasks.task import Example, Task


@dataclass(frozen=True, eq=False, slots=True)
class Given:
    """What an answer may be judged by besides its text.

    reference: the first right answer, if the task has any.  row: the fields of the data that the example was made of,
    JSON-able, if the task keeps them.
    """

    prompt: str
    reference: str | None
    row: Mapping[str, Any] | None


@dataclass(frozen=True, eq=False)
class WritingTask(Task):
    """pad: fills rows on the left.  stops: tokens that end an answer.  stop: the text that ends it.  most: tokens of one."""

    pad: int
    encode: Encoder
    stops: tuple[int, ...]
    stop: str
    most: int

    @abstractmethod
    def prompt(self, example: Example) -> tuple[int, ...]:
        """The tokens that are written on from."""

    @abstractmethod
    def given(self, example: Example) -> Given:
        """What an answer to this example may be judged by."""

    def text(self, tokens: Sequence[int] | None) -> str:
        """The answer that some written tokens give: what stands before the stop.  None: no answer."""
        text = self.encode.text(tokens or ())
        return (text.partition(self.stop)[0] if self.stop else text).strip()


def ends(encode: Encoder, stop: str) -> tuple[int, ...]:
    """The tokens that end an answer: the tokenizer's own, and those with the stop in their text."""
    own = encode.tokenizer.eos_token_id
    words = encode.with_text(stop) if stop else ()
    return tuple({*words, *(() if own is None else (int(own),))})  # pyright: ignore[reportArgumentType]
