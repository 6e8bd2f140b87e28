"""CUDA kernels (Triton) of dense directions: perturb into scratch, fused update, digest; the bits of zodist.kernels.cpu.

They take what the CPU kernels take, see there, with tensors on one device in place of arrays: words as unsigned views,
keys as int64, a dress whose empty tensors stand for nothing.  Nothing waits for the device, except the digest.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from zodist import noise
from zodist.kernels.cuda_range import EXACT, SCALARS, WARPS, even, offset, parts_of, share_of
from zodist.kernels.cuda_tile import decode, encode, fill, settle, stepped
from zodist.kernels.tile import Noise

SIGN_TILES = 4  # tiles of sign noise per program: 32 blocks, one a lane
MIXED = 4096  # words of a digest per program
NUMBERS = [*SCALARS, "bases", "period", "points"]


@triton.jit
def places(tile, period, tiles: tl.constexpr):
    """Where in a table of ``period`` numbers the numbers of some tiles find theirs."""
    at = tl.multiple_of(((tile * 1024) & (period - 1)).to(tl.int32), 1024) + tl.arange(0, tiles * 1024)
    if tiles > 1:
        at = at & (period.to(tl.int32) - 1)
    return at


@triton.jit
def base(law: tl.constexpr, keys, s, param, role, tile, tiles: tl.constexpr):
    """The noise of base seed s."""
    return fill(law, tl.load(keys + s).to(tl.uint64, bitcast=True), param, role, tile, tiles)


@triton.jit
def coded_sum(law: tl.constexpr, keys, bases, tables, period, param, role, tile, tiles: tl.constexpr):
    """sum_s base_s * table_s on some tiles, added up in the order of s; there is at least one."""
    at = places(tile, period, tiles)
    total = base(law, keys, 0, param, role, tile, tiles) * tl.load(tables + at)
    for s in range(1, bases):
        total = total + base(law, keys, s, param, role, tile, tiles) * tl.load(tables + s * period + at)
    return total


@triton.jit
def dressed(x, total, share, mean, curvature, below, bounded: tl.constexpr, at, inside):
    """A direction's numbers changed element by element; None and ``not bounded`` stand for nothing."""
    if mean is not None:
        total = total + share * tl.load(mean + at, inside, 0.0)
    if curvature is not None:
        total = tl.div_rn(total, tl.sqrt_rn(tl.load(curvature + at, inside, 1.0)))
    if bounded:
        total = tl.where(tl.abs(x) <= below, total, 0.0)
    return total


@triton.jit(do_not_specialize=NUMBERS)
def _perturb(
    words,
    outs,
    starts,
    start: tl.int64,
    length: tl.int64,
    origin: tl.int64,
    rows: tl.int64,
    parts: tl.int64,
    keys,
    bases: tl.int32,
    tables,
    period: tl.int64,
    points: tl.int32,
    param: tl.uint32,
    role: tl.uint32,
    shares,
    mean,
    curvature,
    below: tl.float32,
    kind: tl.constexpr,
    out_kind: tl.constexpr,
    law: tl.constexpr,
    several: tl.constexpr,
    bounded: tl.constexpr,
    keep: tl.constexpr,
    aligned: tl.constexpr,
    tiles: tl.constexpr,
):
    """outs[p, row] = words + direction of point p.  several: 0, 1 or 2 for no base seed, one, or more."""
    row, first, tile, j, inside = share_of(starts, start, length, parts, aligned, tiles)
    at = tile * 1024
    held = offset(at - origin, aligned) + j
    x = tl.zeros([tiles * 1024], tl.float32)
    if keep or bounded:
        x = decode(kind, tl.load(words + held, inside, 0))
    if several == 1:
        z = base(law, keys, 0, param, role, tile, tiles)
    for p in range(points):
        table = tables + p * bases.to(tl.int64) * period
        if several == 0:
            total = tl.zeros_like(x)
        elif several == 1:
            total = z * tl.load(table + places(tile, period, tiles))
        else:
            total = coded_sum(law, keys, bases, table, period, param, role, tile, tiles)
        share = tl.load(shares + p)
        total = dressed(x, total, share, mean, curvature, below, bounded, held, inside)
        if keep:
            total = x + total
        into = outs + offset((p * rows + row) * length + at - first, aligned) + j
        tl.store(into, encode(out_kind, total), inside)


@triton.jit(do_not_specialize=NUMBERS)
def _update(
    words,
    length: tl.int64,
    origin: tl.int64,
    keys,
    bases: tl.int32,
    tables,
    period: tl.int64,
    param: tl.uint32,
    role: tl.uint32,
    shares,
    mean,
    curvature,
    below: tl.float32,
    decay: tl.float32,
    round_key: tl.uint64,
    kind: tl.constexpr,
    law: tl.constexpr,
    several: tl.constexpr,
    bounded: tl.constexpr,
    aligned: tl.constexpr,
    tiles: tl.constexpr,
):
    """words <- round(words - (decay * words + direction)): float32 throughout, one rounding."""
    _, _, tile, j, inside = share_of(None, origin, length, tl.num_programs(0), aligned, tiles)
    held = offset(tile * 1024 - origin, aligned) + j
    x = decode(kind, tl.load(words + held, inside, 0))
    if several == 0:
        total = tl.zeros_like(x)
    else:
        total = coded_sum(law, keys, bases, tables, period, param, role, tile, tiles)
    total = dressed(x, total, tl.load(shares), mean, curvature, below, bounded, held, inside)
    moved = stepped(x, decay, total)
    tl.store(words + held, settle(kind, moved, round_key, param, tile, tiles), inside)


@triton.jit(do_not_specialize=NUMBERS)
def _digest(words, length: tl.int64, origin: tl.int64, param: tl.uint64, sums, size: tl.constexpr):
    """sums[program] = the sum modulo 2**64 of a mix of every word with its address."""
    first = tl.program_id(0).to(tl.int64) * size
    i = first + tl.arange(0, size)
    inside = i < length
    word = tl.load(words + i, inside, 0).to(tl.uint64)
    h = (word ^ (param.to(tl.uint64) << 32)) + (origin + i + 1).to(tl.uint64) * 0x9E3779B97F4A7C15
    h = (h ^ (h >> 30)) * 0xBF58476D1CE4E5B9
    h = (h ^ (h >> 27)) * 0x94D049BB133111EB
    h = tl.where(inside, h ^ (h >> 31), 0)
    tl.store(sums + tl.program_id(0), tl.sum(h.to(tl.int64, bitcast=True), 0))


def tiles_of(law: int) -> int:
    """Tiles that one program takes."""
    return 1 if law == noise.GAUSSIAN else SIGN_TILES


def _run_perturb(
    kind: int,
    out_kind: int,
    words: torch.Tensor,
    place: tuple[torch.Tensor | None, int, int, int],
    outs: torch.Tensor,
    noise: Noise,
    dress: tuple[torch.Tensor, torch.Tensor, torch.Tensor, float, bool],
    aligned: bool,
) -> None:
    """place: starts, start, length and origin."""
    starts, start, length, origin = place
    law, keys, tables = noise.law, noise.keys, noise.tables
    points, rows = outs.shape[:2]
    tiles = tiles_of(law)
    parts = parts_of(length, tiles)
    shares, mean, curvature, below, keep = dress
    if rows == 0 or length == 0:
        return
    _perturb[(rows * parts,)](
        words,
        outs,
        starts,
        start,
        length,
        origin,
        rows,
        parts,
        keys,
        len(keys),
        tables,
        tables.shape[2],
        points,
        int(noise.param),
        int(noise.role),
        shares,
        mean if len(mean) else None,
        curvature if len(curvature) else None,
        float(below),
        kind=kind,
        out_kind=out_kind,
        law=law,
        several=min(len(keys), 2),
        bounded=below < float("inf"),
        keep=bool(keep),
        aligned=aligned,
        tiles=tiles,
        num_warps=WARPS,
        **EXACT,
    )


def perturb(
    kind: int,
    out_kind: int,
    words: torch.Tensor,
    origin: int,
    start: int,
    stop: int,
    outs: torch.Tensor,
    noise: Noise,
    dress: tuple,
) -> None:
    """outs[p, 0, :] = numbers start .. stop - 1 of the parameter at point p."""
    place = None, start, stop - start, origin
    _run_perturb(kind, out_kind, words, place, outs, noise, dress, even(start, stop, origin))


def perturb_rows(
    kind: int,
    out_kind: int,
    words: torch.Tensor,
    origin: int,
    starts: torch.Tensor,
    length: int,
    outs: torch.Tensor,
    noise: Noise,
    dress: tuple,
) -> None:
    """outs[p, r, :] = rows of the parameter at point p.  A row is ``length`` numbers from flat index ``starts[r]``.

    Every start must be a multiple of 16 if the length is one, as the rows of a matrix are.
    """
    place = starts, 0, length, origin
    _run_perturb(kind, out_kind, words, place, outs, noise, dress, even(length, origin))


def update(
    kind: int,
    words: torch.Tensor,
    origin: int,
    noise: Noise,
    dress: tuple,
    decay: Any,
    round_key: Any,
) -> None:
    """words <- round(words - (decay * words + direction of the one combination))."""
    shares, mean, curvature, below, _ = dress
    law, keys, tables = noise.law, noise.keys, noise.tables[0]
    tiles, length = tiles_of(law), len(words)
    if length == 0:
        return
    _update[(parts_of(length, tiles),)](
        words,
        length,
        origin,
        keys,
        len(keys),
        tables,
        tables.shape[1],
        int(noise.param),
        int(noise.role),
        shares,
        mean if len(mean) else None,
        curvature if len(curvature) else None,
        float(below),
        float(decay),
        int(round_key),
        kind=kind,
        law=law,
        several=min(len(keys), 2),
        bounded=float(below) < float("inf"),
        aligned=even(origin, length),
        tiles=tiles,
        num_warps=WARPS,
        **EXACT,
    )


def digest(words: torch.Tensor, origin: int, param: Any) -> int:
    """The 64-bit digest of some words; waits for the device."""
    programs = -(-len(words) // MIXED)
    sums = torch.zeros(programs, dtype=torch.int64, device=words.device)
    if programs:
        _digest[(programs,)](words, len(words), origin, int(param), sums, size=MIXED, num_warps=WARPS)
    return int(sums.sum()) & 0xFFFFFFFFFFFFFFFF
