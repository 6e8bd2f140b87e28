"""CPU kernels that multiply coded noise from the left, from the right or from both sides, in one pass over the noise.

The noise N_c [m, n] of combination c is what zodist.kernels.matrix perturbs with; it is never stored.  Products are
float32, with the short sums that each kernel names; everything longer is added in float64 in a fixed order.
"""

from __future__ import annotations

import numpy as np
from numba import prange

from zodist.kernels.cpu import compile_forms
from zodist.kernels.linalg import add_rows
from zodist.kernels.matrix import (
    BLOCK,
    SPANS,
    add_spans,
    coded_row,
    rows_per_span,
    rows_per_task,
)
from zodist.kernels.tile import TILE, ZERO, compile_tile, f32, u32

WIDE_SPANS = 16  # parallel tasks of back: each holds a sum as wide as the matrix
PIECE = 128  # columns of 64 rows: these stay in the first-level cache


@compile_tile
def _sketch_row(t, right, y, total):
    """total = t right, float64 [k]: float32 sums y over 1,024 columns in their order, added in float64."""
    total[:] = 0.0
    for first in range(0, t.size, TILE):
        last = min(t.size, first + TILE)
        y[:] = ZERO
        add_rows(t[first:last], right[first:last], 0, y.size, y)
        for k in range(y.size):
            total[k] = total[k] + np.float64(y[k])


def _sketch(rows, n, noise, right, out):
    """out[c, r] = row rows[r] of the coded noise N_c times right: right [n, k], out float64 [C, R, k].

    Products and sums over 1,024 columns in float32 (right is rounded to it), over these in float64.
    """
    per, v = rows_per_task(n), right.astype(f32)
    for task in prange((rows.size + per - 1) // per):
        t, totals = np.empty((noise.tables.shape[0], n), f32), np.empty((noise.tables.shape[0], TILE), f32)
        y, z, w = np.empty(v.shape[1], f32), np.empty(TILE, f32), np.empty((4, 256), u32)
        held = -1
        for r in range(task * per, min(rows.size, (task + 1) * per)):
            held = coded_row(noise, rows[r] * n, n, t, held, totals, z, w)
            for c in range(noise.tables.shape[0]):
                _sketch_row(t[c], v, y, out[c, r])


def _core(m, n, noise, u, v, out):
    """out[c] = u^T N_c v for the coded noise N_c [m, n]: u [m, k], v [n, l], out float64 [C, k, l].

    N_c v row by row as in sketch; u^T of it in float64, in the order of rows within spans (256 at most), then of spans.
    """
    span, many, right = rows_per_span(m, SPANS), noise.tables.shape[0], v.astype(f32)
    spans, columns = (m + span - 1) // span, np.ascontiguousarray(u.astype(np.float64).T)
    width = right.shape[1]
    parts = np.zeros((spans, many * columns.shape[0], width), np.float64)
    for b in prange(spans):
        t, totals = np.empty((many, n), f32), np.empty((many, TILE), f32)
        y, z, w = np.empty(width, f32), np.empty(TILE, f32), np.empty((4, 256), u32)
        products = np.empty((many, BLOCK, width), np.float64)
        held, stop = -1, min(m, (b + 1) * span)
        for first in range(b * span, stop, BLOCK):
            last = min(stop, first + BLOCK)
            for i in range(first, last):
                held = coded_row(noise, i * n, n, t, held, totals, z, w)
                for c in range(many):
                    _sketch_row(t[c], right, y, products[c, i - first])
            for c in range(many):
                for k in range(columns.shape[0]):
                    block, into = products[c, 0 : last - first], parts[b, c * columns.shape[0] + k]
                    add_rows(columns[k, first:last], block, 0, width, into)
    add_spans(parts, out.reshape(many * columns.shape[0], width))


def _back(m, n, noise, u, out):
    """out[c] = u^T N_c for the coded noise N_c [m, n]: u [m, k], out float64 [C, k, n].

    Products and sums over 64 rows of a span (16 at most) in float32 (u is rounded to it), over these in float64, then
    over spans.
    """
    span, many = rows_per_span(m, WIDE_SPANS), noise.tables.shape[0]
    spans, columns = (m + span - 1) // span, np.ascontiguousarray(u.astype(f32).T)
    parts = np.zeros((spans, many * columns.shape[0], n), np.float64)
    for b in prange(spans):
        t, totals = np.empty((many, n), f32), np.empty((many, TILE), f32)
        y, z, w = np.empty(PIECE, f32), np.empty(TILE, f32), np.empty((4, 256), u32)
        drawn = np.empty((many, BLOCK, n), f32)
        held, stop = -1, min(m, (b + 1) * span)
        for first in range(b * span, stop, BLOCK):
            last = min(stop, first + BLOCK)
            for i in range(first, last):
                held = coded_row(noise, i * n, n, t, held, totals, z, w)
                for c in range(many):
                    drawn[c, i - first] = t[c]
            for c in range(many):
                into = parts[b, c * columns.shape[0] : (c + 1) * columns.shape[0]]
                _back_block(columns, first, last, drawn[c], y, into)
    add_spans(parts, out.reshape(many * columns.shape[0], n))


@compile_tile
def _back_block(columns, first, last, block, y, into):
    """into[k] += sum_i columns[k, first + i] * block[i]: float32 sums of a block of rows, added in float64."""
    n = into.shape[1]
    for left in range(0, n, PIECE):
        right = min(n, left + PIECE)
        for k in range(columns.shape[0]):
            y[:] = ZERO
            add_rows(columns[k, first:last], block[0 : last - first], left, right, y)
            total = into[k, left:right]
            for j in range(right - left):
                total[j] = total[j] + np.float64(y[j])


sketch_serial, sketch_parallel = compile_forms(_sketch)
core_serial, core_parallel = compile_forms(_core)
back_serial, back_parallel = compile_forms(_back)
