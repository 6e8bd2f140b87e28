"""Tiles of 1,024 numbers on a GPU (Triton): noise, decoding and rounding of weights, as zodist.kernels.tile has them.

A program works on ``tiles`` neighbouring tiles at once, as one vector of tiles * 1,024 places in their order.  Every
float operation is rounded once and in the order of zodist.noise: kernels are launched with fused multiply-adds forbidden
(zodist.kernels.cuda_range), and roots and quotients are the correctly rounded ones.  Weights are unsigned words.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zodist import noise
from zodist.kernels import tile

FLOAT32, BFLOAT16 = tl.constexpr(tile.FLOAT32), tl.constexpr(tile.BFLOAT16)
GAUSSIAN, TILE = tl.constexpr(noise.GAUSSIAN), tl.constexpr(noise.TILE)
ROUNDING = tl.constexpr(noise.ROUNDING)
M0, M1, W0, W1 = (tl.constexpr(int(c)) for c in (noise.M0, noise.M1, noise.W0, noise.W1))
L0, L1, L2, L3, L4, L5, L6, L7 = (tl.constexpr(float(c)) for c in noise.LOG)
S0, S1, S2, S3 = (tl.constexpr(float(c)) for c in noise.SIN)
C0, C1, C2, C3 = (tl.constexpr(float(c)) for c in noise.COS)
TO_UNIT, TO_CENTRE = tl.constexpr(float(noise.TO_UNIT)), tl.constexpr(float(noise.TO_CENTRE))
TO_ANGLE, TWO_LN2 = tl.constexpr(float(noise.TO_ANGLE)), tl.constexpr(float(noise.TWO_LN2))
ROOT_BITS = tl.constexpr(int(noise.SQRT_HALF_BITS))
TO_HALF_RANGE, UNITS = tl.constexpr(2.0**112), tl.constexpr(2.0**24)


@triton.jit
def stepped(x, decay, step):
    """Weights that lose their share ``decay`` and a step; -0 is what every number is the same with."""
    return x - (tl.where(decay > 0.0, decay * x, -0.0) + step)


@triton.jit
def philox(key, param, role, block):
    """The four words of some blocks; key and block uint64, param and role uint32."""
    c0, c1 = block.to(tl.uint32), (block >> 32).to(tl.uint32)
    c2, c3 = tl.zeros_like(c0) + param.to(tl.uint32), tl.zeros_like(c0) + role.to(tl.uint32)
    k0, k1 = key.to(tl.uint32), (key >> 32).to(tl.uint32)
    m0, m1 = tl.full(c0.shape, M0, tl.uint32), tl.full(c0.shape, M1, tl.uint32)
    for _ in tl.static_range(10):
        high0, low0, high1, low1 = tl.umulhi(c0, m0), c0 * m0, tl.umulhi(c2, m1), c2 * m1
        c0, c1, c2, c3 = high1 ^ c1 ^ k0, low1, high0 ^ c3 ^ k1, low0
        k0, k1 = k0 + W0, k1 + W1
    return c0, c1, c2, c3


@triton.jit
def normals(radius, angle):
    """Box-Muller on words; the order of operations is noise._normals'."""
    u = radius.to(tl.float32) * TO_UNIT + TO_CENTRE
    bits = u.to(tl.int32, bitcast=True)
    exponent = (bits - ROOT_BITS) >> 23
    f = (bits - (exponent << 23)).to(tl.float32, bitcast=True) - 1.0
    p = ((((((f * L7 + L6) * f + L5) * f + L4) * f + L3) * f + L2) * f + L1) * f + L0
    r2 = f * p - exponent.to(tl.float32) * TWO_LN2
    r = tl.sqrt_rn(tl.where(r2 > 0.0, r2, 0.0))
    quadrant = (angle + 0x20000000) >> 30
    x = (angle - (quadrant << 30)).to(tl.int32, bitcast=True).to(tl.float32) * TO_ANGLE
    y = x * x
    s = x * (((y * S3 + S2) * y + S1) * y + S0)
    c = ((y * C3 + C2) * y + C1) * y + C0
    odd = (quadrant & 1) != 0
    flip_c, flip_s = ((quadrant + 1) & 2) << 30, (quadrant & 2) << 30
    cosine = (tl.where(odd, s, c).to(tl.uint32, bitcast=True) ^ flip_c).to(tl.float32, bitcast=True)
    sine = (tl.where(odd, c, s).to(tl.uint32, bitcast=True) ^ flip_s).to(tl.float32, bitcast=True)
    return r * cosine, r * sine


@triton.jit
def arrange(v0, v1, v2, v3, tiles: tl.constexpr, blocks: tl.constexpr):
    """Four values of every block, each [tiles * blocks], as [tiles * 4 * blocks]: in a tile, all first values come first."""
    square = tl.join(tl.join(v0, v2), tl.join(v1, v3))  # [..., b, a] is value 2 b + a
    by_tile = tl.reshape(square, [tiles, blocks, 4])
    return tl.reshape(tl.permute(by_tile, [0, 2, 1]), [tiles * 4 * blocks])


@triton.jit
def fill(law: tl.constexpr, key, param, role, first, tiles: tl.constexpr):
    """The numbers of tiles first .. first + tiles - 1, float32 [tiles * 1,024]."""
    if law == GAUSSIAN:
        block = first.to(tl.uint64) * 256 + tl.arange(0, tiles * 256).to(tl.uint64)
        w0, w1, w2, w3 = philox(key, param, role, block)
        n0, n1 = normals(w0, w1)
        n2, n3 = normals(w2, w3)
        return arrange(n0, n1, n2, n3, tiles, 256)
    else:
        block = first.to(tl.uint64) * 8 + tl.arange(0, tiles * 8).to(tl.uint64)
        w0, w1, w2, w3 = philox(key, param, role, block)
        lanes = tl.reshape(arrange(w0, w1, w2, w3, tiles, 8), [tiles, 1, 32])
        shift = (31 - tl.arange(0, 32)).to(tl.uint32)[None, :, None]
        signs = ((lanes << shift) & 0x80000000) | 0x3F800000
        return tl.reshape(signs, [tiles * 1024]).to(tl.float32, bitcast=True)


@triton.jit
def fill_bits16(key, param, first, tiles: tl.constexpr):
    """The rounding numbers of some tiles, uint32 [tiles * 1,024] below 65,536."""
    block = first.to(tl.uint64) * 128 + tl.arange(0, tiles * 128).to(tl.uint64)
    role = tl.full([], ROUNDING, tl.uint32)
    w0, w1, w2, w3 = philox(key, param, role, block)
    lanes = arrange(w0, w1, w2, w3, tiles, 128)
    halves = tl.reshape(tl.join(lanes & 0xFFFF, lanes >> 16), [tiles, 4, 128, 2])
    return tl.reshape(tl.permute(halves, [0, 1, 3, 2]), [tiles * 1024])


@triton.jit
def decode(kind: tl.constexpr, words):
    """Weights as float32: exact."""
    h = words.to(tl.uint32)
    if kind == FLOAT32:
        bits = h
    elif kind == BFLOAT16:
        bits = h << 16
    else:
        # 2**112 moves float16's exponent range to float32's, subnormals included; it is exact.
        magnitude = ((h & 0x7FFF) << 13).to(tl.float32, bitcast=True) * TO_HALF_RANGE
        special = tl.where((h & 0x7C00) == 0x7C00, 0x7F800000, 0).to(tl.uint32)
        bits = magnitude.to(tl.uint32, bitcast=True) | special | ((h & 0x8000) << 16)
    return bits.to(tl.float32, bitcast=True)


@triton.jit
def encode(kind: tl.constexpr, x):
    """Words of weights rounded to nearest, ties to even."""
    b = x.to(tl.uint32, bitcast=True)
    if kind == FLOAT32:
        words = b
    elif kind == BFLOAT16:
        rounded = (b + 0x7FFF + ((b >> 16) & 1)) >> 16
        words = tl.where((b & 0x7FFFFFFF) <= 0x7F800000, rounded, 0x7FC0).to(tl.uint16)
    else:
        units = (b & 0x7FFFFFFF).to(tl.float32, bitcast=True) * UNITS
        # A whole number of 2**-24.  The large constant makes float32 itself round to an integer, ties to even.
        even = (units + 8388608.0).to(tl.uint32, bitcast=True) & 0x7FFFFF
        words = _half(b, 0xFFF + ((b >> 13) & 1), even)
    return words


@triton.jit
def encode_stochastic(kind: tl.constexpr, x, bits):
    """Words of weights rounded up or down in magnitude, so that the mean is exact (16-bit kinds), by 16 bits each."""
    b = x.to(tl.uint32, bitcast=True)
    if kind == BFLOAT16:
        finite = (b & 0x7FFFFFFF) < 0x7F800000
        words = tl.where(finite, (b + bits) >> 16, b >> 16).to(tl.uint16)
    else:
        units = (b & 0x7FFFFFFF).to(tl.float32, bitcast=True) * UNITS
        units = tl.where(units < 1024.0, units, 0.0)
        whole = units.to(tl.uint32)
        up = bits.to(tl.float32) * 0.0000152587890625 < units - whole.to(tl.float32)  # bits / 65,536
        words = _half(b, bits >> 3, tl.where(up, whole + 1, whole))
    return words


@triton.jit
def _half(b, add, subnormal):
    """float16 words from float32 bits: ``add`` rounds the normal range; a subnormal has been rounded already."""
    magnitude = b & 0x7FFFFFFF
    normal = (magnitude - 0x38000000 + add) >> 13
    result = tl.where(magnitude >= 0x38800000, normal, subnormal)
    result = tl.where(result < 0x7C00, result, 0x7C00)
    result = tl.where(magnitude <= 0x7F800000, result, 0x7E00)
    return (((b >> 16) & 0x8000) | result).to(tl.uint16)


@triton.jit
def settle(kind: tl.constexpr, x, round_key, param, first, tiles: tl.constexpr):
    """Words of new weights: 16-bit kinds rounded with addressed bits."""
    if kind == FLOAT32:
        words = encode(kind, x)
    else:
        words = encode_stochastic(kind, x, fill_bits16(round_key, param, first, tiles))
    return words
