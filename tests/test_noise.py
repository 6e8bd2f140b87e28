"""The noise law: known answers, the layout of the format, moments, independence and Walsh codes.

Statistical tests have fixed addresses, so they give the same figures on every run.  Their bounds are five
standard errors: one sound generator in a million would miss one.
"""

from __future__ import annotations

import itertools
import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from zodist import noise
from zodist.directions import address
from zodist.noise import BITS16, GAUSSIAN, RADEMACHER, TILE, Z

SEED = 0x0123456789ABCDEF
LAWS = [GAUSSIAN, RADEMACHER, BITS16]
SEEDS = st.integers(0, 2**64 - 1)
PARAMS = st.integers(0, 2**32 - 1)
N = 1 << 19


def crc(values: np.ndarray) -> int:
    return zlib.crc32(values.tobytes())


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ("00000000 00000000 00000000 00000000", "00000000 00000000", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
        ("ffffffff ffffffff ffffffff ffffffff", "ffffffff ffffffff", "408f276d 41c83b0e a20bc7c6 6d5451fd"),
        ("243f6a88 85a308d3 13198a2e 03707344", "a4093822 299f31d0", "d16cfe09 94fdcceb 5001e420 24126ea1"),
    ],
)
def test_philox_gives_the_known_answers_of_random123(counter, key, answer):
    c, k, want = ([int(word, 16) for word in text.split()] for text in (counter, key, answer))
    seed = k[0] | k[1] << 32
    assert noise.philox(np.array(c, np.uint32), seed).tolist() == want
    block = np.array(c[0] | c[1] << 32, np.uint64)
    assert noise.words(seed, c[2], c[3], block).tolist() == want


def test_the_law_is_pinned():
    """Weights are rebuilt from journals with these numbers: a change needs another name of the law."""
    assert noise.LAW == "zodist-noise/1"
    assert (noise.Z, noise.U, noise.V, noise.MASK) == (0, 1, 2, 3)
    assert (noise.RADIUS, noise.ROUNDING, noise.SEED, noise.ORDER) == (4, 5, 6, 7)
    gaussian = noise.numbers(GAUSSIAN, SEED, 7, Z, 1022, 1026).view(np.uint32)
    assert gaussian.tolist() == [0xBF51D25A, 0xBFA7B603, 0x3F12BD2F, 0xBECF89E4]
    rademacher = noise.numbers(RADEMACHER, SEED, 7, Z, 1020, 1030)
    assert rademacher.tolist() == [-1, 1, 1, 1, 1, 1, 1, 1, 1, -1]
    assert noise.numbers(BITS16, SEED, 7, Z, 1022, 1026).tolist() == [33688, 21346, 590, 19155]
    assert crc(noise.numbers(GAUSSIAN, SEED, 7, Z, 0, 8192)) == 0x2DA39832
    assert crc(noise.numbers(RADEMACHER, SEED, 7, Z, 0, 8192)) == 0x176CA1E7
    assert crc(noise.numbers(BITS16, SEED, 7, Z, 0, 8192)) == 0x81EBE16C
    assert crc(noise.direction(GAUSSIAN, SEED, 7, 0, 8192, coded=True)) == 0xFEE5B135


def test_derived_seeds_orders_and_addresses_are_pinned():
    assert noise.derive(1, 2, 3) == 0x63F145DBBF52CA22
    assert noise.derive(1, 2, 3, noise.ROUNDING) == 0x06B04C6E7506B3B1
    assert noise.derive(2**64 - 1, 2**40, 65536) == 0x3F4B5CAD501B98EA
    assert noise.permutation(5, 10).tolist() == [7, 3, 4, 9, 6, 2, 8, 0, 1, 5]
    assert noise.permutation(5, 10, index=1).tolist() == [8, 0, 4, 1, 2, 7, 5, 3, 6, 9]
    assert address("model.embed_tokens.weight") == 0x126F5613


@pytest.mark.parametrize("tile", [0, 5, 2**31, 2**32 + 3])
def test_every_number_comes_from_the_block_and_word_of_the_header_s_table(tile):
    """One number at a time.  Gaussian: against float64, tolerance see the accuracy test below."""
    span = tile * TILE, (tile + 1) * TILE
    gaussian, rademacher, bits16 = (noise.numbers(law, SEED, 7, noise.MASK, *span) for law in LAWS)
    for j in range(0, TILE, 13):

        def word(block: int, w: int) -> int:
            return int(noise.words(SEED, 7, noise.MASK, np.array(block, np.uint64))[w])

        lane, block = j // 256, 256 * tile + j % 256
        u = np.float32(word(block, lane // 2 * 2)) * np.float32(2.0**-32) + np.float32(2.0**-33)
        angle = 2.0 * math.pi * word(block, lane // 2 * 2 + 1) / 2.0**32
        wave = math.sin(angle) if lane % 2 else math.cos(angle)
        assert gaussian[j] == pytest.approx(math.sqrt(-2.0 * math.log(float(u))) * wave, abs=3e-6)
        clear = word(8 * tile + j % 8, j % 32 // 8) >> (j // 32) & 1
        assert rademacher[j] == (-1.0 if clear else 1.0)
        h = j // 128
        assert bits16[j] == word(128 * tile + j % 128, h // 2) >> (16 * (h % 2)) & 0xFFFF


@settings(deadline=None, max_examples=40)
@given(st.sampled_from(LAWS), SEEDS, PARAMS, st.integers(0, 7), st.integers(0, 2**40), st.data())
def test_a_slice_of_the_numbers_is_the_numbers_of_the_slice(law, seed, param, role, first, data):
    stop = data.draw(st.integers(0, 3 * TILE))
    start = data.draw(st.integers(0, stop))
    first = first // TILE * TILE
    whole = noise.numbers(law, seed, param, role, first, first + 3 * TILE)
    part = noise.numbers(law, seed, param, role, first + start, first + stop)
    assert part.dtype == (np.uint16 if law == BITS16 else np.float32)
    assert part.tobytes() == whole[start:stop].tobytes()


def test_box_muller_is_accurate_at_its_edges_and_everywhere():
    """Against float64 on the same uniform.

    The fits of log and sin/cos have absolute errors near 1e-7; a radius of up to 6.8 scales the latter, and
    where the radius is near 0 the root amplifies the former.
    """
    edges = np.array([0, 1, 2, 255, 2**24, 2**29 - 1, 2**29, 2**31 - 1, 2**31, 2**32 - 128, 2**32 - 1])
    root = np.array([np.sqrt(0.5) * 2.0**32]).astype(np.uint32)[0] + np.arange(-300, 300, 3)
    spread = noise.words(SEED, 0, Z, np.arange(1 << 14)).reshape(-1)
    radius = np.concatenate([edges, root, spread]).astype(np.uint32)
    quarters = (np.arange(8)[:, None] * 2**29 + np.arange(-4, 5)).reshape(-1)
    angle = np.concatenate([edges, quarters, spread[::-1]]).astype(np.uint64).astype(np.uint32)
    angle = np.resize(angle, len(radius))
    got_c, got_s = noise._normals(radius, angle)
    u = (radius.astype(np.float32) * np.float32(2.0**-32) + np.float32(2.0**-33)).astype(np.float64)
    r, turn = np.sqrt(-2.0 * np.log(u)), 2.0 * np.pi * angle.astype(np.float64) / 2.0**32
    tolerance = 2e-6 + 3e-7 / np.maximum(r, 3e-4)
    assert (np.abs(got_c - r * np.cos(turn)) < tolerance).all()
    assert (np.abs(got_s - r * np.sin(turn)) < tolerance).all()
    assert max(np.abs(got_c).max(), np.abs(got_s).max()) < 6.8
    assert np.isfinite(got_c).all() and np.isfinite(got_s).all()


def test_gaussian_moments_and_tails_are_those_of_the_normal_law():
    """Five standard errors each: 1/n, 2/n, 15/n, 96/n and p(1-p)/n are the variances of the estimates."""
    z = noise.numbers(GAUSSIAN, SEED, 11, Z, 0, N).astype(np.float64)
    for power, mean, variance in [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0)]:
        assert np.mean(z**power) == pytest.approx(mean, abs=5.0 * math.sqrt(variance / N)), f"moment {power}"
    for cut in (0.5, 1.0, 2.0, 3.0, 4.0):
        p = math.erfc(cut / math.sqrt(2.0))
        error = math.sqrt(p * (1.0 - p) / N)
        assert np.mean(np.abs(z) > cut) == pytest.approx(p, abs=5.0 * error), f"share beyond {cut}"


def test_gaussian_distribution_function_is_the_normal_one():
    """Kolmogorov-Smirnov: sqrt(n) D exceeds 2.23 once in 10,000 sound samples."""
    z = np.sort(noise.numbers(GAUSSIAN, SEED, 12, Z, 0, N)).astype(np.float64)
    expected = torch.special.ndtr(torch.from_numpy(z)).numpy()
    steps = np.arange(N + 1) / N
    distance = max(np.abs(expected - steps[1:]).max(), np.abs(expected - steps[:-1]).max())
    assert distance * math.sqrt(N) < 2.23


def test_rademacher_numbers_are_plus_and_minus_one_in_equal_shares():
    z = noise.numbers(RADEMACHER, SEED, 11, Z, 0, N)
    assert set(np.unique(z)) == {-1.0, 1.0}
    assert np.mean(z, dtype=np.float64) == pytest.approx(0.0, abs=5.0 / math.sqrt(N))


def test_rounding_bits_are_uniform():
    """Chi squared over the high and the low byte: 255 degrees of freedom, standard deviation 22.6."""
    bits = noise.numbers(BITS16, SEED, 11, noise.ROUNDING, 0, N)
    for byte in (bits >> 8, bits & 0xFF):
        counts = np.bincount(byte, minlength=256)
        assert abs(((counts - N / 256) ** 2 / (N / 256)).sum() - 255) < 5 * math.sqrt(2 * 255)


def assert_uncorrelated(a: np.ndarray, b: np.ndarray, what: str) -> None:
    """Values and magnitudes; five standard errors of a correlation of independent samples, 1 / sqrt(n)."""
    for x, y, kind in [(a, b, "values"), (np.abs(a), np.abs(b), "magnitudes")]:
        if x.std() == 0.0:
            continue  # Rademacher magnitudes are constant
        r = float(np.corrcoef(x, y)[0, 1])
        assert abs(r) < 5.0 / math.sqrt(len(x)), f"{what}, {kind}: correlation {r:.5f}"


@pytest.mark.parametrize("law", [GAUSSIAN, RADEMACHER])
def test_numbers_of_different_addresses_are_uncorrelated(law):
    """Neighbouring values of every part of an address are the hardest case for a counter-based generator."""
    n = 1 << 17
    z = noise.numbers(law, SEED, 11, Z, 0, n)
    others = {
        "seed + 1": (SEED + 1, 11, Z),
        "seed, high word + 1": (SEED + (1 << 32), 11, Z),
        "base + 1": (SEED + noise.CODES, 11, Z),
        "one seed bit": (SEED ^ (1 << 63), 11, Z),
        "parameter + 1": (SEED, 12, Z),
        "parameter and role swapped": (SEED, Z, 11),
        "role u": (SEED, 11, noise.U),
        "role rounding": (SEED, 11, noise.ROUNDING),
    }
    for what, (seed, param, role) in others.items():
        assert_uncorrelated(z, noise.numbers(law, seed, param, role, 0, n), what)
    seeds = [noise.derive(SEED, step, probe) for step in (0, 1) for probe in (0, 1)]
    steps = [noise.numbers(law, seed, 11, Z, 0, n) for seed in seeds]
    for a in range(4):
        for b in range(a):
            assert_uncorrelated(steps[a], steps[b], f"steps and probes {a}, {b}")


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("lag", [1, 2, 7, 8, 16, 31, 32, 128, 255, 256, 257, 512, 768, 1023, 1024, 4096])
def test_neighbours_lanes_and_tiles_are_uncorrelated(law, lag):
    """The lags are those of the layout: words, bits and lanes of one block, blocks, tiles."""
    n = 1 << 17
    z = noise.numbers(law, SEED, 13, Z, 0, n + lag).astype(np.float64)
    z = z - 32767.5 if law == BITS16 else z
    assert_uncorrelated(z[:n], z[lag:], f"lag {lag}")


def test_the_four_lanes_of_a_gaussian_block_have_independent_radii():
    """Lanes 0, 1 share a radius, so do 2, 3: their squares are uncorrelated only if it has the right law."""
    tiles = noise.numbers(GAUSSIAN, SEED, 14, Z, 0, N).reshape(-1, 4, 256).astype(np.float64)
    lanes = [tiles[:, k].reshape(-1) for k in range(4)]
    for a in range(4):
        for b in range(a):
            assert_uncorrelated(lanes[a], lanes[b], f"lanes {a}, {b}")
            assert_uncorrelated(lanes[a] ** 2, lanes[b] ** 2, f"squares of lanes {a}, {b}")


@given(SEEDS)
def test_base_and_code_make_up_the_seed(seed):
    base, code = noise.split_seed(seed)
    assert base | code == seed and base & (noise.CODES - 1) == 0 and 0 <= code < noise.CODES


@pytest.mark.parametrize("law", [GAUSSIAN, RADEMACHER])
@pytest.mark.parametrize("size", [2, 8, 256, 2048])
def test_codes_are_orthogonal_over_aligned_blocks(law, size):
    """The sum of products of two codes' signs is 0, not merely small."""
    start = 3 * size
    base = noise.direction(law, SEED & ~0xFFFF, 5, start, start + size, coded=True)
    codes = sorted({0, 1, 2, 3, size // 2, size - 1} & set(range(size)))
    seeds = [(SEED & ~0xFFFF) + n for n in codes]
    z = np.stack([noise.direction(law, s, 5, start, start + size, coded=True) for s in seeds])
    assert (np.abs(z) == np.abs(base)).all()
    signs = (z / base).astype(np.float64)
    assert (signs @ signs.T == size * np.eye(len(codes))).all()
    if law == RADEMACHER:
        assert (z.astype(np.float64) @ z.T.astype(np.float64) == size * np.eye(len(codes))).all()


def test_a_code_is_a_row_of_sylvester_s_matrix_whatever_its_size():
    hadamard = np.ones((1, 1))
    for _ in range(6):
        hadamard = np.block([[hadamard, hadamard], [hadamard, -hadamard]])
    base = noise.numbers(RADEMACHER, 9 << 16, 5, Z, 0, 192)
    for code in range(64):
        z = noise.direction(RADEMACHER, (9 << 16) + code, 5, 0, 192, coded=True)
        assert (z == base * np.tile(hadamard[code], 3)).all()


@settings(deadline=None)
@given(st.lists(st.integers(-(2**30), 2**30), min_size=1, max_size=70))
@example([5])
@example([0] * 64 + [1])
def test_the_fast_transform_equals_the_naive_sum(weights):
    """Integers of 30 bits: every float64 sum is exact, so the two must be equal."""
    table = noise.walsh(np.array(weights, np.float64))
    assert len(table) == 1 << (len(weights) - 1).bit_length()
    for j in range(len(table)):
        assert table[j] == sum(-w if (n & j).bit_count() % 2 else w for n, w in enumerate(weights))


@settings(deadline=None)
@given(st.integers(0, 300), SEEDS, st.integers(0, 2**32 - 1))
def test_a_permutation_holds_every_number_once(n, seed, index):
    order = noise.permutation(seed, n, index=index)
    assert order.dtype == np.int64 and sorted(order) == list(range(n))


def test_permutations_are_uniform():
    """Chi squared over the 24 orders of four things: 23 degrees of freedom, standard deviation 6.8."""
    orders = [tuple(noise.permutation(noise.derive(SEED, k, 0), 4)) for k in range(2400)]
    counts = np.unique([hash(order) for order in orders], return_counts=True)[1]
    assert len(counts) == 24
    assert abs(((counts - 100.0) ** 2 / 100.0).sum() - 23) < 5 * math.sqrt(2 * 23)


def test_derived_seeds_do_not_collide():
    """Arithmetic such as seed * (i + 17) + i collides on such a set; 64 random bits never should."""
    addresses = list(itertools.product(range(4), range(20), range(30), (noise.SEED, noise.ORDER)))
    assert len({noise.derive(*a) for a in addresses}) == len(addresses)
    assert noise.derive(3, 1, 0) != noise.derive(3, 0, 1) != noise.derive(3, 1 << 32, 0)
