"""Products of dense noise with thin matrices, in one pass over the noise of all combinations, which is never stored.

N_c [m, n] is the noise of combination c for one parameter, seen as a matrix.  Results are float64 in the host's memory, in
orders of summation that zodist.kernels.sketch states; what goes in is rounded to float32.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from zodist import noise
from zodist.directions.direction import Dense
from zodist.directions.matrix import matrix_shape
from zodist.directions.param import Param, drawn
from zodist.kernels import Noise


class Coded(NamedTuple):
    """Some combinations of a dense noise.  keys, tables: see zodist.directions.coded_tables."""

    noise: Dense
    keys: np.ndarray
    tables: np.ndarray

    def of(self, param: Param) -> Noise:
        """The numbers of one parameter, for kernels of the host."""
        return drawn(param, self.noise.law, self.keys, self.tables)


def core(coded: Coded, param: Param, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """left^T N_c right: [C, k, l], of left [m, k] and right [n, l]."""
    out = np.empty((len(coded.tables), left.shape[1], right.shape[1]), np.float64)
    rows, columns = matrix_shape(param.shape)
    run = param.kernels.core.of(rows * columns)
    run(
        rows,
        columns,
        coded.of(param),
        left.astype(np.float32),
        right.astype(np.float32),
        out,
    )
    return out


def times(coded: Coded, param: Param, right: np.ndarray) -> np.ndarray:
    """N_c right: [C, m, k], of right [n, k]."""
    rows, columns = matrix_shape(param.shape)
    out = np.empty((len(coded.tables), rows, right.shape[1]), np.float64)
    run = param.kernels.sketch.of(rows * columns)
    run(
        np.arange(rows, dtype=np.int64),
        columns,
        coded.of(param),
        right.astype(np.float32),
        out,
    )
    return out


def back(coded: Coded, param: Param, left: np.ndarray) -> np.ndarray:
    """left^T N_c: [C, k, n], of left [m, k]."""
    rows, columns = matrix_shape(param.shape)
    out = np.empty((len(coded.tables), left.shape[1], columns), np.float64)
    run = param.kernels.back.of(rows * columns)
    run(rows, columns, coded.of(param), left.astype(np.float32), out)
    return out


def plain(dense: Dense, keys: np.ndarray, param: Param) -> Noise:
    """The base noises of some keys as they are, for kernels of the host: all in one combination, with tables of ones."""
    ones = np.ones((1, len(keys), noise.TILE), np.float32)
    return drawn(param, dense.law, keys, ones)
