"""One tile of 1,024 numbers in registers and first-level cache: noise, decoding and rounding of weights (numba).

Every function works on buffers of one tile and is compiled into its callers.  No fast-math: LLVM then neither
reorders nor fuses float operations, so these are the bits of zodist.noise on every CPU.  Weights are handled as
unsigned words: float32 as uint32, bfloat16 and float16 as uint16.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import njit

from zodist import noise

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
TILE = noise.TILE
GAUSSIAN, RADEMACHER = noise.GAUSSIAN, noise.RADEMACHER

u32, i32, u64, f32 = np.uint32, np.int32, np.uint64, np.float32
M0, M1, W0, W1 = noise.M0, noise.M1, noise.W0, noise.W1
HALF, LOW = noise.HALF, noise.LOW
L0, L1, L2, L3, L4, L5, L6, L7 = (f32(c) for c in noise.LOG)
S0, S1, S2, S3 = (f32(c) for c in noise.SIN)
C0, C1, C2, C3 = (f32(c) for c in noise.COS)
TO_UNIT, TO_CENTRE, TO_ANGLE, TWO_LN2 = noise.TO_UNIT, noise.TO_CENTRE, noise.TO_ANGLE, noise.TWO_LN2
ROOT_BITS, ONE, ZERO = i32(noise.SQRT_HALF_BITS), f32(1.0), f32(0.0)
NOTHING = f32(-0.0)  # what every number, 0 and -0 too, is the same with
EIGHTH_TURN, SIGN_BIT, ONE_BITS = u32(1 << 29), u32(1 << 31), u32(0x3F800000)


class Noise(NamedTuple):
    """The numbers that a kernel draws of one parameter: base noises, and how combinations are made of them.

    law: GAUSSIAN or RADEMACHER.  keys: base seeds, uint64 [S].  tables: float32 Walsh tables [C, S, L], L a power of two of
    at least 1,024: number i of combination c is sum_s base_s[i] * tables[c, s, i mod L], added up in the order of s.
    param, role: where they are drawn, uint64.  Kernels without combinations have tables of their own, or none.
    """

    law: int
    keys: Any
    tables: Any
    param: Any
    role: Any


# Inner functions own no array: without numba's count of references, which costs as much as the arithmetic of a tile.
compile_tile = njit(cache=True, nogil=True, error_model="numpy", _nrt=False)
inline = njit(cache=True, nogil=True, error_model="numpy", _nrt=False, inline="always")


@compile_tile
def tiles_to(stop):
    """The tile behind the last one that numbers up to stop - 1 touch; the first is that of the first number, lo // TILE."""
    return (stop + TILE - 1) // TILE


@compile_tile
def edges(tile, lo, hi):
    """Of a tile that numbers lo .. hi - 1 touch: the first of its places that they have, and the one behind the last."""
    first = tile * TILE
    return max(first, lo) - first, min(first + TILE, hi) - first


@compile_tile
def chunks(lo, hi, size):
    """How many tasks of ``size`` neighbouring tiles numbers lo .. hi - 1 make."""
    return (tiles_to(hi) - lo // TILE + size - 1) // size


@compile_tile
def chunk_of(number, lo, hi, size):
    """The numbers of one of these tasks: the first, and the one behind the last."""
    first = lo // TILE + number * size
    return max(lo, first * TILE), min(hi, (first + size) * TILE)


@inline
def _round(c0, c1, c2, c3, a0, a1):
    """One Philox round on 64-bit lanes.  Their high halves hold leftovers, which the multiplications mask away."""
    p0, p1 = M0 * (c0 & LOW), M1 * (c2 & LOW)
    return (p1 >> HALF) ^ c1 ^ a0, p1, (p0 >> HALF) ^ c3 ^ a1, p0


@compile_tile
def philox_blocks(key, param, role, first, half, w):
    """Words of blocks first .. first + 2 * half - 1 into w, uint32 [4, >= 2 * half].

    Two blocks at a time, since the rounds of one are a chain in which every operation waits for the last.
    """
    k0, k1 = key & LOW, key >> HALF
    for j in range(half):
        b, e = first + u64(j), first + u64(j + half)
        c0, c1, c2, c3 = b & LOW, b >> HALF, param, role
        d0, d1, d2, d3 = e & LOW, e >> HALF, param, role
        a0, a1 = k0, k1
        for _ in range(10):
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, a0, a1)
            d0, d1, d2, d3 = _round(d0, d1, d2, d3, a0, a1)
            a0, a1 = (a0 + W0) & LOW, (a1 + W1) & LOW
        w[0, j], w[1, j], w[2, j], w[3, j] = u32(c0), u32(c1), u32(c2), u32(c3)
        w[0, j + half], w[1, j + half] = u32(d0), u32(d1)
        w[2, j + half], w[3, j + half] = u32(d2), u32(d3)


@compile_tile
def sign_words(key, param, role, tile, w):
    """Eight copies of a tile's 32 Rademacher words into row 0 of w: number 32 q + l is word l << (7 - q).

    The sign of place j + 256 k is then bit 7 + 8 k of number j: loops over 256 places, not 32, fill whole vectors.
    """
    k0, k1 = key & LOW, key >> HALF
    for j in range(8):
        b = u64(tile) * u64(8) + u64(j)
        c0, c1, c2, c3 = b & LOW, b >> HALF, param, role
        a0, a1 = k0, k1
        for _ in range(10):
            c0, c1, c2, c3 = _round(c0, c1, c2, c3, a0, a1)
            a0, a1 = (a0 + W0) & LOW, (a1 + W1) & LOW
        for q in range(8):
            shift = u32(7 - q)
            w[0, 32 * q + j], w[0, 32 * q + j + 8] = u32(c0) << shift, u32(c1) << shift
            w[0, 32 * q + j + 16], w[0, 32 * q + j + 24] = u32(c2) << shift, u32(c3) << shift


@inline
def _pair(radius, angle):
    """Box-Muller on one pair of words; the order of operations is noise._normals'."""
    u = f32(radius) * TO_UNIT + TO_CENTRE
    bits = f32(u).view(i32)
    exponent = i32(i32(bits - ROOT_BITS) >> i32(23))
    f = i32(bits - i32(exponent << i32(23))).view(f32) - ONE
    p = ((((((L7 * f + L6) * f + L5) * f + L4) * f + L3) * f + L2) * f + L1) * f + L0
    r2 = f * p - f32(exponent) * TWO_LN2
    r = np.sqrt(r2 if r2 > ZERO else ZERO)
    quadrant = u32(u32(angle + EIGHTH_TURN) >> u32(30))
    x = f32(i32(u32(angle - u32(quadrant << u32(30))))) * TO_ANGLE
    y = x * x
    s = x * (((S3 * y + S2) * y + S1) * y + S0)
    c = ((C3 * y + C2) * y + C1) * y + C0
    odd = (quadrant & u32(1)) != u32(0)
    cc = s if odd else c
    ss = c if odd else s
    flip_c = u32(u32(u32(quadrant + u32(1)) & u32(2)) << u32(30))
    flip_s = u32(u32(quadrant & u32(2)) << u32(30))
    return r * u32(f32(cc).view(u32) ^ flip_c).view(f32), r * u32(f32(ss).view(u32) ^ flip_s).view(f32)


@compile_tile
def fill(law, key, param, role, tile, z, w):
    """The 1,024 numbers of one tile into z (float32); w is scratch, uint32 [4, 256]."""
    if law == GAUSSIAN:
        philox_blocks(key, param, role, u64(tile) * u64(256), 128, w)
        for j in range(256):
            z[j], z[j + 256] = _pair(w[0, j], w[1, j])
        for j in range(256):
            z[j + 512], z[j + 768] = _pair(w[2, j], w[3, j])
    else:
        sign_words(key, param, role, tile, w)
        for j in range(256):
            bits = w[0, j]
            z[j] = u32(u32(bits << u32(24)) & SIGN_BIT | ONE_BITS).view(f32)
            z[j + 256] = u32(u32(bits << u32(16)) & SIGN_BIT | ONE_BITS).view(f32)
            z[j + 512] = u32(u32(bits << u32(8)) & SIGN_BIT | ONE_BITS).view(f32)
            z[j + 768] = u32(bits & SIGN_BIT | ONE_BITS).view(f32)


@compile_tile
def coded_sums(noise, tile, a, b, totals, z, w):
    """totals[c, : b - a] = combination c's numbers on places a .. b - 1 of a tile, each sum in the order of s.

    Every base noise is drawn once, whatever the number of combinations.  totals: float32 [C, >= b - a]; z and w: as in fill.
    """
    offset = (tile * TILE) % noise.tables.shape[2]
    if noise.keys.size == 0:  # empty combinations: the weights themselves
        totals[:, :] = ZERO
    for s in range(noise.keys.size):
        fill(noise.law, noise.keys[s], noise.param, noise.role, tile, z, w)
        # Slices first: a loop from 0 needs no wrap-around of negative indices and becomes vector code.
        base = z[a:b]
        for c in range(noise.tables.shape[0]):
            table, total = noise.tables[c, s, offset + a : offset + b], totals[c]
            if s == 0:
                for j in range(b - a):
                    total[j] = base[j] * table[j]
            else:
                for j in range(b - a):
                    total[j] = total[j] + base[j] * table[j]


@compile_tile
def fill_bits16(key, param, tile, bits, w):
    """The 1,024 rounding numbers of one tile into bits (uint16)."""
    philox_blocks(key, param, u64(noise.ROUNDING), u64(tile) * u64(128), 64, w)
    for j in range(128):
        bits[j], bits[j + 128] = w[0, j] & u32(0xFFFF), w[0, j] >> u32(16)
        bits[j + 256], bits[j + 384] = w[1, j] & u32(0xFFFF), w[1, j] >> u32(16)
        bits[j + 512], bits[j + 640] = w[2, j] & u32(0xFFFF), w[2, j] >> u32(16)
        bits[j + 768], bits[j + 896] = w[3, j] & u32(0xFFFF), w[3, j] >> u32(16)


@compile_tile
def decode(kind, words, x):
    """Weights as float32: exact."""
    if kind == FLOAT32:
        for j in range(words.size):
            x[j] = u32(words[j]).view(f32)
    elif kind == BFLOAT16:
        for j in range(words.size):
            x[j] = u32(u32(words[j]) << u32(16)).view(f32)
    else:
        for j in range(words.size):
            x[j] = _from_half(words[j])


@inline
def _from_half(word):
    """A float16 word as float32."""
    h = u32(word)
    # 2**112 moves float16's exponent range to float32's, subnormals included; it is exact.
    magnitude = u32((h & u32(0x7FFF)) << u32(13)).view(f32) * f32(2.0**112)
    special = u32((h & u32(0x7C00)) == u32(0x7C00)) * u32(0x7F800000)
    return u32(f32(magnitude).view(u32) | special | u32((h & u32(0x8000)) << u32(16))).view(f32)


@inline
def _bfloat(b):
    """A bfloat16 word from float32 bits, to nearest, ties to even."""
    rounded = u32(u32(b + u32(0x7FFF) + u32(u32(b >> u32(16)) & u32(1))) >> u32(16))
    return rounded if u32(b & u32(0x7FFFFFFF)) <= u32(0x7F800000) else u32(0x7FC0)


@inline
def _nearest_half(b):
    """A float16 word from float32 bits, to nearest, ties to even."""
    return _half(b, u32(u32(0xFFF) + u32(u32(b >> u32(13)) & u32(1))), f32(-1.0))


@compile_tile
def encode(kind, x, words):
    """Weights rounded to nearest, ties to even."""
    if kind == FLOAT32:
        for j in range(words.size):
            words[j] = f32(x[j]).view(u32)
    elif kind == BFLOAT16:
        for j in range(words.size):
            words[j] = _bfloat(f32(x[j]).view(u32))
    else:
        for j in range(words.size):
            words[j] = _nearest_half(f32(x[j]).view(u32))


@compile_tile
def add_signed(kind, words, signs, table, out):
    """out = words + table, whose numbers have the signs of a tile (sign_words): all of one tile, in one format.

    Places in their order, since memory that is written in another is several times slower.
    """
    for k in range(4):
        shift, first = u32(24 - 8 * k), 256 * k
        old, move, new = words[first : first + 256], table[first : first + 256], out[first : first + 256]
        if kind == FLOAT32:
            for j in range(256):
                new[j] = f32(u32(old[j]).view(f32) + _signed(move[j], signs[j] << shift)).view(u32)
        elif kind == BFLOAT16:
            for j in range(256):
                x = u32(u32(old[j]) << u32(16)).view(f32) + _signed(move[j], signs[j] << shift)
                new[j] = _bfloat(f32(x).view(u32))
        else:
            for j in range(256):
                x = _from_half(old[j]) + _signed(move[j], signs[j] << shift)
                new[j] = _nearest_half(f32(x).view(u32))


@inline
def _signed(x, bits):
    """A number, negative where the highest bit is set."""
    return u32(f32(x).view(u32) ^ u32(u32(bits) & SIGN_BIT)).view(f32)


@compile_tile
def encode_stochastic(kind, x, bits, words):
    """Weights rounded up or down in magnitude with the probability that makes the mean exact (16-bit kinds).

    In float16's subnormal range the probability is exact to 2**-16 only.
    """
    if kind == BFLOAT16:
        for j in range(words.size):
            b = f32(x[j]).view(u32)
            rounded = u32(u32(b + u32(bits[j])) >> u32(16))
            words[j] = rounded if u32(b & u32(0x7FFFFFFF)) < u32(0x7F800000) else u32(b >> u32(16))
    else:
        for j in range(words.size):
            words[j] = _half(f32(x[j]).view(u32), u32(u32(bits[j]) >> u32(3)), f32(bits[j]) * f32(2.0**-16))


@inline
def stepped(x, decay, step):
    """A weight that loses its share ``decay`` and a step: x - (decay * x + step); without decay x - step, bit for bit.

    Both are added before the weight is rounded: 1 - decay would be 1 in float32 for a small decay.
    """
    return x - ((decay * x if decay > ZERO else NOTHING) + step)


@compile_tile
def round_and_store(kind, x, words, round_key, param, tile, a, b, bits, w):
    """New weights into words, places a .. b - 1 of a tile: 16-bit kinds rounded with addressed bits (scratch bits, w)."""
    if kind == FLOAT32:
        encode(kind, x, words)
    else:
        fill_bits16(round_key, param, tile, bits, w)
        encode_stochastic(kind, x, bits[a:b], words)


@inline
def _half(b, add, below):
    """A float16 word from float32 bits: ``add`` rounds the normal range; subnormals round at ``below`` (< 0: to even)."""
    sign = u32(u32(b >> u32(16)) & u32(0x8000))
    magnitude = u32(b & u32(0x7FFFFFFF))
    normal = u32(u32(u32(magnitude - u32(112 << 23)) + add) >> u32(13))
    units = u32(magnitude).view(f32) * f32(2.0**24)
    # Subnormal: a whole number of 2**-24.  The large constant makes float32 itself round to an integer, ties to even.
    even = u32(f32(units + f32(8388608.0)).view(u32) & u32(0x7FFFFF))
    units = units if units < f32(1024.0) else f32(0.0)
    whole = u32(units)
    up = whole + u32(1) if below < units - f32(whole) else whole
    subnormal = even if below < f32(0.0) else u32(up)
    result = normal if magnitude >= u32(113 << 23) else subnormal
    result = result if result < u32(0x7C00) else u32(0x7C00)
    result = result if magnitude <= u32(0x7F800000) else u32(0x7E00)
    return u32(sign | result)
