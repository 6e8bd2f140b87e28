"""What a method is, and which there are.

A method is a generator: ``losses = yield probes`` is one round over the network, the return value is the outcome of the
step.  It sees its settings, its own state, seeds and losses; never a worker, a batch, a file, a clock or a stream of
random numbers.  So training, replay and recovery drive the same code, and two-round steps need no phase flags.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Generator, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict

from zodist.direction import Combination, Dense
from zodist.methods.steps import StepSeeds


@dataclass(frozen=True, slots=True)
class Probe:
    """Points that share one batch.

    seed: what the wire record is named by.  points: where to evaluate, seen from the weights; an empty combination is
    the weights themselves.
    """

    seed: int
    points: tuple[Combination, ...]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a step decided.

    gradient: the estimate.  loss: mean loss of the probes, nats.  slope: root mean square of the measured slopes, nats
    per weight unit.  skipped: probes left out because a loss was not finite.
    """

    gradient: Combination
    loss: float
    slope: float
    skipped: int = 0


Step = Generator[tuple[Probe, ...], np.ndarray, Outcome]


class Settings(BaseModel):
    """A method's own keys in the [method] table."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Method(ABC):
    """One zeroth-order method.  Subclasses are final; state, if any, changes only as a function of (state, losses)."""

    settings_type: ClassVar[type[Settings]]
    paper: ClassVar[str]
    replay: ClassVar[str]
    forwards: ClassVar[str]

    @abstractmethod
    def direction(self, name: str, shape: tuple[int, ...]) -> Dense | None:
        """What a seed means for the parameter of this name and shape; None: this method leaves it alone."""

    @abstractmethod
    def step(self, seeds: StepSeeds) -> Step:
        """One step: yields tuples of probes, all with k points; receives their losses, float64 [probes, k]."""

    def state(self) -> dict[str, np.ndarray]:
        """The method's own state, for a snapshot."""
        return {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up the state of a snapshot."""
        if state:
            raise ValueError(f"{type(self).__name__} has no state, the snapshot holds {sorted(state)}")


@dataclass(frozen=True, slots=True)
class MethodEntry:
    """A row of the registry.  path: "module:Class"."""

    path: str
    origin: str = field(default="zodist", compare=False)

    @property
    def kind(self) -> type[Method]:
        """The method's class, imported now."""
        module, _, name = self.path.partition(":")
        return getattr(import_module(module), name)

    @property
    def settings(self) -> type[Settings]:
        """The method's settings model."""
        return self.kind.settings_type

    def build(self, settings: Any) -> Method:
        """A method with these settings."""
        return self.kind(settings)  # type: ignore[call-arg]


_OWN = {"mezo": MethodEntry("zodist.methods.mezo:MeZO")}


@cache
def registry() -> Mapping[str, MethodEntry]:
    """All methods by name: zodist's, and those that installed packages add through the entry point zodist.methods."""
    found = dict(_OWN)
    for point in entry_points(group="zodist.methods"):
        found.setdefault(point.name, MethodEntry(point.value, point.dist.name if point.dist else "?"))
    return found


class _Registry(Mapping[str, MethodEntry]):
    def __getitem__(self, name: str) -> MethodEntry:
        return registry()[name]

    def __iter__(self):
        return iter(registry())

    def __len__(self) -> int:
        return len(registry())


METHODS: Mapping[str, MethodEntry] = _Registry()
