"""CPU kernels (numba): perturb into scratch, fused update, digest.

All take weights as flat unsigned words (zodist.kernels.tile) of which word 0 is number ``origin`` of the parameter, so
that a shard gives the bits of the whole.  ``keys`` are base seeds [S]; ``tables`` are float32 Walsh tables whose length
is a power of two of at least 1,024: the direction of a point is ``sum_s base_s[i] * table_s[i mod length]``, added up in
the order of s.  ``dress`` is a tuple (shares float32 [points], mean, curvature, below, keep): direction <- direction +
share * mean; direction / sqrt(curvature); 0 where the weight's magnitude is above ``below``; keep: add it to the weights,
else the direction itself is the result.  Mean and curvature are float32 over the held numbers, or empty.
Each kernel exists serially and in parallel over tiles; both give the same bits.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any

import numpy as np
from numba import njit, prange

from zodist.kernels.tile import (
    TILE,
    ZERO,
    decode,
    encode,
    f32,
    fill,
    settle,
    u32,
    u64,
)

SMALL = 1 << 16  # numbers that one thread handles sooner than a pool wakes
INFINITE = f32(np.inf)
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
def _dress(x, total, share, mean, curvature, below):
    """Change a direction's numbers element by element; what an empty array or an infinite bound stands for is skipped."""
    if mean.size:
        for j in range(total.size):
            total[j] = total[j] + share * mean[j]
    if curvature.size:
        for j in range(total.size):
            total[j] = total[j] / np.sqrt(curvature[j])
    if below < INFINITE:
        for j in range(total.size):
            total[j] = total[j] if abs(x[j]) <= below else ZERO


@njit(cache=True, nogil=True, error_model="numpy")
def _perturb_tile(
    kind, out_kind, words, outs, row, at, law, keys, tables, param, role, tile, a, b, dress, lo, room
):
    """outs[p, row, at : at + b - a] = words + direction of point p, on places a .. b - 1 of one tile.

    lo: number of the first place within the held range, for the arrays of the dress.
    """
    n = b - a
    x, total, z, w = room
    decode(kind, words, x)
    shares, mean, curvature, below, keep = dress
    plain = keep and mean.size == 0 and curvature.size == 0 and below == INFINITE
    if keys.size == 1 and plain:
        offset = (tile * TILE) % tables.shape[2]
        fill(law, keys[0], param, role, tile, z, w)
        base = z[a:b]
        for p in range(tables.shape[0]):
            table = tables[p, 0, offset + a : offset + b]
            for j in range(n):
                total[j] = x[j] + base[j] * table[j]
            encode(out_kind, total, outs[p, row, at : at + n])
        return
    if keys.size == 1:
        fill(law, keys[0], param, role, tile, z, w)
    mean_here, curvature_here = _part(mean, lo, n), _part(curvature, lo, n)
    for p in range(tables.shape[0]):
        if keys.size == 1:
            offset = (tile * TILE) % tables.shape[2]
            base, table = z[a:b], tables[p, 0, offset + a : offset + b]
            for j in range(n):
                total[j] = base[j] * table[j]
        else:
            _coded_sum(law, keys, tables[p], param, role, tile, a, b, total, z, w)
        if not plain:
            _dress(x[:n], total[:n], shares[p], mean_here, curvature_here, below)
        if keep:
            for j in range(n):
                total[j] = x[j] + total[j]
        encode(out_kind, total, outs[p, row, at : at + n])


@njit(cache=True, nogil=True, error_model="numpy")
def _part(values, lo, n):
    """n values from lo on; of an empty array, none."""
    return values[lo : lo + n] if values.size else values


def _perturb_rows(kind, out_kind, words, origin, starts, length, outs, law, keys, tables, param, role, dress):
    """outs[p, r, :] = rows of the parameter at point p.  A row is ``length`` numbers from flat index ``starts[r]``."""
    for r in prange(starts.size):
        room = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32), np.empty((4, 256), u32)
        start, stop = starts[r], starts[r] + length
        for tile in range(start // TILE, (stop + TILE - 1) // TILE):
            first = tile * TILE
            lo, hi = max(first, start), min(first + TILE, stop)
            piece, a, b = words[lo - origin : hi - origin], lo - first, hi - first
            at, held = lo - start, lo - origin
            place = law, keys, tables, param, role, tile, a, b
            _perturb_tile(kind, out_kind, piece, outs, r, at, *place, dress, held, room)


def _perturb(kind, out_kind, words, origin, start, stop, outs, law, keys, tables, param, role, dress):
    """outs[p, 0, :] = numbers start .. stop - 1 of the parameter at point p."""
    first_tile, tiles = start // TILE, (stop + TILE - 1) // TILE - start // TILE
    for chunk in prange((tiles + CHUNK - 1) // CHUNK):
        room = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32), np.empty((4, 256), u32)
        for tile in range(first_tile + chunk * CHUNK, first_tile + min(tiles, (chunk + 1) * CHUNK)):
            first = tile * TILE
            lo, hi = max(first, start), min(first + TILE, stop)
            piece, a, b = words[lo - origin : hi - origin], lo - first, hi - first
            at, held = lo - start, lo - origin
            place = law, keys, tables, param, role, tile, a, b
            _perturb_tile(kind, out_kind, piece, outs, 0, at, *place, dress, held, room)


def _update(kind, words, origin, law, keys, tables, param, role, dress, decay, round_key):
    """words <- round(words * decay - direction): float32 throughout, one rounding."""
    start, stop = origin, origin + words.size
    first_tile, tiles = start // TILE, (stop + TILE - 1) // TILE - start // TILE
    shares, mean, curvature, below, _ = dress
    plain = mean.size == 0 and curvature.size == 0 and below == INFINITE
    for chunk in prange((tiles + CHUNK - 1) // CHUNK):
        x, total, z = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32)
        w, bits = np.empty((4, 256), u32), np.empty(TILE, np.uint16)
        for tile in range(first_tile + chunk * CHUNK, first_tile + min(tiles, (chunk + 1) * CHUNK)):
            first = tile * TILE
            lo, hi = max(first, start), min(first + TILE, stop)
            a, b = lo - first, hi - first
            piece, n = words[lo - origin : hi - origin], hi - lo
            decode(kind, piece, x)
            _coded_sum(law, keys, tables, param, role, tile, a, b, total, z, w)
            if not plain:
                at = lo - origin
                _dress(x[:n], total[:n], shares[0], _part(mean, at, n), _part(curvature, at, n), below)
            for j in range(n):
                x[j] = x[j] * decay - total[j]
            settle(kind, x, piece, round_key, param, tile, a, b, bits, w)


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


def compile_forms(function: FunctionType) -> tuple[Any, Any]:
    """A kernel's serial and parallel form."""
    return _compile(function, parallel=False), _compile(function, parallel=True)


perturb_serial, perturb_parallel = compile_forms(_perturb)
perturb_rows_serial, perturb_rows_parallel = compile_forms(_perturb_rows)
update_serial, update_parallel = compile_forms(_update)
digest_serial, digest_parallel = compile_forms(_digest)
