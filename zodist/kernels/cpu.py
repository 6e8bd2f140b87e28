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
    RADEMACHER,
    TILE,
    ZERO,
    compile_tile,
    decode,
    encode,
    f32,
    fill,
    flip,
    settle,
    sign_words,
    stepped,
    u32,
    u64,
)

SMALL = 1 << 16  # numbers that one thread handles sooner than a pool wakes
INFINITE = f32(np.inf)
CHUNK = 16  # tiles per parallel task: long enough to hide scheduling, short enough to balance a small matrix
SPAN = CHUNK * TILE


@compile_tile
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


@compile_tile
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


@compile_tile
def _perturb_tile(
    kind, out_kind, words, outs, row, at, law, keys, tables, param, role, tile, a, b, dress, lo, room
):
    """outs[p, row, at : at + b - a] = words + direction of point p, on places a .. b - 1 of one tile.

    lo: number of the first place within the held range, for the arrays of the dress.
    """
    n, offset = b - a, (tile * TILE) % tables.shape[2]
    x, total, z, w = room
    shares, mean, curvature, below, keep = dress
    plain = keep and mean.size == 0 and curvature.size == 0 and below == INFINITE
    if keys.size == 1 and plain and law == RADEMACHER and kind == out_kind and n == TILE:
        sign_words(keys[0], param, role, tile, w)
        for p in range(tables.shape[0]):
            flip(kind, words, w[0], tables[p, 0, offset : offset + n], outs[p, row, at : at + n])
        return
    if keep or below < INFINITE:
        decode(kind, words, x)
    if keys.size == 1:
        fill(law, keys[0], param, role, tile, z, w)
    for p in range(tables.shape[0]):
        if keys.size == 1:
            _multiply(z[a:b], tables[p, 0, offset + a : offset + b], total)
        else:
            _coded_sum(law, keys, tables[p], param, role, tile, a, b, total, z, w)
        if not plain:
            _dress(x[:n], total[:n], shares[p], mean[lo : lo + n], curvature[lo : lo + n], below)
        if keep:
            for j in range(n):
                total[j] = x[j] + total[j]
        encode(out_kind, total, outs[p, row, at : at + n])


@compile_tile
def _multiply(base, table, total):
    """total = base * table."""
    for j in range(base.size):
        total[j] = base[j] * table[j]


@compile_tile
def _perturb_range(
    kind, out_kind, words, origin, lo, hi, outs, row, at, law, keys, tables, param, role, dress, room
):
    """outs[p, row, at : at + hi - lo] = numbers lo .. hi - 1 of the parameter at point p."""
    for tile in range(lo // TILE, (hi + TILE - 1) // TILE):
        first = tile * TILE
        a, b = max(first, lo) - first, min(first + TILE, hi) - first
        held, into = first + a - origin, at + first + a - lo
        place = law, keys, tables, param, role, tile, a, b
        piece = words[held : held + b - a]
        _perturb_tile(kind, out_kind, piece, outs, row, into, *place, dress, held, room)


def _perturb_rows(kind, out_kind, words, origin, starts, length, outs, law, keys, tables, param, role, dress):
    """outs[p, r, :] = rows of the parameter at point p.  A row is ``length`` numbers from flat index ``starts[r]``."""
    for r in prange(starts.size):
        room = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32), np.empty((4, 256), u32)
        place, lo = (law, keys, tables, param, role), starts[r]
        _perturb_range(kind, out_kind, words, origin, lo, lo + length, outs, r, 0, *place, dress, room)


def _perturb(kind, out_kind, words, origin, start, stop, outs, law, keys, tables, param, role, dress):
    """outs[p, 0, :] = numbers start .. stop - 1 of the parameter at point p."""
    first = start // SPAN
    for chunk in prange((stop + SPAN - 1) // SPAN - first):
        room = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32), np.empty((4, 256), u32)
        lo, hi = max(start, (first + chunk) * SPAN), min(stop, (first + chunk + 1) * SPAN)
        place, at = (law, keys, tables, param, role), lo - start
        _perturb_range(kind, out_kind, words, origin, lo, hi, outs, 0, at, *place, dress, room)


@compile_tile
def _update_range(kind, words, origin, lo, hi, law, keys, tables, param, role, dress, decay, round_key, room):
    """words[lo - origin : hi - origin] <- round(words - (decay * words + direction))."""
    x, total, z, w, bits = room
    shares, mean, curvature, below, _ = dress
    plain = mean.size == 0 and curvature.size == 0 and below == INFINITE
    for tile in range(lo // TILE, (hi + TILE - 1) // TILE):
        first = tile * TILE
        a, b = max(first, lo) - first, min(first + TILE, hi) - first
        held, n = first + a - origin, b - a
        piece = words[held : held + n]
        decode(kind, piece, x)
        _coded_sum(law, keys, tables, param, role, tile, a, b, total, z, w)
        if not plain:
            _dress(x[:n], total[:n], shares[0], mean[held : held + n], curvature[held : held + n], below)
        for j in range(n):
            x[j] = stepped(x[j], decay, total[j])
        settle(kind, x, piece, round_key, param, tile, a, b, bits, w)


def _update(kind, words, origin, law, keys, tables, param, role, dress, decay, round_key):
    """words <- round(words - (decay * words + direction)): float32 throughout, one rounding."""
    stop, first = origin + words.size, origin // SPAN
    for chunk in prange((stop + SPAN - 1) // SPAN - first):
        x, total, z = np.empty(TILE, f32), np.empty(TILE, f32), np.empty(TILE, f32)
        room = x, total, z, np.empty((4, 256), u32), np.empty(TILE, np.uint16)
        lo, hi = max(origin, (first + chunk) * SPAN), min(stop, (first + chunk + 1) * SPAN)
        place = law, keys, tables, param, role
        _update_range(kind, words, origin, lo, hi, *place, dress, decay, round_key, room)


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
