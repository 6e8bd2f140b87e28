"""Small linear algebra whose bits depend on nothing but its numbers: float64, fixed order of every sum (numba).

BLAS and LAPACK choose their order of summation by CPU and by number of threads, so that two workers would disagree in
the last bit.  Here a row of a product is the sum of its terms in their order; an inner product is 16 partial sums of
the places j mod 16, folded by halves.  Everything is serial and arranged so that LLVM makes vector code of the inner
loops.  Matrices are C-contiguous.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from zodist.kernels.tile import compile_tile

WIDTH = 1024  # columns of four rows at a time: these, and four rows of the right factor, stay in the first-level cache
PIECE = 256  # columns at a time: the rows that are added up then stay in the second-level cache
DEPENDENT = 1e-10  # a column with less than this part of its length left is a combination of those before it
QUINTIC = (
    3.4445,
    -4.7750,
    2.0315,
)  # Muon's coefficients: steep at 0, so that small singular values grow fast
LIFTS, POLISHES = 10, 60  # quintic steps of msign, and cubic ones at most

_inner = njit(cache=True, nogil=True, error_model="numpy", inline="never")
_outer = njit(cache=True, nogil=True, error_model="numpy")


@_inner
def dot16(a, b):
    """sum_j a_j b_j of two vectors of one type, in that type.

    Lane l adds the places l, l + 16, l + 32 ... in this order, from 0; then lane l += lane l + 8, + 4, + 2, + 1.
    """
    lanes = np.zeros(16, a.dtype)
    # Eight terms of every lane at a time: a lane is then loaded and stored once for eight products.
    for at in range(0, a.size - 127, 128):
        x, y = a[at : at + 128], b[at : at + 128]
        for j in range(16):
            early = lanes[j] + x[j] * y[j] + x[j + 16] * y[j + 16] + x[j + 32] * y[j + 32]
            later = early + x[j + 48] * y[j + 48] + x[j + 64] * y[j + 64] + x[j + 80] * y[j + 80]
            lanes[j] = later + x[j + 96] * y[j + 96] + x[j + 112] * y[j + 112]
    for at in range(a.size // 128 * 128, a.size, 16):
        x, y = a[at : min(at + 16, a.size)], b[at : min(at + 16, a.size)]
        for j in range(x.size):
            lanes[j] = lanes[j] + x[j] * y[j]
    half = 8
    while half:
        for j in range(half):
            lanes[j] += lanes[j + half]
        half //= 2
    return lanes[0]


@compile_tile
def add_rows(c, rows, first, last, total):
    """total[j] += sum_k c[k] * rows[k, first + j] for j < last - first: every number in the order of k.

    c [>= K], rows [K, n] and total [>= last - first] have one type; every product and sum is rounded to it.
    """
    n, count = last - first, rows.shape[0]
    into = total[0:n]
    # Eight terms at a time: the running sum is then loaded and stored once for eight products.
    for k in range(0, count - 7, 8):
        c0, c1, c2, c3, c4, c5, c6, c7 = (
            c[k],
            c[k + 1],
            c[k + 2],
            c[k + 3],
            c[k + 4],
            c[k + 5],
            c[k + 6],
            c[k + 7],
        )
        x0, x1, x2, x3 = (
            rows[k, first:last],
            rows[k + 1, first:last],
            rows[k + 2, first:last],
            rows[k + 3, first:last],
        )
        x4, x5, x6, x7 = (
            rows[k + 4, first:last],
            rows[k + 5, first:last],
            rows[k + 6, first:last],
            rows[k + 7, first:last],
        )
        for j in range(n):
            early = into[j] + c0 * x0[j] + c1 * x1[j] + c2 * x2[j] + c3 * x3[j]
            into[j] = early + c4 * x4[j] + c5 * x5[j] + c6 * x6[j] + c7 * x7[j]
    for k in range(count // 8 * 8, count):
        ck, x = c[k], rows[k, first:last]
        for j in range(n):
            into[j] = into[j] + ck * x[j]


@compile_tile
def add_four(c, rows, first, last, total):
    """total[i * WIDTH + j] += sum_k c[i, k] * rows[k, first + j] for four i and j < last - first, in the order of k.

    Four terms at a time: a number of ``rows`` is then loaded once for four products, and a sum once for four terms.  The
    four sums lie at constant distances in one array because LLVM can then prove that they never overlap.
    """
    n, count = last - first, rows.shape[0]
    c0, c1, c2, c3 = c[0], c[1], c[2], c[3]
    for k in range(0, count - 3, 4):
        a0, a1, a2, a3 = c0[k], c0[k + 1], c0[k + 2], c0[k + 3]
        b0, b1, b2, b3 = c1[k], c1[k + 1], c1[k + 2], c1[k + 3]
        d0, d1, d2, d3 = c2[k], c2[k + 1], c2[k + 2], c2[k + 3]
        e0, e1, e2, e3 = c3[k], c3[k + 1], c3[k + 2], c3[k + 3]
        x0, x1 = rows[k, first:last], rows[k + 1, first:last]
        x2, x3 = rows[k + 2, first:last], rows[k + 3, first:last]
        for j in range(n):
            y0, y1, y2, y3 = x0[j], x1[j], x2[j], x3[j]
            total[j] = total[j] + a0 * y0 + a1 * y1 + a2 * y2 + a3 * y3
            total[j + WIDTH] = total[j + WIDTH] + b0 * y0 + b1 * y1 + b2 * y2 + b3 * y3
            total[j + 2 * WIDTH] = total[j + 2 * WIDTH] + d0 * y0 + d1 * y1 + d2 * y2 + d3 * y3
            total[j + 3 * WIDTH] = total[j + 3 * WIDTH] + e0 * y0 + e1 * y1 + e2 * y2 + e3 * y3
    for k in range(count // 4 * 4, count):
        a, b, d, e, x = c0[k], c1[k], c2[k], c3[k], rows[k, first:last]
        for j in range(n):
            total[j] = total[j] + a * x[j]
            total[j + WIDTH] = total[j + WIDTH] + b * x[j]
            total[j + 2 * WIDTH] = total[j + 2 * WIDTH] + d * x[j]
            total[j + 3 * WIDTH] = total[j + 3 * WIDTH] + e * x[j]


@_outer
def matmul(a, b):
    """The product [m, n] of a [m, k] and b [k, n], float64; every number is a sum in the order of k, from 0."""
    out, four, fours = np.zeros((a.shape[0], b.shape[1])), np.empty(4 * WIDTH), a.shape[0] // 4 * 4
    for first in range(0, b.shape[1], PIECE):
        last = min(first + PIECE, b.shape[1])
        for i in range(0, fours, 4):
            four[:] = 0.0
            add_four(a[i : i + 4], b, first, last, four)
            for k in range(4):
                into, made = out[i + k, first:last], four[k * WIDTH : k * WIDTH + last - first]
                for j in range(into.size):
                    into[j] = made[j]
        for i in range(fours, a.shape[0]):
            add_rows(a[i], b, first, last, out[i, first:last])
    return out


@_outer
def matmul_tn(a, b):
    """The product [m, n] of the transpose of a [k, m] and b [k, n], float64; sums in the order of k, from 0."""
    return matmul(np.ascontiguousarray(a.T), b)


@_outer
def gram(x):
    """The product [r, r] of x [r, n] and its transpose, float64: inner products of rows, see dot16; exactly symmetric."""
    out = np.empty((x.shape[0], x.shape[0]))
    for i in range(x.shape[0]):
        for k in range(i + 1):
            out[i, k] = dot16(x[i], x[k])
            out[k, i] = out[i, k]
    return out


@_outer
def orthonormalise(y):
    """An orthonormal basis of the columns of y [m, r], float64: q [m, r'], r' <= r the rank that was found.

    Gram-Schmidt, modified, column by column; each column goes twice against those before it, which leaves q
    orthogonal to float64's precision however close to dependent the columns are.  A column that has less than
    1e-10 of its length left, or that is 0 or not finite, is left out: column k of q need not belong to column k of y.
    The first entry of r = q^T y that belongs to a kept column is positive, so that the signs are those of y.
    """
    columns = np.ascontiguousarray(y.T)
    kept = np.empty_like(columns)
    rank = 0
    for k in range(columns.shape[0]):
        v = columns[k]
        length = np.sqrt(dot16(v, v))
        for _ in range(2):
            for i in range(rank):
                along, q = dot16(kept[i], v), kept[i]
                for j in range(v.size):
                    v[j] = v[j] - along * q[j]
        left = np.sqrt(dot16(v, v))
        if left > DEPENDENT * length and left < np.inf:
            q = kept[rank]
            for j in range(v.size):
                q[j] = v[j] / left
            rank += 1
    return np.ascontiguousarray(kept[:rank].T)


@_outer
def _step(x, a, b, c):
    """(a + b A + c A A) x with A = x x^T: an odd polynomial of every singular value of x [r, n]."""
    square = gram(x)
    p = matmul(square, square)
    for i in range(p.shape[0]):
        for k in range(p.shape[1]):
            p[i, k] = b * square[i, k] + c * p[i, k]
    moved = matmul(p, x)
    for i in range(x.shape[0]):
        for j in range(x.shape[1]):
            moved[i, j] = a * x[i, j] + moved[i, j]
    return moved


@_outer
def _normalised(g):
    """g, the long way round if it is tall, over its Frobenius norm; 0 stays 0.  float64."""
    x = np.ascontiguousarray(g.T) if g.shape[0] > g.shape[1] else g.copy()
    flat = x.reshape(-1)
    norm = np.sqrt(dot16(flat, flat))
    for j in range(flat.size):
        flat[j] = flat[j] / norm if norm != 0.0 else 0.0
    return x


@_outer
def newton_schulz(g, steps):
    """The zeroth power of g [r, n], about: every singular value near 1 (0.7 to 1.2), the singular vectors kept.

    ``steps`` times (Muon: 5) the quintic 3.4445 x - 4.7750 x^3 + 2.0315 x^5, from g over its Frobenius norm.
    Source: Muon; arXiv:2602.17155.  float64 throughout, where Muon computes in bfloat16 and adds 1e-7 to the norm.
    """
    x = _normalised(g)
    for _ in range(steps):
        x = _step(x, QUINTIC[0], QUINTIC[1], QUINTIC[2])
    return np.ascontiguousarray(x.T) if g.shape[0] > g.shape[1] else x


@_outer
def msign(g, tolerance):
    """The zeroth power u v^T of g = u s v^T [r, n], converged: no number moves by more than ``tolerance`` in a step.

    Ten quintic steps lift small singular values, then x (3 - x^2) / 2 converges quadratically to 1.  Singular values
    below about 1e-11 of the Frobenius norm are left small, for they are roundings of 0.
    """
    x = _normalised(g)
    for _ in range(LIFTS):
        x = _step(x, QUINTIC[0], QUINTIC[1], QUINTIC[2])
    for _ in range(POLISHES):
        y = _step(x, 1.5, -0.5, 0.0)
        most = 0.0
        for i in range(x.shape[0]):
            for j in range(x.shape[1]):
                most = max(most, abs(y[i, j] - x[i, j]))
        x = y
        if not most > tolerance:
            break
    return np.ascontiguousarray(x.T) if g.shape[0] > g.shape[1] else x
