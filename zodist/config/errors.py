"""Sentences about mistakes in a run's settings: where it stands, what was found, what is allowed."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

_TABLE = re.compile(r"\s*\[\[?\s*([^\[\]]+?)\s*\]")
_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*[A-Za-z0-9_-]+)*)\s*=""")
_BRANCH = re.compile(r"constrained-\w+|literal\[.*\]")  # pydantic's names for the alternatives of a setting
_NAMED = re.compile(r"([a-z_]+)\.([a-z_]+)")
_LIMITS = {
    "greater_than_equal": (">=", "ge"),
    "greater_than": (">", "gt"),
    "less_than_equal": ("<=", "le"),
    "less_than": ("<", "lt"),
}
_KINDS = {
    "int_type": "must be a whole number",
    "float_type": "must be a number",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false",
    "dict_type": "must be a table",
    "finite_number": "must be finite",
    "string_too_short": "must not be empty",
}


class Places:
    """Where each setting was written: a line of the file, or an override."""

    def __init__(self, path: str, text: str) -> None:
        """Find the lines of the sections and keys; a best effort, since only messages depend on it."""
        self._path = path
        self._found: dict[str, str] = {}
        section, quoted = "", False
        for number, line in enumerate(text.splitlines(), start=1):
            if not quoted and (match := _TABLE.match(line)):
                section = match[1]
                self._found.setdefault(section, f"{path}:{number}")
            elif not quoted and (match := _KEY.match(line)):
                name = re.sub(r"[\s\"']", "", match[1])
                self._found.setdefault(f"{section}.{name}".lstrip("."), f"{path}:{number}")
            quoted ^= (line.count('"""') + line.count("'''")) % 2 == 1

    def add(self, names: list[str], override: str) -> None:
        """Note that an override has set a key."""
        self._found[".".join(names)] = f"override {override!r}"
        self._found.setdefault(names[0], f"override {override!r}")  # a section that the file does not have

    def where(self, *names: str) -> str:
        """The place of section, key, ...; of the nearest enclosing one if it is not written anywhere."""
        for count in range(len(names), 0, -1):
            place = self._found.get(".".join(names[:count]))
            if place:
                return place
        return self._path


def nearest(name: str, known: Iterable[str]) -> str:
    """'; did you mean ...?' if one of the known names resembles this one, else which there are."""
    names = list(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.6)
    return f"; did you mean {close[0]!r}?" if close else f"; it can be {listed(names)}"


def listed(names: Iterable[str]) -> str:
    """The names in words: 'a', 'b' or 'c'."""
    words = [repr(name) for name in names]
    return " or ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def unknown_key(section: str, key: str, keys: Mapping[str, Iterable[str]], places: Places) -> str:
    """The sentence for a key that its section does not have.

    keys: the keys of every section, to find the one that the key was meant for.
    """
    own = list(keys[section])
    text = f"{places.where(section, key)}: [{section}] has no key {key!r}"
    homes = [other for other, known in keys.items() if key in known]
    if homes and not difflib.get_close_matches(key, own, n=1, cutoff=0.8):
        return f"{text}; it belongs to [{homes[0]}]"
    return text + nearest(key, own)


def unknown_section(name: str, value: Any, keys: Mapping[str, Iterable[str]], places: Places) -> str:
    """The sentence for a name at the top of the file that is not a section."""
    place = places.where(name)
    if isinstance(value, dict):
        close = difflib.get_close_matches(name, keys, n=1, cutoff=0.5)
        hint = (
            f"did you mean [{close[0]}]?" if close else f"it can be {', '.join(f'[{key}]' for key in keys)}"
        )
        return f"{place}: there is no section [{name}]; {hint}"
    homes = [section for section, known in keys.items() if name in known]
    if homes:
        return f"{place}: {name!r} stands outside a section; put it below [{homes[0]}]"
    return f"{place}: {name!r} stands outside a section; put it below one"


def sentence(error: ValidationError, places: Places, within: tuple[str, ...] = ()) -> str:
    """The sentence for the first mistake that pydantic found; wrong values come before missing ones.

    within: the section that was validated, if not the whole file.
    """
    details = sorted(error.errors(), key=lambda detail: detail["type"] == "missing")
    detail = details[0]
    names, instead = (*within, *(str(part) for part in detail["loc"])), ""
    if names and _BRANCH.fullmatch(names[-1]):
        branches = [
            d for d in details if d["type"] == "literal_error" and d["loc"][:-1] == detail["loc"][:-1]
        ]
        names, instead = (
            names[:-1],
            "".join(f" or {branch.get('ctx', {})['expected']}" for branch in branches),
        )
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    if kind == "value_error" and len(names) < 2:  # a rule between settings: its own sentence names them
        text = str(context["error"])
        named = _NAMED.search(text)
        return f"{places.where(*(named.groups() if named else names))}: {text}"
    place, name = places.where(*names), ".".join(names)
    if kind == "missing":
        return f"{place}: [{names[0]}] needs the key {names[-1]!r}; add it"
    if kind == "value_error":
        return f"{place}: {name} = {shown(value)} {context['error']}"
    if kind in _LIMITS:
        sign, key = _LIMITS[kind]
        limit = context[key]
        limit = int(limit) if limit == int(limit) else limit
        return f"{place}: {name} = {shown(value)} must be {sign} {limit}{instead}"
    if kind == "literal_error":
        known = context["expected"].replace("True", "true").replace("False", "false")
        return f"{place}: {name} = {shown(value)} must be {known}{_close(value, known)}"
    if kind in _KINDS:
        return f"{place}: {name} = {shown(value)} {_KINDS[kind]}{instead}"
    return f"{place}: {name} = {shown(value)} is not valid: {detail['msg']}"


def shown(value: Any) -> str:
    """A value as it stands in the file, cut if long."""
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _close(value: Any, expected: str) -> str:
    known = re.findall(r"'([^']*)'", expected)
    close = difflib.get_close_matches(value, known, n=1) if isinstance(value, str) else []
    return f"; did you mean {close[0]!r}?" if close else ""
