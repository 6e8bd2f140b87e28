"""A reward: a finite number for each written answer, the larger the better; from a function of Python or a command.

A function is called with one Written and gives a number.  It is looked up when the first answer has to be judged, so a
replay needs neither the function nor the program.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zodist.config import Objective
from zodist.errors import ObjectiveError
from zodist.objective.command import Command


@dataclass(frozen=True, slots=True)
class Written:
    """An answer to be judged.

    prompt: its text.  answer: what the model wrote, up to the stop, without space around it.  reference: a right answer, if
    the task has one.  row: the fields of the example's row, if the task keeps them.
    """

    prompt: str
    answer: str
    reference: str | None = None
    row: Mapping[str, Any] | None = None


Reward = Callable[[Sequence[Written]], list[float]]


def reward_of(settings: Objective, timeout_s: float) -> Reward:
    """The reward that [objective] names; timeout_s: how long a command may take over an answer."""
    if settings.command:
        return Command(settings.command, timeout_s)
    held: list[Reward] = []

    def reward(written: Sequence[Written]) -> list[float]:
        if not held:
            held.append(each(_function(settings.function), settings.function))
        return held[0](written)

    return reward


def each(function: Callable[[Written], Any], name: str) -> Reward:
    """A function of one answer, for many; what it raises and what is no finite number is one sentence."""

    def reward(written: Sequence[Written]) -> list[float]:
        return [_number(function, name, one) for one in written]

    return reward


def _number(function: Callable[[Written], Any], name: str, written: Written) -> float:
    try:
        found = function(written)
    except Exception as error:  # a user's function may raise anything
        raise ObjectiveError(
            f"the reward function {name} raised {type(error).__name__}: {error} on the answer {written.answer!r}; correct it"
        ) from error
    try:
        number = float(found)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ObjectiveError(
            f"the reward function {name} returned {found!r} for the answer {written.answer!r}; return a finite number"
        )
    return number


def _function(name: str) -> Callable[[Written], Any]:
    """The function of "package.module:name" or "file.py:name"."""
    where, _, attribute = name.rpartition(":")
    found: Any = _file(where) if where.endswith(".py") else _module(where)
    for part in attribute.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        raise ObjectiveError(
            f"objective.function = {name!r}: {where} has no function {attribute!r}; correct the name"
        )
    return found


def _module(where: str) -> Any:
    try:
        return importlib.import_module(where)
    except Exception as error:  # a module may raise anything while it is read
        raise ObjectiveError(
            f"objective.function: the module {where} cannot be imported ({type(error).__name__}: {error}); install it, or "
            "correct the name"
        ) from error


def _file(where: str) -> Any:
    spec = importlib.util.spec_from_file_location(Path(where).stem, where)
    assert spec is not None and spec.loader is not None  # the name ends in .py
    found = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(found)
    except FileNotFoundError:
        raise ObjectiveError(
            f"objective.function: there is no file {where}; correct the path (from the config's folder or the current one)"
        ) from None
    except Exception as error:
        raise ObjectiveError(
            f"objective.function: {where} cannot be run ({type(error).__name__}: {error}); correct it"
        ) from error
    return found
