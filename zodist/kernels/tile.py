"""One tile of 1,024 numbers in registers and first-level cache: noise, decoding and rounding of weights (numba).

Every function works on buffers of one tile and is compiled into its callers.  No fast-math: LLVM then neither
reorders nor fuses float operations, so these are the bits of zodist.noise on every CPU.  Weights are handled as
unsigned words: float32 as uint32, bfloat16 and float16 as uint16.
"""

from __future__ import annotations

import numpy as np
from numba import njit

from zodist import noise

FLOAT32, BFLOAT16, FLOAT16 = 0, 1, 2
TILE = noise.TILE
GAUSSIAN, RADEMACHER = noise.GAUSSIAN, noise.RADEMACHER

u32, i32, u64, f32 = np.uint32, np.int32, np.uint64, np.float32
M0, M1, W0, W1 = u64(0xD2511F53), u64(0xCD9E8D57), u32(0x9E3779B9), u32(0xBB67AE85)
HALF, LOW = u64(32), u64(0xFFFFFFFF)
L0, L1, L2, L3, L4, L5, L6, L7 = (f32(c) for c in noise.LOG)
S0, S1, S2, S3 = (f32(c) for c in noise.SIN)
C0, C1, C2, C3 = (f32(c) for c in noise.COS)
TO_UNIT, TO_CENTRE, TO_ANGLE, TWO_LN2 = noise.TO_UNIT, noise.TO_CENTRE, noise.TO_ANGLE, noise.TWO_LN2
ROOT_BITS, ONE, ZERO = i32(noise.SQRT_HALF_BITS), f32(1.0), f32(0.0)
EIGHTH_TURN, SIGN_BIT, ONE_BITS = u32(1 << 29), u32(1 << 31), u32(0x3F800000)

_inline = {"cache": True, "nogil": True, "error_model": "numpy", "inline": "never"}
compile_tile = njit(**_inline)


@compile_tile
def philox_blocks(key, param, role, first, count, w):
    """Words of blocks first .. first + count - 1 into w, uint32 [4, >= count]."""
    k0, k1 = u32(key & LOW), u32(key >> HALF)
    w0, w1, w2, w3 = w[0], w[1], w[2], w[3]
    for j in range(count):
        block = first + u64(j)
        c0, c1, c2, c3 = u32(block & LOW), u32(block >> HALF), u32(param), u32(role)
        a0, a1 = k0, k1
        for _ in range(10):
            p0, p1 = M0 * u64(c0), M1 * u64(c2)
            c0, c2 = u32(u32(p1 >> HALF) ^ c1 ^ a0), u32(u32(p0 >> HALF) ^ c3 ^ a1)
            c1, c3 = u32(p1 & LOW), u32(p0 & LOW)
            a0, a1 = u32(a0 + W0), u32(a1 + W1)
        w0[j], w1[j], w2[j], w3[j] = c0, c1, c2, c3


@compile_tile
def normals(radius, angle, out_c, out_s):
    """Box-Muller on 256 pairs of words; the order of operations is noise._normals'."""
    for j in range(256):
        u = f32(radius[j]) * TO_UNIT + TO_CENTRE
        bits = f32(u).view(i32)
        exponent = i32(i32(bits - ROOT_BITS) >> i32(23))
        f = i32(bits - i32(exponent << i32(23))).view(f32) - ONE
        p = ((((((L7 * f + L6) * f + L5) * f + L4) * f + L3) * f + L2) * f + L1) * f + L0
        r2 = f * p - f32(exponent) * TWO_LN2
        r = np.sqrt(r2 if r2 > ZERO else ZERO)
        a = angle[j]
        quadrant = u32(u32(a + EIGHTH_TURN) >> u32(30))
        x = f32(i32(u32(a - u32(quadrant << u32(30))))) * TO_ANGLE
        y = x * x
        s = x * (((S3 * y + S2) * y + S1) * y + S0)
        c = ((C3 * y + C2) * y + C1) * y + C0
        odd = (quadrant & u32(1)) != u32(0)
        cc = s if odd else c
        ss = c if odd else s
        flip_c = u32(u32(u32(quadrant + u32(1)) & u32(2)) << u32(30))
        flip_s = u32(u32(quadrant & u32(2)) << u32(30))
        out_c[j] = r * u32(f32(cc).view(u32) ^ flip_c).view(f32)
        out_s[j] = r * u32(f32(ss).view(u32) ^ flip_s).view(f32)


@compile_tile
def fill(law, key, param, role, tile, z, w):
    """The 1,024 numbers of one tile into z (float32); w is scratch, uint32 [4, 256]."""
    if law == GAUSSIAN:
        philox_blocks(key, param, role, u64(tile) * u64(256), 256, w)
        normals(w[0], w[1], z[0:256], z[256:512])
        normals(w[2], w[3], z[512:768], z[768:1024])
    else:
        # 32 blocks, those of four tiles, cost less than 8: the loop over blocks then fills whole vectors.
        philox_blocks(key, param, role, u64(tile >> 2) * u64(32), 32, w)
        lanes, at = w[0, 128:160], (tile & 3) * 8
        for lane in range(4):
            source = w[lane, at : at + 8]
            for j in range(8):
                lanes[lane * 8 + j] = source[j]
        signs = z.view(np.uint32)
        for bit in range(32):
            shift, row = u32(31 - bit), signs[bit * 32 : bit * 32 + 32]
            for j in range(32):
                row[j] = u32(u32(u32(lanes[j] << shift) & SIGN_BIT) | ONE_BITS)


@compile_tile
def fill_bits16(key, param, tile, bits, w):
    """The 1,024 rounding numbers of one tile into bits (uint16)."""
    philox_blocks(key, param, noise.ROUNDING, u64(tile) * u64(128), 128, w)
    for word in range(4):
        low, high, source = (
            bits[word * 256 : word * 256 + 128],
            bits[word * 256 + 128 : word * 256 + 256],
            w[word],
        )
        for j in range(128):
            low[j] = np.uint16(source[j] & u32(0xFFFF))
            high[j] = np.uint16(source[j] >> u32(16))


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
            h = u32(words[j])
            # 2**112 moves float16's exponent range to float32's, subnormals included; it is exact.
            magnitude = u32((h & u32(0x7FFF)) << u32(13)).view(f32) * f32(2.0**112)
            special = u32((h & u32(0x7C00)) == u32(0x7C00)) * u32(0x7F800000)
            x[j] = u32(f32(magnitude).view(u32) | special | u32((h & u32(0x8000)) << u32(16))).view(f32)


@compile_tile
def encode(kind, x, words):
    """Weights rounded to nearest, ties to even."""
    if kind == FLOAT32:
        for j in range(words.size):
            words[j] = f32(x[j]).view(u32)
    elif kind == BFLOAT16:
        for j in range(words.size):
            b = f32(x[j]).view(u32)
            rounded = u32(u32(b + u32(0x7FFF) + u32(u32(b >> u32(16)) & u32(1))) >> u32(16))
            words[j] = rounded if u32(b & u32(0x7FFFFFFF)) <= u32(0x7F800000) else u32(0x7FC0)
    else:
        for j in range(words.size):
            b = f32(x[j]).view(u32)
            words[j] = _half(b, u32(u32(0xFFF) + u32(u32(b >> u32(13)) & u32(1))), f32(-1.0))


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


@compile_tile
def settle(kind, x, words, round_key, param, tile, a, b, bits, w):
    """New weights into words, places a .. b - 1 of a tile: 16-bit kinds rounded with addressed bits (scratch bits, w)."""
    if kind == FLOAT32:
        encode(kind, x, words)
    else:
        fill_bits16(round_key, param, tile, bits, w)
        encode_stochastic(kind, x, bits[a:b], words)


@njit(cache=True, nogil=True, error_model="numpy", inline="always")
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
