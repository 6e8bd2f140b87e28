"""What low-rank methods share: thin bases that hold for a window of steps, and running means of small arrays."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from zodist import noise
from zodist.directions import Cache, Combination, Dense, Param, factor, matrix_shape
from zodist.methods.claims import Gradients, Moments, averaged, size
from zodist.methods.steps import StepSeeds

_GAUSSIAN = Dense(noise.GAUSSIAN, coded=False)
ONES = np.ones(1, np.float32)  # between the factors of a Product that has nothing there


def is_matrix(param: Param) -> bool:
    """Whether a parameter has factors: two axes or more.  Others get dense directions."""
    return len(param.shape) > 1


class Bases:
    """Two thin matrices for every matrix of weights, which change every ``refresh`` steps (0: never).

    A basis is a function of (run seed, window, parameter, side) alone, and no stream is drawn from, so that probes
    and update cannot disagree about it, in the first step of a window either.  It is derived: made when first asked
    for, kept while the window lasts, and no part of a method's state.  Before any step has begun, it is that of run 0.
    """

    def __init__(self, rank: int, refresh: int, *, orthonormal: bool = False) -> None:
        """orthonormal: the columns are Gaussian ones after Gram-Schmidt; else Gaussian, of variance 1."""
        self._rank, self._refresh, self._orthonormal = rank, refresh, orthonormal
        self._seeds, self.window = StepSeeds(0, 0), 0
        self._made: dict[tuple[int, int], np.ndarray] = {}

    def enter(self, seeds: StepSeeds) -> None:
        """Be in the window of a step."""
        window = seeds.step // self._refresh if self._refresh else 0
        if (seeds.run, window) != (self._seeds.run, self.window):
            self._made.clear()
        self._seeds, self.window = seeds, window

    def rank(self, param: Param) -> int:
        """The rank asked for, or what the matrix allows."""
        return min(self._rank, *matrix_shape(param.shape))

    def left(self, param: Param) -> np.ndarray:
        """Columns along the rows' axis, float32 [rows, rank]."""
        return self._kept(param, noise.U)

    def right(self, param: Param) -> np.ndarray:
        """Columns along the columns' axis, float32 [columns, rank]."""
        return self._kept(param, noise.V)

    def right_of(self, window: int, param: Param) -> np.ndarray:
        """``right`` as it was in another window of the run."""
        return self._make(window, param, noise.V)

    def _kept(self, param: Param, role: int) -> np.ndarray:
        if (param.id, role) not in self._made:
            self._made[param.id, role] = self._make(self.window, param, role)
        return self._made[param.id, role]

    def _make(self, window: int, param: Param, role: int) -> np.ndarray:
        size = matrix_shape(param.shape)[role == noise.V]
        seed = Combination.of((self._seeds.lasting(window), 1.0))
        numbers = factor(_GAUSSIAN, [seed], {}, param.id, role, size, self.rank(param))[0]
        if self._orthonormal:
            return param.kernels.linalg.orthonormalise(numbers.astype(np.float64)).astype(np.float32)
        return numbers


def dense_numbers(dense: Dense, param: Param, gradient: Combination, cache: Cache) -> np.ndarray:
    """A gradient's held numbers for one parameter, float32; for vectors, which are small."""
    out = torch.empty(1, param.weights.numel(), device=param.weights.device)
    laid = dense.lay(param, [gradient], cache)
    laid.write_(param, param.origin, param.origin + param.weights.numel(), out, add=False)
    return out[0].cpu().numpy()


def fade_(mean: np.ndarray, new: np.ndarray, beta: float) -> None:
    """mean <- beta * mean + (1 - beta) * new, every product and sum rounded to float32."""
    mean *= np.float32(beta)
    mean += np.float32(1.0 - beta) * new


def thin_moments(
    params: Sequence[Param],
    bases: Bases,
    gradients: Gradients,
    probes: int,
    own: Callable[[int, int, int], tuple[float, float]],
) -> Moments:
    """``Method.linear_moments`` of Gaussian directions of variance 1 in bases that the probes of a step share.

    own: for a matrix [m, n] with rank r and gradient G, how much E[<G, Z>^2 |Z|^2] is above m n |G|^2, and
    E[<G, Z> <G, Z'> <Z, Z'>] of two probes, both over |G|^2.  Vectors have dense directions: 2, and 1.
    """
    square, numbers = size(gradients)
    one, two = numbers * square, 0.0
    for p in params:
        more, common = own(*matrix_shape(p.shape), bases.rank(p)) if is_matrix(p) else (2.0, 1.0)
        energy = float(np.square(gradients[p.name]).sum())
        one, two = one + more * energy, two + common * energy
    return square, averaged(one, two, probes)
