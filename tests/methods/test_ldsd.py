"""LDSD: mu learns from the directions that were measured, drifts as derived, and gains what was derived."""

from __future__ import annotations

import numpy as np
import pytest
from driving import answer, begun, drive, moves, numbers, params
from pydantic import ValidationError

from zodist.directions import Combination
from zodist.methods.ldsd import LDSD, LDSDSettings
from zodist.methods.steps import StepSeeds

COUPLINGS = ["walsh", "independent"]


def ldsd(d: int = 300, **settings) -> LDSD:
    method = LDSD(LDSDSettings.model_validate(settings))
    begun(method, params({"w": (d,)}))
    return method


def gradient(d: int, length: float = 1.0) -> np.ndarray:
    g = np.random.Generator(np.random.PCG64(3)).standard_normal(d)
    return g * (length / np.linalg.norm(g))


def learn(method: LDSD, g: np.ndarray, steps: int) -> None:
    """Steps on the linear loss g . w; its weights do not matter."""
    for t in range(steps):
        outcome = drive(method, lambda x: x @ g, t)
        assert outcome.then is not None
        outcome.then()


@pytest.mark.parametrize(
    ("variant", "coupling"), [("best", "walsh"), ("best", "independent"), ("rloo", "walsh")]
)
def test_mu_drifts_against_the_gradient_as_derived(coupling, variant):
    """Oracle 2, d = 5,000: mu . g0 -> -lr_mu eps |g| T.  The sum has a standard error of 2.5 %."""
    g = gradient(5000, 40.0)
    method = ldsd(5000, probes=4, points=5, lr_mu=3e-3, eps=1e-3, coupling=coupling, variant=variant)
    learn(method, g, 300)
    assert method.mu["w"] @ g / 40.0 == pytest.approx(-3e-3 * 1e-3 * 40.0 * 300, rel=0.1)


def test_noise_of_the_step_of_mu_is_the_probes_own_to_the_bit():
    """Oracle 5: two independent points with advantages a and -a; float32 in the order of the points."""
    method = ldsd(3000, points=2, lr_mu=0.5, sigma=0.5, eps=0.25, coupling="independent")
    names = StepSeeds(7, 0).names(2, "independent")
    p = method.params[0]
    xi = numbers(method.direction(p), p, [Combination(names[k : k + 1], np.ones(1)) for k in range(2)]) * 2.0
    _, outcome = answer(method, [[1.25, 1.0]], [[1.0]])
    outcome.then()  # type: ignore[misc]
    rate = 0.5 / 0.5**2 / 2 * 0.25 * 0.5  # lr_mu / sigma^2 / K * advantage * sigma
    want = np.float32(0.0) - (xi[0] * np.float32(rate) + xi[1] * np.float32(-rate))
    assert (method.mu["w"] == want).all() and (want != 0).any()


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_mu_moves_by_the_advantages_of_the_points_about_it(coupling):
    """The general formula in float64, from directions about a mean that is not zero; two probes of three points."""
    method = ldsd(400, probes=2, points=3, lr_mu=0.1, sigma=0.7, mu_decay=0.25, coupling=coupling)
    method.mu["w"][:] = 0.5
    names = StepSeeds(7, 0).names(6, coupling)
    z = moves(method, [Combination(names[k : k + 1], np.ones(1)) for k in range(6)])
    assert np.abs((z - 0.5).mean()) < 0.1 and np.std(z - 0.5) == pytest.approx(0.7, rel=0.05)
    losses = np.array([[1.0, 3.0, 2.0], [0.0, -1.0, 4.0]])
    _, outcome = answer(method, losses, np.zeros((2, 1)))
    outcome.then()  # type: ignore[misc]
    advantages = (3.0 * losses - losses.sum(axis=1, keepdims=True)) / 2.0
    want = 0.75 * 0.5 - 0.1 / (6 * 0.7**2) * advantages.reshape(-1) @ (z - 0.5)
    np.testing.assert_allclose(method.mu["w"], want, atol=1e-6)


def test_no_weight_is_left_out_of_a_full_set_of_codes():
    """Four codes agree on every fourth weight; the advantages, which sum to zero, would leave it where it is."""
    method = ldsd(4096, points=4, noise="rademacher")
    learn(method, gradient(4096), 40)
    spread = np.array([np.std(method.mu["w"][k::4]) for k in range(4)])
    assert spread.min() > 0.5 * spread.max()


def test_mu_moves_by_many_units_in_its_last_place():
    """Oracle 6, at the published rates and a slope of 10."""
    method = ldsd(2000, eps=1e-3, lr_mu=3e-3)
    learn(method, gradient(2000, 10.0), 30)
    before = method.mu["w"].copy()
    drive(method, lambda x: x @ gradient(2000, 10.0), 30).then()  # type: ignore[misc]
    assert np.median(np.abs(method.mu["w"] - before) / np.spacing(np.abs(before))) >= 10


def gain(method: LDSD, g: np.ndarray, steps: int) -> float:
    """Squared mean descent over the mean squared estimate, in units of |g|^2 / (d + 2), MeZO's."""
    estimates = [
        moves(method, [drive(method, lambda x: x @ g, t).gradient], update=True)[0] for t in range(steps)
    ]
    along = np.mean([e @ g for e in estimates])
    return float(along**2 / np.mean([e @ e for e in estimates]) * (len(g) + 2) / (g @ g))


def test_a_mean_along_the_gradient_gains_as_derived():
    """1 + (mu . g0)^2; one point, so that nothing is selected.  The ratio has a standard error of 7 %."""
    g = gradient(1000)
    plain, learned = ldsd(1000, points=1), ldsd(1000, points=1)
    learned.mu["w"][:] = -1.5 * g
    assert gain(plain, g, 800) == pytest.approx(1.0, rel=0.2)
    assert gain(learned, g, 800) == pytest.approx(1.0 + 1.5**2, rel=0.2)


@pytest.mark.parametrize("points", [1, 3])
def test_the_mean_of_estimates_points_where_it_says(points):
    g = gradient(30)
    method = ldsd(30, points=points)
    method.mu["w"][:] = np.random.Generator(np.random.PCG64(5)).standard_normal(30) * 0.6
    mean = np.mean(
        [moves(method, [drive(method, lambda x: x @ g, t).gradient])[0] for t in range(1500)], axis=0
    )
    want = method.expected({"w": g})["w"]
    assert mean @ want / np.linalg.norm(mean) / np.linalg.norm(want) > 0.96
    assert want @ g / np.linalg.norm(want) < 0.95, "or the mean would be the gradient's own direction"


def test_the_best_point_is_measured_on_its_other_side():
    """Least loss, the first of equals; the probes and their order stay."""
    method = ldsd(probes=3, points=4, eps=0.5)
    first = np.array([[3.0, 1.0, 1.0, 2.0], [0.0, 1.0, 2.0, 3.0], [2.0, 2.0, 2.0, 1.5]])
    asked, outcome = answer(method, first, [[5.0], [1.0], [2.0]])
    names = StepSeeds(7, 0).names(12, "walsh").reshape(3, 4)
    best = [names[0, 1], names[1, 0], names[2, 3]]
    assert [probe.seed for probe in asked[0]] == [probe.seed for probe in asked[1]] == names[:, 0].tolist()
    assert [[list(point) for point in probe.points] for probe in asked[1]] == [
        [[(seed, -0.5)]] for seed in best
    ]
    assert list(outcome.gradient) == [(best[0], -4.0 / 3), (best[1], -1.0 / 3), (best[2], -0.5 / 3)]
    assert sum(len(probe.points) for round in asked for probe in round) == 3 * (4 + 1)


def test_rloo_needs_one_round_and_leaves_mu_out_of_the_gradient():
    method = ldsd(probes=2, points=3, eps=0.5, variant="rloo")
    losses = np.array([[1.0, 3.0, 2.0], [0.0, -1.0, 4.0]])
    asked, outcome = answer(method, losses)
    assert len(asked) == 1
    want = (losses - losses.mean(axis=1, keepdims=True)) / 2 / 0.5 / 2
    np.testing.assert_allclose(outcome.gradient.weights, want.reshape(-1), atol=1e-15)
    before = moves(method, [outcome.gradient], update=True)
    method.mu["w"][:] = 1.0
    np.testing.assert_allclose(moves(method, [outcome.gradient], update=True), before, atol=1e-6)


def test_a_probe_without_a_finite_loss_is_left_out_in_either_round():
    method = ldsd(probes=3, points=2)
    first = np.array([[np.nan, 1.0], [1.0, 2.0], [1.0, 2.0]])
    _, outcome = answer(method, first, [[1.0], [np.inf], [1.5]])
    assert outcome.skipped == 2 and np.isfinite(outcome.slope)
    assert {term.seed for term in outcome.gradient} == {int(StepSeeds(7, 0).names(6, "walsh")[4])}


def test_without_a_usable_probe_nothing_changes():
    method = ldsd(probes=2, points=2)
    for rounds in ([np.full((2, 2), np.nan)], [np.ones((2, 2)), np.full((2, 1), np.inf)]):
        asked, outcome = answer(method, *rounds)
        assert len(asked) == len(rounds) and len(outcome.gradient) == 0 and outcome.then is None
        assert not method.mu["w"].any()


@pytest.mark.parametrize("settings", [{"variant": "rloo", "points": 1}, {"probes": 20_000, "points": 5}])
def test_settings_that_cannot_work_are_refused(settings):
    with pytest.raises(ValidationError, match="points|probes"):
        LDSDSettings.model_validate(settings)
