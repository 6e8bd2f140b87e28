"""FZOO: its normalisation against the formulas of paper and code, pooling, and its progress on a linear loss."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from zodist.directions import Combination
from zodist.methods.fzoo import FZOO, FZOOSettings
from zodist.methods.method import Outcome
from zodist.methods.registry import METHODS
from zodist.methods.steps import StepSeeds

EPS = 0.5


def fzoo(**settings: Any) -> FZOO:
    return FZOO(FZOOSettings.model_validate({"eps": EPS, **settings}))


def answered(method: FZOO, losses: np.ndarray, step: int = 3) -> Outcome:
    """The outcome, its gradient as a multiple of each point's own shift: the signs of points are undone."""
    generator = method.step(StepSeeds(7, step))
    probes = next(generator)
    assert losses.shape == (len(probes), probes[0].losses)
    with pytest.raises(StopIteration) as stop:
        generator.send(losses)
    outcome = stop.value.value
    side = {term.seed: np.sign(term.weight) for probe in probes for point in probe.points for term in point}
    signs = np.array([side[int(seed)] for seed in outcome.gradient.seeds])
    return replace(outcome, gradient=Combination(outcome.gradient.seeds, outcome.gradient.weights * signs))


def made_up(*shape: int, seed: int = 0) -> np.ndarray:
    return 2.0 + np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def test_the_registry_builds_it():
    assert METHODS["fzoo"].kind is FZOO


@pytest.mark.parametrize("coupling", ["walsh", "independent"])
def test_points_are_one_sided_with_seeds_of_their_own_and_the_clean_weights_come_last(coupling):
    probes = next(fzoo(probes=3, points=4, coupling=coupling).step(StepSeeds(7, 3)))
    every = [[list(point) for point in probe.points] for probe in probes]
    assert all(len(points) == 5 and points[-1] == [] for points in every)
    terms = [term for points in every for point in points for term in point]
    assert len({seed for seed, _ in terms}) == 12 and {abs(weight) for _, weight in terms} == {EPS}
    assert [probe.seed for probe in probes] == [points[0][0].seed for points in every]


def test_without_the_clean_baseline_there_is_no_clean_point():
    (probe,) = next(fzoo(points=4, baseline="rloo").step(StepSeeds(7, 3)))
    assert probe.losses == 4 and all(len(point) == 1 for point in probe.points)


@pytest.mark.parametrize("spread, ddof", [("sample", 1), ("population", 0)])
@pytest.mark.parametrize("pool", ["all", "probe"])
def test_one_probe_gives_the_published_update(pool, spread, ddof):
    """The code's: lr / N * sum_i (l_i - l_0) / std(l) u_i, with the divisor of the paper or of the code."""
    losses = made_up(1, 9)
    got = answered(fzoo(points=8, pool=pool, spread=spread), losses)
    points = losses[0, :8]
    want = (points - losses[0, 8]) / np.std(points, ddof=ddof) / 8
    np.testing.assert_allclose(got.gradient.weights, want, rtol=1e-12)
    assert got.slope == pytest.approx(np.sqrt(np.mean((points - losses[0, 8]) ** 2)) / EPS)


def test_a_leave_one_out_baseline_is_the_mean_of_the_others():
    losses = made_up(1, 6)
    got = answered(fzoo(points=6, baseline="rloo"), losses)
    others = np.array([np.delete(losses[0], i).mean() for i in range(6)])
    np.testing.assert_allclose(
        got.gradient.weights, (losses[0] - others) / losses.std(ddof=1) / 6, rtol=1e-12
    )


@pytest.mark.parametrize("baseline", ["clean", "rloo"])
@pytest.mark.parametrize("pool", ["all", "probe"])
def test_a_batch_s_own_loss_level_has_no_effect(pool, baseline):
    """Probes see different batches: adding a constant to all losses of a probe must change nothing but the loss."""
    losses = made_up(3, 4 + (baseline == "clean"))
    method = fzoo(probes=3, points=4, pool=pool, baseline=baseline)
    moved = answered(method, losses + np.array([[0.0], [8.0], [-16.0]])).gradient
    still = answered(method, losses).gradient
    np.testing.assert_allclose(moved.weights, still.weights, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("pool", ["all", "probe"])
def test_the_step_does_not_depend_on_the_scale_of_the_loss(pool):
    losses, method = made_up(2, 9), fzoo(probes=2, pool=pool)
    large, small = answered(method, losses * 1024.0), answered(method, losses)
    np.testing.assert_allclose(large.gradient.weights, small.gradient.weights, rtol=1e-12)


def test_a_pooled_sigma_keeps_the_weight_of_a_probe_that_measured_more():
    """Losses three times as far apart count three times as much when pooled, and as much as others when not."""
    losses = made_up(1, 9)
    both = np.concatenate([losses, 3.0 * losses])
    ratios = {}
    for pool in ("all", "probe"):
        small, large = answered(fzoo(probes=2, pool=pool), both).gradient.weights.reshape(2, 8)
        ratios[pool] = large / small
    np.testing.assert_allclose(ratios["all"], 3.0, rtol=1e-12)
    np.testing.assert_allclose(ratios["probe"], 1.0, rtol=1e-12)


def test_equal_losses_move_nothing_and_divide_by_nothing():
    got = answered(fzoo(points=4), np.full((1, 5), 0.7))
    assert (got.gradient.weights == 0.0).all() and got.skipped == 0


def test_sigma_is_never_below_its_bound():
    losses = np.array([[1e-3, -1e-3, 0.0]])
    got = answered(fzoo(points=2, sigma_min=0.25), losses)
    np.testing.assert_allclose(got.gradient.weights, [1e-3 / 0.25 / 2, -1e-3 / 0.25 / 2], rtol=1e-12)


@pytest.mark.parametrize("hole", [np.nan, np.inf])
@pytest.mark.parametrize("place", [0, 4])
def test_a_probe_with_a_hole_leaves_sigma_and_mean_to_the_others(hole, place):
    losses = made_up(2, 5)
    holed = losses.copy()
    holed[0, place] = hole
    both = answered(fzoo(probes=2, points=4), holed)
    alone = answered(fzoo(points=4), losses[1:])
    assert both.skipped == 1 and len(both.gradient) == 4
    assert both.gradient.weights.tobytes() == alone.gradient.weights.tobytes()
    assert len(answered(fzoo(probes=2, points=4), np.full((2, 5), hole)).gradient) == 0


@pytest.mark.parametrize("baseline, gain", [("clean", 8.0), ("rloo", 7.0)])
def test_progress_on_a_linear_loss_is_that_of_as_many_free_differences(baseline, gain):
    """(E along the gradient)^2 / E across it, per coordinate; MeZO has 1.  sigma from 64 probes hardly varies."""
    g = np.random.Generator(np.random.PCG64(4))
    method, along, across = fzoo(probes=64, points=8, baseline=baseline), [], []
    for step in range(40):
        z = g.standard_normal((64, 8))
        losses = 3.0 * EPS * z if baseline == "rloo" else np.pad(3.0 * EPS * z, ((0, 0), (0, 1)))
        weights = (
            answered(method, losses, step).gradient.weights.reshape(64, 8) * 64
        )  # each probe's own estimate
        along.append((weights * z).sum(axis=1))
        across.append((weights**2).sum(axis=1))
    signals, noises = np.concatenate(along), np.concatenate(across)
    assert signals.mean() == pytest.approx(1.0, abs=5 * signals.std() / np.sqrt(signals.size))
    assert signals.mean() ** 2 / noises.mean() == pytest.approx(gain, rel=0.06)


@pytest.mark.parametrize("baseline", ["clean", "rloo"])
def test_no_weight_is_left_out_of_every_step(baseline):
    """Where all Walsh codes agree a weight moves by the sum of the terms, which must not be zero by construction."""
    sums = []
    for step in range(20):
        generator = fzoo(points=4, baseline=baseline).step(StepSeeds(7, step))
        (probe,) = next(generator)
        with pytest.raises(StopIteration) as stop:
            generator.send(made_up(1, probe.losses, seed=step))
        sums.append(stop.value.value.gradient.weights.sum())
    assert np.mean(np.abs(sums) > 1e-6) > 0.5
