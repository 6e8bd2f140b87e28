"""From a row of data to a prompt's tokens: templates, fields, truncation.

A place in a template is {field}, {field.inner} for a field within a field, or {field:filter}, where the filter is
    lower         in small letters
    capital       the first letter large
    small         the first letter small, unless the first word is I
    unstop        without the full stop at the end
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from zodist.config import nearest
from zodist.errors import TaskError
from zodist.tasks.description import Description
from zodist.tasks.encoder import Encoder
from zodist.tasks.source import Drawn, Rows


def _small(text: str) -> str:
    return text if text[:2] in ("I", "I ", "I'") else text[:1].lower() + text[1:]


FILTERS: dict[str, Callable[[str], str]] = {
    "": str,
    "lower": str.lower,
    "capital": lambda text: text[:1].upper() + text[1:],
    "small": _small,
    "unstop": lambda text: text.rstrip().removesuffix("."),
}


@dataclass(frozen=True)
class Template:
    """A text with {field} places. parts: (literal text before, field, filter); the last field may be None."""

    parts: tuple[tuple[str, str | None, str], ...]
    replace: Mapping[str, Mapping[str, str]]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields named, in the order of the text."""
        return tuple(field for _, field, _ in self.parts if field is not None)

    def fill(self, rows: Rows, index: int, given: Mapping[str, str] | None = None) -> str:
        """The text of one row; TaskError, naming the row, for a field it lacks or that is null.

        given: what stands in some places in place of the row's own values.
        """
        found = []
        for text, field, change in self.parts:
            found.append(text)
            if field is None:
                continue
            if given is not None and field in given:
                own = given[field]
            else:
                own = str(value(rows, index, field))
                for old, new in self.replace.get(field, {}).items():
                    own = own.replace(old, new)
            found.append(FILTERS[change](own))
        return "".join(found)


def template(description: Description, text: str, key: str = "template", least: int = 1) -> Template:
    """The checked template of one key: plain {field} and {field:filter} places only, at least so many."""

    def fail(why: str) -> TaskError:
        return TaskError(f"{description.file}: {key} = {text!r} {why}")

    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError as error:
        raise fail(f"is not a template ({error}); write {{{{ and }}}} for braces in the text") from None
    places = [(field, spec) for _, field, spec, _ in parsed if field is not None]
    if any(conversion for *_, conversion in parsed) or not all(field for field, _ in places):
        raise fail("may hold only plain {field} places; write {{ and }} for braces in the text")
    for _, spec in places:
        if (spec or "") not in FILTERS:
            known = [name for name in FILTERS if name]
            raise fail(f"has a place with the filter {spec!r}{nearest(str(spec), known)}")
    if len(places) < least:
        raise fail("names no field; write {field} where the row's text goes")
    return Template(tuple((text, field, spec or "") for text, field, spec, _ in parsed), description.replace)


def check_fields(description: Description, wanted: Sequence[str], rows: Rows) -> None:
    """TaskError, with the fields the data has, when a field wanted, or named in [replace], is not among them."""
    for field in [*wanted, *description.replace]:
        if field not in rows.fields and field.split(".")[0] not in rows.fields:
            raise TaskError(
                f"{description.file} names the field {field!r}, which {rows.origin} lacks (its fields are "
                f"{', '.join(rows.fields)}); correct the name"
            )


def value(rows: Rows, index: int, field: str) -> Any:
    """The value of one field of one row, or within it after dots; TaskError naming the row when it is absent or null."""
    found: Any = rows.records[index]
    for name in [field] if field in found else field.split("."):
        found = found.get(name) if isinstance(found, Mapping) else None
    if found is None:
        raise TaskError(
            f"{rows.place(index)}: the row has no value for the field {field!r}; add it or remove the row"
        )
    return found


def prompts(
    form: Template, drawn: Drawn, encode: Encoder, room: Sequence[int], shorten: str = ""
) -> tuple[list[list[int]], int]:
    """The prompts of the drawn rows, each of at most so many tokens, the start token not counted; and how many were cut.

    shorten: the field that loses its end where a prompt is too long; where that is not enough, or without one, the prompt
    loses its beginning.  Raises TaskError for an empty prompt.
    """
    every = encode([form.fill(drawn.rows, i) for i in drawn.indices])
    found, cut = [], 0
    for index, tokens, fit in zip(drawn.indices, every, room, strict=True):
        if not tokens and not encode.start:
            raise TaskError(
                f"{drawn.rows.place(index)}: the prompt is empty; remove the row, or add words to the template"
            )
        cut += len(tokens) > fit
        if shorten and len(tokens) > fit:
            tokens = _shortened(form, drawn.rows, index, encode, fit, shorten, tokens)
        found.append(tokens[-fit:])
    return found, cut


def _shortened(
    form: Template, rows: Rows, index: int, encode: Encoder, fit: int, field: str, tokens: list[int]
) -> list[int]:
    """The prompt's tokens with one field cut at its end until they fit, or the field is empty."""
    (own,) = encode([str(value(rows, index, field))])
    while len(tokens) > fit and own:
        own = own[: max(0, len(own) - (len(tokens) - fit))]
        (tokens,) = encode([form.fill(rows, index, {field: encode.text(own)})])
    return tokens


def too_long(cut: int, max_tokens: int, shorten: str = "") -> list[str]:
    """The warning for prompts that were cut, if any were."""
    if not cut:
        return []
    lost = f"their field {shorten!r} loses its end" if shorten else "lose their beginning"
    return [f"{cut} prompts are longer than task.max_tokens = {max_tokens} and {lost}"]
