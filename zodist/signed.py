"""A law of many directions from one noise: its rows and columns change sign with the seed, U * (r s^T).

Any two such directions are uncorrelated, number by number, and a sum of B of them is U * (R diag(w) S^T): a product of
rank B times one noise, so that B directions cost one noise pass and a thin product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from zodist import noise
from zodist.direction import Cache, Combination, Law
from zodist.kernels import cpu, matrix
from zodist.matrix import LaidRows
from zodist.params import KINDS, Param, as_words


@dataclass(frozen=True, slots=True)
class Signed(Law):
    """The noise of a seed's base (its low 16 bits zero), times signs keyed by the whole seed.

    law: noise.GAUSSIAN or noise.RADEMACHER, of U.  Signs: roles U (rows) and V (columns).
    """

    law: int

    def lay(self, param: Param, combinations: Sequence[Combination], cache: Cache) -> LaidSigned:
        """Draw the signs of every seed that occurs; all must have one base."""
        seeds = np.unique(np.concatenate([c.seeds for c in combinations]))
        mix = np.zeros((len(combinations), len(seeds)), np.float64)
        for row, c in zip(mix, combinations, strict=True):
            np.add.at(row, np.searchsorted(seeds, c.seeds), c.weights)
        bases = np.unique(seeds & ~np.uint64(noise.CODES - 1))
        if len(bases) > 1:
            raise ValueError(
                f"{len(bases)} bases in one layout of sign-factored directions; they must have one"
            )
        return LaidSigned(
            param, self.law, bases[0] if len(bases) else np.uint64(0), seeds, mix.astype(np.float32)
        )


class LaidSigned(LaidRows):
    """Signs r [seeds, m] and s [seeds, n] of every seed, and its weight in every combination."""

    def __init__(self, param: Param, law: int, key: np.uint64, seeds: np.ndarray, mix: np.ndarray) -> None:
        super().__init__(param)
        self.law, self.key, self.mix = law, key, mix
        self.r, self.s = (
            np.empty((len(seeds), self.rows), np.float32),
            np.empty((len(seeds), self.grain), np.float32),
        )
        for role, out in ((noise.U, self.r), (noise.V, self.s)):
            matrix.noises_serial(noise.RADEMACHER, seeds, np.uint64(param.id), np.uint64(role), out)
        self.still = not mix.any()

    @property
    def weights(self) -> np.ndarray:
        """The weight of seed k in combination k, float32 [seeds]: where every example has a direction of its own."""
        return np.ascontiguousarray(np.diagonal(self.mix))

    def vectors(self, places: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Signs r (times the weight) and s of combinations of one term: float32 [C, m] and [C, n].

        places: the rows that are wanted, if not all.
        """
        r = self.r if places is None else self.r[:, places]
        return r * self.weights[:, None], self.s

    def kernel(self, param: Param, target: tuple, parallel: bool) -> None:
        """One pass over the noise and a product of rank ``seeds``."""
        run = matrix.product_parallel if parallel else matrix.product_serial
        left = np.ascontiguousarray((self.mix[:, :, None] * self.r).transpose(0, 2, 1))
        run(*target, left, self.s[None], self.law, self.key, np.uint64(param.id), np.uint64(noise.Z))

    def write_noise_(
        self, param: Param, rows: torch.Tensor, out: torch.Tensor, *, parallel: bool = False
    ) -> None:
        """Some rows of the shared noise U itself into out, [1, rows, n]."""
        numbers, name = rows.numpy().astype(np.int64), np.uint64(param.id)
        outs = as_words(out).reshape(1, len(numbers), self.grain)
        keys, tables = np.full(1, self.key, np.uint64), np.ones((1, 1, noise.TILE), np.float32)
        nothing = np.zeros(self.grain, np.float32)
        run = matrix.project_parallel if parallel and out.numel() > cpu.SMALL else matrix.project_serial
        target = KINDS[torch.float32], KINDS[out.dtype], np.empty(0, np.uint32), 0, numbers, self.grain, outs
        place = self.law, keys, tables, name, np.uint64(noise.Z)
        run(*target, *place, nothing, np.float32(0), np.float32(1))
