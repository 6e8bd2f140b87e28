"""CPU kernel (numba) that moves a matrix of weights along a product of two thin matrices, in one pass over the weights.

The product is never stored: a task makes ``CHUNK`` tiles of it, four rows at a time, and moves these weights at once.
Order of sums: float32, in the order of the terms, as in zodist.kernels.matrix; every number is a sum of its own, so that
no cut, shard or number of threads shows.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from zodist.kernels.cpu import compile_forms
from zodist.kernels.linalg import WIDTH, add_four, add_rows
from zodist.kernels.tile import (
    TILE,
    ZERO,
    chunk_of,
    chunks,
    compile_tile,
    decode,
    edges,
    f32,
    round_and_store,
    stepped,
    tiles_to,
    u32,
)

CHUNK = 32  # tiles per task: their numbers, 128 KiB, stay in the second-level cache


@compile_tile
def _product_range(left, right, start, total, four):
    """total = the numbers from ``start`` on of left @ right, seen flat: left [m, r], right [r, n]; four: scratch."""
    n, at = right.shape[1], 0
    while at < total.size:
        row, column = (start + at) // n, (start + at) % n
        if column == 0 and total.size - at >= 4 * n:
            for first in range(0, n, WIDTH):
                last = min(first + WIDTH, n)
                four[:] = ZERO
                add_four(left[row : row + 4], right, first, last, four)
                for i in range(4):
                    into, made = (
                        total[at + i * n + first : at + i * n + last],
                        four[i * WIDTH : i * WIDTH + last - first],
                    )
                    for j in range(into.size):
                        into[j] = made[j]
            at += 4 * n
        else:
            part = total[at : at + min(n - column, total.size - at)]
            part[:] = ZERO
            add_rows(left[row], right, column, column + part.size, part)
            at += part.size


@compile_tile
def _descend_range(kind, words, origin, left, right, param, decay, round_key, lo, hi, room):
    """_descend on numbers lo .. hi - 1."""
    buffer, four, x, w, bits = room
    total = buffer[0 : hi - lo]
    _product_range(left, right, lo, total, four)
    for tile in range(lo // TILE, tiles_to(hi)):
        a, b = edges(tile, lo, hi)
        number, n = tile * TILE + a, b - a
        piece, move = words[number - origin : number - origin + n], total[number - lo : number - lo + n]
        decode(kind, piece, x)
        for j in range(n):
            x[j] = stepped(x[j], decay, move[j])
        round_and_store(kind, x, piece, round_key, param, tile, a, b, bits, w)


def _descend(kind, words, origin, left, right, param, decay, round_key):
    """words <- round(words - (decay * words + left @ right)): float32 throughout, one rounding.

    words: numbers from ``origin`` on of the matrix [m, n] seen flat; left float32 [m, r], right float32 [r, n].
    """
    stop = origin + words.size
    for chunk in prange(chunks(origin, stop, CHUNK)):
        lo, hi = chunk_of(chunk, origin, stop, CHUNK)
        total, four = np.empty(hi - lo, f32), np.empty(4 * WIDTH, f32)
        room = total, four, np.empty(TILE, f32), np.empty((4, 256), u32), np.empty(TILE, np.uint16)
        _descend_range(kind, words, origin, left, right, param, decay, round_key, lo, hi, room)


descend_serial, descend_parallel = compile_forms(_descend)
