"""Addressed noise: every number is a pure function of (seed, parameter, role, index).  The reference, in numpy.

The law ``zodist-noise/1`` is a format: weights can be rebuilt from a journal only while it stands.

Generator
    Philox4x32-10 (Salmon et al. 2011, Random123).  Key = the 64-bit seed (low word first); counter =
    (block low, block high, parameter id, role).  A block gives four 32-bit words w0..w3.
Tiles
    The numbers of one parameter are cut into tiles of 1,024.  Number ``i`` is place ``j = i mod 1024`` of tile
    ``t = i div 1024``.  Within a tile, neighbours come from different blocks, so that the integer rounds and the
    float transform are plain loops over structure-of-arrays data, and the whole vectorises:

    ===========  ================  ==========================  =======================================
    law          blocks per tile   block of place j            place j takes
    ===========  ================  ==========================  =======================================
    gaussian     256               256 t + (j mod 256)         lane j div 256 of the block's 4 normals
    rademacher   8                 8 t + (j mod 8)             word (j mod 32) div 8, bit j div 32
    bits16       128               128 t + (j mod 128)         h = j div 128: word h div 2, half h mod 2
    ===========  ================  ==========================  =======================================

gaussian
    Box-Muller in float32 with every operation rounded once and in the order written here (no fused multiply-add):
    normals 0, 1 from (w0, w1), normals 2, 3 from (w2, w3); see ``_normals``.  Largest magnitude 6.8.
rademacher
    +1 for a clear bit, -1 for a set one: one bit a number.
Walsh codes
    The low 16 bits of a coded seed are a code n, the rest (with code 0) is the base seed.  Its direction is
    ``z[i] = base[i] * (-1) ** popcount(n & i)``: row n of a Sylvester-Hadamard matrix of any sufficient size.
    Hadamard directions for smoothing: Choromanski et al. 2018 (arXiv:1804.02395).
"""

from __future__ import annotations

import numpy as np

LAW = "zodist-noise/1"
TILE = 1024
CODES = 1 << 16

GAUSSIAN, RADEMACHER, BITS16 = 0, 1, 2
LAWS = {"gaussian": GAUSSIAN, "rademacher": RADEMACHER}

# Roles keep the uses of one seed apart.  Values are part of the format.
Z, U, V, MASK, RADIUS, ROUNDING, SEED, ORDER, INITIAL, TOKEN = range(10)

M0, M1 = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
W0, W1 = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
LOW = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)

# -2 ln(1 + f) = f * P(f) on [sqrt(1/2) - 1, sqrt(2) - 1], absolute error 7e-8; sin and cos on [-pi/4, pi/4].
# Own fits (Lawson-weighted least squares on 4,000 Chebyshev points), rounded to float32: part of the format.
LOG = np.array(
    [-1.9999996423721313, 1.0000133514404297, -0.6667236685752869, 0.4991868734359741]
    + [-0.3974609076976776, 0.34666934609413147, -0.3283999264240265, 0.2020447850227356],
    np.float32,
)
SIN = np.array([1.0, -0.16666650772094727, 0.008332036435604095, -0.00019503955263644457], np.float32)
COS = np.array([1.0, -0.4999985694885254, 0.04165502265095711, -0.0013585848500952125], np.float32)
TWO_LN2 = np.float32(1.3862943611198906)
TO_UNIT = np.float32(2.0**-32)
TO_CENTRE = np.float32(2.0**-33)
TO_ANGLE = np.float32(2.0 * np.pi * 2.0**-32)
SQRT_HALF_BITS = np.int32(0x3F3504F3)


def philox(counter: np.ndarray, seed: int | np.ndarray) -> np.ndarray:
    """The Philox4x32-10 words of some counters.

    counter: uint32 [..., 4]; seed: 64-bit key, scalar or [...].  Returns uint32 [..., 4].
    """
    c0, c1, c2, c3 = (counter[..., k].astype(np.uint64) for k in range(4))
    key = np.asarray(seed, np.uint64)
    k0, k1 = key & LOW, key >> HALF
    for _ in range(10):
        p0, p1 = M0 * c0, M1 * c2
        c0, c1, c2, c3 = (p1 >> HALF) ^ c1 ^ k0, p1 & LOW, (p0 >> HALF) ^ c3 ^ k1, p0 & LOW
        k0, k1 = (k0 + W0) & LOW, (k1 + W1) & LOW
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def words(seed: int, param: int, role: int, blocks: np.ndarray) -> np.ndarray:
    """The four words of some blocks of one parameter: uint32 [..., 4] for blocks [...]."""
    blocks = np.asarray(blocks, np.uint64)
    counter = np.empty((*blocks.shape, 4), np.uint32)
    counter[..., 0] = (blocks & LOW).astype(np.uint32)
    counter[..., 1] = (blocks >> HALF).astype(np.uint32)
    counter[..., 2] = param
    counter[..., 3] = role
    return philox(counter, seed)


def _horner(x: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    total = np.full_like(x, coefficients[-1])
    for c in coefficients[-2::-1]:
        total = total * x + c
    return total


def _normals(radius_word: np.ndarray, angle_word: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Two standard normals from two uniform 32-bit words, float32."""
    u = radius_word.astype(np.float32) * TO_UNIT + TO_CENTRE  # (0, 1]
    bits = u.view(np.int32)
    exponent = (bits - SQRT_HALF_BITS) >> np.int32(23)
    mantissa = (bits - (exponent << np.int32(23))).view(np.float32)  # [sqrt(1/2), sqrt(2))
    f = mantissa - np.float32(1.0)
    r2 = f * _horner(f, LOG) - exponent.astype(np.float32) * TWO_LN2
    r = np.sqrt(np.maximum(r2, np.float32(0.0)))
    quadrant = (angle_word + np.uint32(1 << 29)) >> np.uint32(30)
    x = (angle_word - (quadrant << np.uint32(30))).view(np.int32).astype(np.float32) * TO_ANGLE
    y = x * x
    s, c = x * _horner(y, SIN), _horner(y, COS)
    odd = (quadrant & np.uint32(1)) == 1
    c, s = np.where(odd, s, c), np.where(odd, c, s)
    flip_c = ((quadrant + np.uint32(1)) & np.uint32(2)) == 2
    flip_s = (quadrant & np.uint32(2)) == 2
    return r * np.where(flip_c, -c, c), r * np.where(flip_s, -s, s)


def numbers(law: int, seed: int, param: int, role: int, start: int, stop: int) -> np.ndarray:
    """Numbers ``start`` to ``stop`` of a parameter: float32, or uint16 for ``BITS16``.

    A slice of the numbers is the numbers of the slice: nothing depends on what else is drawn.
    """
    tiles = np.arange(start // TILE, -(-stop // TILE), dtype=np.uint64)
    if law == GAUSSIAN:
        w = words(seed, param, role, tiles[:, None] * np.uint64(256) + np.arange(256, dtype=np.uint64))
        a, b = _normals(w[..., 0], w[..., 1])
        c, d = _normals(w[..., 2], w[..., 3])
        whole = np.stack([a, b, c, d], axis=1)
    elif law == RADEMACHER:
        w = words(seed, param, role, tiles[:, None] * np.uint64(8) + np.arange(8, dtype=np.uint64))
        lanes = w.transpose(0, 2, 1).reshape(len(tiles), 1, 32)
        bit = (lanes >> np.arange(32, dtype=np.uint32)[None, :, None]) & np.uint32(1)
        whole = np.float32(1.0) - np.float32(2.0) * bit.astype(np.float32)
    else:
        w = words(seed, param, role, tiles[:, None] * np.uint64(128) + np.arange(128, dtype=np.uint64))
        halves = np.stack([w & np.uint32(0xFFFF), w >> np.uint32(16)], axis=-1)  # [tile, 128, 4, 2]
        whole = halves.reshape(len(tiles), 128, 8).transpose(0, 2, 1).astype(np.uint16)
    first = start // TILE * TILE
    return whole.reshape(-1)[start - first : stop - first]


def split_seed(seed: int) -> tuple[int, int]:
    """The base seed and the code of a Walsh-coded seed."""
    return seed & ~(CODES - 1), seed & (CODES - 1)


def direction(law: int, seed: int, param: int, start: int, stop: int, *, coded: bool) -> np.ndarray:
    """The dense direction of one seed on a flat range of one parameter, float32: what the kernels must equal."""
    if not coded:
        return numbers(law, seed, param, Z, start, stop)
    base, code = split_seed(seed)
    z = numbers(law, base, param, Z, start, stop)
    parity = np.bitwise_count(np.arange(start, stop, dtype=np.int64) & code) & 1
    return np.where(parity == 1, -z, z)


def derive(seed: int, step: int, index: int, role: int = SEED) -> int:
    """A 64-bit seed for one thing of one step: distinct addresses give unrelated seeds."""
    counter = np.array([step & 0xFFFFFFFF, step >> 32, index, role], np.uint32)
    w = philox(counter, seed & 0xFFFFFFFFFFFFFFFF)
    return int(w[0]) | int(w[1]) << 32


def walsh(weights: np.ndarray) -> np.ndarray:
    """The table T with ``T[j] = sum_n weights[n] * (-1) ** popcount(n & j)``: float64, length the next power of two.

    A fast Walsh-Hadamard transform; the order of additions is fixed, so every worker rounds alike.
    """
    size = 1 << max(0, int(len(weights) - 1).bit_length())
    table = np.zeros(size, np.float64)
    table[: len(weights)] = weights
    half = 1
    while half < size:
        pair = table.reshape(-1, 2, half)
        table = np.stack([pair[:, 0] + pair[:, 1], pair[:, 0] - pair[:, 1]], axis=1).reshape(-1)
        half *= 2
    return table


def permutation(seed: int, n: int, *, index: int = 0) -> np.ndarray:
    """A uniform random order of ``range(n)``, int64, addressed by (seed, index)."""
    w = words(seed, index, ORDER, np.arange(n, dtype=np.uint64)).astype(np.uint64)
    return np.argsort(w[:, 0] | w[:, 1] << HALF, kind="stable").astype(np.int64)
