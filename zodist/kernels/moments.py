"""CPU kernel (numba) of moments rebuilt from the seeds and weights of the last steps, without arrays of a model's size.

Each kept step's base noise is filled once a tile; all sums are float32, in the order in which the steps are given.
Serial and parallel forms give the same bits.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from zodist.kernels.cpu import CHUNK, _coded_sum, compile_forms
from zodist.kernels.tile import TILE, ZERO, compile_tile, f32, u32


@compile_tile
def _ratio_tiles(
    start,
    stop,
    out,
    law,
    keys,
    tables,
    first,
    shares,
    squares,
    epsilon,
    factor,
    param,
    role,
    begin,
    end,
    room,
):
    """_ratio on tiles begin .. end - 1."""
    g, m, v, z, w = room
    for tile in range(begin, end):
        lo, hi = max(tile * TILE, start), min(tile * TILE + TILE, stop)
        a, b, n = lo - tile * TILE, hi - tile * TILE, hi - lo
        m[0:n], v[0:n] = ZERO, ZERO
        for step in range(shares.size):
            s, e = first[step], first[step + 1]
            share, square = shares[step], squares[step]
            _coded_sum(law, keys[s:e], tables[s:e], param, role, tile, a, b, g, z, w)
            for j in range(n):
                m[j] = m[j] + share * g[j]
                v[j] = v[j] + square * (g[j] * g[j])
        piece = out[lo - start : hi - start]
        for j in range(n):
            piece[j] = factor * (m[j] / (np.sqrt(v[j]) + epsilon))


def _ratio(start, stop, out, law, keys, tables, first, shares, squares, epsilon, factor, param, role):
    """out[i] = factor * m_i / (sqrt(v_i) + epsilon) on numbers start .. stop - 1 of a parameter, float32.

    m = sum_a shares[a] * g_a and v = sum_a squares[a] * g_a^2; step a's gradient g_a is the coded sum of the bases
    first[a] .. first[a + 1] - 1.  keys uint64 [S], tables float32 [S, L], first int64 [steps + 1].
    """
    first_tile, tiles = start // TILE, (stop + TILE - 1) // TILE - start // TILE
    for chunk in prange((tiles + CHUNK - 1) // CHUNK):
        room = (
            np.empty(TILE, f32),
            np.empty(TILE, f32),
            np.empty(TILE, f32),
            np.empty(TILE, f32),
            np.empty((4, 256), u32),
        )
        begin, end = first_tile + chunk * CHUNK, first_tile + min(tiles, (chunk + 1) * CHUNK)
        moments = law, keys, tables, first, shares, squares, epsilon, factor, param, role
        _ratio_tiles(start, stop, out, *moments, begin, end, room)


ratio_serial, ratio_parallel = compile_forms(_ratio)
