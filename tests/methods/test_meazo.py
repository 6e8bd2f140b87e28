"""MEAZO: its one average against the recursion of the paper, and what its options change."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zodist.methods.meazo import MEAZO, MEAZOSettings
from zodist.methods.method import Outcome
from zodist.methods.mezo import MeZO, MeZOSettings
from zodist.methods.registry import METHODS
from zodist.methods.steps import StepSeeds, slopes

EPS = 0.5


def meazo(**settings: Any) -> MEAZO:
    return MEAZO(MEAZOSettings.model_validate({"eps": EPS, **settings}))


def answered(method: MEAZO | MeZO, losses: np.ndarray, step: int = 3) -> Outcome:
    generator = method.step(StepSeeds(7, step))
    next(generator)
    with pytest.raises(StopIteration) as stop:
        generator.send(losses)
    return stop.value.value


def made_up(*shape: int, seed: int = 0) -> np.ndarray:
    return 2.0 + np.random.Generator(np.random.PCG64(seed)).standard_normal(shape)


def test_the_registry_builds_it():
    assert METHODS["meazo"].kind is MEAZO


@pytest.mark.parametrize("correct", [True, False])
@pytest.mark.parametrize("square_of", ["mean", "each"])
def test_steps_follow_the_recursion(square_of, correct):
    method = meazo(probes=3, beta=0.75, zeta=0.125, square_of=square_of, bias_correction=correct)
    v = 0.0
    for t in range(1, 8):
        losses = made_up(3, 2, seed=t)
        c = slopes(losses, EPS)
        v = 0.75 * v + 0.25 * (np.mean(c) ** 2 if square_of == "mean" else np.mean(c**2))
        hat = v / (1.0 - 0.75**t) if correct else v
        got = answered(method, losses, t)
        np.testing.assert_allclose(got.gradient.weights, c / 3 / (np.sqrt(hat) + 0.125), rtol=1e-12)
        assert got.slope == pytest.approx(np.sqrt(np.mean(c**2)))
    assert sum(array.size for array in method.state().values()) == 2


def test_with_one_probe_both_squares_are_the_same():
    each, mean = meazo(square_of="each"), meazo(square_of="mean")
    for t in range(5):
        losses = made_up(1, 2, seed=t)
        a, b = (answered(method, losses, t).gradient.weights for method in (each, mean))
        np.testing.assert_allclose(a, b, rtol=1e-14)


def test_the_estimate_is_mezo_s_but_for_one_factor():
    losses = made_up(4, 2)
    ours = answered(meazo(probes=4), losses).gradient
    plain = answered(MeZO(MeZOSettings.model_validate({"probes": 4, "eps": EPS})), losses).gradient
    assert (ours.seeds == plain.seeds).all()
    factors = ours.weights / plain.weights
    np.testing.assert_allclose(factors, factors[0], rtol=1e-12)


def test_the_first_step_of_one_probe_moves_every_weight_by_the_rate():
    """|c| / sqrt(c^2): with the correction the rate is what a Rademacher step moves, whatever the loss."""
    for scale in (1e-3, 1.0, 1e3):
        weights = answered(meazo(), made_up(1, 2) * scale).gradient.weights
        assert abs(weights[0]) == pytest.approx(1.0, rel=1e-4)  # zeta against a slope of 1e-3


@pytest.mark.parametrize("square_of, growth", [("mean", 8.0), ("each", 1.0)])
def test_more_probes_lengthen_the_step_only_where_the_mean_is_squared(square_of, growth):
    """Slopes of mean 0, as those of random directions are: the mean of 64 has a variance of 1 / 64."""
    lengths = {}
    for probes in (1, 64):
        method, g, along = (
            meazo(probes=probes, square_of=square_of),
            np.random.Generator(np.random.PCG64(3)),
            [],
        )
        for t in range(600):
            c = g.standard_normal(probes)
            got = answered(method, np.stack([EPS * c, -EPS * c], axis=1), t)
            along.append(
                (got.gradient.weights * c).sum()
            )  # progress along a gradient of length 1: mean of c^2
        lengths[probes] = np.mean(along[200:])
    assert lengths[64] / lengths[1] == pytest.approx(growth, rel=0.2)


@pytest.mark.parametrize("hole", [np.nan, np.inf])
def test_a_probe_with_a_hole_leaves_the_average_to_the_others(hole):
    losses = made_up(2, 2)
    holed = losses.copy()
    holed[0, 1] = hole
    both, alone = meazo(probes=2), meazo()
    a, b = answered(both, holed), answered(alone, losses[1:])
    assert a.skipped == 1 and a.gradient.weights.tobytes() == b.gradient.weights.tobytes()
    assert both.state()["square"].tobytes() == alone.state()["square"].tobytes()


def test_a_step_without_a_usable_probe_changes_no_state():
    method = meazo(probes=2)
    answered(method, made_up(2, 2))
    before = {name: array.tobytes() for name, array in method.state().items()}
    assert len(answered(method, np.full((2, 2), np.nan)).gradient) == 0
    assert {name: array.tobytes() for name, array in method.state().items()} == before
