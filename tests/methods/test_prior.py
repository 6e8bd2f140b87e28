"""Prior-informed ZO: what a guided direction is, what ranks can and cannot do, and its progress on a linear loss."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zodist.directions import Combination
from zodist.methods.method import Outcome
from zodist.methods.prior import Prior, PriorSettings
from zodist.methods.registry import METHODS
from zodist.methods.steps import StepSeeds, slopes

EPS, D, PARAM = 0.25, 96, 5
GUIDES = ["gv", "greedy", "weighted"]


def prior(**settings: Any) -> Prior:
    return Prior(PriorSettings.model_validate({"eps": EPS, **settings}))


def random(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def rounds(method: Prior, first: np.ndarray, step: int = 3):
    """The generator after its first round, and the probes of both."""
    generator = method.step(StepSeeds(7, step))
    candidates = next(generator)
    return generator, candidates, generator.send(first)


def finish(generator, second: np.ndarray) -> Outcome:
    with pytest.raises(StopIteration) as stop:
        generator.send(second)
    return stop.value.value


def vector(method: Prior, combination: Combination) -> np.ndarray:
    """A combination's numbers on D weights, float64."""
    dense = method.direction(None)  # type: ignore[arg-type]
    return sum((w * dense.values(PARAM, s, 0, D).astype(np.float64) for s, w in combination), np.zeros(D))


def curved(x: np.ndarray) -> float:
    """A loss that no order of Taylor describes exactly."""
    slope = random(1).standard_normal(D) / 10
    return float(np.sin(x @ slope) + 0.05 * np.sum(np.cos(x)) + 0.01 * np.sum(x**2))


def losses_of(method: Prior, probes) -> np.ndarray:
    return np.array([[curved(vector(method, point)) for point in probe.points] for probe in probes])


def test_the_registry_builds_it():
    assert METHODS["prior"].kind is Prior


@pytest.mark.parametrize("coupling", ["walsh", "independent"])
def test_candidates_are_one_sided_and_both_rounds_have_the_same_probes(coupling):
    method = prior(probes=3, candidates=4, coupling=coupling)
    _, candidates, sides = rounds(method, random(2).standard_normal((3, 4)))
    terms = [term for probe in candidates for point in probe.points for term in point]
    assert len({seed for seed, _ in terms}) == len(terms) == 12 and {abs(weight) for _, weight in terms} == {
        EPS
    }
    assert [probe.seed for probe in candidates] == [probe.seed for probe in sides]
    for probe in sides:
        plus, minus = probe.points
        assert (plus.weights == -minus.weights).all() and (plus.seeds == minus.seeds).all()


LOSSES = np.array([0.4, 0.1, 0.9, 0.2])


@pytest.mark.parametrize(
    "guide, top, want",
    [
        ("gv", 0.5, [-0.5, 0.5, -0.5, 0.5]),
        ("gv", 0.25, [-1 / 3, 1, -1 / 3, -1 / 3]),
        ("gv", 0.1, [-1 / 3, 1, -1 / 3, -1 / 3]),  # at least one is good
        ("greedy", 0.5, [0, 1, 0, 0]),
        ("weighted", 0.5, (0.4 - LOSSES) / np.linalg.norm(LOSSES - 0.4)),
    ],
)
def test_a_guide_turns_losses_into_weights(guide, top, want):
    got = prior(guide=guide, top=top).guide(LOSSES)
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-15)
    if guide == "weighted":
        assert np.sum(got**2) == pytest.approx(1.0, rel=1e-12), "numbers of variance 1"


@pytest.mark.parametrize("guide, want", [("gv", [0.5, 0.5, -0.5, -0.5]), ("greedy", [1, 0, 0, 0])])
def test_ties_go_to_the_earlier_candidate(guide, want):
    assert prior(guide=guide).guide(np.full(4, 0.3)).tolist() == want


def test_without_any_difference_the_weighted_guide_is_the_first_candidate():
    assert prior(guide="weighted").guide(np.full(4, 0.3)).tolist() == [1, 0, 0, 0]


@pytest.mark.parametrize("guide", GUIDES)
def test_the_gradient_is_slope_times_guided_direction(guide):
    method = prior(probes=2, candidates=3, guide=guide)
    generator, candidates, sides = rounds(method, random(2).standard_normal((2, 3)))
    second = random(3).standard_normal((2, 2))
    got = finish(generator, second)
    want = sum(
        slope / 2 * vector(method, probe.points[0] * (1.0 / EPS))
        for slope, probe in zip(slopes(second, EPS), sides, strict=True)
    )
    np.testing.assert_allclose(vector(method, got.gradient), want, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("guide", ["gv", "weighted"])
def test_two_candidates_ignore_their_order(guide):
    """v changes its sign with the order, and a two-sided probe does not see it."""
    method, updates = prior(candidates=2, guide=guide), []
    for first in ([[0.25, 0.5]], [[0.5, 0.25]]):
        generator, _, sides = rounds(method, np.array(first))
        updates.append(finish(generator, losses_of(method, sides)).gradient)
    assert updates[0].weights.tobytes() == updates[1].weights.tobytes() and updates[0].weights.any()


def test_gv_with_two_candidates_is_mezo_with_root_two_eps_and_twice_the_rate():
    """Its direction is (z_1 - z_2) / sqrt(2), of variance 1; on a curved loss, to float64 rounding."""
    method = prior(candidates=2, guide="gv")
    generator, (candidates,), sides = rounds(method, np.array([[0.3, 0.4]]))
    got = vector(method, finish(generator, losses_of(method, sides)).gradient)
    one, two = (vector(method, point * (1.0 / EPS)) for point in candidates.points)
    z, eps = (one - two) / np.sqrt(2.0), np.sqrt(2.0) * EPS
    slope = slopes(np.array([[curved(eps * z), curved(-eps * z)]]), eps)[0]
    np.testing.assert_allclose(got, 2.0 * slope * z, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "guide, candidates, gain",
    [
        ("gv", 2, 1.0),
        ("gv", 4, 2.10),
        ("gv", 8, 4.55),
        ("greedy", 2, 1.0),
        ("greedy", 4, 1.55),
        ("weighted", 2, 1.0),
        ("weighted", 4, 3.0),
        ("weighted", 8, 7.0),
    ],
)
def test_progress_on_a_linear_loss(guide, candidates, gain):
    """Mean square of the direction along the gradient over that across it; 10,240 probes, four standard errors."""
    g, along, across = random(6), [], []
    method = prior(probes=1024, candidates=candidates, guide=guide)
    for step in range(10):
        z = g.standard_normal((1024, candidates))
        _, asked, sides = rounds(method, EPS * z, step)
        signs = np.array([[point.weights[0] / EPS for point in probe.points] for probe in asked])
        weights = signs * [probe.points[0].weights / EPS for probe in sides]
        along.append((weights * z).sum(axis=1))
        across.append((weights**2).sum(axis=1))
    square, noise = np.concatenate(along) ** 2, np.concatenate(across)
    np.testing.assert_allclose(noise, 4.0 / candidates if guide == "gv" else 1.0, rtol=1e-9)
    error = square.std() / np.sqrt(square.size) / noise.mean()
    assert error < 0.025 * gain, "otherwise the comparison says nothing"
    assert square.mean() / noise.mean() == pytest.approx(
        gain, abs=4 * error + 0.005
    )  # gains have two decimals


@pytest.mark.parametrize("guide", GUIDES)
@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_a_hole_in_either_round_leaves_its_probe_out(guide, hole):
    first, second = random(2).standard_normal((3, 4)), random(3).standard_normal((3, 2))
    first[0, 2], second[1, 0] = hole, hole
    generator, candidates, sides = rounds(prior(probes=3, guide=guide), first)
    assert [len(point) for point in sides[0].points] == [0, 0], "asked at the weights themselves"
    got = finish(generator, second)
    assert got.skipped == 2 and np.isfinite(got.gradient.weights).all()
    own = {term.seed for point in candidates[2].points for term in point}
    assert {term.seed for term in got.gradient} == own
    assert got.loss == pytest.approx(second[2].mean())


def test_without_any_usable_probe_the_gradient_is_empty():
    generator, _, sides = rounds(prior(probes=2), np.full((2, 4), np.nan))
    assert all(probe.losses == 2 for probe in sides)
    got = finish(generator, np.ones((2, 2)))
    assert len(got.gradient) == 0 and got.skipped == 2


def within(found: np.ndarray, mean: float, variance: float) -> bool:
    """Whether the mean of independent numbers is what it should be, within five standard errors."""
    return abs(found.mean() - mean) < 5.0 * np.sqrt(variance / found.size)


@pytest.mark.parametrize("coupling", ["walsh", "independent"])
@pytest.mark.parametrize("candidates", [2, 4])
@pytest.mark.parametrize("guide", GUIDES)
def test_a_guided_direction_is_gaussian(guide, candidates, coupling):
    """As MeZO's: moments, how many numbers are near 0, and no pattern along the weights; 61,440 numbers of three probes.

    The losses are any, since a weight's numbers are far more than a loss knows of.
    """
    size, numbers = 1024, []
    method = prior(guide=guide, candidates=candidates, probes=3, coupling=coupling)
    dense = method.direction(None)  # type: ignore[arg-type]
    for step in range(20):
        _, _, sides = rounds(method, random(step).standard_normal((3, candidates)), step)
        for probe in sides:
            v = probe.points[0] * (1.0 / EPS)
            direction = sum(w * dense.values(PARAM, s, 0, size).astype(np.float64) for s, w in v)
            numbers.append(direction / np.linalg.norm(v.weights))
    found = np.array(numbers)
    assert (found != 0.0).all(), "no weight is left out of a step"
    assert within(found, 0.0, 1.0) and within(found**2, 1.0, 2.0) and within(found**4, 3.0, 96.0)
    near = 0.0796557  # P(|z| < 0.1)
    assert within(np.abs(found) < 0.1, near, near * (1.0 - near))
    for stride in (2, 4, 64):  # where Walsh codes of one noise agree
        assert within(found[:, ::stride] ** 2, 1.0, 2.0)
    for lag in (1, 2, 4):
        assert within(found[:, lag:] ** 2 * found[:, :-lag] ** 2, 1.0, 8.0), (
            "squares do not know of each other"
        )


@pytest.mark.parametrize("noises", ["gaussian", "rademacher"])
def test_guided_directions_of_a_step_are_uncorrelated_number_by_number(noises):
    """Probes share their noises, but not their signs: over 200 steps, five standard errors."""
    size, products = 256, []
    method = prior(probes=4, candidates=4, guide="weighted", noise=noises)
    dense = method.direction(None)  # type: ignore[arg-type]
    for step in range(200):
        _, _, sides = rounds(method, random(step).standard_normal((4, 4)), step)
        v = np.zeros((4, size))
        for own, probe in zip(v, sides, strict=True):
            for seed, weight in probe.points[0]:
                own += weight / EPS * dense.values(PARAM, seed, 0, size)
        products.append([v[p] @ v[q] / np.sqrt(size) for p in range(4) for q in range(p)])
    assert within(np.array(products), 0.0, float(np.var(products))) and np.var(products) < 2.0
