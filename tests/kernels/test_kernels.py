"""The CPU kernels give the reference's bits: for any cut of a parameter, any dtype, serially and in parallel.

The reference is numpy float32 in the documented order of operations, see tests/exact.py.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from exact import (
    HALVES,
    KINDS,
    PARAM,
    ROLE,
    ROUND_KEY,
    as_floats,
    dress,
    moves,
    setting,
    stepped,
    stochastic,
    to_words,
    weights,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from zodist import noise
from zodist.kernels import Noise, cpu
from zodist.kernels.tile import BFLOAT16, FLOAT32
from zodist.noise import GAUSSIAN, RADEMACHER, TILE

LAWS = [GAUSSIAN, RADEMACHER]


def perturbed(kind, out_kind, words, origin, start, stop, law, keys, tables) -> np.ndarray:
    """The reference: words of numbers start .. stop - 1 at every point."""
    x = as_floats(kind, words[start - origin : stop - origin])
    return np.stack([to_words(out_kind, x + moves(law, keys, t, start, stop)) for t in tables])


def scratch(kind: int, points: int, rows: int, length: int) -> np.ndarray:
    dtype, fill = (np.uint32, 0xABABABAB) if kind == FLOAT32 else (np.uint16, 0xABAB)
    return np.full((points, rows, length), fill, dtype)


def run_perturb(kernel, kind, out_kind, words, origin, start, stop, law, keys, tables) -> np.ndarray:
    outs = scratch(out_kind, len(tables), 1, stop - start)
    before = words.copy()
    dressed = dress(len(tables))
    kernel(kind, out_kind, words, origin, start, stop, outs, Noise(law, keys, tables, PARAM, ROLE), dressed)
    assert (words == before).all(), "perturb must not touch the weights"
    return outs[:, 0]


SHAPES = st.tuples(st.integers(1, 3), st.integers(1, 3), st.sampled_from([1024, 2048, 65536]))


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(
    ("kind", "out_kind"),
    [
        *((kind, kind) for kind in KINDS),
        *((kind, FLOAT32) for kind in HALVES),  # scratch finer than the weights
        *((FLOAT32, kind) for kind in HALVES),  # a float32 master copy of a 16-bit model
    ],
)
@settings(deadline=None, max_examples=12)
@given(origin=st.integers(0, 200_000), n=st.integers(1, 3000), shape=SHAPES, data=st.data())
def test_perturb_equals_the_reference_on_any_range_of_any_shard(kind, out_kind, law, origin, n, shape, data):
    words, (keys, tables) = weights(kind, n), setting(n, *shape)
    start = origin + data.draw(st.integers(0, n - 1))
    stop = data.draw(st.integers(start + 1, origin + n))
    case = kind, out_kind, words, origin, start, stop, law, keys, tables
    assert (run_perturb(cpu.perturb_serial, *case) == perturbed(*case)).all()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=6)
@given(start=st.integers(0, 3000), n=st.integers(3 * TILE, 5 * TILE), length=st.sampled_from([1024, 8192]))
def test_whole_tiles_of_one_base_and_the_cut_ones_around_them_equal_the_reference(
    kind, law, start, n, length
):
    """Whole tiles of signs have a loop of their own; a range that begins within a tile has both kinds."""
    words, (keys, tables) = weights(kind, n), setting(n, 2, 1, length)
    case = kind, kind, words, start, start, start + n, law, keys, tables
    assert (run_perturb(cpu.perturb_serial, *case) == perturbed(*case)).all()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize(("kind", "out_kind"), [(FLOAT32, BFLOAT16), *((kind, kind) for kind in KINDS)])
@settings(deadline=None, max_examples=12)
@given(
    origin=st.integers(0, 100_000),
    starts=st.lists(st.integers(0, 3000), min_size=1, max_size=5),
    length=st.integers(1, 2100),
    shape=SHAPES,
)
def test_rows_equal_the_reference(kind, out_kind, law, origin, starts, length, shape):
    """Rows may repeat and overlap: an embedding's rows, each from its own flat index."""
    words, (keys, tables) = weights(kind, 3000 + length), setting(length, *shape)
    first = np.array(starts, np.int64) + origin
    outs = scratch(out_kind, len(tables), len(first), length)
    cpu.perturb_rows_serial(
        kind,
        out_kind,
        words,
        origin,
        first,
        length,
        outs,
        Noise(law, keys, tables, PARAM, ROLE),
        dress(len(tables)),
    )
    for r, start in enumerate(first.tolist()):
        want = perturbed(kind, out_kind, words, origin, start, start + length, law, keys, tables)
        assert (outs[:, r] == want).all()


@pytest.mark.parametrize("law", LAWS)
def test_indices_beyond_32_bits_have_numbers_of_their_own(law):
    origin = 2**40 + 12_345
    words, (keys, tables) = weights(FLOAT32, 2000), setting(3, 2, 1, 2048)
    case = FLOAT32, FLOAT32, words, origin, origin, origin + 2000, law, keys, tables
    assert (run_perturb(cpu.perturb_serial, *case) == perturbed(*case)).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_point_without_terms_is_the_weights_themselves(kind):
    words, (keys, tables) = weights(kind, 3000), setting(0, 2, 0, 1024)
    case = kind, kind, words, 0, 0, 3000, GAUSSIAN, keys, tables
    assert (run_perturb(cpu.perturb_serial, *case) == words).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_without_terms_moves_nothing(kind):
    words, (keys, tables) = weights(kind, 3000), setting(0, 1, 0, 1024)
    before, none = words.copy(), np.float32(0.0)
    move = Noise(GAUSSIAN, keys, tables[:1], PARAM, ROLE), dress(), none
    cpu.update_serial(kind, words, 0, *move, ROUND_KEY)
    assert (words == before).all()


@pytest.mark.parametrize("kind", KINDS)
def test_parallel_kernels_give_the_bits_of_the_serial_ones(kind):
    """Fifty tiles from an odd origin: several chunks, with a cut tile at both ends."""
    origin, n = 777, 50 * TILE + 99
    words, (keys, tables) = weights(kind, n), setting(1, 2, 2, 4096)
    case = kind, kind, words, origin, origin, origin + n, GAUSSIAN, keys, tables
    assert (run_perturb(cpu.perturb_serial, *case) == run_perturb(cpu.perturb_parallel, *case)).all()
    starts = np.arange(20, dtype=np.int64) * 2001 + origin
    rows = [scratch(kind, 2, 20, 2001) for _ in range(2)]
    for kernel, outs in zip((cpu.perturb_rows_serial, cpu.perturb_rows_parallel), rows, strict=True):
        kernel(
            kind,
            kind,
            words,
            origin,
            starts,
            2001,
            outs,
            Noise(GAUSSIAN, keys, tables, PARAM, ROLE),
            dress(2),
        )
    assert (rows[0] == rows[1]).all()
    decay, moved = np.float32(0.001), [words.copy() for _ in range(2)]
    for k, kernel in enumerate((cpu.update_serial, cpu.update_parallel)):
        kernel(
            kind, moved[k], origin, Noise(GAUSSIAN, keys, tables[:1], PARAM, ROLE), dress(), decay, ROUND_KEY
        )
    assert (moved[0] == moved[1]).all() and (moved[0] != words).any()
    name = np.uint64(3)
    assert int(cpu.digest_serial(words, origin, name)) == int(cpu.digest_parallel(words, origin, name))


# Updates


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=12)
@given(
    origin=st.integers(0, 200_000), n=st.integers(1, 3000), shape=SHAPES, decay=st.sampled_from([0.0, 0.001])
)
def test_update_is_one_rounding_of_a_float32_sum(kind, law, origin, n, shape, decay):
    words, (keys, tables) = weights(kind, n), setting(n, 1, *shape[1:])
    moved = stepped(as_floats(kind, words), decay, moves(law, keys, tables[0], origin, origin + n))
    bits = noise.numbers(noise.BITS16, int(ROUND_KEY), int(PARAM), noise.ROUNDING, origin, origin + n)
    want = to_words(kind, moved) if kind == FLOAT32 else stochastic(kind, moved, bits)
    cpu.update_serial(
        kind, words, origin, Noise(law, keys, tables[:1], PARAM, ROLE), dress(), np.float32(decay), ROUND_KEY
    )
    assert (words == want).all()


@pytest.mark.parametrize("kind", KINDS)
@settings(deadline=None, max_examples=10)
@given(st.lists(st.integers(1, 4999), max_size=4))
def test_updated_shards_are_the_updated_whole(kind, cuts):
    whole, (keys, tables) = weights(kind, 5000), setting(5, 1, 2, 2048)
    pieces = np.split(whole.copy(), sorted(cuts))
    move = Noise(GAUSSIAN, keys, tables[:1], PARAM, ROLE), dress(), np.float32(0.01), ROUND_KEY
    cpu.update_serial(kind, whole, 0, *move)
    at = 0
    for piece in pieces:
        cpu.update_serial(kind, piece, at, *move)
        at += len(piece)
    assert (np.concatenate(pieces) == whole).all()


# Digest


def digest(words: np.ndarray, origin: int, param: int, kernel: Callable = cpu.digest_serial) -> int:
    return int(kernel(words, origin, np.uint64(param)))


def test_the_digest_is_pinned():
    """Journals and other workers compare it."""
    words = np.array([0, 1, 0xFFFF, 0x3F80], np.uint16)
    want = 0
    for i, word in enumerate(words.tolist()):
        h = ((word ^ 5 << 32) + (100 + i + 1) * 0x9E3779B97F4A7C15) % 2**64
        h = (h ^ h >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        h = (h ^ h >> 27) * 0x94D049BB133111EB % 2**64
        want = (want + (h ^ h >> 31)) % 2**64
    assert digest(words, 100, 5) == want == digest(words.astype(np.uint32), 100, 5)


@given(st.lists(st.integers(1, 299), max_size=5))
def test_digests_of_shards_add_up_in_any_order(cuts):
    words = weights(FLOAT32, 300)
    edges = [0, *sorted(cuts), 300]
    shards = [(words[a:b], a) for a, b in zip(edges, edges[1:], strict=False)]
    parts = [digest(piece.copy(), 50 + at, 9) for piece, at in shards]
    assert sum(parts) % 2**64 == digest(words, 50, 9) == sum(parts[::-1]) % 2**64


@given(st.sampled_from(KINDS), st.integers(0, 299), st.integers(0, 31))
def test_one_flipped_bit_changes_the_digest(kind, place, bit):
    words = weights(kind, 300)
    before = digest(words, 0, 9)
    words[place] ^= words.dtype.type(1 << bit % (8 * words.itemsize))
    assert digest(words, 0, 9) != before


@given(st.integers(0, 299), st.integers(0, 299))
def test_two_swapped_weights_change_the_digest(a, b):
    words = weights(FLOAT32, 300)
    before = digest(words, 0, 9)
    words[[a, b]] = words[[b, a]]
    assert (digest(words, 0, 9) == before) == (a == b)


def test_the_same_weights_elsewhere_have_another_digest():
    words = weights(FLOAT32, 300)
    assert len({digest(words, at, param) for at in (0, 1, 300) for param in (0, 1, 2**32 - 1)}) == 9


def test_serial_and_parallel_forms_have_disk_caches_of_their_own():
    """numba's cache knows a function by its name: under one name, one form would be loaded for the other."""
    for kernel in ("perturb", "perturb_rows", "update", "digest"):
        forms = [getattr(cpu, f"{kernel}_{form}") for form in ("serial", "parallel")]
        assert len({form.py_func.__qualname__ for form in forms}) == 2
        assert [form.targetoptions.get("parallel", False) for form in forms] == [False, True]
