"""Decoding and rounding of weights: torch's conversions bit for bit, or exact in the mean."""

from __future__ import annotations

import numpy as np
import pytest
from exact import (
    HALVES,
    INFINITY,
    KINDS,
    PARAM,
    ROLE,
    as_floats,
    dress,
    neighbours,
    random,
    stochastic,
    to_words,
)

from zodist import noise
from zodist.kernels import Noise, cpu, tile
from zodist.kernels.tile import BFLOAT16, FLOAT16, FLOAT32
from zodist.noise import GAUSSIAN


def patterns(n: int = 1 << 19) -> np.ndarray:
    """float32 bits: random ones; for every exponent, ties of both 16-bit formats and their neighbours."""
    exponent = np.arange(256, dtype=np.uint64)[:, None, None] << 23
    tails = np.array(
        [0, 1 << 12, 3 << 12, 1 << 15, 3 << 15, 0x7FFFFF, 0x7FE000, 0x7FF000, 0x7F0000, 0x7F8000]
    )
    near = tails[None, :, None] + np.array([-1, 0, 1])
    edges = (exponent + near.astype(np.uint64)).reshape(-1) & 0x7FFFFFFF
    # float16's subnormals are 2**-24 apart: all their values, ties and the neighbours of both.
    ties = (np.arange(1, 2050, dtype=np.float32) * np.float32(2.0**-25)).view(np.uint32).astype(np.uint64)
    edges = np.concatenate([edges, ties - 1, ties, ties + 1])
    edges = np.concatenate([edges, edges | 0x80000000]).astype(np.uint32)
    return np.concatenate([edges, random(0).integers(0, 2**32, n, dtype=np.uint32)])


@pytest.mark.parametrize("kind", KINDS)
def test_encode_is_torch_s_conversion(kind):
    """NaN stays NaN; which one is no concern, and torch's own vector and scalar code differ on it."""
    bits = patterns()
    x = bits.view(np.float32)
    words = np.zeros(len(x), np.uint32 if kind == FLOAT32 else np.uint16)
    tile.encode(kind, x, words)
    number = ~np.isnan(x)
    assert (words == to_words(kind, x))[number].all()
    assert np.isnan(as_floats(kind, words))[~number].all()


@pytest.mark.parametrize("kind", HALVES)
def test_decode_is_exact_on_all_65536_words(kind):
    words = np.arange(1 << 16).astype(np.uint16)
    x = np.zeros(1 << 16, np.float32)
    tile.decode(kind, words, x)
    want = as_floats(kind, words)
    number = ~np.isnan(want)
    assert x[number].tobytes() == want[number].tobytes()
    assert np.isnan(x[~number]).all()


@pytest.mark.parametrize("kind", HALVES)
def test_decode_and_encode_give_every_word_back(kind):
    words = np.arange(1 << 16).astype(np.uint16)
    words = words[~np.isnan(as_floats(kind, words))]
    x, back = as_floats(kind, words), np.zeros(len(words), np.uint16)
    tile.encode(kind, x, back)
    assert (back == words).all()
    for bits in (0, 1, 0x7FFF, 0x8000, 0xFFFF):  # a number of the format has nothing to round
        tile.encode_stochastic(kind, x, np.full(len(words), bits, np.uint16), back)
        assert (back == words).all()


@pytest.mark.parametrize("kind", HALVES)
def test_stochastic_rounding_equals_the_exact_reference(kind):
    """Zeros, subnormals, ties, the largest values and overflow included."""
    x = patterns().view(np.float32)
    x = x[np.isfinite(x)]
    bits = random(1).integers(0, 1 << 16, len(x), dtype=np.uint16)
    words = np.zeros(len(x), np.uint16)
    tile.encode_stochastic(kind, x, bits, words)
    assert (words == stochastic(kind, x, bits)).all()


@pytest.mark.parametrize("kind", HALVES)
def test_stochastic_rounding_is_unbiased_and_never_off_by_a_whole_unit(kind):
    """Over all 65,536 rounding numbers.

    Exact wherever float32 has 16 bits or fewer to lose, which is everywhere but in float16's subnormal range:
    there the probability is a multiple of 2**-16, the next above the exact one.
    """
    bits = np.arange(1 << 16).astype(np.uint16)
    words = np.zeros(1 << 16, np.uint16)
    g = random(2)
    usual = g.standard_normal(30, np.float32) * np.float32(0.05)
    tiny = np.array(
        [2.0**-14, 2.0**-24, 2.0**-25, 3.0 * 2.0**-26, 1e-6, -6e-5, 2.0**-41, -(2.0**-149), 1e-40],
        np.float32,
    )
    large = np.array([65504.0, 65510.0, -65519.996, 65520.0, 3.3895314e38, 3.39e38], np.float32)
    for value in np.concatenate([usual, tiny, large]):
        tile.encode_stochastic(kind, np.full(1 << 16, value, np.float32), bits, words)
        below, part = neighbours(kind, np.array([value], np.float32))
        up = (words & 0x7FFF).astype(np.int64) - below
        assert set(np.unique(up)) <= {0, 1} and ((words >> 15) == np.signbit(value)).all()
        bound = 2.0**-16 if kind == FLOAT16 and abs(value) < 2.0**-14 else 0.0
        assert 0.0 <= up.mean() - part[0] <= bound, value


@pytest.mark.parametrize("kind", HALVES)
def test_zero_keeps_its_sign_and_infinity_and_nan_stay(kind):
    bits = np.arange(1 << 16).astype(np.uint16)
    words = np.zeros(1 << 16, np.uint16)
    top = INFINITY[kind]
    for value, word in [(0.0, 0), (-0.0, 0x8000), (np.inf, top), (-np.inf, top | 0x8000)]:
        tile.encode_stochastic(kind, np.full(1 << 16, value, np.float32), bits, words)
        assert (words == word).all()
    quiet = np.full(1 << 16, 0x7FC00000, np.uint32)
    for nan in (quiet, quiet | np.uint32(1 << 31), quiet | np.uint32(0x3FFFFF)):
        tile.encode_stochastic(kind, nan.view(np.float32), bits, words)
        assert np.isnan(as_floats(kind, words)).all()


@pytest.mark.parametrize("kind", HALVES)
def test_updates_far_below_a_unit_arrive_in_the_mean(kind):
    """Decay by 1e-3 of a unit in the last place, which rounding to nearest would drop.

    Five standard errors of the mean of n weights, each moved by a unit with probability p: sqrt(p / n) units.
    """
    n, steps, value = 1 << 16, 4, np.float32(1.5)
    unit = 2.0**-7 if kind == BFLOAT16 else 2.0**-10
    words = to_words(kind, np.full(n, value))
    decay = np.float32(1e-3 * unit)
    for step in range(steps):
        move = (
            Noise(GAUSSIAN, np.zeros(1, np.uint64), np.zeros((1, 1, 1024), np.float32), PARAM, ROLE),
            dress(),
        )
        cpu.update_serial(kind, words, 0, *move, decay, np.uint64(noise.derive(7, step, 0, noise.ROUNDING)))
    want = float(value) * (1.0 - float(decay)) ** steps
    error = 5.0 * unit * np.sqrt(steps * 1.5e-3 / n)
    assert as_floats(kind, words).astype(np.float64).mean() == pytest.approx(want, abs=error)
    assert want < float(value) - error, "the drift must be visible above the noise"
