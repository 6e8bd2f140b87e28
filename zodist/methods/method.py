"""What a method is.

A method is a generator: ``losses = yield probes`` is one round over the network, the return value is the outcome of the
step.  It sees its settings, its own state, seeds and losses; never a worker, a batch, a file, a clock or a stream of
random numbers.  So training, replay and recovery drive the same code, and two-round steps need no phase flags.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Generic, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from zodist import noise
from zodist.directions import Combination, Gradient, Kept, Law, Param, Scaled
from zodist.methods.steps import StepSeeds


@dataclass(frozen=True, slots=True)
class Probe:
    """Points that share one batch.

    seed: what the wire record is named by.  points: where to evaluate, seen from the weights; an empty combination is
    the weights themselves.
    examples: if not 0, every point belongs to one example of the batch, which has so many: point k * examples + i is where
    example i is in pass k.  Passes are evaluated at plus and minus the points (paired), or at plus, with one pass at the
    weights themselves.  The losses are then, on top of the mean, each example's difference to minus or to the weights, and
    last the mean.
    """

    seed: int
    points: tuple[Combination, ...]
    examples: int = 0
    paired: bool = False

    @property
    def losses(self) -> int:
        """How many losses the probe is answered with."""
        return len(self.points) + bool(self.examples)

    @property
    def forwards(self) -> int:
        """Forward passes of one batch."""
        if not self.examples:
            return len(self.points)
        passes = len(self.points) // self.examples
        return 2 * passes if self.paired else passes + 1


G = TypeVar("G", bound=Gradient, covariant=True)


@dataclass(frozen=True, slots=True)
class Outcome(Generic[G]):
    """What a step decided.

    gradient: an estimate of seeds (Combination), which moves weights by the laws that ``update`` gives; or so much of
    what the method keeps or has worked out (Scaled), which ``update`` gives as Kept.  A step without a finite loss has
    an estimate without terms, either way.
    loss: mean loss of the probes, nats.  slope: root mean square of the measured slopes, nats per weight unit.
    skipped: probes left out because a loss was not finite.  then: the change of the method's state that has to wait
    until the weights have moved, because the update's directions depend on the old state.
    """

    gradient: G
    loss: float
    slope: float
    skipped: int = 0
    then: Callable[[], None] | None = None

    @property
    def empty(self) -> bool:
        """Whether there is nothing to learn from."""
        return isinstance(self.gradient, Combination) and not len(self.gradient)


Step = Generator[tuple[Probe, ...], np.ndarray, Outcome[Gradient]]
Estimate = Generator[tuple[Probe, ...], np.ndarray, Outcome[Combination]]  # a step that ends in seeds


class Settings(BaseModel):
    """A method's own keys in the [method] table.

    codes: the keys whose product is how many Walsh codes of one noise a step takes (``StepSeeds.coded``), and which are
    refused where that is more than there are; those that the method lacks count as 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    codes: ClassVar[tuple[str, ...]] = ("probes",)

    def refuses(self, rule: str) -> str:
        """Why an update rule (rule.name) does not go with these settings, as a sentence for the user; "" if it does.

        For rules that would undo what the method does to a step, or do it twice.  Asked when a run's settings are read.
        """
        return ""

    @model_validator(mode="after")
    def _codes_suffice(self) -> Self:
        if getattr(self, "coupling", "walsh") != "walsh":
            return self
        counts = {key: getattr(self, key) for key in self.codes if key in type(self).model_fields}
        wanted = math.prod(counts.values())
        if wanted > noise.CODES:
            product = " x ".join(f"method.{key} = {count}" for key, count in counts.items())
            of_batch = " (method.examples is batch.size)" if "examples" in counts else ""
            other = " or set method.coupling = 'independent'" if "coupling" in type(self).model_fields else ""
            raise ValueError(
                f"{product}: a step would take {wanted} Walsh codes of one noise, which has {noise.CODES}; lower "
                f"{' or '.join(f'method.{key}' for key in counts)}{other}{of_batch}"
            )
        return self


def second_rule(rule: str, key: str, value: object, off: object) -> str:
    """``Settings.refuses`` of a method that makes its steps from moments, by method.<key> = value, unless that is off."""
    if rule == "sgd":
        return ""
    return (
        f"rule.name = {rule!r} would take moments or signs of steps that method.{key} = {value!r} has made of moments "
        f"already; set rule.name = 'sgd' or method.{key} = {off!r}"
    )


class Method(ABC):
    """One zeroth-order method.  Subclasses are final; state, if any, changes only as a function of (state, losses).

    ``expected`` and ``linear_moments`` are claims, which ``zodist.testing`` checks: a method says there what the mean of its
    estimate is, where that is not the gradient, and how large its error is, where that is known.
    """

    settings_type: ClassVar[type[Settings]]
    paper: ClassVar[str]
    replay: ClassVar[str]
    forwards: ClassVar[str]
    memory: ClassVar[str] = "none"
    params: tuple[Param, ...] = ()

    def begin(self, params: Sequence[Param]) -> None:
        """Set up the state for these parameters, which hold the base weights.  Called once, before anything else."""
        self.params = tuple(params)

    @abstractmethod
    def direction(self, param: Param) -> Law | None:
        """What a seed means for this parameter; None: the method leaves it alone.  Called once, after begin."""

    def update(self, param: Param) -> Law | Kept | None:
        """What the gradient stands for when it moves the weights, where that is not the direction of a probe.

        A Law if ``step`` ends in an estimate of seeds, a Kept if it ends in a scaled state.  Called once, after direction.
        """
        return self.direction(param)

    @abstractmethod
    def step(self, seeds: StepSeeds) -> Step:
        """One step: yields tuples of probes, all with k losses; receives their losses, float64 [probes, k]."""

    def count(self, values: np.ndarray) -> int:
        """Forward passes of one batch behind the recorded values of a round, float32 [items, k]."""
        return values.size

    def expected(self, gradients: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Where the mean of the next step's estimate points, on a loss with these gradients and in the present state.

        gradients: float64 in the parameters' shapes, by name; so is the answer, whose length is of no account.
        """
        return gradients

    def diagnose(self, gradients: Mapping[str, np.ndarray]) -> Mapping[str, float]:
        """How what the method has learned relates to the true gradient, for ``zodist diagnose``; 1 is chance for a share.

        gradients: float64 in the parameters' shapes, by name.
        """
        return {}

    def linear_moments(self, gradients: Mapping[str, np.ndarray]) -> tuple[float, float] | None:
        """Means of gradient . estimate and |estimate|^2 for the next step on a loss with these gradients, or None.

        Over all that is random, such as the bases of a window, and up to one factor on the estimate; gradients: as in
        ``expected``.  With a and b of |gradient|^2, the squared error at the best rate is b / a^2 - 1 of |gradient|^2:
        (d + 1) / probes for independent Gaussian probes of d weights.  None: not known; zodist.methods.claims has forms.
        """
        return None

    def state(self) -> dict[str, np.ndarray]:
        """The method's own state, for a snapshot: the arrays themselves, not copies."""
        return {}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take up the state of a snapshot, in place."""
        held = self.state()
        if held.keys() != set(state):
            raise ValueError(
                f"{type(self).__name__} has state {sorted(held)}, the snapshot holds {sorted(state)}"
            )
        for name, array in held.items():
            array[...] = state[name]


def misfit(method: Method, outcome: Outcome[Gradient], updates: Iterable[Law | Kept | None]) -> str:
    """A sentence that says why an outcome cannot move weights by what ``update`` gave; "" for one that can."""
    kind, gradient = type(method).__name__, type(outcome.gradient).__name__
    wanted, other = (Kept, Combination) if isinstance(outcome.gradient, Scaled) else (Law, Scaled)
    for update in () if outcome.empty else updates:
        if update is not None and not isinstance(update, wanted):
            return (
                f"the outcome of {kind}.step has a {gradient}, which takes a {wanted.__name__} to move weights, and "
                f"{kind}.update gave a {type(update).__name__}; return a {other.__name__}, or give a {wanted.__name__}"
            )
    return ""
