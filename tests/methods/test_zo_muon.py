"""ZO-Muon: one-sided points, pooled over all probes before their singular values are set to 1."""

from __future__ import annotations

import numpy as np
import pytest
from linear_toy import (
    answer,
    ask,
    build,
    build_on,
    cosine,
    factors,
    gradients_of,
    linear_losses,
    linear_step,
    numbers,
)

from zodist.directions import Scaled
from zodist.kernels import linalg

MATRIX = {"w": (16, 8)}


def singular(x: np.ndarray) -> np.ndarray:
    return np.linalg.svd(x.astype(np.float64), compute_uv=False)


def slopes_and_directions(method, step: int, gradients) -> tuple[np.ndarray, np.ndarray]:
    """The points' slopes [P * K] and directions [P * K, m, n], from the probes as they are asked for."""
    _, probes = ask(method, step)
    losses = linear_losses(method, probes, gradients)
    eps, points = method.settings.eps, [point for probe in probes for point in probe.points[:-1]]
    slope = ((losses[:, :-1] - losses[:, -1:]) / eps).reshape(-1)
    p = method.params[0]
    units = [point * (1.0 / eps) for point in points]
    return slope, numbers(method.direction(p), p, *units).astype(np.float64)


def test_a_probe_is_points_on_one_side_and_last_the_weights_themselves():
    _, probes = ask(build("zo_muon", probes=2, points=3, eps=0.25), 3)
    for probe in probes:
        assert [len(point) for point in probe.points] == [1, 1, 1, 0]
        assert [point.weights.tolist() for point in probe.points[:3]] == [[0.25]] * 3
    seeds = [int(point.seeds[0]) for probe in probes for point in probe.points[:3]]
    assert seeds == list(range(seeds[0], seeds[0] + 6))


@pytest.mark.parametrize("exact", [False, True])
def test_all_probes_are_pooled_before_singular_values_are_set(exact):
    """P msign(P^T sum of slope * direction); msigns of single probes, added up, are something else."""
    gradients, method = (
        gradients_of(MATRIX),
        build_on(MATRIX, "zo_muon", probes=3, points=2, rank=4, exact=exact),
    )
    slope, directions = slopes_and_directions(method, 5, gradients)
    found = linear_step(method, 5, gradients)[1]["w"]
    p = method.params[0]
    basis = factors(method.update(p), p, Scaled(1.0)).left[0].astype(np.float64)

    def step(slope: np.ndarray, directions: np.ndarray) -> np.ndarray:
        inner = basis.T @ np.tensordot(slope, directions, axes=1)
        return basis @ (linalg.msign(inner, 1e-9) if exact else linalg.newton_schulz(inner, 5))

    np.testing.assert_allclose(found, step(slope, directions), rtol=0, atol=1e-4)
    alone = [step(slope[k : k + 2], directions[k : k + 2]) for k in (0, 2, 4)]
    assert np.abs(np.mean(alone, axis=0) - found).max() > 0.05


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_a_step_has_one_size_whatever_the_losses_say(scale):
    method = build_on(MATRIX, "zo_muon", points=8, rank=4, exact=True)
    gradients = {"w": scale * gradients_of(MATRIX)["w"]}
    found = linear_step(method, 0, gradients)[1]["w"]
    np.testing.assert_allclose(singular(found), [1.0] * 4 + [0.0] * 4, atol=1e-5)


def test_five_quintic_steps_leave_singular_values_near_one():
    found = linear_step(build_on(MATRIX, "zo_muon", points=8, rank=4), 0, gradients_of(MATRIX))[1]["w"]
    values = singular(found)
    assert (values[:4] > 0.6).all() and (values[:4] < 1.25).all() and (values[4:] < 1e-5).all()


def test_without_noise_the_step_is_the_sign_of_the_gradient_in_the_subspace():
    """64 Rademacher codes on the 4 x 8 numbers of Psi: an orthogonal basis, so G = P^T gradient."""
    settings = {"points": 64, "rank": 4, "noise": "rademacher", "exact": True}
    method, gradients = build_on(MATRIX, "zo_muon", **settings), gradients_of(MATRIX)
    found = linear_step(method, 2, gradients)[1]
    np.testing.assert_allclose(found["w"], method.expected(gradients)["w"], rtol=0, atol=1e-4)
    assert 0.2 < cosine(found, gradients) < 1.0


def test_vectors_take_the_plain_estimate_at_a_rate_of_their_own():
    gradients = gradients_of()
    method = build("zo_muon", points=6, rank=4, vector_rate=0.125)
    _, probes = ask(method, 1)
    losses = linear_losses(method, probes, gradients)[0]
    b = method.params[1]
    units = numbers(method.direction(b), b, *[point * 1e3 for point in probes[0].points[:-1]])
    want = 0.125 * np.tensordot((losses[:-1] - losses[-1]) / 1e-3, units.astype(np.float64), axes=1) / 6
    found = linear_step(method, 1, gradients)[1]["b"]
    np.testing.assert_allclose(found, want, rtol=0, atol=1e-5 * np.abs(want).max())


def test_the_update_scales_with_the_factor():
    """A rule hands in its learning rate so."""
    method = build("zo_muon", points=4, rank=4, vector_rate=0.5)
    outcome, found = linear_step(method, 0, gradients_of())
    assert outcome.gradient == Scaled(1.0)
    for p in method.params:
        half = numbers(method.update(p), p, outcome.gradient * 0.5)[0]
        np.testing.assert_allclose(half, 0.5 * found[p.name], rtol=1e-6)


def test_slopes_are_differences_to_the_clean_loss_of_the_same_probe():
    """Another batch may have any other loss: adding a constant to a probe changes nothing."""
    method = build("zo_muon", probes=2, points=3, rank=4)
    losses = np.array([[2.5, 2.25, 2.0, 2.125], [1.0, 1.5, 1.25, 1.75]])
    slopes = []
    for shift in (0.0, 8.0):
        outcome = answer(ask(method, 0)[0], losses + np.array([[0.0], [shift]]))
        slopes.append(outcome.slope)
        np.testing.assert_array_equal(
            method._gradient.weights, np.array([0.375, 0.125, -0.125, -0.75, -0.25, -0.5]) / 1e-3 / 6
        )
    assert slopes[0] == slopes[1]
