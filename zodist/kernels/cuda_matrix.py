"""CUDA kernels (Triton) of directions that need a whole matrix: outer products, thin products, sign-changed noise.

The bits of zodist.kernels.matrix and zodist.kernels.low_rank.  Rows are a ``range`` of neighbours, which goes through the
kernel as one flat piece, or a tensor of row numbers.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from zodist.kernels.cuda import NUMBERS, base
from zodist.kernels.cuda_range import EXACT, WARPS, even, offset, parts_of, share_of
from zodist.kernels.cuda_tile import decode, encode, fill, settle, stepped
from zodist.kernels.tile import Noise

SHAPES = [*NUMBERS, "n", "folds", "rank", "lefts", "rights", "key"]


@triton.jit
def spot(at, j, n):
    """Row and column, in a matrix of n columns, of the numbers at + j; 32 bits where that does, since division is dear."""
    above, short = at // n, n.to(tl.int32)
    along = (at - above * n).to(tl.int32) + j
    down = along // short
    return above + down, along - down * short


@triton.jit
def weights(words, kind: tl.constexpr, held, inside, j):
    """The weights as float32; no words at all count as 0."""
    if words is None:
        return tl.zeros_like(j).to(tl.float32)
    else:
        return decode(kind, tl.load(words + held, inside, 0))


@triton.jit(do_not_specialize=SHAPES)
def _rank_one(
    words,
    outs,
    starts,
    start: tl.int64,
    length: tl.int64,
    origin: tl.int64,
    rows: tl.int64,
    parts: tl.int64,
    n: tl.int64,
    left,
    right,
    tables,
    folds: tl.int64,
    period: tl.int32,
    points: tl.int32,
    kind: tl.constexpr,
    out_kind: tl.constexpr,
    aligned: tl.constexpr,
):
    """outs[p] = W + left[row] * right[column] * tables[p, row mod folds, column mod period]."""
    piece, first, tile, j, inside = share_of(starts, start, length, parts, aligned, 1)
    at = tile * 1024
    x = weights(words, kind, offset(at - origin, aligned) + j, inside, j)
    row, column = spot(at, j, n)
    outer = tl.load(left + row, inside, 0.0) * tl.load(right + column, inside, 0.0)
    place = (row & (folds - 1)) * period + (column & (period - 1))
    for p in range(points):
        total = x + outer * tl.load(tables + p * folds * period + place, inside, 0.0)
        into = outs + offset((p * rows + piece) * length + at - first, aligned) + j
        tl.store(into, encode(out_kind, total), inside)


@triton.jit
def thin_sum(total, left, right, begin, rank, n, row, column, inside):
    """total + sum_k left[row, k] * right[k, column] for k = begin .. rank - 1, in this order."""
    for k in range(begin, rank):
        total = total + tl.load(left + row * rank + k, inside, 0.0) * tl.load(
            right + k * n + column, inside, 0.0
        )
    return total


@triton.jit(do_not_specialize=SHAPES)
def _product(
    words,
    outs,
    starts,
    start: tl.int64,
    length: tl.int64,
    origin: tl.int64,
    rows: tl.int64,
    parts: tl.int64,
    n: tl.int64,
    left,
    right,
    lefts: tl.int64,
    rights: tl.int64,
    rank: tl.int32,
    points: tl.int32,
    key: tl.uint64,
    param: tl.uint32,
    role: tl.uint32,
    kind: tl.constexpr,
    out_kind: tl.constexpr,
    law: tl.constexpr,
    some: tl.constexpr,
    aligned: tl.constexpr,
):
    """outs[p] = W + factor * sum_k left[p, row, k] * right[p, k, column]; factor: the noise of key, none for law -1.

    lefts, rights: numbers from one point's factor to the next's, 0 if they share one.  some: whether rank is above 0.
    """
    piece, first, tile, j, inside = share_of(starts, start, length, parts, aligned, 1)
    at = tile * 1024
    x = weights(words, kind, offset(at - origin, aligned) + j, inside, j)
    row, column = spot(at, j, n)
    if law >= 0:
        factor = fill(law, key.to(tl.uint64), param, role, tile, 1)
    for p in range(points):
        own, across = left + p * lefts, right + p * rights
        total = tl.zeros_like(x)
        if some:
            total = tl.load(own + row * rank, inside, 0.0) * tl.load(across + column, inside, 0.0)
            total = thin_sum(total, own, across, 1, rank, n, row, column, inside)
        if law >= 0:
            total = total * factor
        into = outs + offset((p * rows + piece) * length + at - first, aligned) + j
        tl.store(into, encode(out_kind, x + total), inside)


@triton.jit(do_not_specialize=SHAPES)
def _descend(
    words,
    length: tl.int64,
    origin: tl.int64,
    n: tl.int64,
    left,
    right,
    rank: tl.int32,
    param: tl.uint32,
    decay: tl.float32,
    round_key: tl.uint64,
    kind: tl.constexpr,
    aligned: tl.constexpr,
):
    """words <- round(words - (decay * words + left @ right)): float32 throughout, one rounding."""
    _, _, tile, j, inside = share_of(None, origin, length, tl.num_programs(0), aligned, 1)
    at = tile * 1024
    held = offset(at - origin, aligned) + j
    x = decode(kind, tl.load(words + held, inside, 0))
    row, column = spot(at, j, n)
    total = thin_sum(tl.zeros_like(x), left, right, 0, rank, n, row, column, inside)
    tl.store(words + held, settle(kind, stepped(x, decay, total), round_key, param, tile, 1), inside)


@triton.jit(do_not_specialize=SHAPES)
def _descend_outer(
    words,
    length: tl.int64,
    origin: tl.int64,
    n: tl.int64,
    left,
    right,
    table,
    folds: tl.int64,
    period: tl.int32,
    param: tl.uint32,
    decay: tl.float32,
    round_key: tl.uint64,
    kind: tl.constexpr,
    aligned: tl.constexpr,
):
    """words <- round(words - (decay * words + left[row] * right[column] * table[row mod folds, column mod period]))."""
    _, _, tile, j, inside = share_of(None, origin, length, tl.num_programs(0), aligned, 1)
    at = tile * 1024
    held = offset(at - origin, aligned) + j
    x = decode(kind, tl.load(words + held, inside, 0))
    row, column = spot(at, j, n)
    outer = tl.load(left + row, inside, 0.0) * tl.load(right + column, inside, 0.0)
    place = (row & (folds - 1)) * period + (column & (period - 1))
    total = tl.zeros_like(x) + outer * tl.load(
        table + place, inside, 0.0
    )  # from 0, as where it is written first
    tl.store(words + held, settle(kind, stepped(x, decay, total), round_key, param, tile, 1), inside)


@triton.jit(do_not_specialize=SHAPES)
def _noises(
    out, length: tl.int64, parts: tl.int64, keys, param: tl.uint32, role: tl.uint32, law: tl.constexpr
):
    """out[s] = the first numbers of one parameter's noise under keys[s]."""
    s, tile = tl.program_id(0).to(tl.int64) // parts, tl.program_id(0).to(tl.int64) % parts
    at = tile * 1024 + tl.arange(0, 1024)
    tl.store(out + s * length + at, base(law, keys, s, param, role, tile, 1), at < length)


def _place(
    words: torch.Tensor, origin: int, rows: range | torch.Tensor, n: int, outs: torch.Tensor
) -> tuple | None:
    """The first arguments of a kernel and the number of its programs; None: there is nothing to do."""
    if isinstance(rows, range):
        starts, start, length, count = None, rows.start * n, len(rows) * n, 1
    else:
        starts, start, length, count = rows * n, 0, n, len(rows)
    parts = parts_of(length, 1)
    if 0 in (length, count):
        return None
    held = words if len(words) else None
    return (held, outs, starts, start, length, origin, count, parts, n), count * parts


def rank_one(
    kind: int,
    out_kind: int,
    words: torch.Tensor,
    origin: int,
    rows: range | torch.Tensor,
    n: int,
    outs: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    tables: torch.Tensor,
) -> None:
    """outs[p, r] = W_row + left[row] * right * T_p, T_p[j] = tables[p, row mod A, j mod B]."""
    found = _place(words, origin, rows, n, outs)
    if found is not None:
        place, programs = found
        points, folds, period = tables.shape
        fixed: Any = {"kind": kind, "out_kind": out_kind, "aligned": even(origin, n), "num_warps": WARPS}
        _rank_one[(programs,)](*place, left, right, tables, folds, period, points, **fixed, **EXACT)


def product(
    kind: int,
    out_kind: int,
    words: torch.Tensor,
    origin: int,
    rows: range | torch.Tensor,
    n: int,
    outs: torch.Tensor,
    left: torch.Tensor,
    right: torch.Tensor,
    noise: Noise,
) -> None:
    """outs[p, r] = W_row + factor * sum_k left[p, rows[r], k] * right[p, k, :], see zodist.kernels.matrix."""
    found = _place(words, origin, rows, n, outs)
    if found is not None:
        place, programs = found
        lefts, rights = (0 if len(f) == 1 else f[0].numel() for f in (left, right))
        rank, numbers = right.shape[1], (int(noise.keys[0]), int(noise.param), int(noise.role))
        fixed: Any = {"kind": kind, "out_kind": out_kind, "aligned": even(origin, n), "num_warps": WARPS}
        fixed |= {"law": noise.law, "some": rank > 0}
        _product[(programs,)](*place, left, right, lefts, rights, rank, len(outs), *numbers, **fixed, **EXACT)


def descend(
    kind: int,
    words: torch.Tensor,
    origin: int,
    left: torch.Tensor,
    right: torch.Tensor,
    param: Any,
    decay: Any,
    round_key: Any,
) -> None:
    """words <- round(words - (decay * words + left @ right)); left float32 [m, r], right float32 [r, n]."""
    length, (rank, n) = len(words), right.shape
    if length:
        fixed: Any = {"kind": kind, "aligned": even(origin, length), "num_warps": WARPS}
        numbers = rank, int(param), float(decay), int(round_key)
        _descend[(parts_of(length, 1),)](words, length, origin, n, left, right, *numbers, **fixed, **EXACT)


def descend_outer(
    kind: int,
    words: torch.Tensor,
    origin: int,
    left: torch.Tensor,
    right: torch.Tensor,
    table: torch.Tensor,
    param: Any,
    decay: Any,
    round_key: Any,
) -> None:
    """words <- round(words - (decay * words + left[row] * right * T)), T as zodist.kernels.outer has it."""
    length = len(words)
    if length:
        fixed: Any = {"kind": kind, "aligned": even(origin, length), "num_warps": WARPS}
        numbers = *table.shape, int(param), float(decay), int(round_key)
        place = words, length, origin, len(right), left, right, table
        _descend_outer[(parts_of(length, 1),)](*place, *numbers, **fixed, **EXACT)


def noises(law: int, keys: torch.Tensor, param: Any, role: Any, out: torch.Tensor) -> None:
    """out[s] = the first numbers of one parameter's noise under keys[s]: float32 [S, n]."""
    parts = parts_of(out.shape[1], 1)
    if out.numel():
        grid = (len(keys) * parts,)
        _noises[grid](
            out, out.shape[1], parts, keys, int(param), int(role), law=law, num_warps=WARPS, **EXACT
        )
