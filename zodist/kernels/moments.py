"""CPU kernel (numba) of moments rebuilt from the seeds and weights of the last steps, without arrays of a model's size.

Each kept step's base noise is filled once a tile; all sums are float32, in the order in which the steps are given.
Serial and parallel forms give the same bits.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from zodist.kernels.cpu import CHUNK, compile_forms
from zodist.kernels.tile import (
    TILE,
    ZERO,
    Noise,
    chunk_of,
    chunks,
    coded_sums,
    compile_tile,
    edges,
    f32,
    tiles_to,
    u32,
)


@compile_tile
def _ratio_range(start, out, noise, first, shares, squares, epsilon, factor, lo, hi, room):
    """_ratio on numbers lo .. hi - 1."""
    totals, m, v, z, w = room
    g = totals[0]
    for tile in range(lo // TILE, tiles_to(hi)):
        a, b = edges(tile, lo, hi)
        at, n = tile * TILE + a - start, b - a
        m[0:n], v[0:n] = ZERO, ZERO
        for step in range(shares.size):
            s, e = first[step], first[step + 1]
            share, square = shares[step], squares[step]
            kept = Noise(noise.law, noise.keys[s:e], noise.tables[:, s:e], noise.param, noise.role)
            coded_sums(kept, tile, a, b, totals, z, w)
            for j in range(n):
                m[j] = m[j] + share * g[j]
                v[j] = v[j] + square * (g[j] * g[j])
        piece = out[at : at + n]
        for j in range(n):
            piece[j] = factor * (m[j] / (np.sqrt(v[j]) + epsilon))


def _ratio(start, stop, out, noise, first, shares, squares, epsilon, factor):
    """out[i] = factor * m_i / (sqrt(v_i) + epsilon) on numbers start .. stop - 1 of a parameter, float32.

    m = sum_a shares[a] * g_a and v = sum_a squares[a] * g_a^2; step a's gradient g_a is the coded sum of the bases
    first[a] .. first[a + 1] - 1 of the noise, whose tables are [1, S, L].  first: int64 [steps + 1].
    """
    for chunk in prange(chunks(start, stop, CHUNK)):
        m, v, z = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32)
        room = np.empty((1, TILE), f32), m, v, z, np.empty((4, 256), u32)
        lo, hi = chunk_of(chunk, start, stop, CHUNK)
        _ratio_range(start, out, noise, first, shares, squares, epsilon, factor, lo, hi, room)


ratio_serial, ratio_parallel = compile_forms(_ratio)
