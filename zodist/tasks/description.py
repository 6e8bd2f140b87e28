"""The TOML file that describes a task: strict, and the same for built-in tasks and for a user's own.

    kind = "classification"         # or "text": loss over the whole document, no labels
    template = "{sentence} It was"  # {field} names a field of the data; {{ and }} are braces
    label_field = "label"           # the field that holds the label; this is the default
    metric = "accuracy"             # the only one for classification, as "loss" is for text; may be left out

    [labels]                        # value in the data = the words that follow the prompt
    0 = " terrible"
    1 = " great"

    [source]                        # one of hub, files, package; no table if files come with each run
    hub = "nyu-mll/glue"            # a data set on the Hugging Face hub, with optional subset and revision
    subset = "sst2"
    # files = {train = "train.jsonl", validation = "dev.csv"}     relative to the task file
    # package = "vaderSentiment"                                  an installed package with labelled data

    [splits]                        # the data set's own names, where they differ (hub only)
    train = "train"
    validation = "validation"

Anything else in the file is an error that names the line.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, NoReturn

from zodist.config_errors import Places, listed, nearest
from zodist.errors import TaskError

SPLITS = ("train", "validation")
METRICS = {"classification": "accuracy", "text": "loss"}


@dataclass(frozen=True)
class Source:
    """Where rows come from: at most one of hub, files and package is set."""

    hub: str = ""
    subset: str | None = None
    revision: str | None = None
    files: Mapping[str, Path] = field(default_factory=dict)
    package: str = ""


@dataclass(frozen=True)
class Description:
    """A task file after checking.

    file: its name in messages. labels: value in the data -> words, in the order of the label indices.
    """

    name: str
    file: str
    kind: str
    template: str
    label_field: str
    metric: str
    labels: Mapping[str, str]
    source: Source
    splits: Mapping[str, str]


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
    top = _Table(file, Places(file, text), (), table)
    top.only("kind", "template", "label_field", "metric", "labels", "source", "splits")
    kind = top.string("kind")
    if kind not in METRICS:
        top.fail(f"kind = {kind!r} is not known{nearest(kind, METRICS)}", "kind")
    metric = top.string("metric", METRICS[kind])
    if metric != METRICS[kind]:
        top.fail(f"metric = {metric!r} is not known for a {kind} task; use {METRICS[kind]!r}", "metric")
    splits = top.table("splits")
    splits.only(*SPLITS)
    return Description(
        name=name,
        file=file,
        kind=kind,
        template=top.string("template"),
        label_field=top.string("label_field", "label"),
        metric=metric,
        labels=_labels(top, kind),
        source=_source(top, folder),
        splits={split: splits.string(split, split) for split in SPLITS},
    )


def _labels(top: _Table, kind: str) -> dict[str, str]:
    if kind == "text":
        for key in ("labels", "label_field"):
            if key in top.values:
                top.fail(f"a text task has no {key}; remove it, or set kind = 'classification'", key)
        return {}
    labels = top.table("labels").strings()
    if len(labels) < 2:
        top.fail(
            f"a classification task needs two labels or more in [labels] and has {len(labels)}", "labels"
        )
    for value, words in labels.items():
        first = next(v for v, w in labels.items() if w == words)
        if not words:
            top.fail(f"the word of label {value!r} is empty; give it a word", "labels", value)
        if first != value:
            top.fail(f"label {value!r} has the word of label {first!r}; give it another", "labels", value)
    return labels


def _source(top: _Table, folder: Path) -> Source:
    if "source" not in top.values:
        return Source()
    table = top.table("source")
    table.only("hub", "subset", "revision", "files", "package")
    kinds = [key for key in ("hub", "files", "package") if key in table.values]
    if len(kinds) != 1:
        found = listed(kinds) if kinds else "none"
        table.fail(f"[source] needs exactly one of hub, files and package, and has {found}")
    for key in ("subset", "revision"):
        if key in table.values and "hub" not in table.values:
            table.fail(f"{key} belongs to a data set of the hub; remove it", key)
    files = table.table("files")
    files.only(*SPLITS)
    return Source(
        hub=table.string("hub", ""),
        subset=table.string("subset", "") or None,
        revision=table.string("revision", "") or None,
        files={split: folder / path for split, path in files.strings().items()},
        package=table.string("package", ""),
    )


@dataclass(frozen=True)
class _Table:
    """One table of a TOML file; a look-up that fails names file and line. names: the keys that lead to it."""

    file: str
    places: Places
    names: tuple[str, ...]
    values: Mapping[str, Any]

    def fail(self, sentence: str, *names: str) -> NoReturn:
        raise TaskError(f"{self.places.where(*self.names, *names)}: {sentence}")

    def only(self, *known: str) -> None:
        for key in self.values:
            if key not in known:
                where = f"[{'.'.join(self.names)}]" if self.names else "a task"
                self.fail(f"{where} has no key {key!r}{nearest(key, known)}", key)

    def string(self, key: str, default: str | None = None) -> str:
        value = self.values.get(key, default)
        if value is None:
            raise TaskError(f'{self.file} does not say {key}; add {key} = "..."')
        if not isinstance(value, str):
            self.fail(f"{key} = {value!r} must be text in quotes", key)
        return value

    def strings(self) -> dict[str, str]:
        return {key: self.string(key) for key in self.values}

    def table(self, key: str) -> _Table:
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            self.fail(f"{key} = {value!r} must be a table", key)
        return _Table(self.file, self.places, (*self.names, key), value)
