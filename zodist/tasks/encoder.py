"""A tokenizer as tasks use it: text to tokens without special ones, continuations, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TAIL = 64  # characters before a continuation that its tokens may depend on


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

    def text(self, tokens: Sequence[int]) -> str:
        """The text of some tokens, without special ones and without a letter that is cut in two."""
        return str(self.tokenizer.decode(list(tokens), skip_special_tokens=True)).rstrip("\ufffd")

    def continuation(self, prompt: str, words: str) -> tuple[list[int], bool]:
        """Tokens of `words` after `prompt`, and whether the two keep apart.

        They do not if the tokenizer joins the end of the prompt with the beginning of the words; then the
        words are encoded on their own, so that the prompt's tokens stay the same whatever follows.
        """
        head, joint = self([prompt, prompt + words])
        if joint[: len(head)] == head and len(joint) > len(head):
            return joint[len(head) :], True
        return self([words])[0], False

    def continuations(self, prompts: Sequence[str], words: Sequence[str]) -> tuple[list[list[int]], int]:
        """Tokens of the words after each prompt, and how many do not keep apart.  Only a prompt's end is looked at."""
        tails = [prompt[-TAIL:] for prompt in prompts]
        heads = self(tails)
        joints = self([tail + own for tail, own in zip(tails, words, strict=True)])
        found, joined = [], 0
        for head, joint, own in zip(heads, joints, words, strict=True):
            apart = joint[: len(head)] == head and len(joint) > len(head)
            joined += not apart
            found.append(joint[len(head) :] if apart else self([own])[0])
        return found, joined

    def with_text(self, words: str) -> tuple[int, ...]:
        """The tokens that have these words in their text."""
        size = len(self.tokenizer)
        texts = self.tokenizer.batch_decode([[token] for token in range(size)])
        return tuple(token for token, text in enumerate(texts) if words in text)


def encoder(tokenizer: PreTrainedTokenizerBase) -> Encoder:
    """The encoder of a tokenizer; padding is masked out, so any token serves where none is set."""
    bos = tokenizer.cls_token_id if tokenizer.bos_token_id is None else tokenizer.bos_token_id
    begins = list(tokenizer("a")["input_ids"])[:1]  # pyright: ignore[reportArgumentType]
    start = (int(bos),) if bos is not None and begins == [bos] else ()  # pyright: ignore[reportArgumentType]
    pad = next((token for token in (tokenizer.pad_token_id, tokenizer.eos_token_id) if token is not None), 0)
    return Encoder(tokenizer, start, int(pad))  # pyright: ignore[reportArgumentType]
