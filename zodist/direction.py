"""Directions as an algebra of seeds: where to evaluate, what a gradient is and what a momentum was are all one type.

A ``Combination`` is a weighted sum of unit directions named by seeds.  What one seed means for one parameter is said
by a direction law such as ``Dense``; the pair is turned into what kernels eat by ``coded_tables``: base seeds and one
Walsh table per combination, whatever the number of terms.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from zodist import noise


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


@dataclass(frozen=True, slots=True)
class Dense:
    """Independent numbers of one law for every weight of a parameter.

    law: noise.GAUSSIAN or noise.RADEMACHER.  coded: seeds carry Walsh codes (zodist.noise), else each seed is a
    noise of its own.  scale: standard deviation of the direction's numbers.
    """

    law: int
    coded: bool
    scale: float = 1.0

    def values(self, param: int, seed: int, start: int, stop: int) -> np.ndarray:
        """The numbers start .. stop - 1 of the direction of one seed, float32: the reference for the kernels."""
        z = noise.direction(self.law, seed, param, start, stop, coded=self.coded)
        return z * np.float32(self.scale)


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
