"""Task files: built in or a user's own, read strictly; a mistake is one sentence with its line."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from zodist.config import Places, listed, nearest, sentence, shown
from zodist.errors import TaskError
from zodist.tasks.description import KINDS, Choice, Classification, Description, Prompted

OURS = ("name", "file", "folder")  # of a Description, but not keys of a file


def describe(name: str) -> Description:
    """The description of a built-in task, or of the TOML file at the path `name`."""
    if name.endswith(".toml") or "/" in name or "\\" in name:
        path = Path(name)
        return parse(_read(path, name), file=name, name=path.stem, folder=path.parent)
    found = built_in()
    if name not in found:
        raise TaskError(
            f"no built-in task is called {name!r}{nearest(name, found)}; a task of your own is named by the "
            f"path of its .toml file"
        )
    return parse(_read(found[name], name), file=f"{name}.toml", name=name, folder=Path())


def built_in() -> dict[str, Traversable]:
    """Name and file of every built-in task, in alphabetical order."""
    files = (f for f in resources.files("zodist.tasks").iterdir() if f.name.endswith(".toml"))
    return {f.name.removesuffix(".toml"): f for f in sorted(files, key=lambda f: f.name)}


def _read(path: Path | Traversable, name: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TaskError(f"the task file {name} does not exist; correct task.name") from None
    except (OSError, UnicodeDecodeError) as error:
        raise TaskError(f"the task file {name} cannot be read: {error}") from None


def parse(text: str, *, file: str, name: str, folder: Path) -> Description:
    """The checked description in `text`; relative data files are looked for in `folder`."""
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise TaskError(f"{file} is not valid TOML: {error}") from None
    places = Places(file, text)
    kind = table.get("kind")
    if kind is None:
        raise TaskError(f'{file} does not say kind; add kind = "..."')
    if kind not in KINDS:
        raise TaskError(
            f"{places.where('kind')}: kind = {shown(kind)} is not known{nearest(str(kind), KINDS)}"
        )
    _only_known(KINDS[kind], table, places, (), kind)
    try:
        found = KINDS[kind].model_validate(table)
    except ValidationError as error:
        detail = min(error.errors(), key=lambda detail: detail["type"] == "missing")
        if detail["type"] == "missing":
            key = detail["loc"][-1]
            example = f"add the table [{key}]" if key == "labels" else f'add {key} = "..."'
            raise TaskError(f"{file} does not say {key}; {example}") from None
        raise TaskError(sentence(error, places)) from None
    _check_source(found, table.get("source", {}), places)
    if isinstance(found, Classification):
        _check_labels(found.labels, places)
    if isinstance(found, Choice):
        _check_options(found, places)
    if isinstance(found, Prompted) and found.shorten and "{" + found.shorten not in found.template:
        raise TaskError(
            f"{places.where('shorten')}: shorten = {found.shorten!r} is not a field of the template; name one of its fields"
        )
    return found.model_copy(update={"name": name, "file": file, "folder": folder})


def _only_known(
    model: type[BaseModel], table: Mapping[str, Any], places: Places, names: tuple[str, ...], kind: str
) -> None:
    """TaskError for a key that this table does not have."""
    known = [key for key in model.model_fields if names or key not in OURS]
    for key, value in table.items():
        inner = model.model_fields[key].annotation if key in known else None
        if isinstance(inner, type) and issubclass(inner, BaseModel) and isinstance(value, dict):
            _only_known(inner, value, places, (*names, key), kind)
        if key in known:
            continue
        place = places.where(*names, key)
        others = [] if names else [other for other, its in KINDS.items() if key in its.model_fields]
        if others and key not in OURS:
            raise TaskError(f"{place}: a {kind} task has no {key}; remove it, or set kind = {listed(others)}")
        where = f"[{'.'.join(names)}]" if names else "a task"
        raise TaskError(f"{place}: {where} has no key {key!r}{nearest(key, known)}")


def _check_source(found: Description, table: Mapping[str, Any], places: Places) -> None:
    """Where rows come from must be said once."""
    kinds = [key for key in ("hub", "files", "package") if key in table]
    if len(kinds) != 1 and table:
        named = listed(kinds) if kinds else "none"
        raise TaskError(
            f"{places.where('source')}: [source] needs exactly one of hub, files and package, and has {named}"
        )
    for key in ("subset", "revision", "streaming", "first"):
        if key in table and "hub" not in table:
            raise TaskError(
                f"{places.where('source', key)}: {key} belongs to a data set of the hub; remove it"
            )
    if found.source.first and not found.source.streaming:
        raise TaskError(
            f"{places.where('source', 'first')}: first belongs to streaming = true; add that or remove it"
        )


def _check_labels(labels: Mapping[str, str], places: Places) -> None:
    """Two labels or more, each with words of its own."""
    if len(labels) < 2:
        raise TaskError(
            f"{places.where('labels')}: a classification task needs two labels or more in [labels] and has {len(labels)}"
        )
    for value, words in labels.items():
        first = next(v for v, w in labels.items() if w == words)
        if not words:
            problem = f"the word of label {value!r} is empty; give it a word"
        elif first != value:
            problem = f"label {value!r} has the word of label {first!r}; give it another"
        else:
            continue
        raise TaskError(f"{places.where('labels', value)}: {problem}")


def _check_options(found: Choice, places: Places) -> None:
    """The options are listed by templates or by a field, not both."""
    if bool(found.options) == bool(found.options_field):
        raise TaskError(
            f"{places.where('options')}: a choice task needs either options (a template for each) or options_field (a field "
            f"that lists them)"
        )
    if len(found.options) == 1:
        raise TaskError(f"{places.where('options')}: a choice task needs two options or more and has 1")
    if found.options_field and "{option}" not in found.option and not found.placeholder:
        raise TaskError(
            f"{places.where('option')}: option = {found.option!r} is the same for every option; write {{option}} where its "
            f"words go, or name the text that they replace with placeholder"
        )
