"""Updates that no seed names: numbers that a method keeps or has worked out, and how much of them the weights move by.

What ``Combination`` and ``Law`` are to an estimate of seeds, ``Scaled`` and ``Kept`` are to a state: a factor, and what
it is a factor of.  Momenta are ``Stored`` or a ``Product``, an estimate that is worked on before it moves the weights is
``Recalled``; zodist.directions.moments and zodist.directions.quotient have those of Adam's kind.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from zodist import noise
from zodist.directions.direction import Cache, Combination, Laid, LaidDense, Law
from zodist.directions.matrix import LaidLowRank
from zodist.directions.param import Param

Parts = Callable[[Cache], tuple[np.ndarray, np.ndarray, np.ndarray]]


@dataclass(frozen=True, slots=True)
class Scaled:
    """``factor`` times what a method keeps or has worked out."""

    factor: float

    def __mul__(self, factor: float) -> Scaled:
        return Scaled(self.factor * factor)


Gradient = Combination | Scaled  # what moves weights: by a Law, or by a Kept


class Kept(ABC):
    """What a method keeps or has worked out for one parameter, which no seed names.  For updates, never for probes."""

    @abstractmethod
    def lay(self, param: Param, factors: Sequence[float], cache: Cache) -> Laid:
        """Lay out so much of it, for every factor; cache: shared by the parameters of one update."""


def lay_out(update: Law | Kept, param: Param, gradients: Sequence[Gradient], cache: Cache) -> Laid:
    """Gradients as an update takes them: estimates of seeds by a law, scaled states by what is kept.

    Raises TypeError where they do not fit; zodist.methods.misfit says so beforehand, with the method's name.
    """
    estimates = [gradient for gradient in gradients if isinstance(gradient, Combination)]
    factors = [gradient.factor for gradient in gradients if isinstance(gradient, Scaled)]
    if isinstance(update, Law) and not factors:
        return update.lay(param, estimates, cache)
    if isinstance(update, Kept) and not estimates:
        return update.lay(param, factors, cache)
    raise TypeError(f"{param.name}: a {type(update).__name__} moves no weights by {gradients}")


@dataclass(frozen=True, eq=False, slots=True)
class Stored(Kept):
    """Numbers that the method keeps, float32 over the held weights."""

    numbers: np.ndarray

    def lay(self, param: Param, factors: Sequence[float], cache: Cache) -> LaidDense:
        """No noise, only a mean."""
        shares = np.array(factors, np.float32)
        keys, tables = np.empty(0, np.uint64), np.zeros((len(factors), 0, noise.TILE), np.float32)
        return LaidDense(param.kernels, noise.RADEMACHER, keys, tables, shares, self.numbers)


@dataclass(frozen=True, eq=False, slots=True)
class Product(Kept):
    """A product of thin matrices that the method keeps or works out: left diag(middle) right, float32.

    parts: gives left [rows, r], middle [r] and right [r, columns]; a middle [1] holds for all r.  A factor is multiplied
    with the middle, and that with left, each product rounded once.
    """

    parts: Parts

    def lay(self, param: Param, factors: Sequence[float], cache: Cache) -> LaidLowRank:
        """The right matrix serves every factor."""
        left, middle, right = self.parts(cache)
        shares = np.array(factors, np.float32)[:, None, None]
        return LaidLowRank(param, left * (middle * shares), right[None])


@dataclass(frozen=True, eq=False, slots=True)
class Recalled(Kept):
    """A combination that the method remembers, under a law: an estimate that it has worked on.

    recall: gives the combination.
    """

    law: Law
    recall: Callable[[], Combination]

    def lay(self, param: Param, factors: Sequence[float], cache: Cache) -> Laid:
        """The law's layout; parameters of one law share it."""
        own = cache.setdefault(("recalled", self.recall), {})
        if "at" not in own:
            own["at"] = [self.recall() * factor for factor in factors]
        return self.law.lay(param, own["at"], own)
