"""SubZero: orthonormal factors, the scale of the released code, and steps that stay in the subspace."""

from __future__ import annotations

import numpy as np
from linear_toy import ask, build, build_on, factors, gradients_of, linear_step

from zodist.directions import Combination

SHAPE = {"w": (32, 20)}


def test_a_direction_is_the_scaled_core_between_orthonormal_bases():
    """So its singular values are sqrt(m n) / r times those of an r by r Gaussian matrix: their squares add up to |Z|^2."""
    method = build_on(SHAPE, "subzero", rank=4)
    ask(method, 0)
    p, unit = method.params[0], Combination.of((1 << 20, 1.0))
    laid = factors(method.direction(p), p, unit, unit * -2.0)
    left, right = laid.left.astype(np.float64), laid.right[0].astype(np.float64)
    np.testing.assert_allclose(right @ right.T, np.eye(4), atol=1e-6)
    inner = left[0].T @ left[0] / (32 * 20 / 16)  # = Z^T Z
    q, _ = np.linalg.qr(left[0])
    core = q.T @ left[0]
    np.testing.assert_allclose(core.T @ core / (32 * 20 / 16), inner, atol=1e-6)
    assert 4.0 < np.trace(inner) < 40.0  # chi squared of 16
    np.testing.assert_allclose(left[1], -2.0 * left[0], rtol=1e-6)


def test_the_estimates_of_a_window_span_one_subspace():
    """r columns and r rows, whatever the number of steps; another window has another."""
    method, gradients = build_on(SHAPE, "subzero", rank=3, refresh=6), gradients_of(SHAPE)
    found = [linear_step(method, step, gradients)[1]["w"] for step in range(7)]
    first = np.concatenate(found[:6], axis=1), np.concatenate(found[:6], axis=0)
    assert [int(np.linalg.matrix_rank(x, tol=1e-3)) for x in first] == [3, 3]
    assert int(np.linalg.matrix_rank(np.concatenate(found, axis=1), tol=1e-3)) == 6


def test_there_is_no_state():
    method = build("subzero", rank=4)
    linear_step(method, 0, gradients_of())
    assert method.state() == {}
