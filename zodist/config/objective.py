"""The table [objective]: what a run makes small, where that is not the loss, and what does not go with it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from zodist.config.names import IN_PYTHON
from zodist.config.section import Finite, Positive, Section

if TYPE_CHECKING:
    from zodist.config.settings import Config


class Objective(Section):
    """[objective]: what is measured at every point.

    kind: the loss; or, to be made large, accuracy or F1 of a batch, the share of written answers that equal a reference, a
    reward for what is written.  function: of the reward, "package.module:name" or "file.py:name"; command: a program that
    reads a JSON object a line and prints a number for each.
    samples: answers written for every example.  temperature: of the softmax that they are drawn from; 0: the most likely
    tokens.
    """

    kind: Literal["loss", "accuracy", "f1", "exact", "reward"] = "loss"
    function: str = ""
    command: list[str] = []
    samples: Positive = 1
    temperature: Annotated[Finite, Field(ge=0)] = 0.0


def contradiction(config: Config) -> str:
    """Which setting does not go with the objective, as a sentence; "" if none."""
    c, kind = config.objective, config.objective.kind
    own = "examples" in type(config.method.settings).model_fields
    if own and config.rule.shaping != "none":
        return (
            f"rule.shaping = {config.rule.shaping!r} compares points of the same examples, and method.name = "
            f"{config.method.name!r} gives every example points of its own; set rule.shaping = 'none'"
        )
    uses = {"function": ("reward",), "command": ("reward",)}
    uses |= dict.fromkeys(("samples", "temperature"), ("f1", "exact", "reward"))
    for key, kinds in uses.items():
        if kind not in kinds and getattr(c, key) != Objective.model_fields[key].default:
            return (
                f"objective.{key} has no effect with objective.kind = {kind!r}; set objective.kind = 'reward'"
            )
    if kind == "loss":
        return ""
    if kind == "reward" and bool(c.function) == bool(c.command):
        found = "both are given" if c.function else "neither is given"
        return f"objective.kind = 'reward' needs objective.function or objective.command, and {found}; set one of them"
    if c.function and not c.function.startswith(IN_PYTHON) and not all(c.function.rpartition(":")):
        return f"objective.function = {c.function!r} must read 'package.module:name' or 'file.py:name'"
    if c.samples > 1 and not c.temperature:
        return (
            f"objective.samples = {c.samples} with objective.temperature = 0 are all the same; set it above 0"
        )
    if own:
        return (
            f"objective.kind = {kind!r} is a number of a whole batch, and method.name = {config.method.name!r} needs one of "
            "each example; choose another method, or objective.kind = 'loss'"
        )
    if config.shard.kind != "none":
        return f"objective.kind = {kind!r} needs a whole model on every worker; set shard.kind = 'none'"
    if kind == "reward" and config.batch.cache_frozen:
        return (
            "batch.cache_frozen keeps what frozen layers make of given rows, and objective.kind = 'reward' has rows that "
            "are being written; set batch.cache_frozen = false"
        )
    return ""


def identity(config: Config) -> dict[str, Any]:
    """What of the objective the numbers depend on; files by their names alone, since they may lie elsewhere another time."""
    c = config.objective
    command = {"command": [Path(part).name for part in c.command]} if c.command else {}
    function = {"function": Path(c.function).name} if c.function else {}
    return {"kind": c.kind, **function, **command, "samples": c.samples, "temperature": c.temperature}


def beside(table: dict[str, Any], find: Callable[[Any], Any]) -> dict[str, Any]:
    """The table with its files' names as ``find`` gives them: those of files that stand beside the configuration."""
    found = dict(table)
    if isinstance(function := table.get("function"), str):
        file, colon, name = function.rpartition(":")
        found["function"] = f"{find(file)}{colon}{name}" if file.endswith(".py") else function
    if isinstance(command := table.get("command"), list):
        found["command"] = [find(part) for part in command]
    return found
