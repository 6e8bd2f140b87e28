"""Directions as an algebra: tables say the same as the sum of their terms, whatever the mixture of seeds."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zodist import noise
from zodist.directions.direction import Combination, Dense, Term, coded_tables

PARAM = 0xDEADBEEF
BASES = [0, 3 << 16, 0xFFFFFFFFFFFF0000]
TERMS = st.lists(
    st.tuples(st.sampled_from(BASES), st.integers(0, 9), st.floats(-1.0, 1.0)), min_size=1, max_size=9
)


def from_tables(dense: Dense, keys: np.ndarray, table: np.ndarray, start: int, stop: int) -> np.ndarray:
    """What kernels make of keys [S] and one combination's tables [S, L], in float64."""
    total, index = np.zeros(stop - start), np.arange(start, stop) % table.shape[1]
    for key, row in zip(keys, table, strict=True):
        z = noise.numbers(dense.law, int(key), PARAM, noise.Z, start, stop)
        total += z.astype(np.float64) * row[index]
    return total


def from_terms(dense: Dense, combination: Combination, start: int, stop: int) -> np.ndarray:
    """The definition, in float64: the weighted sum of the terms' directions."""
    total = np.zeros(stop - start)
    for seed, weight in combination:
        total += weight * dense.values(PARAM, seed, start, stop).astype(np.float64)
    return total


@settings(deadline=None, max_examples=60)
@given(st.lists(TERMS, min_size=1, max_size=3), st.booleans(), st.sampled_from([0, 1]), st.integers(0, 5000))
def test_tables_equal_the_sum_of_the_terms_directions(terms, coded, law, start):
    """Mixed bases, repeated seeds.  Tolerance: tables are float32 of up to 9, the numbers are up to 6.8."""
    dense = Dense(law, coded, scale=0.5)
    at = [Combination.of(*((base + code, weight) for base, code, weight in ts)) for ts in terms]
    keys, tables = coded_tables(dense, at)
    assert keys.dtype == np.uint64 and tables.dtype == np.float32 and tables.flags.c_contiguous
    assert tables.shape[:2] == (len(at), len(keys))
    for c, combination in enumerate(at):
        got = from_tables(dense, keys, tables[c], start, start + 1500)
        np.testing.assert_allclose(
            got, from_terms(dense, combination, start, start + 1500), rtol=0, atol=2e-5
        )


def test_the_largest_code_has_a_table_of_65536_entries():
    dense = Dense(noise.RADEMACHER, True)
    at = Combination.of((BASES[1] + 65_535, 0.25), (BASES[1] + 1, 0.5), (BASES[1], -1.0))
    keys, tables = coded_tables(dense, [at])
    assert tables.shape == (1, 1, 65_536)
    got = from_tables(dense, keys, tables[0], 64_000, 67_000)
    assert (got == from_terms(dense, at, 64_000, 67_000)).all()  # sums of quarters: exact


def test_keys_are_in_order_of_first_appearance():
    """It is the order of float32 additions, hence part of the bits."""
    at = [
        Combination.of((9 << 16, 1.0), (2 << 16, 1.0)),
        Combination.of((1 << 16, 1.0), ((9 << 16) + 4, 1.0)),
    ]
    keys, tables = coded_tables(Dense(noise.GAUSSIAN, True), at)
    assert keys.tolist() == [9 << 16, 2 << 16, 1 << 16]
    assert (tables[0, 2] == 0).all() and (tables[1, 1] == 0).all()


def test_a_step_of_coded_probes_has_one_base_and_independent_ones_have_many():
    seeds = Combination.of(*((BASES[2] + n, 1.0) for n in range(300)))
    assert coded_tables(Dense(noise.GAUSSIAN, True), [seeds])[1].shape == (1, 1, 1024)
    assert coded_tables(Dense(noise.GAUSSIAN, False), [seeds])[1].shape == (1, 300, 1024)


def test_repeated_seeds_add_their_weights():
    twice = Combination.of((7, 0.25), (7, 0.5))
    once = Combination.of((7, 0.75))
    for coded in (False, True):
        tables = coded_tables(Dense(noise.GAUSSIAN, coded), [twice, once])[1]
        assert tables[0].tobytes() == tables[1].tobytes()


@settings(deadline=None)
@given(TERMS, st.booleans())
def test_the_two_points_of_a_probe_are_exact_mirrors(terms, coded):
    """So that a central difference has no first-order error from rounding the points."""
    plus = Combination.of(*((base + code, weight) for base, code, weight in terms))
    _, tables = coded_tables(Dense(noise.GAUSSIAN, coded), [plus, plus * -1.0])
    assert (tables[1] == -tables[0]).all()


def test_a_combination_without_terms_has_a_zero_table_beside_others():
    _, tables = coded_tables(Dense(noise.GAUSSIAN, True), [Combination.of((7, 1.0)), Combination.of()])
    assert (tables[1] == 0).all() and (tables[0] != 0).all()


@given(TERMS, TERMS, st.floats(-2.0, 2.0))
def test_combinations_add_and_scale_term_by_term(a, b, factor):
    one, two = (Combination.of(*((base + code, weight) for base, code, weight in ts)) for ts in (a, b))
    assert list(one + two) == [*one, *two] and len(one + two) == len(a) + len(b)
    assert list(one * factor) == [Term(seed, weight * factor) for seed, weight in one]
    assert all(type(t.seed) is int and type(t.weight) is float for t in one)


@pytest.mark.parametrize("coded", [False, True])
def test_values_of_a_slice_are_the_slice_of_the_values(coded):
    dense = Dense(noise.GAUSSIAN, coded, scale=2.0)
    whole = dense.values(PARAM, (5 << 16) + 37, 0, 5000)
    assert dense.values(PARAM, (5 << 16) + 37, 1234, 4321).tobytes() == whole[1234:4321].tobytes()


def test_scale_multiplies_the_unit_direction():
    unit = Dense(noise.GAUSSIAN, True).values(PARAM, 5, 0, 3000)
    assert (Dense(noise.GAUSSIAN, True, scale=0.25).values(PARAM, 5, 0, 3000) == unit * 0.25).all()
