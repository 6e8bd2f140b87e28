"""Kernels of matrix directions give the reference's bits, or its sums, for any rows, dtype and number of threads.

The references are numpy float32 in the documented order where the bits are promised, float64 where only a sum is.
"""

from __future__ import annotations

from collections.abc import Callable

import numba
import numpy as np
import pytest
from exact import PARAM, ROLE, as_floats, moves, random, setting, to_words, weights

from zodist import noise
from zodist.kernels import BFLOAT16, FLOAT32, Noise, matrix, outer, sketch
from zodist.noise import GAUSSIAN, RADEMACHER

LAWS = [GAUSSIAN, RADEMACHER]
SHAPES = [(2500, 1), (311, 7), (65, 64), (9, 576), (5, 1500)]  # rows within a tile, across two, of two tiles
C, SCALE = np.float32(0.37), np.float32(0.9)
POINTS = 2
ONES = np.ones((1, 1, 1024), np.float32)


def lanes(products: np.ndarray) -> np.float32:
    """The sum of float32 products as dot16 promises it."""
    total = np.zeros(16, np.float32)
    for at in range(0, len(products), 16):
        part = products[at : at + 16]
        total[: len(part)] += part
    for half in (8, 4, 2, 1):
        total[:half] += total[half : 2 * half]
    return total[0]


def blank(kind: int, *shape: int) -> np.ndarray:
    return np.full(shape, 0xABAB, np.uint32 if kind == FLOAT32 else np.uint16)


def vector(n: int, seed: int = 7) -> np.ndarray:
    return random(seed).standard_normal(n, np.float32) / np.float32(np.sqrt(n))


def noises(law: int, keys: np.ndarray, tables: np.ndarray, m: int, n: int) -> np.ndarray:
    """The coded noise matrices, float32 [C, m, n]."""
    return np.stack([moves(law, keys, table, 0, m * n).reshape(m, n) for table in tables])


def projected(rows: np.ndarray, n: int, law: int, bases: int, kind: int = BFLOAT16, *, kernel=None):
    """The kernel on some rows of a held range that starts at the first of them; and its arguments' tables."""
    m = int(rows.max()) + 1
    origin = int(rows.min()) * n
    keys, tables = setting(n, POINTS, bases, 2048)
    words, outs = weights(kind, m * n)[origin:], blank(kind, POINTS, len(rows), n)
    tables *= np.float32(100)  # so that bfloat16 weights see the direction
    move = Noise(law, keys, tables, PARAM, ROLE), vector(n), C, SCALE
    (kernel or matrix.project_serial)(kind, kind, words, origin, rows, n, outs, *move)
    return outs


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("bases", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", [FLOAT32, BFLOAT16])
def test_a_projected_row_has_the_documented_bits(shape, law, bases, kind):
    m, n = shape
    rows, a = np.arange(m - 1, dtype=np.int64) + 1, vector(n)
    keys, tables = setting(n, POINTS, bases, 2048)
    x = as_floats(kind, weights(kind, m * n)).reshape(m, n)
    outs = projected(rows, n, law, bases, kind)
    for t, got in zip(noises(law, keys, tables * np.float32(100), m, n), outs, strict=True):
        want = np.empty((m - 1, n), np.float32)
        for r, i in enumerate(rows.tolist()):
            want[r] = x[i] + SCALE * (t[i] - (C * lanes(t[i] * a)) * a)
        assert (got == to_words(kind, want)).all()


@pytest.mark.parametrize("shape", SHAPES)
def test_any_set_of_rows_in_any_order_is_rows_of_the_whole(shape):
    m, n = shape
    whole = projected(np.arange(m, dtype=np.int64), n, GAUSSIAN, 3)
    rows = random(m).integers(0, m, 12)
    rows[3] = m - 1  # so that both calls make the same matrix
    assert (projected(rows, n, GAUSSIAN, 3) == whole[:, rows]).all()


@pytest.mark.parametrize("law", LAWS)
def test_without_weights_and_factors_the_direction_itself_comes_out(law):
    keys, tables = setting(5, POINTS, 2, 1024)
    rows, outs = np.array([3, 4, 0]), blank(FLOAT32, POINTS, 3, 70)
    none, a, zero, one = np.empty(0, np.uint32), vector(70), np.float32(0), np.float32(1)
    matrix.project_serial(
        FLOAT32, FLOAT32, none, 0, rows, 70, outs, Noise(law, keys, tables, PARAM, ROLE), a, zero, one
    )
    assert (outs.view(np.float32) == noises(law, keys, tables, 5, 70)[:, rows]).all()


@pytest.mark.parametrize("law", [-1, *LAWS])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("kind", "rank", "shared"), [(FLOAT32, 11, True), (BFLOAT16, 1, False)])
def test_a_low_rank_row_is_summed_in_the_order_of_its_terms(shape, law, kind, rank, shared):
    m, n = shape
    g = random(rank)
    left = g.standard_normal((POINTS, m, rank), np.float32)
    right = g.standard_normal((1 if shared else POINTS, rank, n), np.float32)
    words, rows = weights(kind, m * n), np.arange(m, dtype=np.int64)[::-1].copy()
    outs, key = blank(kind, POINTS, m, n), np.array([99], np.uint64)
    matrix.product_serial(
        kind, kind, words, 0, rows, n, outs, left, right, Noise(law, key, ONES, PARAM, ROLE)
    )
    for p in range(POINTS):
        factors = right[0 if shared else p]
        total = left[p, :, :1] * factors[:1]
        for k in range(1, rank):
            total = total + left[p, :, k : k + 1] * factors[k]
        if law >= 0:
            total = total * noise.numbers(law, 99, int(PARAM), noise.Z, 0, m * n).reshape(m, n)
        want = to_words(kind, as_floats(kind, words).reshape(m, n) + total)
        assert (outs[p] == want[rows]).all()


@pytest.mark.parametrize("kind", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize(("m", "n", "folds", "period"), [(40, 96, 8, 32), (9, 771, 8, 512), (3, 5, 2, 8)])
def test_a_rank_one_row_is_its_factor_times_the_vector_times_a_repeated_table(m, n, folds, period, kind):
    """Tables shorter than a row, not a part of it, and longer than it."""
    g = random(n)
    left, right = (g.choice(np.array([-1, 1], np.float32), size) for size in (m, n))
    tables, words = g.standard_normal((POINTS, folds, period), np.float32), weights(kind, m * n)
    rows = np.arange(m, dtype=np.int64)[::-1].copy()
    x = as_floats(kind, words).reshape(m, n)
    found = [blank(kind, POINTS, m, n) for _ in range(2)]
    for kernel, outs in zip((outer.rank_one_serial, outer.rank_one_parallel), found, strict=True):
        kernel(kind, kind, words, 0, rows, n, outs, left, right, tables)
        for table, got in zip(tables, outs, strict=True):
            wide = table[rows % folds][:, np.arange(n) % period]
            assert (got == to_words(kind, x[rows] + (left[rows, None] * right) * wide)).all()


def test_a_product_of_rank_zero_is_the_weights():
    words, outs = weights(BFLOAT16, 30), blank(BFLOAT16, 1, 3, 10)
    left, right = np.empty((1, 3, 0), np.float32), np.empty((1, 0, 10), np.float32)
    rows = np.arange(3)
    matrix.product_serial(
        BFLOAT16,
        BFLOAT16,
        words,
        0,
        rows,
        10,
        outs,
        left,
        right,
        Noise(-1, np.zeros(1, np.uint64), ONES, PARAM, ROLE),
    )
    assert (outs.reshape(-1) == words).all()


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("codes", [1, 2, 8, 256])
@pytest.mark.parametrize("shape", [(700, 1), (80, 7), (65, 64), (9, 576), (5, 1500)])
def test_the_score_of_a_coded_population_is_the_sum_over_its_members(shape, law, codes):
    """Members one by one in float64; the kernel never forms one."""
    (m, n), g = shape, random(codes)
    keys, members = np.array([3 << 16, 8 << 16], np.uint64), min(codes, 6)
    w, a = np.zeros((2, codes)), vector(n)
    chosen = np.sort(g.permutation(codes)[:members])
    w[:, chosen] = g.standard_normal((2, members))
    want, q = np.zeros(n), 0.0
    for s, key in enumerate(keys.tolist()):
        for k in chosen.tolist():
            u = noise.direction(law, key + k, int(PARAM), 0, m * n, coded=True)
            u = u.reshape(m, n).astype(np.float64)
            y = u @ a.astype(np.float64)
            want += w[s, k] * (u * y[:, None]).sum(0)
            q += w[s, k] * (y**2).sum()
    out = np.full(n, np.nan)
    got = matrix.score_serial(
        m, n, Noise(law, keys, np.ones((1, 2, 1024), np.float32), PARAM, ROLE), a, w, out
    )
    np.testing.assert_allclose(out, want, rtol=1e-10, atol=1e-12 * np.abs(w).sum() * m)
    assert got == pytest.approx(q, rel=1e-10, abs=1e-12 * np.abs(w).sum() * m)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("shape", [*SHAPES, (300, 130)])
@pytest.mark.parametrize("bases", [1, 3])
def test_sketches_are_products_with_the_noise(shape, law, bases):
    """float32 products of order-1 terms: the error is a few roundings of the root of the summed squares."""
    (m, n), g = shape, random(1)
    keys, tables = setting(n, POINTS, bases, 1024)
    tables *= np.float32(1000)
    u, v = g.standard_normal((m, 5)), g.standard_normal((n, 9))
    dense = noises(law, keys, tables, m, n).astype(np.float64)
    move, rows = (Noise(law, keys, tables, PARAM, ROLE),), g.integers(0, m, 10)
    right, left, middle = np.empty((POINTS, 10, 9)), np.empty((POINTS, 5, n)), np.empty((POINTS, 5, 9))
    sketch.sketch_serial(rows, n, *move, v, right)
    sketch.back_serial(m, n, *move, u, left)
    sketch.core_serial(m, n, *move, u, v, middle)
    size = 3e-6 * np.sqrt(bases)
    np.testing.assert_allclose(right, dense[:, rows] @ v, rtol=0, atol=size * np.sqrt(n))
    np.testing.assert_allclose(left, u.T @ dense, rtol=0, atol=size * np.sqrt(m))
    np.testing.assert_allclose(middle, u.T @ dense @ v, rtol=0, atol=size * np.sqrt(m * n))


def test_parallel_kernels_give_the_bits_of_the_serial_ones_for_any_number_of_threads():
    """Several tasks of every kernel: 200 rows are five tasks of rows and four spans."""
    m, n, g = 200, 700, random(2)
    keys, tables = setting(1, POINTS, 2, 4096)
    move, a = (Noise(GAUSSIAN, keys, tables, PARAM, ROLE),), vector(n)
    u, v, codes = g.standard_normal((m, 3)), g.standard_normal((n, 9)), g.standard_normal((2, 16))
    left, right = g.standard_normal((POINTS, m, 3), np.float32), g.standard_normal((1, 3, n), np.float32)
    words, rows = weights(BFLOAT16, m * n), np.arange(m)
    case = BFLOAT16, BFLOAT16, words, 0, rows, n

    def results(form: str) -> list[bytes]:
        def run(module, name: str, out: np.ndarray, *before_and_after) -> bytes:
            before, after = before_and_after
            value = getattr(module, f"{name}_{form}")(*before, out, *after)
            return out.tobytes() + np.float64(value or 0).tobytes()

        points = blank(BFLOAT16, POINTS, m, n)
        return [
            run(matrix, "project", points.copy(), case, (*move, a, C, SCALE)),
            run(matrix, "product", points, case, (left, right, Noise(GAUSSIAN, keys[:1], ONES, PARAM, ROLE))),
            run(
                matrix,
                "score",
                np.empty(n),
                (
                    m,
                    n,
                    Noise(GAUSSIAN, keys, np.ones((1, len(keys), 1024), np.float32), PARAM, ROLE),
                    a,
                    codes,
                ),
                (),
            ),
            run(sketch, "sketch", np.empty((POINTS, m, 9)), (rows, n, *move, v), ()),
            run(sketch, "core", np.empty((POINTS, 3, 9)), (m, n, *move, u, v), ()),
            run(sketch, "back", np.empty((POINTS, 3, n)), (m, n, *move, u), ()),
        ]

    want, most = results("serial"), numba.get_num_threads()
    try:
        for threads in range(1, most + 1):
            numba.set_num_threads(threads)
            assert results("parallel") == want
    finally:
        numba.set_num_threads(most)


def test_spans_depend_on_the_matrix_alone():
    span: Callable[[int, int], int] = matrix.rows_per_span
    assert [span(m, 256) for m in (1, 64, 65, 16384, 16385, 152_000)] == [64, 64, 64, 64, 65, 594]
