"""CPU kernels (numba): perturb into scratch, fused update, digest.

All take weights as flat unsigned words (zodist.kernels.tile) of which word 0 is number ``origin`` of the parameter, so
that a shard gives the bits of the whole.  ``keys`` are base seeds [S]; ``tables`` are float32 Walsh tables whose length
is a power of two of at least 1,024: the direction of a point is ``sum_s base_s[i] * table_s[i mod length]``, added up in
the order of s.  Each kernel exists serially and in parallel over tiles; both give the same bits.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import numpy as np
from numba import njit, prange

from zodist.kernels.tile import (
    FLOAT32,
    TILE,
    ZERO,
    decode,
    encode,
    encode_stochastic,
    f32,
    fill,
    fill_bits16,
    u32,
    u64,
)

SMALL = 1 << 16  # numbers that one thread handles sooner than a pool wakes
CHUNK = 16  # tiles per parallel task: long enough to hide scheduling, short enough to balance a small matrix


@njit(cache=True, nogil=True, error_model="numpy")
def _coded_sum(law, keys, tables, param, role, tile, a, b, total, z, w):
    """sum_s base_s * table_s on places a .. b - 1 of a tile, into total (float32 [b - a])."""
    offset = (tile * TILE) % tables.shape[1]
    if keys.size == 0:  # an empty combination: the weights themselves
        total[0 : b - a] = ZERO
    for s in range(keys.size):
        fill(law, keys[s], param, role, tile, z, w)
        # Slices first: a loop from 0 needs no wrap-around of negative indices and becomes vector code.
        table, base = tables[s, offset + a : offset + b], z[a:b]
        if s == 0:
            for j in range(b - a):
                total[j] = base[j] * table[j]
        else:
            for j in range(b - a):
                total[j] = total[j] + base[j] * table[j]


@njit(cache=True, nogil=True, error_model="numpy")
def _perturb_tile(
    kind, out_kind, words, outs, row, at, law, keys, tables, param, role, tile, a, b, x, total, z, w
):
    """outs[p, row, at : at + b - a] = words + direction of point p, on places a .. b - 1 of one tile."""
    n = b - a
    decode(kind, words, x)
    if keys.size == 1:
        offset = (tile * TILE) % tables.shape[2]
        fill(law, keys[0], param, role, tile, z, w)
        base = z[a:b]
        for p in range(tables.shape[0]):
            table = tables[p, 0, offset + a : offset + b]
            for j in range(n):
                total[j] = x[j] + base[j] * table[j]
            encode(out_kind, total, outs[p, row, at : at + n])
    else:
        for p in range(tables.shape[0]):
            _coded_sum(law, keys, tables[p], param, role, tile, a, b, total, z, w)
            for j in range(n):
                total[j] = x[j] + total[j]
            encode(out_kind, total, outs[p, row, at : at + n])


def _perturb_rows(kind, out_kind, words, origin, starts, length, outs, law, keys, tables, param, role):
    """outs[p, r, :] = rows of the parameter at point p.  A row is ``length`` numbers from flat index ``starts[r]``."""
    for r in prange(starts.size):
        x, total, z = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32)
        w = np.empty((4, 256), u32)
        start, stop = starts[r], starts[r] + length
        for tile in range(start // TILE, (stop + TILE - 1) // TILE):
            first = tile * TILE
            lo, hi = max(first, start), min(first + TILE, stop)
            piece, a, b = words[lo - origin : hi - origin], lo - first, hi - first
            at = lo - start
            _perturb_tile(
                kind, out_kind, piece, outs, r, at, law, keys, tables, param, role, tile, a, b, x, total, z, w
            )


def _perturb(kind, out_kind, words, origin, start, stop, outs, law, keys, tables, param, role):
    """outs[p, 0, :] = numbers start .. stop - 1 of the parameter at point p."""
    first_tile, tiles = start // TILE, (stop + TILE - 1) // TILE - start // TILE
    for chunk in prange((tiles + CHUNK - 1) // CHUNK):
        x, total, z = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32)
        w = np.empty((4, 256), u32)
        for tile in range(first_tile + chunk * CHUNK, first_tile + min(tiles, (chunk + 1) * CHUNK)):
            first = tile * TILE
            lo, hi = max(first, start), min(first + TILE, stop)
            piece, a, b = words[lo - origin : hi - origin], lo - first, hi - first
            at = lo - start
            _perturb_tile(
                kind, out_kind, piece, outs, 0, at, law, keys, tables, param, role, tile, a, b, x, total, z, w
            )


def _update(kind, words, origin, law, keys, tables, param, role, decay, round_key):
    """words <- round(words * decay - sum_s base_s * table_s): float32 throughout, one rounding."""
    start, stop = origin, origin + words.size
    first_tile, tiles = start // TILE, (stop + TILE - 1) // TILE - start // TILE
    for chunk in prange((tiles + CHUNK - 1) // CHUNK):
        x, total, z = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32)
        w, bits = np.empty((4, 256), u32), np.empty(TILE, np.uint16)
        for tile in range(first_tile + chunk * CHUNK, first_tile + min(tiles, (chunk + 1) * CHUNK)):
            first = tile * TILE
            lo, hi = max(first, start), min(first + TILE, stop)
            a, b = lo - first, hi - first
            piece = words[lo - origin : hi - origin]
            decode(kind, piece, x)
            _coded_sum(law, keys, tables, param, role, tile, a, b, total, z, w)
            for j in range(hi - lo):
                x[j] = x[j] * decay - total[j]
            if kind == FLOAT32:
                encode(kind, x, piece)
            else:
                fill_bits16(round_key, param, tile, bits, w)
                encode_stochastic(kind, x, bits[a:b], piece)


def _update_momentum(
    kind, words, buffer, origin, law, keys, tables, param, role, decay, momentum, lr, round_key
):
    """buffer <- momentum * buffer + direction; words <- round(words * decay - lr * buffer)."""
    start, stop = origin, origin + words.size
    first_tile, tiles = start // TILE, (stop + TILE - 1) // TILE - start // TILE
    for chunk in prange((tiles + CHUNK - 1) // CHUNK):
        x, total, z = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32)
        w, bits = np.empty((4, 256), u32), np.empty(TILE, np.uint16)
        for tile in range(first_tile + chunk * CHUNK, first_tile + min(tiles, (chunk + 1) * CHUNK)):
            first = tile * TILE
            lo, hi = max(first, start), min(first + TILE, stop)
            a, b = lo - first, hi - first
            piece, kept = words[lo - origin : hi - origin], buffer[lo - origin : hi - origin]
            decode(kind, piece, x)
            _coded_sum(law, keys, tables, param, role, tile, a, b, total, z, w)
            for j in range(hi - lo):
                m = momentum * kept[j] + total[j]
                kept[j] = m
                x[j] = x[j] * decay - lr * m
            if kind == FLOAT32:
                encode(kind, x, piece)
            else:
                fill_bits16(round_key, param, tile, bits, w)
                encode_stochastic(kind, x, bits[a:b], piece)


def _digest(words, origin, param):
    """Sum modulo 2**64 of a mix of every weight's word with its address: any order, any cut into shards."""
    total = u64(0)
    salt = u64(param) << u64(32)
    for i in prange(words.size):
        h = (u64(words[i]) ^ salt) + u64(origin + i + 1) * u64(0x9E3779B97F4A7C15)
        h = (h ^ (h >> u64(30))) * u64(0xBF58476D1CE4E5B9)
        h = (h ^ (h >> u64(27))) * u64(0x94D049BB133111EB)
        total += h ^ (h >> u64(31))
    return total


def _compile(function: FunctionType, *, parallel: bool) -> Any:
    """Compile a kernel under a name of its own: numba's disk cache knows functions by name and not by options."""
    name = f"{function.__name__}_{'parallel' if parallel else 'serial'}"
    twin = FunctionType(
        function.__code__, function.__globals__, name, function.__defaults__, function.__closure__
    )
    twin.__qualname__ = name
    return njit(cache=True, nogil=True, error_model="numpy", parallel=parallel)(twin)


perturb_serial, perturb_parallel = (_compile(_perturb, parallel=p) for p in (False, True))
perturb_rows_serial, perturb_rows_parallel = (_compile(_perturb_rows, parallel=p) for p in (False, True))
update_serial, update_parallel = (_compile(_update, parallel=p) for p in (False, True))
update_momentum_serial, update_momentum_parallel = (
    _compile(_update_momentum, parallel=p) for p in (False, True)
)
digest_serial, digest_parallel = (_compile(_digest, parallel=p) for p in (False, True))
