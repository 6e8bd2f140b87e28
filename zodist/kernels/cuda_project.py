"""CUDA kernels (Triton) of noise less its projection on a vector; the bits of zodist.kernels.matrix.project.

A row's inner product is 16 sums, each in the order of its terms, which no program can take from tiles in registers.  So the
noise of some rows is written once as float32, into scratch that stays in the second-level cache, and read twice.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from zodist.kernels.cuda import perturb, perturb_rows
from zodist.kernels.cuda_matrix import SHAPES, spot, weights
from zodist.kernels.cuda_range import EXACT, WARPS, even, offset, parts_of, share_of
from zodist.kernels.cuda_tile import encode
from zodist.kernels.tile import FLOAT32, Noise

SCRATCH = 1 << 22  # numbers of noise at a time, 16 MiB
TOGETHER = 32  # rows whose inner products one program forms
AHEAD = tl.constexpr(8)  # terms of a sum that are loaded before the first is added


@triton.jit(do_not_specialize=["n", "count"])
def _along(noise, vector, out, n: tl.int64, count: tl.int64, rows: tl.constexpr):
    """out[i] = the inner product of row i of noise [count, n] and the vector; see zodist.kernels.linalg.dot16."""
    row = tl.program_id(0).to(tl.int64) * rows + tl.arange(0, rows)
    lane = tl.arange(0, 16)
    there = (row < count)[:, None]
    line = noise + row[:, None] * n + lane[None, :]
    total = tl.zeros([rows, 16], tl.float32)
    for at in range(0, n, 16 * AHEAD):
        for k in tl.static_range(AHEAD):
            inside = at + 16 * k + lane < n
            x = tl.load(line + at + 16 * k, there & inside[None, :], 0.0)
            total = total + x * tl.load(vector + at + 16 * k + lane, inside, 0.0)[None, :]
    # A sum over an axis of two numbers is one addition: lane l takes up lane l + 8, then + 4, + 2, + 1.
    for fold in tl.static_range(4):
        total = tl.sum(tl.reshape(total, [rows, 2, 8 >> fold]), 1)
    tl.store(out + row, tl.reshape(total, [rows]), row < count)


@triton.jit(do_not_specialize=[*SHAPES, "span"])
def _shorten(
    words,
    outs,
    starts,
    start: tl.int64,
    length: tl.int64,
    origin: tl.int64,
    rows: tl.int64,
    parts: tl.int64,
    n: tl.int64,
    noise,
    products,
    vector,
    span: tl.int64,
    points: tl.int32,
    along: tl.float32,
    scale: tl.float32,
    kind: tl.constexpr,
    out_kind: tl.constexpr,
    aligned: tl.constexpr,
):
    """outs[p] = W + scale * (noise[p] - along * products[p, row] * vector).

    span: numbers from one point's result to the next.
    """
    piece, first, tile, j, inside = share_of(starts, start, length, parts, aligned, 1)
    at = tile * 1024
    x = weights(words, kind, offset(at - origin, aligned) + j, inside, j)
    row, column = spot(at, j, n)
    # Rows are counted from the first of those given: neighbours are one piece, others a piece each.
    row = row - first // n + piece
    a, place = tl.load(vector + column, inside, 0.0), offset(piece * length + at - first, aligned) + j
    count = rows * (length // n)
    for p in range(points):
        t = tl.load(noise + p * rows * length + place, inside, 0.0)
        total = x + scale * (t - along * tl.load(products + p * count + row, inside, 0.0) * a)
        tl.store(outs + p * span + place, encode(out_kind, total), inside)


def project(
    kind: int,
    out_kind: int,
    words: torch.Tensor,
    origin: int,
    rows: range | torch.Tensor,
    n: int,
    outs: torch.Tensor,
    noise: Noise,
    vector: torch.Tensor,
    along: Any,
    scale: Any,
) -> None:
    """outs[p, r] = W_row + scale * (t - (along * s) * a), s = t a, t row rows[r] of the coded noise of point p."""
    points, every = len(outs), max(1, SCRATCH // n)
    tables = noise.tables
    dress = (tables.new_zeros(points), tables.new_empty(0), tables.new_empty(0), float("inf"), False)
    for first in range(0, len(rows), every):
        some = rows[first : first + every]
        count = len(some)
        made = torch.empty(points, count, n, device=outs.device)
        wide = made.view(torch.uint32)
        alone = FLOAT32, FLOAT32, wide  # of directions alone, weights are not looked at
        if isinstance(some, range):
            start, pieces = some.start * n, 1
            perturb(*alone, start, start, start + count * n, wide.view(points, 1, -1), noise, dress)
            place = None, start, count * n
        else:
            pieces = count
            perturb_rows(*alone, 0, some * n, n, wide, noise, dress)
            place = some * n, 0, n
        products = torch.empty(points, count, device=outs.device)
        programs = -(-points * count // TOGETHER)
        _along[(programs,)](
            made, vector, products, n, points * count, rows=TOGETHER, num_warps=WARPS, **EXACT
        )
        held, into, parts = words if len(words) else None, outs[:, first:], parts_of(place[2], 1)
        fixed: Any = {"kind": kind, "out_kind": out_kind, "aligned": even(origin, n), "num_warps": WARPS}
        factors = len(rows) * n, points, float(along), float(scale)
        target = held, into, *place, origin, pieces, parts, n, made, products, vector, *factors
        _shorten[(pieces * parts,)](*target, **fixed, **EXACT)
