"""Small linear algebra: the documented order of sums bit for bit, and the properties that the methods rely on."""

from __future__ import annotations

import numpy as np
import pytest
from exact import random
from hypothesis import given, settings
from hypothesis import strategies as st

from zodist.kernels import linalg


def normal(seed: int, *shape: int) -> np.ndarray:
    return random(seed).standard_normal(shape)


def in_order(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """The product as a sum in the order of k, from 0."""
    total = np.zeros((len(a), b.shape[1]))
    for k in range(len(b)):
        total = total + a[:, k : k + 1] * b[k]
    return total


def inner(x: np.ndarray, y: np.ndarray) -> float:
    """16 lanes in the type of x and y, folded by halves."""
    products, lanes = x * y, np.zeros(16, x.dtype)
    for at in range(0, len(x), 16):
        lanes[: len(products[at : at + 16])] += products[at : at + 16]
    for half in (8, 4, 2, 1):
        lanes[:half] += lanes[half : 2 * half]
    return lanes[0]


@settings(deadline=None, max_examples=40)
@given(n=st.integers(0, 600), single=st.booleans())
def test_an_inner_product_is_sixteen_lanes_folded_by_halves(n, single):
    x, y = normal(n, 2, n).astype(np.float32 if single else np.float64)
    assert linalg.dot16(x, y) == inner(x, y)


@settings(deadline=None, max_examples=20)
@given(m=st.integers(1, 9), k=st.integers(0, 40), n=st.integers(1, 700))
def test_products_are_sums_in_order(m, k, n):
    a, b = normal(m, m, k), normal(n, k, n)
    want = in_order(a, b)
    assert (linalg.matmul(a, b) == want).all()
    assert (linalg.matmul_tn(np.ascontiguousarray(a.T), b) == want).all()


def test_a_gram_matrix_is_symmetric_to_the_bit():
    x = normal(3, 7, 300)
    got = linalg.gram(x)
    assert (got == got.T).all()
    assert got[5, 2] == inner(x[5], x[2])
    np.testing.assert_allclose(got, x @ x.T, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (64, 5), (576, 32)])
def test_an_orthonormal_basis_spans_the_columns_with_their_signs(shape):
    y = normal(1, *shape)
    before = y.copy()
    q = linalg.orthonormalise(y)
    assert (y == before).all()
    np.testing.assert_allclose(q.T @ q, np.eye(shape[1]), atol=1e-14)
    np.testing.assert_allclose(q @ (q.T @ y), y, atol=1e-12)
    r = q.T @ y
    assert (np.diag(r) > 0).all() and np.abs(np.tril(r, -1)).max() < 1e-12 * len(y)


def test_nearly_dependent_columns_still_give_an_orthonormal_basis():
    """Laeuchli's matrix: one pass of Gram-Schmidt loses half of the digits here, two lose none."""
    y = np.vstack([np.ones(6), 1e-8 * np.eye(6)])
    q = linalg.orthonormalise(y)
    assert q.shape == y.shape
    np.testing.assert_allclose(q.T @ q, np.eye(6), atol=1e-15)


def test_dependent_zero_and_broken_columns_are_left_out():
    y = normal(2, 50, 6)
    y[:, 1] = 3 * y[:, 0]
    y[:, 2] = 0
    y[:, 4] = y[:, 3] - 2 * y[:, 0]
    y[7, 5] = np.nan
    q = linalg.orthonormalise(y)
    assert q.shape == (50, 2)
    assert (q == linalg.orthonormalise(np.ascontiguousarray(y[:, [0, 3]]))).all()
    assert linalg.orthonormalise(np.zeros((4, 3))).shape == (4, 0)


@pytest.mark.parametrize("shape", [(1, 9), (5, 5), (8, 300), (300, 8)])
def test_five_steps_of_newton_schulz_are_muons(shape):
    g = normal(4, *shape)
    x = g / np.linalg.norm(g)
    x = x.T if shape[0] > shape[1] else x
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    got = linalg.newton_schulz(g, 5)
    np.testing.assert_allclose(got, x.T if shape[0] > shape[1] else x, atol=1e-10)
    values = np.linalg.svd(got, compute_uv=False)
    assert 0.6 < values[-1] and values[0] < 1.3


@pytest.mark.parametrize("shape", [(1, 9), (5, 5), (8, 300), (300, 8)])
def test_the_converged_zeroth_power_is_the_polar_factor(shape):
    """Singular values over six decades."""
    u, _, vt = np.linalg.svd(normal(5, *shape), full_matrices=False)
    g = u * np.logspace(0, -6, min(shape)) @ vt
    np.testing.assert_allclose(linalg.msign(g, 1e-6), u @ vt, atol=1e-9)


def test_the_zeroth_power_leaves_what_is_zero():
    """Of a matrix of rank 2 only two singular values become 1; of zeros none, and nothing is divided by 0."""
    g = normal(6, 6, 2) @ normal(7, 2, 40)
    values = np.linalg.svd(linalg.msign(g, 1e-6), compute_uv=False)
    np.testing.assert_allclose(values, [1, 1, 0, 0, 0, 0], atol=1e-6)
    assert (linalg.msign(np.zeros((3, 4)), 1e-6) == 0).all()
    assert (linalg.newton_schulz(np.zeros((3, 4)), 5) == 0).all()
