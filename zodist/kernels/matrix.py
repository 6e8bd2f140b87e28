"""CPU kernels for directions that need a whole matrix: a row minus its projection, a low-rank product, their scores.

A parameter is a row-major matrix [m, n] seen flat: number i * n + j.  Row i's numbers depend on row i alone, so any set
of rows, any shard and any number of threads give the same bits; see zodist.kernels.cpu for words, keys and tables.
A row begins and ends inside tiles of 1,024 numbers: neighbouring rows go together and share the tile that both touch.

Order of sums.  Within a row: 16 partial float32 sums (dot16), or the order of the terms from 0 (add_rows).  Over rows:
float64, row by row within a span, then span by span.  A span is max(64, ceil(m / most)) rows: a function of the
matrix and never of the threads.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from zodist.kernels.cpu import compile_forms
from zodist.kernels.linalg import add_rows, dot16
from zodist.kernels.tile import (
    TILE,
    ZERO,
    Noise,
    coded_sums,
    compile_tile,
    decode,
    edges,
    encode,
    f32,
    fill,
    tiles_to,
    u32,
)

CHUNK = 32  # tiles per parallel task: one of them is made twice, by the neighbour as well
BLOCK = 64  # rows that are summed before a sum leaves the cache
SPANS = 256  # parallel tasks of a sum over rows, at most
BUCKETS = 64  # at least this long are the pieces in which a row is folded


@compile_tile
def rows_per_task(n):
    """Neighbouring rows of n numbers that one task takes."""
    return max(1, CHUNK * TILE // n)


@compile_tile
def rows_per_span(m, most):
    """Rows of one partial sum: at least 64, and so many that there are no more than ``most`` partial sums."""
    return max(BLOCK, (m + most - 1) // most)


@compile_tile
def coded_row(noise, start, n, t, held, totals, z, w):
    """The n coded numbers from ``start`` into t, float32 [C, n].

    ``held`` is the tile that totals holds now, -1 for none.  Returns the tile that it holds afterwards.
    """
    for tile in range(start // TILE, tiles_to(start + n)):
        a, b = edges(tile, start, start + n)
        if tile != held:
            coded_sums(noise, tile, 0, TILE, totals, z, w)
            held = tile
        lo = tile * TILE + a - start
        for c in range(noise.tables.shape[0]):
            into, total = t[c, lo : lo + b - a], totals[c, a:b]
            for j in range(b - a):
                into[j] = total[j]
    return held


@compile_tile
def weights_row(kind, words, origin, start, n, x):
    """The weights of one row as float32; no words at all count as 0."""
    if words.size == 0:
        x[:] = ZERO
    else:
        decode(kind, words[start - origin : start - origin + n], x)


@compile_tile
def _remove(x, t, a, along, scale, total):
    """total = x + scale * (t - along * a)."""
    for j in range(total.size):
        total[j] = x[j] + scale * (t[j] - along * a[j])


def _project(kind, out_kind, words, origin, rows, n, outs, noise, a, c, scale):
    """outs[p, r] = W_row + scale * (t - (c * s) * a), s = dot16(t, a), t row rows[r] of the coded noise of point p.

    a float32 [n]; c and scale float32; float32 in this order, one rounding to out_kind.
    Source: LOREN (arXiv 2511.07971): U - c (U a) a^T.
    """
    per = rows_per_task(n)
    for task in prange((rows.size + per - 1) // per):
        t, totals = np.empty((noise.tables.shape[0], n), f32), np.empty((noise.tables.shape[0], TILE), f32)
        x, total, z, w = np.empty(n, f32), np.empty(n, f32), np.empty(TILE, f32), np.empty((4, 256), u32)
        held = -1
        for r in range(task * per, min(rows.size, (task + 1) * per)):
            start = rows[r] * n
            held = coded_row(noise, start, n, t, held, totals, z, w)
            weights_row(kind, words, origin, start, n, x)
            for p in range(noise.tables.shape[0]):
                _remove(x, t[p], a, c * dot16(t[p], a), scale, total)
                encode(out_kind, total, outs[p, r])


def _product(kind, out_kind, words, origin, rows, n, outs, left, right, noise):
    """outs[p, r] = W_row + factor * sum_k left[p, rows[r], k] * right[p, k, :].

    left float32 [C, m, k] and right float32 [C, k, n], either of them [1, ...] if it is the same for all points; the sum
    in float32 in the order of k, from its first term.  factor: the row of the noise's one combination; law = -1: none (GRZO
    has one).
    """
    per = rows_per_task(n)
    for task in prange((rows.size + per - 1) // per):
        t, totals, z = np.empty((1, n), f32), np.empty((1, TILE), f32), np.empty(TILE, f32)
        x, total, w = np.empty(n, f32), np.empty(n, f32), np.empty((4, 256), u32)
        held = -1
        for r in range(task * per, min(rows.size, (task + 1) * per)):
            start = rows[r] * n
            if noise.law >= 0:
                held = coded_row(noise, start, n, t, held, totals, z, w)
            weights_row(kind, words, origin, start, n, x)
            for p in range(outs.shape[0]):
                c = left[min(p, left.shape[0] - 1), rows[r]]
                _low_rank_row(c, right[min(p, right.shape[0] - 1)], total)
                _join(x, t[0], noise.law >= 0, total)
                encode(out_kind, total, outs[p, r])


@compile_tile
def _low_rank_row(c, right, total):
    """total = sum_k c[k] * right[k], from the first term."""
    if c.size == 0:
        total[:] = ZERO
    else:
        c0, first = c[0], right[0]
        for j in range(total.size):
            total[j] = c0 * first[j]
        add_rows(c[1:], right[1:], 0, total.size, total)


@compile_tile
def _join(x, factor, use, total):
    """total = x + total, the latter times factor if it is used."""
    if use:
        for j in range(total.size):
            total[j] = x[j] + total[j] * factor[j]
    else:
        for j in range(total.size):
            total[j] = x[j] + total[j]


@compile_tile
def _walsh(x, y):
    """Walsh-Hadamard transform of x, float64 of a power of two, in place; y is scratch of its size.

    Every stage adds neighbours and sorts sums before differences: after all stages the order is the natural one.
    """
    half = x.size // 2
    stages = 0
    while 1 << stages < x.size:
        source, into = (x, y) if stages % 2 == 0 else (y, x)
        sums, differences = into[0:half], into[half : 2 * half]
        for j in range(half):
            sums[j] = source[2 * j] + source[2 * j + 1]
            differences[j] = source[2 * j] - source[2 * j + 1]
        stages += 1
    if stages % 2 == 1:
        for j in range(x.size):
            x[j] = y[j]


@compile_tile
def _fold(t, a, start, buckets):
    """buckets[(start + j) mod size] = the sums of t_j a_j, float64, in the order of j."""
    buckets[:] = 0.0
    j = 0
    while j < t.size:
        at = (start + j) % buckets.size
        n = min(buckets.size - at, t.size - j)
        into, x, y = buckets[at : at + n], t[j : j + n], a[j : j + n]
        for i in range(n):
            into[i] = into[i] + np.float64(x[i]) * np.float64(y[i])
        j += n


@compile_tile
def _spread(t, table, start, total):
    """total[j] += t_j * table[(start + j) mod size], float64."""
    j = 0
    while j < t.size:
        at = (start + j) % table.size
        n = min(table.size - at, t.size - j)
        into, x, y = total[j : j + n], t[j : j + n], table[at : at + n]
        for i in range(n):
            into[i] = into[i] + np.float64(x[i]) * y[i]
        j += n


@njit(cache=True, nogil=True, error_model="numpy")  # dot16 owns an array
def _score_row(t, a, start, codes, buckets, scratch, total):
    """One row and one base: total += sum_k w_k y_k U_k, float64 [n].  Returns sum_k w_k y_k^2.

    codes: w, float64 [M]; buckets and scratch: float64 [max(M, 64)].
    """
    size = codes.size
    _fold(t, a, start, buckets)
    half = buckets.size // 2
    while half >= size:  # more buckets than codes: fold on
        for j in range(half):
            buckets[j] += buckets[j + half]
        half //= 2
    y, weighted = buckets[0:size], scratch[0:size]
    _walsh(y, weighted)
    for k in range(size):
        weighted[k] = codes[k] * y[k]
    q = dot16(weighted, y)
    _walsh(weighted, y)
    for at in range(0, buckets.size, size):
        for k in range(size):
            buckets[at + k] = weighted[k]
    _spread(t, buckets, start, total)
    return q


@compile_tile
def add_spans(parts, out):
    """out [r, n] = the sum of parts [spans, r, n] in their order."""
    out[:, :] = 0.0
    for b in range(parts.shape[0]):
        for r in range(out.shape[0]):
            part, into = parts[b, r], out[r]
            for j in range(into.size):
                into[j] = into[j] + part[j]


def _score(m, n, noise, a, weights, out):
    """out[j] = sum_{s,k} w[s,k] sum_i U_{s,k}[i,j] y_{s,k}[i]; returns q = sum_{s,k} w[s,k] sum_i y_{s,k}[i]^2.

    U_{s,k}[i,j] = noise(keys[s])[i * n + j] * (-1)^popcount(k & (i * n + j)) and y_{s,k} = U_{s,k} a: the score of LOREN
    (arXiv 2511.07971) for a Walsh-coded population, one pass over the noise of each key whatever the number of codes.
    the noise's tables: ones [1, S, 1024].  a float32 [n]; weights float64 [S, M], M a power of two above every code, 1 if
    there are none; out float64 [n].  Two transforms of M numbers per row: dear only if M is far above n.  float64
    throughout; order: j within buckets, keys within spans of rows (256 at most), rows within keys.
    """
    span, size = rows_per_span(m, SPANS), max(weights.shape[1], BUCKETS)
    spans = (m + span - 1) // span
    sums, squares = np.zeros((spans, n), np.float64), np.zeros(spans, np.float64)
    for b in prange(spans):
        t, totals, z = np.empty((1, n), f32), np.empty((1, TILE), f32), np.empty(TILE, f32)
        w, buckets, scratch = np.empty((4, 256), u32), np.empty(size, np.float64), np.empty(size, np.float64)
        q = 0.0
        for s in range(noise.keys.size):
            held = -1
            alone = Noise(
                noise.law, noise.keys[s : s + 1], noise.tables[:, s : s + 1], noise.param, noise.role
            )
            for i in range(b * span, min(m, (b + 1) * span)):
                held = coded_row(alone, i * n, n, t, held, totals, z, w)
                q += _score_row(t[0], a, i * n, weights[s], buckets, scratch, sums[b])
        squares[b] = q
    add_spans(sums.reshape(spans, 1, n), out.reshape(1, n))
    q = 0.0
    for b in range(spans):
        q += squares[b]
    return q


def _noises(law, keys, param, role, out):
    """out[s] = the first numbers of one parameter's noise under keys[s]: float32 [S, n]."""
    n = out.shape[1]
    for s in prange(keys.size):
        z, w = np.empty(TILE, f32), np.empty((4, 256), u32)
        for tile in range(0 // TILE, tiles_to(n)):
            _, b = edges(tile, 0, n)
            fill(law, keys[s], param, role, tile, z, w)
            here = out[s, tile * TILE : tile * TILE + b]
            for j in range(b):
                here[j] = z[j]


noises_serial, noises_parallel = compile_forms(_noises)
project_serial, project_parallel = compile_forms(_project)
product_serial, product_parallel = compile_forms(_product)
score_serial, score_parallel = compile_forms(_score)
