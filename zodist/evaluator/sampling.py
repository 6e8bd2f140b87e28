"""Tokens drawn from a softmax, each by numbers that have an address: nothing depends on what else is drawn.

Gumbel-max: the largest of logits / temperature + Gumbel noise is a draw from the softmax (Maddison, Tarlow, Minka 2014,
arXiv:1411.0030).  Points that differ little then draw the same token but for about the distance of their softmaxes, since
they get the same noise: common random numbers.

The address of a token is a 64-bit key, a number below 2^32 (its example), a sample and its place in the answer.  Entry v of
the vocabulary takes word v div B of block B * place + v mod B, B being a quarter of the vocabulary rounded up to an even
number; the counter's second word is the sample, its third the example, its role zodist.noise.TOKEN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numba import njit

from zodist import noise
from zodist.kernels import philox_blocks, u64


@dataclass(frozen=True, slots=True)
class Address:
    """Of a row that is written on: whose tokens are drawn for what."""

    key: int
    example: int
    sample: int


@njit(cache=True, nogil=True)
def _fill(keys, examples, first, role, out):
    """Words of blocks first[r] .. into row r of out, uint32 [rows, 4, blocks]; blocks even."""
    for row in range(out.shape[0]):
        philox_blocks(keys[row], examples[row], role, first[row], out.shape[2] // 2, out[row])


def words(rows: Sequence[Address], place: int, size: int) -> np.ndarray:
    """A uniform 32-bit word for every row and entry of a vocabulary: uint32 [rows, size]."""
    blocks = 2 * -(-size // 8)
    out = np.empty((len(rows), 4, blocks), np.uint32)
    keys = np.array([row.key for row in rows], np.uint64)
    examples = np.array([row.example for row in rows], np.uint64)
    first = np.array([row.sample << 32 | place * blocks for row in rows], np.uint64)
    _fill(keys, examples, first, u64(noise.TOKEN), out)
    return out.reshape(len(rows), -1)[:, :size]


def gumbel(rows: Sequence[Address], place: int, size: int) -> torch.Tensor:
    """Standard Gumbel noise, float32 [rows, size], from -3.1 to 22.9."""
    uniform = (words(rows, place, size) + 0.5) * 2.0**-32  # float64, strictly between 0 and 1
    return torch.from_numpy((-np.log(-np.log(uniform))).astype(np.float32))


def draw(logits: torch.Tensor, noise: torch.Tensor, temperature: float) -> torch.Tensor:
    """A token for each row, int64 [rows].  logits: float32 [rows, vocabulary]; noise: of ``gumbel``, on the same device."""
    return (logits / temperature + noise).argmax(-1)
