"""Laws of directions that need a whole matrix: noise minus its projection on a vector, and low-rank products.

All are linear in the noise of their seeds, so a combination of any number of Walsh-coded seeds costs what one costs: its
coded sum is made once and mapped once.  Parameters of more than two axes count as [first axis, all others].
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from zodist import noise
from zodist.directions.direction import Cache, Combination, Dense, Laid, LaidFused, Law, coded_tables
from zodist.directions.param import KINDS, Param, as_words, drawn
from zodist.kernels import FLOAT32, HOST, Noise

Factors = Callable[[Sequence[Combination], Cache], tuple[np.ndarray, np.ndarray]]
NO_WORDS, NO_KEYS = np.empty(0, np.uint32), np.zeros(1, np.uint64)
# The table of a noise as it is.  The kernel of products takes keys and tables in the host's memory on every device.
ONES = np.ones((1, 1, noise.TILE), np.float32)


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """Rows and columns; a vector is one row."""
    return (1, math.prod(shape)) if len(shape) < 2 else (shape[0], math.prod(shape[1:]))


class LaidRows(Laid):
    """Directions that kernels make row by row, whatever rows are asked for."""

    def __init__(self, param: Param) -> None:
        """grain: the numbers of a row."""
        self.rows, self.grain = matrix_shape(param.shape)

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
        """Whole rows: start and stop are multiples of ``grain``."""
        if start % self.grain or stop % self.grain:
            raise ValueError(f"{param.name}: numbers {start} to {stop} are not whole rows of {self.grain}")
        rows = param.kernels.rows(start // self.grain, stop // self.grain)
        self._run(param, rows, out, add, parallel)

    def rows_(self, param: Param, index: torch.Tensor, out: torch.Tensor, *, parallel: bool = False) -> None:
        """Rows that are not named are never touched."""
        self._run(param, param.kernels.view(index), out, True, parallel)

    def _run(self, param: Param, rows: Any, out: torch.Tensor, add: bool, parallel: bool) -> None:
        """Weights and result as the kernels take them."""
        kind, words = (param.kind, param.words) if add else (KINDS[torch.float32], NO_WORDS)
        outs = as_words(out, param.kernels).reshape(len(out), len(rows), self.grain)
        self.kernel(param, (kind, KINDS[out.dtype], words, param.origin, rows, self.grain, outs), parallel)

    @abstractmethod
    def kernel(self, param: Param, target: tuple, parallel: bool) -> None:
        """Run the kernel; target: its first arguments, from the weights' kind to the words of the result."""


@dataclass(frozen=True, eq=False, slots=True)
class Projected(Law):
    """Dense numbers U with every row shortened along a vector: U - along * (U a) a^T.

    vector: a, float32 [columns].  along: float32 [1].  A method may change both in place between steps.
    LOREN (arXiv:2511.07971): rows of covariance (rho I + a a^T)^-1.
    """

    noise: Dense
    vector: np.ndarray
    along: np.ndarray

    @property
    def shape_alone(self) -> bool:
        """Methods keep vectors whole."""
        return True

    def lay(self, param: Param, combinations: Sequence[Combination], cache: Cache) -> LaidProjected:
        """The tables of the dense noise serve every parameter."""
        keys, tables = shared_tables(self.noise, combinations, cache)
        if ("sent", self.noise) not in cache:
            cache["sent", self.noise] = param.kernels.send(keys), param.kernels.send(tables)
        return LaidProjected(param, self, *cache["sent", self.noise])


class LaidProjected(LaidRows):
    """Tables of the noise, and the projection."""

    def __init__(self, param: Param, law: Projected, keys: Any, tables: Any) -> None:
        """keys, tables: as the parameter's kernels take them."""
        super().__init__(param)
        self.law, self.keys, self.tables = law, keys, tables
        self.vector = param.kernels.send(law.vector)

    def kernel(self, param: Param, target: tuple, parallel: bool) -> None:
        """One pass over the noise."""
        run = param.kernels.project.of(numbers_of(target), parallel)
        numbers = drawn(param, self.law.noise.law, self.keys, self.tables)
        run(*target, numbers, self.vector, self.law.along[0])


@dataclass(frozen=True, eq=False, slots=True)
class LowRank(Law):
    """A product of two thin matrices: left [C, rows, r] times right [C, r, columns], float32, C combinations.

    A factor that is the same for all combinations may be given once, as [1, ...].
    factors: makes both from the combinations; its result is linear in their weights.
    """

    factors: Factors

    @property
    def shape_alone(self) -> bool:
        """Methods keep factors whole."""
        return True

    def lay(self, param: Param, combinations: Sequence[Combination], cache: Cache) -> LaidLowRank:
        """Form the factors."""
        return LaidLowRank(param, *self.factors(combinations, cache))


class LaidLowRank(LaidRows, LaidFused):
    """The factors of every combination."""

    def __init__(self, param: Param, left: np.ndarray, right: np.ndarray) -> None:
        super().__init__(param)
        self.left, self.right = (
            param.kernels.send(np.ascontiguousarray(f, np.float32)) for f in (left, right)
        )

    def times(self, x: torch.Tensor, *, transpose: bool, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """The two thin operands with which x [c, rows, k] is multiplied to get x D^T (transpose) or x D.

        start: the number of the first of these c combinations.
        Returns x times the first factor, [c, rows, r], and the second factor, [c, r, out], in x's dtype.
        """
        points = len(x)
        factors = (f if len(f) == 1 else f[start : start + points] for f in (self.left, self.right))
        left, right = (torch.as_tensor(f).to(x.dtype) for f in factors)
        first, second = (right.transpose(1, 2), left.transpose(1, 2)) if transpose else (left, right)
        return torch.bmm(x, first.expand(points, -1, -1)), second.expand(points, -1, -1)

    def kernel(self, param: Param, target: tuple, parallel: bool) -> None:
        """One pass over the rows."""
        run = param.kernels.product.of(numbers_of(target), parallel)
        run(
            *target, self.left, self.right, drawn(param, -1, NO_KEYS, ONES)
        )  # a product alone, times no noise

    def update_(
        self, param: Param, decay: np.float32, rounding: np.uint64, *, parallel: bool = False
    ) -> None:
        """The product is made on the way."""
        run = param.kernels.descend.of(param.weights.numel(), parallel)
        left, right, name = self.left[0], self.right[0], np.uint64(param.id)
        run(param.kind, param.words, param.origin, left, right, name, decay, rounding)


def numbers_of(target: tuple) -> int:
    """How many numbers a kernel makes.  target: as ``LaidRows.kernel`` is given it."""
    return math.prod(target[-1].shape)


def shared_tables(
    dense: Dense, combinations: Sequence[Combination], cache: Cache
) -> tuple[np.ndarray, np.ndarray]:
    """Base seeds and Walsh tables of a noise, made once for all parameters."""
    if ("tables", dense) not in cache:
        cache["tables", dense] = coded_tables(dense, combinations)
    return cache["tables", dense]


def factor(
    dense: Dense, combinations: Sequence[Combination], cache: Cache, name: int, role: int, *shape: int
) -> np.ndarray:
    """The combinations' sums of a small array of noise, float32 [C, *shape], at a parameter's address and a role."""
    keys, tables = shared_tables(dense, combinations, cache)
    size = math.prod(shape)
    out = np.empty((len(combinations), 1, size), np.uint32)
    dress = np.zeros(len(combinations), np.float32), np.empty(0, np.float32), np.empty(0, np.float32)
    words, numbers = (
        np.zeros(size, np.uint32),
        Noise(dense.law, keys, tables, np.uint64(name), np.uint64(role)),
    )
    run = HOST.perturb.of(size, False)
    run(FLOAT32, FLOAT32, words, 0, 0, size, out, numbers, (*dress, np.float32(np.inf), False))
    return out.view(np.float32).reshape(len(combinations), *shape)
