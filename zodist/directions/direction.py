"""Directions as an algebra of seeds: where to evaluate, what a gradient is and what a momentum was are all one type.

A ``Combination`` is a weighted sum of unit directions named by seeds.  What one seed means for one parameter is a
``Law``: ``Dense`` numbers, ``Dressed`` ones (masked, shifted, preconditioned element by element), or the matrix laws of
zodist.directions.matrix.  A law lays combinations out for the kernels (``Laid``): base seeds and one Walsh table per
combination, whatever the number of terms.  Updates that no seed names are in zodist.directions.kept.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import torch

from zodist import noise
from zodist.directions.param import KINDS, Param, as_words, drawn
from zodist.kernels import Kernels, Noise


class Term(NamedTuple):
    """``weight`` times the unit direction of ``seed``."""

    seed: int
    weight: float


@dataclass(frozen=True, eq=False, slots=True)
class Combination:
    """A sum of terms, kept as arrays: seeds uint64 [n], weights float64 [n].  The order is the order of addition."""

    seeds: np.ndarray
    weights: np.ndarray

    @classmethod
    def of(cls, *terms: tuple[int, float]) -> Combination:
        """A combination of (seed, weight) pairs."""
        return cls(np.array([s for s, _ in terms], np.uint64), np.array([w for _, w in terms], np.float64))

    def __len__(self) -> int:
        return len(self.seeds)

    def __iter__(self) -> Iterator[Term]:
        return (Term(int(s), float(w)) for s, w in zip(self.seeds, self.weights, strict=True))

    def __add__(self, other: Combination) -> Combination:
        return Combination(
            np.concatenate([self.seeds, other.seeds]), np.concatenate([self.weights, other.weights])
        )

    def __mul__(self, factor: float) -> Combination:
        return Combination(self.seeds, self.weights * factor)


Cache = dict[Any, Any]  # what the parameters of one forward or one update share, such as Walsh tables
NONE, EVERYTHING = np.empty(0, np.float32), np.float32(np.inf)


class Laid(ABC):
    """Some combinations of one parameter's directions, ready for the kernels."""

    grain = 1  # ranges begin and end at multiples of it
    still = False  # whether every combination is zero here, so that the weights themselves will do

    @abstractmethod
    def write_(
        self,
        param: Param,
        start: int,
        stop: int,
        out: torch.Tensor,
        *,
        add: bool = True,
        parallel: bool = False,
    ) -> None:
        """Numbers start .. stop - 1 at every combination into out, [combinations, stop - start], contiguous.

        add: weights plus direction, rounded to out's dtype; else the direction alone.
        """

    @abstractmethod
    def rows_(self, param: Param, index: torch.Tensor, out: torch.Tensor, *, parallel: bool = False) -> None:
        """Some rows of a matrix at every combination into out, [combinations, rows, width], contiguous."""


class LaidFused(Laid):
    """Directions along which plain descent is one pass over the weights, without the gradient in between."""

    @abstractmethod
    def update_(
        self, param: Param, decay: np.float32, rounding: np.uint64, *, parallel: bool = False
    ) -> None:
        """Weights <- weights - (decay * weights + the first combination), rounded once."""


class Law(ABC):
    """What a seed means for one parameter."""

    @property
    def shape_alone(self) -> bool:
        """Whether seeds, losses and the shape decide it, so that who holds a range of the weights knows it whole."""
        return False

    @abstractmethod
    def lay(self, param: Param, combinations: Sequence[Combination], cache: Cache) -> Laid:
        """Lay out combinations; cache: shared by the parameters that are laid out for the same combinations."""


@dataclass(frozen=True, slots=True)
class Dense(Law):
    """Independent numbers of one law for every weight of a parameter.

    law: noise.GAUSSIAN or noise.RADEMACHER.  coded: seeds carry Walsh codes (zodist.noise), else each seed is a
    noise of its own.  scale: standard deviation of the direction's numbers.
    """

    law: int
    coded: bool
    scale: float = 1.0

    @property
    def shape_alone(self) -> bool:
        """Noise has addresses."""
        return True

    def values(self, param: int, seed: int, start: int, stop: int) -> np.ndarray:
        """The numbers start .. stop - 1 of the direction of one seed, float32: the reference for the kernels."""
        z = noise.direction(self.law, seed, param, start, stop, coded=self.coded)
        return z * np.float32(self.scale)

    def lay(self, param: Param, combinations: Sequence[Combination], cache: Cache) -> LaidDense:
        """One set of tables serves every parameter of this law."""
        found = cache.get(self)
        if found is None:
            found = cache[self] = LaidDense(param.kernels, self.law, *coded_tables(self, combinations))
        return found


@dataclass(frozen=True, eq=False, slots=True)
class Dressed(Law):
    """Dense numbers changed element by element: (numbers + mean) / sqrt(curvature), and 0 where |weight| > below.

    mean, curvature: float32 over the held numbers of the parameter, or empty; a method may change them in place between
    steps.  A combination adds the mean once per unit of its summed weights.  weigh: factors of seeds for this parameter,
    uint64 [n] -> float64 [n], such as a block mask.
    """

    noise: Dense
    mean: np.ndarray = field(default_factory=lambda: NONE)
    curvature: np.ndarray = field(default_factory=lambda: NONE)
    below: np.float32 = EVERYTHING
    weigh: Callable[[np.ndarray], np.ndarray] | None = None

    @property
    def shape_alone(self) -> bool:
        """Without numbers for each weight, and without a look at it."""
        return not len(self.mean) and not len(self.curvature) and self.below == EVERYTHING

    def lay(self, param: Param, combinations: Sequence[Combination], cache: Cache) -> LaidDense:
        """Tables are shared with plain directions of the same noise, or with others that the same function weighs."""
        place = self.noise if self.weigh is None else (self.noise, self.weigh)
        if place not in cache:
            chosen = combinations
            if self.weigh is not None:
                chosen = [Combination(c.seeds, c.weights * self.weigh(c.seeds)) for c in combinations]
                if not any(c.weights.any() for c in chosen):
                    chosen = [Combination.of() for _ in chosen]
            cache[place] = LaidDense(param.kernels, self.noise.law, *coded_tables(self.noise, chosen))
        keys, tables = cache[place].keys, cache[place].tables
        if "shares" not in cache:  # added up exactly: numpy's order of addition depends on the processor
            shares = np.array([math.fsum(c.weights) for c in combinations], np.float32)
            cache["shares"] = param.kernels.send(shares)
        shares = cache["shares"]
        dress = shares, self.mean, self.curvature, self.below
        return LaidDense(param.kernels, self.noise.law, keys, tables, *dress)


class LaidDense(LaidFused):
    """Base seeds and Walsh tables, with what dresses them."""

    def __init__(
        self,
        kernels: Kernels,
        law: int,
        keys: np.ndarray,
        tables: np.ndarray,
        shares: np.ndarray = NONE,
        mean: np.ndarray = NONE,
        curvature: np.ndarray = NONE,
        below: np.float32 = EVERYTHING,
    ) -> None:
        """keys uint64 [S]; tables float32 [combinations, S, L]; the dress as the kernels take it.

        kernels: those that will run; the arrays go to their device here, once.
        """
        send = kernels.send
        self.law, self.keys, self.tables = law, send(keys), send(tables)
        if not len(shares):
            shares = np.zeros(len(tables), np.float32)
        self.dress = (send(shares), send(mean), send(curvature), below)
        self.still = len(keys) == 0 and not len(mean)

    def noise(self, param: Param) -> Noise:
        """The numbers of one parameter, for the kernels."""
        return drawn(param, self.law, self.keys, self.tables)

    def write_(
        self,
        param: Param,
        start: int,
        stop: int,
        out: torch.Tensor,
        *,
        add: bool = True,
        parallel: bool = False,
    ) -> None:
        """One pass over the range."""
        kernel = param.kernels.perturb.of(stop - start, parallel)
        outs = as_words(out, param.kernels).reshape(out.shape[0], 1, stop - start)
        kernel(
            param.kind,
            KINDS[out.dtype],
            param.words,
            param.origin,
            start,
            stop,
            outs,
            self.noise(param),
            (*self.dress, add),
        )

    def rows_(self, param: Param, index: torch.Tensor, out: torch.Tensor, *, parallel: bool = False) -> None:
        """Rows that are not named are never touched."""
        width = param.shape[-1]
        kernel = param.kernels.perturb_rows.of(out.numel(), parallel)
        kernel(
            param.kind,
            KINDS[out.dtype],
            param.words,
            param.origin,
            param.kernels.view(index * width),
            width,
            as_words(out, param.kernels).reshape(out.shape),
            self.noise(param),
            (*self.dress, True),
        )

    def update_(
        self, param: Param, decay: np.float32, rounding: np.uint64, *, parallel: bool = False
    ) -> None:
        """The noise is made on the way."""
        run = param.kernels.update.of(param.weights.numel(), parallel)
        first = self.noise(param)._replace(tables=self.tables[:1])
        run(param.kind, param.words, param.origin, first, (*self.dress, True), decay, rounding)


def coded_tables(dense: Dense, combinations: Sequence[Combination]) -> tuple[np.ndarray, np.ndarray]:
    """Base seeds and Walsh tables of some combinations under one direction law.

    Returns keys uint64 [S] and tables float32 [combinations, S, L], L a power of two >= 1,024: number i of combination c
    is ``sum_s noise(keys[s])[i] * tables[c, s, i mod L]``.  Sums over codes are float64, rounded once to float32.
    """
    every = np.concatenate([c.seeds for c in combinations])
    low = np.uint64(noise.CODES - 1 if dense.coded else 0)
    bases, codes = every & ~low, (every & low).astype(np.int64)
    keys, first, slot = np.unique(bases, return_index=True, return_inverse=True)
    order = np.argsort(first, kind="stable")  # order of first appearance: the order in which the kernels add
    keys, slot = keys[order], np.argsort(order, kind="stable")[slot]
    size = 1 << int(codes.max(initial=0)).bit_length()
    length = max(size, noise.TILE)
    tables = np.zeros((len(combinations), len(keys), length), np.float32)
    at = 0
    for c, combination in enumerate(combinations):
        span = slice(at, at + len(combination))
        at += len(combination)
        weights = np.zeros((len(keys), size), np.float64)
        np.add.at(weights, (slot[span], codes[span]), combination.weights * dense.scale)
        for s in range(len(keys)):
            tables[c, s] = np.tile(noise.walsh(weights[s]).astype(np.float32), length // size)
    return keys, tables
