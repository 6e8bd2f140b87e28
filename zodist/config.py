"""One TOML file = one run: its settings as frozen models, read strictly.

`load` reads a file and overrides such as "rule.lr=1e-4" and returns a Config, or raises a ConfigError of one
sentence (config_errors.py).  The keys of [method] are those of the method's own Settings model, from the
registry.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, model_validator

from zodist import early, refusals, robust
from zodist.adapter import settings as adapters
from zodist.config_errors import Places, nearest, sentence, shown, unknown_key, unknown_section
from zodist.config_section import Count, Expression, Finite, Positive, Section, Text
from zodist.config_text import key_text, value_text
from zodist.errors import ConfigError
from zodist.objective import settings as objectives
from zodist.shaping import Shaping
from zodist.shard import settings as shards


class Run(Section):
    """[run]: folder, seed, number of steps, threads per worker (0: the host's cores, shared)."""

    folder: Text
    seed: Count = 0
    steps: Positive
    threads: Count = 0


class Model(Section):
    """[model]: weights and their type; what to train.

    train: a regular expression of parameter names ("": all).  master: keep trained 16-bit weights in float32 too.
    device: where it runs; "auto" is "cuda" where there is such a device.  adapter: train these weights beside it instead.
    quantise: "int8" keeps frozen linear layers in 8 bits.
    """

    name: Text
    device: Literal["auto", "cpu", "cuda"] = "auto"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    train: Expression = ""
    master: Literal["none", "float32"] = "none"
    attention: Literal["sdpa", "eager", "flash_attention_2", "flash_attention_3", "flex_attention"] = "sdpa"
    adapter: adapters.Kind = ""
    quantise: adapters.Quantise = "none"


class Task(Section):
    """[task]: a built-in name or the path of a task's TOML file, and how many examples of each split.

    train, validation, test, max_tokens: if they are not given, what the task's [defaults] say.
    """

    name: Text
    files: dict[str, str] = {}
    train: Positive | None = None
    validation: Count | None = None
    test: Count | None = None
    seed: Count = 0
    max_tokens: Positive | None = None


class Method(Section):
    """[method]: the name of a method and its own settings, an instance of its Settings model."""

    name: Text = "mezo"
    settings: SerializeAsAny[BaseModel]


class Rule(Section):
    """[rule]: how an estimate changes the weights, and the course of the rate.  clip, shaping: see robust.py, shaping.py."""

    name: Literal["sgd", "momentum", "adam", "sign"] = "sgd"
    lr: Annotated[Finite, Field(gt=0)]
    momentum: Annotated[Finite, Field(ge=0, lt=1)] = 0.9
    beta2: Annotated[Finite, Field(ge=0, lt=1)] = 0.999
    epsilon: Annotated[Finite, Field(gt=0)] = 1e-8
    weight_decay: Annotated[Finite, Field(ge=0)] = 0.0
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: Count = 0
    clip: robust.Clip = "none"
    shaping: Shaping = "none"

    @model_validator(mode="after")
    def _every_key_is_used(self) -> Rule:
        used = {"momentum": ("momentum", "adam"), "beta2": ("adam",), "epsilon": ("adam",)}
        for key, rules in used.items():
            value = getattr(self, key)
            if self.name not in rules and value != type(self).model_fields[key].default:
                named = " or ".join(repr(rule) for rule in rules)
                raise ValueError(
                    f"rule.{key} = {value} has no effect with rule.name = {self.name!r}; set rule.name = {named}"
                )
        return self


class Batch(Section):
    """[batch]: examples per data lane, lanes per probe, and examples in one forward (0: the whole batch).

    cache_frozen: compute what the layers below the first trained one make of an example once, and keep it.
    packed: leave padding out; "auto": where the model's logits stay the same.  activation_mib: of one forward, about;
    points that do not fit together take several forwards.  probes_per_forward: probes that a worker evaluates together;
    "auto": as many as fit and leave each worker some.
    """

    size: Positive = 16
    data_lanes: Positive = 1
    examples_per_forward: Count = 0
    cache_frozen: bool = False
    packed: Literal["auto", True, False] = "auto"
    activation_mib: Positive = 4096
    probes_per_forward: Positive | Literal["auto"] = 1


class Exchange(Section):
    """[exchange]: how workers talk, how long they wait, how often they compare digests (0: never).

    address: of the supervisor, "host:port", for kind = "store".  key_file: holds the secret that seals its messages.
    """

    kind: Literal["auto", "local", "torch", "mpi", "store"] = "auto"
    address: str = ""
    key_file: str = ""
    timeout_s: Annotated[Finite, Field(gt=0)] = 300.0
    digest_every: Count = 50


class Output(Section):
    """[output]: evaluations (0: only before and after; 0 examples: all), snapshots (0: at the end), picture.

    test: evaluate the test split before and after, if the task has one.  keep: snapshots that stay (0: none is written).
    patience: end the run after so many evaluations without a lower validation loss (0: never; early.py).
    tensorboard, wandb: show figures there as the run goes (scalars.py).
    """

    evaluate_every: Count = 0
    evaluate_examples: Count = 0
    patience: Count = 0
    test: bool = True
    snapshot_every: Count = 100
    keep: Count = 2
    plot: bool = True
    tensorboard: bool = False
    wandb: bool = False


class Config(Section):
    """All settings of a run."""

    run: Run
    model: Model
    task: Task
    method: Method
    rule: Rule
    batch: Batch
    exchange: Exchange
    output: Output
    shard: shards.Shard
    adapter: adapters.Adapter
    objective: objectives.Objective

    @model_validator(mode="after")
    def _sections_fit(self) -> Config:
        rule = self.rule
        if rule.warmup > self.run.steps:
            raise ValueError(f"rule.warmup = {rule.warmup} must be <= run.steps = {self.run.steps}")
        for part in (refusals, robust, shards, adapters, early, objectives):
            if why := part.contradiction(self):
                raise ValueError(why)
        return self

    def to_toml(self) -> str:
        """The file that `load` reads back as this Config; every setting is written out."""
        tables = self.plain()
        parts = []
        for section, table in tables.items():
            lines = [
                f"{key_text(key)} = {value_text(value)}\n"
                for key, value in table.items()
                if value is not None
            ]
            parts.append(f"[{section}]\n{''.join(lines)}")
        return "\n".join(parts)

    def plain(self) -> dict[str, dict[str, Any]]:
        """The settings as they stand in a file: sections of numbers, text, lists and tables, JSON-able."""
        tables = self.model_dump(mode="json")
        tables["method"] = {"name": self.method.name, **tables["method"]["settings"]}
        tables["task"] = {key: value for key, value in tables["task"].items() if value is not None}
        return tables

    def identity(self) -> dict[str, dict[str, Any]]:
        """[method], [rule] and [batch] as in ``plain``, less the keys of batch that a run's start gives a meaning."""
        tables = self.plain()
        for decided in ("packed", "probes_per_forward"):
            del tables["batch"][decided]
        for key in ("clip", "shaping"):
            if tables["rule"][key] == "none":
                del tables["rule"][key]  # absent from journals of versions that could not
        more = {"adapter": adapters.identity(self)} if self.model.adapter else {}
        more |= {} if self.objective.kind == "loss" else {"objective": objectives.identity(self)}
        return {name: tables[name] for name in ("method", "rule", "batch")} | more


_SECTIONS: dict[str, type[Section]] = {
    "run": Run,
    "model": Model,
    "task": Task,
    "method": Method,
    "rule": Rule,
    "batch": Batch,
    "exchange": Exchange,
    "output": Output,
    "shard": shards.Shard,
    "adapter": adapters.Adapter,
    "objective": objectives.Objective,
}


def load(path: str | Path, overrides: Sequence[str] = ()) -> Config:
    """The settings of a file, changed by overrides of the form "section.key=value".

    A value is TOML; text needs no quotes.  run.folder is "runs/<file name without .toml>" if it is not given.
    task.name (if it ends in .toml) and task.files may be relative to the file's folder or to the current one.
    Raises ConfigError with the place and the nearest right key or the allowed values.
    """
    path = Path(path)
    tables, places = read(path)
    for override in overrides:
        _override(tables, override, places)
    return validate(tables, path, places)


def read(path: Path) -> tuple[dict[str, Any], Places]:
    """The tables of a TOML file as they stand, not yet checked, and where each key was written."""
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the config {path}: {reason}; name an existing TOML file") from error
    return parse(text, path)


def parse(text: str, path: Path) -> tuple[dict[str, Any], Places]:
    """The tables of a TOML text, not yet checked, and where each key was written; path is for the messages."""
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        what, _, position = str(error).partition(" (at ")
        line = re.search(r"line ([0-9]+)", position)
        number = line[1] if line else str(text.count("\n") + 1)
        raise ConfigError(f"{path}:{number}: {what}; correct the TOML") from error
    return tables, Places(str(path), text)


def _override(tables: dict[str, Any], override: str, places: Places) -> None:
    """Put the value of one override into the tables."""
    name, equals, text = override.partition("=")
    names = [part.strip() for part in name.split(".")]
    if not equals or len(names) < 2 or not all(names):
        raise ConfigError(f"override {override!r} must read section.key=value, such as rule.lr=1e-4")
    table = tables
    for part in names[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise ConfigError(f"override {override!r}: {part!r} is not a table")
    section = _SECTIONS.get(names[0])
    field = section.model_fields.get(names[1]) if section else None
    table[names[-1]] = _parsed(text.strip(), is_text=field is not None and field.annotation is str)
    places.add(names, override)


def _parsed(text: str, is_text: bool) -> Any:
    """The value of an override: text as it stands where text is expected or it is not a TOML value."""
    if is_text and text[:1] not in ("'", '"'):
        return text
    try:
        found = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    plain = list(found) == ["value"] and isinstance(found["value"], (bool, int, float, str, list, dict))
    return found["value"] if plain else text


def validate(tables: Mapping[str, Any], path: Path, places: Places) -> Config:
    """The settings that the tables of a file make.  path: the file whose folder and name they refer to."""
    settings_type = _settings_type(tables, places)
    keys = {name: list(section.model_fields) for name, section in _SECTIONS.items()}
    keys["method"] = ["name", *settings_type.model_fields]
    for name, table in tables.items():
        if name not in keys:
            raise ConfigError(unknown_section(name, table, keys, places))
        if not isinstance(table, dict):
            raise ConfigError(f"{places.where(name)}: {name!r} must be a section; write [{name}]")
        for key in table:
            if key not in keys[name]:
                raise ConfigError(unknown_key(name, key, keys, places))
    full: dict[str, Any] = {name: dict(tables.get(name, {})) for name in _SECTIONS}
    full["run"].setdefault("folder", f"runs/{path.stem}")
    own = {key: value for key, value in full["method"].items() if key != "name"}
    if "examples" in settings_type.model_fields:  # of a probe whose examples have directions of their own
        own.setdefault("examples", full["batch"].get("size", Batch.model_fields["size"].default))
    try:
        settings = settings_type.model_validate(own, strict=True)
    except ValidationError as error:
        raise ConfigError(sentence(error, places, ("method",))) from error
    full["method"] = {"name": full["method"].get("name", "mezo"), "settings": settings}
    task = full["task"]
    if isinstance(task.get("name"), str) and task["name"].endswith(".toml"):
        task["name"] = _beside(path, task["name"])
    if isinstance(task.get("files"), dict):
        task["files"] = {key: _beside(path, value) for key, value in task["files"].items()}
    full["objective"] = objectives.beside(full["objective"], partial(_beside, path))
    try:
        return Config.model_validate(full)
    except ValidationError as error:
        raise ConfigError(sentence(error, places)) from error


def _settings_type(tables: Mapping[str, Any], places: Places) -> type[BaseModel]:
    """The Settings model of the method that the tables name."""
    from zodist.methods import (
        METHODS,  # here, because reading a method's module costs time and this file is read first
    )

    table = tables.get("method", {})
    name = table.get("name", "mezo") if isinstance(table, dict) else "mezo"
    if not isinstance(name, str) or name not in METHODS:
        place = places.where("method", "name")
        raise ConfigError(
            f"{place}: method.name = {shown(name)} is not a method{nearest(str(name), METHODS)}"
        )
    return METHODS[name].settings


def _beside(path: Path, name: Any) -> Any:
    """A file's name relative to the config's folder, if there is such a file; else unchanged."""
    if not isinstance(name, str):
        return name
    found = path.parent / name
    return found.as_posix() if found.is_file() else name
