"""Plain text: the loss is the mean negative log-likelihood of a document's tokens, given those before.

The first token of a document is only given, unless the tokenizer has a start token. With pack, the documents of a split
are joined, an end token after each, and cut into windows of max_tokens; a window begins with the last token of the one
before, so that every token but the first is predicted exactly once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from zodist.errors import TaskError
from zodist.tasks.description import Plain
from zodist.tasks.encoder import encoder
from zodist.tasks.prompt import check_fields, template
from zodist.tasks.source import Drawn
from zodist.tasks.surprise import SurpriseTask
from zodist.tasks.task import Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def build(
    description: Plain,
    splits: Mapping[str, Drawn],
    tokenizer: PreTrainedTokenizerBase,
    max_tokens: int,
    warnings: Sequence[str],
) -> SurpriseTask:
    """The task over the drawn rows; a document keeps its first max_tokens tokens, or all of them with pack.

    A document of a single token predicts nothing and is left out, with a warning.
    """
    form, encode = template(description, description.template), encoder(tokenizer)
    if max_tokens < 2:
        raise TaskError(f"task.max_tokens = {max_tokens} leaves no token to predict; set it to 2 or more")
    examples: dict[str, tuple[Example, ...]] = {}
    cut = short = 0
    for split, drawn in splits.items():
        check_fields(description, form.fields, drawn.rows)
        texts = encode([form.fill(drawn.rows, i) for i in drawn.indices])
        if description.pack:
            ends = tokenizer.eos_token_id
            end = () if ends is None else (int(ends),)  # pyright: ignore[reportArgumentType]
            stream = [token for own in texts for token in (*encode.start, *own, *end)]
            found = [
                Example(tuple(own), None, f"{drawn.rows.origin} window {n}")
                for n, own in enumerate(_windows(stream, max_tokens))
            ]
        else:
            whole = [(*encode.start, *own) for own in texts]
            cut += sum(len(own) > max_tokens for own in whole)
            short += sum(len(own) < 2 for own in whole)
            found = [
                Example(own[:max_tokens], None, drawn.rows.place(i))
                for i, own in zip(drawn.indices, whole, strict=True)
                if len(own) > 1
            ]
        if drawn.indices and not found:
            raise TaskError(
                f"{drawn.rows.origin}: no document drawn for {split} has two tokens; give longer documents"
            )
        examples[split] = tuple(found)
    notes = [*warnings]
    if short:
        notes.append(f"{short} documents of fewer than two tokens are left out")
    if cut:
        notes.append(
            f"{cut} documents are longer than task.max_tokens = {max_tokens} and lose their end; pack = true would keep it"
        )
    return SurpriseTask(
        name=description.name,
        metric=description.metric,
        template=description.template,
        label_words=(),
        **examples,
        warnings=tuple(notes),
        pad=encode.pad,
    )


def _windows(stream: Sequence[int], size: int) -> list[Sequence[int]]:
    """Windows of ``size`` tokens, each beginning with the last token of the one before; the last may be shorter."""
    return [stream[i : i + size] for i in range(0, len(stream) - 1, size - 1)]
