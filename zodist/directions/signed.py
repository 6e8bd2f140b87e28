"""A law of many directions from one noise: its rows and columns change sign with the seed, U * (r s^T).

Any two such directions are uncorrelated, number by number, and a sum of B of them is U * (R diag(w) S^T): a product of
rank B times one noise, so that B directions cost one noise pass and a thin product.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zodist import noise
from zodist.directions.direction import Cache, Combination, Law
from zodist.directions.matrix import NO_WORDS, ONES, LaidRows, numbers_of
from zodist.directions.param import KINDS, Param, as_words, drawn
from zodist.kernels import Noise


@dataclass(frozen=True, slots=True)
class Signed(Law):
    """The noise of a seed's base (its low 16 bits zero), times signs keyed by the whole seed.

    law: noise.GAUSSIAN or noise.RADEMACHER, of U.  Signs: roles U (rows) and V (columns).
    """

    law: int

    @property
    def shape_alone(self) -> bool:
        """Signs have addresses."""
        return True

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
        kernels, name = param.kernels, np.uint64(param.id)
        self.law, self.mix = law, kernels.send(mix)
        self.keys = np.array([key], np.uint64)
        self.r, self.s = (kernels.empty((len(seeds), n)) for n in (self.rows, self.grain))
        keys = kernels.send(seeds)
        for role, out in ((noise.U, self.r), (noise.V, self.s)):
            kernels.noises.serial(noise.RADEMACHER, keys, name, np.uint64(role), out)
        self.still = not mix.any()

    def vectors(self, places: Any = None) -> tuple[Any, Any]:
        """Signs r (times the weight) and s of combinations of one term: float32 [C, m] and [C, n].

        places: the rows that are wanted, if not all.  Arrays as the kernels take them.
        """
        r = self.r if places is None else self.r[:, places]
        return r * self.mix.diagonal()[:, None], self.s

    def kernel(self, param: Param, target: tuple, parallel: bool) -> None:
        """One pass over the noise and a product of rank ``seeds``."""
        left = param.kernels.empty((len(self.mix), self.rows, len(self.r)))
        left[:] = self.mix[:, None, :] * self.r.T[None]
        run = param.kernels.product.of(numbers_of(target), parallel)
        run(*target, left, self.s[None], self.noise(param))

    def write_noise_(
        self, param: Param, rows: torch.Tensor, out: torch.Tensor, *, parallel: bool = False
    ) -> None:
        """Some rows of the shared noise U itself into out, [1, rows, n]."""
        kernels = param.kernels
        outs = as_words(out, kernels).reshape(1, len(rows), self.grain)
        left, right = kernels.empty((1, self.rows, 1)), kernels.empty((1, 1, self.grain))
        left[:], right[:] = 1.0, 1.0
        target = KINDS[torch.float32], KINDS[out.dtype], NO_WORDS, 0, kernels.view(rows), self.grain, outs
        kernels.product.of(out.numel(), parallel)(*target, left, right, self.noise(param))

    def noise(self, param: Param) -> Noise:
        """The numbers U of one parameter, for the kernels."""
        return drawn(param, self.law, self.keys, ONES)
