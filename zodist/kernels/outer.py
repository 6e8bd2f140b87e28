"""CPU kernels (numba) of outer products of two vectors, with Walsh tables over rows and columns.

Number i * n + j of a row-major matrix [m, n] is left[i] * right[j] * table[i mod A, j mod B], A and B powers of two: in
float32, in this order.  See zodist.kernels.matrix for rows, and zodist.kernels.cpu for words.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from zodist.kernels.cpu import CHUNK, compile_forms
from zodist.kernels.matrix import rows_per_task, weights_row
from zodist.kernels.tile import (
    TILE,
    ZERO,
    chunk_of,
    chunks,
    compile_tile,
    decode,
    edges,
    encode,
    f32,
    round_and_store,
    stepped,
    tiles_to,
    u32,
)


@compile_tile
def _repeat(table, wide):
    """wide[j] = table[j mod size]: copies of copies, since loops over a short table would be short."""
    done = min(table.size, wide.size)
    for j in range(done):
        wide[j] = table[j]
    while done < wide.size:
        more = min(done, wide.size - done)
        into = wide[done : done + more]
        for j in range(more):
            into[j] = wide[j]
        done += more


@compile_tile
def _add_outer(x, factor, right, table, total):
    """total = x + factor * right * table."""
    for j in range(total.size):
        total[j] = x[j] + (factor * right[j]) * table[j]


@compile_tile
def _rank_one_rows(kind, out_kind, words, origin, rows, first, last, n, outs, left, right, tables, room):
    """_rank_one on rows[first:last]."""
    x, wide, total = room
    for r in range(first, last):
        row = rows[r]
        weights_row(kind, words, origin, row * n, n, x)
        for p in range(tables.shape[0]):
            _repeat(tables[p, row % tables.shape[1]], wide)
            _add_outer(x, left[row], right, wide, total)
            encode(out_kind, total, outs[p, r])


def _rank_one(kind, out_kind, words, origin, rows, n, outs, left, right, tables):
    """outs[p, r] = W_row + left[row] * right * T_p, T_p[j] = tables[p, row mod A, j mod B].

    left float32 [m], right float32 [n]; tables float32 [C, A, B].
    """
    per = rows_per_task(n)
    for task in prange((rows.size + per - 1) // per):
        room = np.empty(n, f32), np.empty(n, f32), np.empty(n, f32)
        first, last = task * per, min(rows.size, (task + 1) * per)
        _rank_one_rows(kind, out_kind, words, origin, rows, first, last, n, outs, left, right, tables, room)


@compile_tile
def _subtract_outer(x, decay, factor, right, table):
    """x <- x - (decay * x + factor * right * table).  Adding to 0 first is what writing the direction does to a -0."""
    for j in range(x.size):
        x[j] = stepped(x[j], decay, ZERO + (factor * right[j]) * table[j])


@compile_tile
def _descend_range(kind, words, origin, lo, hi, left, right, table, param, decay, round_key, room):
    """_descend_outer on numbers lo .. hi - 1."""
    x, wide, w, bits = room
    n, held = right.size, -1
    for tile in range(lo // TILE, tiles_to(hi)):
        a, b = edges(tile, lo, hi)
        first = tile * TILE + a
        last, at = first + b - a, first
        piece = words[first - origin : last - origin]
        decode(kind, piece, x)
        while at < last:
            row, column = at // n, at % n
            if row != held:
                _repeat(table[row % table.shape[0]], wide)
                held = row
            stop = min(last, at + n - column)
            after = column + stop - at
            _subtract_outer(
                x[at - first : stop - first], decay, left[row], right[column:after], wide[column:after]
            )
            at = stop
        round_and_store(kind, x, piece, round_key, param, tile, a, b, bits, w)


def _descend_outer(kind, words, origin, left, right, table, param, decay, round_key):
    """words <- round(words - (decay * words + left[row] * right * T)), T as above, of one combination: one rounding.

    words: numbers from ``origin`` on of the matrix [m, n] seen flat; table float32 [A, B].
    """
    stop = origin + words.size
    for chunk in prange(chunks(origin, stop, CHUNK)):
        x, wide = np.empty(TILE, f32), np.empty(right.size, f32)
        room = x, wide, np.empty((4, 256), u32), np.empty(TILE, np.uint16)
        lo, hi = chunk_of(chunk, origin, stop, CHUNK)
        _descend_range(kind, words, origin, lo, hi, left, right, table, param, decay, round_key, room)


rank_one_serial, rank_one_parallel = compile_forms(_rank_one)
descend_outer_serial, descend_outer_parallel = compile_forms(_descend_outer)
