"""Forwards that stand in for those of a model's modules, and what was there before.

A forward may stand in a module itself rather than in its class, as hooks of other libraries do: it is put back as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, final

from torch import nn

from zodist.errors import ModelError

_ABSENT = object()
_MARK = "zodist_stands_in"  # an attribute of a forward that an evaluator has put into a module


@final
class Patches:
    """The modules of one model that an evaluator has changed."""

    def __init__(self) -> None:
        self._found: list[tuple[nn.Module, Any]] = []

    def install(self, module: nn.Module, forward: Callable[..., Any]) -> None:
        """Put a forward in the place of a module's own.  Raises ModelError if another evaluator has done so."""
        if hasattr(module.forward, _MARK):
            raise ModelError(
                f"{type(module).__name__} is in the hands of another evaluator of this model; close that one first"
            )
        setattr(forward, _MARK, True)
        self._found.append((module, module.__dict__.get("forward", _ABSENT)))
        module.forward = forward

    def remove(self) -> None:
        """Put back what was there; further calls do nothing."""
        while self._found:
            _put_back(*self._found.pop())


@contextmanager
def replaced(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Other forwards for some modules, for a while."""
    found = [(module, module.__dict__.get("forward", _ABSENT)) for module in forwards]
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, before in found:
            _put_back(module, before)


def _put_back(module: nn.Module, before: Any) -> None:
    if before is _ABSENT:
        del module.forward
    else:
        module.forward = before
