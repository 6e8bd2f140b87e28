"""CPU kernels (numba): perturb into scratch, fused update, digest.

All take weights as flat unsigned words (zodist.kernels.tile) of which word 0 is number ``origin`` of the parameter, so
that a shard gives the bits of the whole.  ``noise`` is a zodist.kernels.tile.Noise: the direction of point p is its
combination p.  ``dress`` is a tuple (shares float32 [points], mean, curvature, below, keep): direction <- direction +
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
    add_signed,
    chunk_of,
    chunks,
    coded_sums,
    compile_tile,
    decode,
    edges,
    encode,
    f32,
    fill,
    round_and_store,
    sign_words,
    stepped,
    tiles_to,
    u32,
    u64,
)

SMALL = 1 << 16  # numbers that one thread handles sooner than a pool wakes
INFINITE = f32(np.inf)
CHUNK = 16  # tiles per parallel task: long enough to hide scheduling, short enough to balance a small matrix


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
def _perturb_tile(kind, out_kind, words, outs, row, at, noise, tile, a, b, dress, lo, room):
    """outs[p, row, at : at + b - a] = words + direction of point p, on places a .. b - 1 of one tile.

    lo: number of the first place within the held range, for the arrays of the dress.
    """
    n, offset, alone = b - a, (tile * TILE) % noise.tables.shape[2], noise.keys.size == 1
    x, totals, z, w = room
    shares, mean, curvature, below, keep = dress
    plain = keep and mean.size == 0 and curvature.size == 0 and below == INFINITE
    if alone and plain and noise.law == RADEMACHER and kind == out_kind and n == TILE:
        sign_words(noise.keys[0], noise.param, noise.role, tile, w)
        for p in range(noise.tables.shape[0]):
            table = noise.tables[p, 0, offset : offset + n]
            add_signed(kind, words, w[0], table, outs[p, row, at : at + n])
        return
    if keep or below < INFINITE:
        decode(kind, words, x)
    if alone:
        fill(noise.law, noise.keys[0], noise.param, noise.role, tile, z, w)
    else:
        coded_sums(noise, tile, a, b, totals, z, w)
    for p in range(noise.tables.shape[0]):
        total = totals[0 if alone else p]
        if alone:
            _multiply(z[a:b], noise.tables[p, 0, offset + a : offset + b], total)
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
def _perturb_range(kind, out_kind, words, origin, lo, hi, outs, row, at, noise, dress, room):
    """outs[p, row, at : at + hi - lo] = numbers lo .. hi - 1 of the parameter at point p."""
    for tile in range(lo // TILE, tiles_to(hi)):
        a, b = edges(tile, lo, hi)
        number = tile * TILE + a
        held, into = number - origin, at + number - lo
        piece = words[held : held + b - a]
        _perturb_tile(kind, out_kind, piece, outs, row, into, noise, tile, a, b, dress, held, room)


def _perturb_rows(kind, out_kind, words, origin, starts, length, outs, noise, dress):
    """outs[p, r, :] = rows of the parameter at point p.  A row is ``length`` numbers from flat index ``starts[r]``."""
    wide = 1 if noise.keys.size == 1 else noise.tables.shape[0]
    for r in prange(starts.size):
        room = np.empty(TILE, f32), np.empty((wide, TILE), f32), np.empty(TILE, f32), np.empty((4, 256), u32)
        lo = starts[r]
        _perturb_range(kind, out_kind, words, origin, lo, lo + length, outs, r, 0, noise, dress, room)


def _perturb(kind, out_kind, words, origin, start, stop, outs, noise, dress):
    """outs[p, 0, :] = numbers start .. stop - 1 of the parameter at point p."""
    wide = 1 if noise.keys.size == 1 else noise.tables.shape[0]
    for chunk in prange(chunks(start, stop, CHUNK)):
        room = np.empty(TILE, f32), np.empty((wide, TILE), f32), np.empty(TILE, f32), np.empty((4, 256), u32)
        lo, hi = chunk_of(chunk, start, stop, CHUNK)
        _perturb_range(kind, out_kind, words, origin, lo, hi, outs, 0, lo - start, noise, dress, room)


@compile_tile
def _update_range(kind, words, origin, lo, hi, noise, dress, decay, round_key, room):
    """words[lo - origin : hi - origin] <- round(words - (decay * words + direction))."""
    x, totals, z, w, bits = room
    shares, mean, curvature, below, _ = dress
    plain = mean.size == 0 and curvature.size == 0 and below == INFINITE
    total = totals[0]
    for tile in range(lo // TILE, tiles_to(hi)):
        a, b = edges(tile, lo, hi)
        held, n = tile * TILE + a - origin, b - a
        piece = words[held : held + n]
        decode(kind, piece, x)
        coded_sums(noise, tile, a, b, totals, z, w)
        if not plain:
            _dress(x[:n], total[:n], shares[0], mean[held : held + n], curvature[held : held + n], below)
        for j in range(n):
            x[j] = stepped(x[j], decay, total[j])
        round_and_store(kind, x, piece, round_key, noise.param, tile, a, b, bits, w)


def _update(kind, words, origin, noise, dress, decay, round_key):
    """words <- round(words - (decay * words + direction of the one combination)): float32 throughout, one rounding."""
    stop = origin + words.size
    for chunk in prange(chunks(origin, stop, CHUNK)):
        x, totals, z = np.empty(TILE, f32), np.empty((1, TILE), f32), np.empty(TILE, f32)
        room = x, totals, z, np.empty((4, 256), u32), np.empty(TILE, np.uint16)
        lo, hi = chunk_of(chunk, origin, stop, CHUNK)
        _update_range(kind, words, origin, lo, hi, noise, dress, decay, round_key, room)


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
