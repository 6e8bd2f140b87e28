"""A law of directions that are outer products of two sign vectors, Walsh-coded over rows and columns.

Direction of a seed: (u * h) (v * k)^T with u, v the Rademacher vectors of the seed's base (roles U and V) and h, k Walsh
codes from the seed's low 16 bits.  Every number is +1 or -1, so |Z|^2 is the number of weights and the error of an
estimate is that of dense directions, E |<G, Z> Z|^2 = m n |G|^2; but a product with an activation costs almost nothing,
and so does drawing them: m + n bits.  Directions of different codes are orthogonal, and any weighted sum of them is one
pass: u_i v_j T[i mod A, j mod B], T the Walsh transform of the weights.  Rank-one perturbations of a population: EGGROLL
(arXiv:2511.16652).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zodist import noise
from zodist.directions.direction import Cache, Combination, LaidFused, Law
from zodist.directions.matrix import LaidRows, numbers_of
from zodist.directions.param import Param


def code_bits(rows: int, columns: int) -> tuple[int, int]:
    """How many low bits of a code go to the columns, and how many of the next to the rows.

    Columns take as many as their number has factors of 2, if these are at least 3, since codes are then orthogonal exactly;
    else as many as there are places.
    """
    even = (columns & -columns).bit_length() - 1
    across = min(even if even >= 3 else columns.bit_length() - 1, 16)
    return across, min(rows.bit_length() - 1, 16 - across)


def code_signs(codes: np.ndarray, size: int) -> np.ndarray:
    """Walsh functions on 0 .. size - 1, float32 [codes, size]."""
    parity = np.bitwise_count(codes[:, None] & np.arange(size, dtype=np.int64)[None]) & 1
    return 1.0 - 2.0 * parity.astype(np.float32)


@dataclass(frozen=True, slots=True)
class RankOne(Law):
    """Outer products of sign vectors; all seeds of a layout have one base."""

    @property
    def shape_alone(self) -> bool:
        """Signs have addresses."""
        return True

    def lay(self, param: Param, combinations: Sequence[Combination], cache: Cache) -> LaidRankOne:
        """Vectors of the base, and the codes and weights of every combination."""
        if "codes" not in cache:
            seeds = np.concatenate([c.seeds for c in combinations])
            bases = np.unique(seeds & ~np.uint64(noise.CODES - 1))
            if len(bases) > 1:
                raise ValueError(
                    f"{len(bases)} bases in one layout of rank-one directions; they must have one"
                )
            low = np.uint64(noise.CODES - 1)
            terms = [((c.seeds & low).astype(np.int64), c.weights) for c in combinations]
            keys = bases if len(bases) else np.zeros(1, np.uint64)
            cache["codes"] = param.kernels.send(keys), terms
        keys, terms = cache["codes"]
        return LaidRankOne(param, keys, terms, cache)


class LaidRankOne(LaidRows, LaidFused):
    """u [m], v [n] of the base; codes and weights of every combination."""

    def __init__(
        self, param: Param, keys: Any, terms: list[tuple[np.ndarray, np.ndarray]], cache: Cache
    ) -> None:
        """keys: the one base, as the parameter's kernels take it."""
        super().__init__(param)
        self.terms, self.bits, self._cache = terms, code_bits(self.rows, self.grain), cache
        self._device, self._kernels = param.weights.device, param.kernels
        kernels, name = param.kernels, np.uint64(param.id)
        self.u, self.v = kernels.empty((1, self.rows)), kernels.empty((1, self.grain))
        for role, out in ((noise.U, self.u), (noise.V, self.v)):
            kernels.noises.serial(noise.RADEMACHER, keys, name, np.uint64(role), out)
        self.still = not any(weights.any() for _, weights in terms)

    def vectors(self, places: Any = None) -> tuple[Any, Any]:
        """Left (times the weight) and right vectors of combinations of one term: float32 [C, m] and [C, n].

        places: the rows that are wanted, if not all.  Arrays as the kernels take them.
        """
        over, along, weights = self._patterns()
        if places is None:
            left = self.u * self._repeated(over, "rows", self.rows) * weights
        else:
            left = self.u[0, places] * over[:, places % over.shape[1]] * weights
        return left, self.v * self._repeated(along, "columns", self.grain)

    def _repeated(self, signs: Any, axis: str, size: int) -> Any:
        """Signs of a period [C, period] as [C, size]; kept, since many matrices have the same shape."""
        key = axis, self.bits, size
        if key not in self._cache:
            every = self._kernels.view(torch.arange(size, device=self._device))
            self._cache[key] = signs[:, every % signs.shape[1]]
        return self._cache[key]

    def _patterns(self) -> tuple[Any, Any, Any]:
        """Walsh functions of the combinations' codes over one period of rows and of columns, and weights [C, 1]."""
        if ("patterns", self.bits) not in self._cache:
            codes = np.array([c[0] for c, _ in self.terms], np.int64)
            across, down = self.bits
            weights = np.array([w[0] for _, w in self.terms], np.float32)[:, None]
            over = code_signs((codes >> across) & ((1 << down) - 1), 1 << down)
            along = code_signs(codes & ((1 << across) - 1), 1 << across)
            self._cache["patterns", self.bits] = tuple(self._kernels.send(a) for a in (over, along, weights))
        return self._cache["patterns", self.bits]

    def tables(self) -> Any:
        """The Walsh tables of the combinations as kernels take them, float32 [C, 2^down, 2^across]."""
        if ("tables", self.bits) not in self._cache:
            across, down = self.bits
            out = np.zeros((len(self.terms), 1 << down, 1 << across), np.float32)
            for table, (codes, weights) in zip(out, self.terms, strict=True):
                sums = np.zeros(1 << (across + down), np.float64)
                np.add.at(sums, codes & (len(sums) - 1), weights)
                table[:] = noise.walsh(sums).reshape(table.shape)
            self._cache["tables", self.bits] = self._kernels.send(out)
        return self._cache["tables", self.bits]

    def kernel(self, param: Param, target: tuple, parallel: bool) -> None:
        """One pass over the rows."""
        param.kernels.rank_one.of(numbers_of(target), parallel)(*target, self.u[0], self.v[0], self.tables())

    def update_(
        self, param: Param, decay: np.float32, rounding: np.uint64, *, parallel: bool = False
    ) -> None:
        """The direction is made on the way."""
        run = param.kernels.descend_outer.of(param.weights.numel(), parallel)
        place = self.u[0], self.v[0], self.tables()[0], np.uint64(param.id)
        run(param.kind, param.words, param.origin, *place, decay, rounding)
