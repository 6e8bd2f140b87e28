"""Exact references for kernels and rules: torch's conversions, float64 roundings, sums as documented."""

from __future__ import annotations

import numpy as np
import torch

from zodist import noise
from zodist.kernels import BFLOAT16, FLOAT16, FLOAT32
from zodist.noise import Z

KINDS = [FLOAT32, BFLOAT16, FLOAT16]
HALVES = [BFLOAT16, FLOAT16]
DTYPES = {FLOAT32: torch.float32, BFLOAT16: torch.bfloat16, FLOAT16: torch.float16}
INFINITY = {BFLOAT16: 0x7F80, FLOAT16: 0x7C00}
PARAM, ROLE, ROUND_KEY = np.uint64(0xDEADBEEF), np.uint64(Z), np.uint64(0xFEEDFACECAFEBEEF)


def random(seed: int) -> np.random.Generator:
    """A stream for test data; what is tested draws from none."""
    return np.random.Generator(np.random.PCG64(seed))


def as_floats(kind: int, words: np.ndarray) -> np.ndarray:
    """torch's reading of weights: float32."""
    return torch.from_numpy(words.copy()).view(DTYPES[kind]).float().numpy()


def to_words(kind: int, x: np.ndarray) -> np.ndarray:
    """torch's rounding of float32."""
    unsigned = torch.uint32 if kind == FLOAT32 else torch.uint16
    return torch.from_numpy(x.copy()).to(DTYPES[kind]).view(unsigned).numpy()


def weights(kind: int, n: int, seed: int = 0) -> np.ndarray:
    """Words of n weights such as models have."""
    return to_words(kind, np.float32(0.05) * random(seed).standard_normal(n, np.float32))


def setting(seed: int, points: int, bases: int, length: int) -> tuple[np.ndarray, np.ndarray]:
    """Keys and tables of some points; a table's entries are of the size of eps."""
    g = random(seed)
    keys = g.integers(0, 2**64, bases, dtype=np.uint64)
    return keys, np.float32(1e-3) * g.standard_normal((points, bases, length), np.float32)


def moves(
    law: int, keys: np.ndarray, tables: np.ndarray, start: int, stop: int, param: int = int(PARAM)
) -> np.ndarray:
    """sum_s noise(key_s)[i] * table_s[i mod length] in float32, in the order of s."""
    index = np.arange(start, stop) % tables.shape[-1]
    total = np.zeros(stop - start, np.float32)
    for s, key in enumerate(keys):
        term = noise.numbers(law, int(key), param, Z, start, stop) * tables[s, index]
        total = term if s == 0 else total + term
    return total


def stepped(x: np.ndarray, decay: float | np.float32, step: np.ndarray) -> np.ndarray:
    """Weights less their share ``decay`` and a step: a product, a sum and a difference in float32."""
    return x - (np.float32(decay) * x + step)


def neighbours(kind: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The word below |x| and how far |x| is from it to the next, in [0, 1): exact.  x finite."""
    grid = as_floats(kind, np.arange(INFINITY[kind]).astype(np.uint16)).astype(np.float64)
    grid = np.append(grid, 2.0 * grid[-1] - grid[-2])  # infinity stands where the next number would be
    magnitude = np.minimum(np.abs(x.astype(np.float64)), grid[-1])
    below = np.searchsorted(grid, magnitude, side="right") - 1
    gap = np.append(np.diff(grid), 1.0)[below]
    return below, (magnitude - grid[below]) / gap


def stochastic(kind: int, x: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Words for finite float32 numbers, rounded stochastically by 16 bits each.  Replays depend on it."""
    below, part = neighbours(kind, x)
    up = part + bits / 65536.0 >= 1.0
    if kind == FLOAT16:  # 13 bits decide; below the smallest normal number the comparison is turned round
        up = np.where(below < 1024, bits / 65536.0 < part, part + (bits >> 3) / 8192.0 >= 1.0)
    return (below + up).astype(np.uint16) | (np.signbit(x).astype(np.uint16) << np.uint16(15))


def dress(
    points: int = 1, *, share: float = 0.0, mean=(), curvature=(), below: float = np.inf, keep: bool = True
):
    """What dresses a direction, as the kernels take it; nothing unless asked for."""
    shares = np.full(points, share, np.float32)
    arrays = np.array(mean, np.float32), np.array(curvature, np.float32)
    return shares, *arrays, np.float32(below), keep
