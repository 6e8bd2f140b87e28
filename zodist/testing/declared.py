"""What a method declares: settings, class variables, where it comes from, the size of its state, what moves weights."""

from __future__ import annotations

import inspect
import re
import sys

import numpy as np
from pydantic import ValidationError

from zodist.directions import Scaled
from zodist.methods import Method, Settings
from zodist.testing.subject import Subject
from zodist.testing.toys import NUMBERS, directions, stage

SCALARS = 256  # bytes of counters and scalars that "bytes a weight" need not mention
_SOURCE = re.compile(r"\b[0-9]{4}\.[0-9]{4,5}\b|\b(19|20)[0-9]{2}\b")
_PER_WEIGHT = re.compile(r"([0-9]+(?:\.[0-9]+)?) bytes? (?:a|per) weight")


def settings_are_strict_and_described(chosen: Subject) -> None:
    """Defaults are valid, unknown keys are refused, each key has a description for the user."""
    model = chosen.kind.settings_type
    if not issubclass(model, Settings):
        raise AssertionError(
            f"{model.__name__} must be a subclass of zodist.methods.Settings, which refuses typing errors"
        )
    try:
        held = model.model_validate({})
        model.model_validate(held.model_dump(mode="json"), strict=True)
    except ValidationError as error:
        raise AssertionError(
            f"{model.__name__} without any key, or with its defaults as TOML gives them, is refused: {error}"
        ) from error
    try:
        model.model_validate({"no_such_key_of_a_method": 1})
    except ValidationError:
        pass
    else:
        raise AssertionError(f"{model.__name__} accepts a key that it does not have; keep extra='forbid'")
    for key, field in model.model_fields.items():
        if not field.description:
            raise AssertionError(
                f"{model.__name__}.{key} has no description; write Field(..., description=...)"
            )


def class_says_what_it_is(chosen: Subject) -> None:
    """Paper, cost and order of replay are stated, and the file's header names its source."""
    kind = chosen.kind
    for name in ("paper", "replay", "forwards", "memory"):
        if not isinstance(getattr(kind, name, None), str) or not getattr(kind, name):
            raise AssertionError(
                f"{kind.__name__}.{name} must say in a few words what `zodist methods` shows"
            )
    if kind.step is Method.step or inspect.isabstract(kind):
        raise AssertionError(f"{kind.__name__} must define direction and step")
    header = inspect.getdoc(sys.modules[kind.__module__]) or ""
    if not _SOURCE.search(header):
        raise AssertionError(
            f"the header of {kind.__module__} names neither an arXiv number nor a year; say where the method comes from"
        )


def state_is_as_large_as_memory_says(chosen: Subject) -> None:
    """``memory`` that begins with "none" or with "<number> bytes a weight" is what state() holds at most."""
    text = chosen.kind.memory
    on = stage(chosen)
    for step in range(4):
        on.take_made_up(step)
    state = on.method.state()
    for name, array in state.items():
        if not isinstance(array, np.ndarray):
            raise AssertionError(
                f"state()[{name!r}] is a {type(array).__name__}; keep scalars in arrays of shape (1,)"
            )
    held = sum(array.nbytes for array in state.values())
    declared = _PER_WEIGHT.match(text)
    if text.startswith("none") and held:
        raise AssertionError(f"memory is {text!r}, but state() holds {held} bytes in {sorted(state)}")
    if declared and held > float(declared[1]) * NUMBERS + SCALARS:
        raise AssertionError(
            f"memory begins with {declared[0]!r}, but state() holds {held} bytes for {NUMBERS} weights"
        )
    if not text.startswith("none") and not held:
        raise AssertionError(f"memory is {text!r}, but state() is empty: a snapshot would not bring it back")


def update_moves_by_what_the_step_returns(chosen: Subject) -> None:
    """Laws for an estimate of seeds, kept numbers for a scaled state; and so much of a state is just that, to the bit."""
    for variant in chosen.variants(*sorted(chosen.keys)):
        on = stage(chosen, **variant)
        for step in range(4):
            gradient = on.take_made_up(step).outcome.gradient  # raises AssertionError if they do not fit
            if not isinstance(gradient, Scaled):
                continue
            for factor in (-2.0, 0.5):  # of which no product is rounded
                whole, scaled = directions(on.params, on.updates, [gradient, gradient * factor])
                if (scaled != factor * whole).any():
                    raise AssertionError(
                        f"step {step}: what update() gave moves weights by other numbers at {factor} times its factor than "
                        f"{factor} times those; multiply by every factor that lay() is given"
                    )
