"""What one Triton program works on: some tiles of a range of numbers, or of a row among rows; and how it is launched."""

from __future__ import annotations

import triton
import triton.language as tl

from zodist import noise

EXACT = {"enable_fp_fusion": False}  # no fused multiply-adds
WARPS = 4
# Arguments that must not decide what is compiled: values of 1 and multiples of 16 would each make a kernel of their own.
SCALARS = ["start", "length", "origin", "rows", "parts", "param", "role", "round_key"]


@triton.jit
def edges(first, length, at, aligned: tl.constexpr, size: tl.constexpr):
    """The places lo .. hi - 1 of ``size`` numbers from ``at`` on that lie in a range."""
    lo = tl.minimum(tl.maximum(first - at, 0), size).to(tl.int32)
    hi = tl.minimum(tl.maximum(first + length - at, 0), size).to(tl.int32)
    if aligned:
        lo, hi = tl.multiple_of(lo, 16), tl.multiple_of(hi, 16)
    return lo, hi


@triton.jit
def share_of(starts, start, length, parts, aligned: tl.constexpr, tiles: tl.constexpr):
    """What this program works on: ``tiles`` tiles of one row, ``parts`` programs a row.

    A row is ``length`` numbers from starts[row] on; starts None: one row, from start.
    Returns the row, its first number, the first tile, the places 0 .. in the tiles and which of them are in the row.
    """
    row, part = tl.program_id(0).to(tl.int64) // parts, tl.program_id(0).to(tl.int64) % parts
    if starts is None:
        first = start.to(tl.int64)
    else:
        first = tl.load(starts + row)
    tile, j = (first >> 10) + part * tiles, tl.arange(0, tiles * 1024)
    lo, hi = edges(first, length, tile * 1024, aligned, tiles * 1024)
    return row, first, tile, j, (j >= lo) & (j < hi)


@triton.jit
def offset(value, aligned: tl.constexpr):
    """A scalar offset, known to be a multiple of 16 where ranges are aligned: loads then move whole vectors."""
    if aligned:
        value = tl.multiple_of(value, 16)
    return value


def parts_of(length: int, tiles: int) -> int:
    """Programs that any range of so many numbers takes: it touches at most (length - 2) // 1,024 + 2 tiles."""
    return -(-((length + 2 * noise.TILE - 2) // noise.TILE) // tiles)


def even(*numbers: int) -> bool:
    """Whether ranges at these places can be moved in whole vectors."""
    return all(int(n) % 16 == 0 for n in numbers)
