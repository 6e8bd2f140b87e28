"""What holds for every low-rank method: scale, coding, windows, and factors that probes and update agree on."""

from __future__ import annotations

import numpy as np
import pytest
from linear_toy import (
    SHAPES,
    answer,
    ask,
    build,
    build_on,
    cosine,
    factors,
    gradients_of,
    linear_step,
    numbers,
)

from zodist.directions.direction import Combination
from zodist.directions.kept import Scaled
from zodist.directions.matrix import LaidLowRank
from zodist.methods import METHODS, StepSeeds
from zodist.testing import CHECKS, subject

NAMES = ["lozo", "subzero", "tezo", "zo_muon"]
POINTS = {"zo_muon": "points"}
MATRIX = {"w": (16, 8)}
ABOUT_PLAIN_FORMS = {
    "mean_points_along_the_gradient",
    "mild_curvature_leaves_the_mean_alone",
    "error_is_as_declared",
} | {"state_is_as_large_as_memory_says"}
# As many Rademacher codes as a factor has numbers are an orthogonal basis of it: then an estimate has no noise.
COMPLETE = {"lozo": 64, "subzero": 16, "tezo": 4}


def laid(method, step: int, *combinations: Combination) -> LaidLowRank:
    """The first matrix's factors in a step."""
    next(method.step(StepSeeds(7, step)))
    param = method.params[0]
    return factors(method.direction(param), param, *combinations)


@pytest.mark.parametrize("name", NAMES)
def test_numbers_of_a_direction_have_unit_variance(name):
    """Within four standard errors of the mean over windows, in the matrix, the vector and the three axes."""
    method = build(name, rank=4, refresh=1)
    squares = {p.name: [] for p in method.params}
    for step in range(300):
        _, probes = ask(method, step)
        for p in method.params:
            law = method.direction(p)
            unit = Combination.of((probes[0].seed, 1.0))
            squares[p.name].append(float((numbers(law, p, unit).astype(np.float64) ** 2).mean()))
    for found in squares.values():
        error = np.std(found) / np.sqrt(len(found))
        assert error < 0.08, "otherwise the comparison says nothing"
        assert abs(np.mean(found) - 1.0) < 4.0 * error


@pytest.mark.parametrize("noise", ["gaussian", "rademacher"])
@pytest.mark.parametrize("coupling", ["walsh", "independent"])
@pytest.mark.parametrize("name", NAMES)
def test_a_combination_is_the_sum_of_its_directions(name, coupling, noise):
    """To float32 rounding: both are sums of few terms of order 1."""
    method = build(name, rank=4, noise=noise, coupling=coupling)
    ask(method, 3)
    seeds = StepSeeds(7, 3).names(4, coupling)
    weights = np.array([0.5, -1.25, 2.0, 0.125])
    singles = [Combination(seeds[n : n + 1], np.ones(1)) for n in range(4)]
    for p in method.params:
        law = method.direction(p)
        want = np.tensordot(weights, numbers(law, p, *singles).astype(np.float64), axes=1)
        got = numbers(law, p, Combination(seeds, weights))[0]
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max())
        if (noise, coupling) != ("rademacher", "independent"):  # 4 random signs may well be 4 others
            assert len(np.unique(numbers(law, p, *singles).reshape(4, -1), axis=0)) == 4


@pytest.mark.parametrize("name", NAMES)
def test_probes_and_update_use_the_same_factors_where_a_window_begins(name):
    """The published codes of LOZO and ZO-Muon draw other factors for the update of such a step than were probed."""
    method = build(name, rank=4, refresh=5)
    for step in (4, 5, 6, 10):
        generator, probes = ask(method, step)
        p, unit = method.params[0], Combination.of((probes[0].seed, 1.0))
        probed = factors(method.direction(p), p, unit)
        answer(generator, 2.0 + 0.001 * np.arange(len(probes) * probes[0].losses).reshape(len(probes), -1))
        updated = factors(method.update(p), p, Scaled(1.0) if name == "zo_muon" else unit)
        if name == "zo_muon":  # P is orthonormal, so the update's columns lie in P's span exactly then
            scale = np.sqrt(p.shape[0] / 4.0)
            np.testing.assert_allclose(probed.left[0], scale * updated.left[0], rtol=1e-6)
        else:
            assert (probed.left == updated.left).all() and (probed.right == updated.right).all()


@pytest.mark.parametrize("name", NAMES)
def test_bases_last_a_window_and_the_noise_of_a_seed_does_not_depend_on_it(name):
    method, unit = build(name, rank=4, refresh=5), Combination.of((1 << 20, 1.0))
    found = [laid(method, step, unit) for step in (0, 4, 5)]
    lasting, moving = ("left", "right") if name == "zo_muon" else ("right", "left")
    bases, noises = ([getattr(f, side) for f in found] for side in (lasting, moving))
    assert (bases[0] == bases[1]).all() and (bases[1] != bases[2]).all()
    if name in ("lozo", "zo_muon"):  # the others multiply a basis into this factor, too
        assert (noises[0] == noises[2]).all()
    other = build(name, rank=4, refresh=5)  # one that has not seen the steps before
    assert (getattr(laid(other, 5, unit), lasting) == bases[2]).all()


@pytest.mark.parametrize("name", NAMES)
def test_without_refresh_one_window_lasts_for_the_run(name):
    method, unit = build(name, rank=4, refresh=0), Combination.of((1 << 20, 1.0))
    first, last = laid(method, 0, unit), laid(method, 99_999, unit)
    assert (first.left == last.left).all() and (first.right == last.right).all()


@pytest.mark.parametrize("name", COMPLETE)
def test_the_mean_within_a_window_is_the_claimed_projection(name):
    """A complete set of codes has no noise, so what is left is float32 rounding."""
    method = build_on(MATRIX, name, rank=4, probes=COMPLETE[name], noise="rademacher", coupling="walsh")
    gradients = gradients_of(MATRIX)
    _, found = linear_step(method, 3, gradients)
    want = method.expected(gradients)["w"]
    assert np.linalg.norm(want - gradients["w"]) > 0.5 * np.linalg.norm(gradients["w"])
    np.testing.assert_allclose(found["w"], want, rtol=0, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize(("name", "windows"), [("lozo", 60), ("subzero", 100), ("tezo", 400)])
def test_the_mean_over_windows_is_the_gradient(name, windows):
    """The relative squared error of a window is n / r, m n / r^2 and m n / r: after these windows 0.03, 0.08, 0.08."""
    settings = {"rank": 4, "refresh": 1, "probes": COMPLETE[name], "noise": "rademacher", "coupling": "walsh"}
    method, gradients = build_on(MATRIX, name, **settings), gradients_of(MATRIX)
    total = np.zeros(MATRIX["w"])
    for step in range(windows):
        total += linear_step(method, step, gradients)[1]["w"]
    mean = total / windows
    assert cosine({"w": mean}, gradients) > 0.92
    along = (mean * gradients["w"]).sum() / (gradients["w"] ** 2).sum()
    assert along == pytest.approx(1.0, abs=0.15), "the length is right, too: eps and rate are MeZO's"


@pytest.mark.parametrize("name", NAMES)
def test_matrices_smaller_than_the_rank_have_their_own(name):
    method = build_on({"w": (3, 40), "c": (50, 2, 1)}, name, rank=8)
    ask(method, 0)
    for p, rank in zip(method.params, (3, 2), strict=True):
        found = factors(method.direction(p), p, Combination.of((1 << 20, 1.0)))
        assert found.left.shape[2] == found.right.shape[1] == rank


@pytest.mark.parametrize("name", NAMES)
def test_a_step_needs_no_parameters(name):
    """Forwards are counted so."""
    method = build_on({}, name, probes=3)
    generator, probes = ask(method, 0)
    outcome = answer(generator, np.full((3, probes[0].losses), 2.0))
    assert len(probes) == 3 and outcome.slope == 0.0 and outcome.loss == 2.0


@pytest.mark.parametrize("name", NAMES)
def test_probes_that_are_not_finite_are_left_out(name):
    """The outcome is that of the others alone."""
    method = build(name, rank=4, probes=3)
    losses = 2.0 + 0.01 * np.sin(np.arange(3 * len(ask(method, 2)[1][0].points))).reshape(3, -1)
    holed = losses.copy()
    holed[1, -1] = np.nan
    outcome = answer(ask(method, 2)[0], holed)
    assert outcome.skipped == 1 and outcome.loss == pytest.approx(losses[[0, 2]].mean(), rel=1e-12)
    empty = answer(ask(method, 2)[0], np.full_like(losses, np.inf))
    assert len(empty.gradient) == 0 and empty.skipped == 3


@pytest.mark.parametrize(("name", "probes", "numbers"), [("subzero", 65, "64"), ("tezo", 9, "8")])
def test_more_codes_than_the_noise_can_tell_apart_are_refused(name, probes, numbers):
    settings = METHODS[name].settings
    with pytest.raises(ValueError, match=rf"{probes} Walsh codes cannot differ on the {numbers} numbers"):
        settings.model_validate({"probes": probes, "rank": 8, "coupling": "walsh"})
    assert settings.model_validate({"probes": probes, "rank": 8, "coupling": "independent"})


def test_the_toy_has_a_matrix_a_vector_and_more_axes():
    assert sorted(len(shape) for shape in SHAPES.values()) == [1, 2, 3]


# The shared suite runs with defaults; these settings have state of their own
STATEFUL = [("lozo", {"momentum": 0.9}), ("tezo", {"memory": "momentum"}), ("tezo", {"memory": "adam"})]
OF_STATE = [name for name in CHECKS if name not in ABOUT_PLAIN_FORMS]


@pytest.mark.parametrize("check", OF_STATE)
@pytest.mark.parametrize(("name", "settings"), STATEFUL, ids=["lozo-m", "tezo-m", "tezo-adam"])
def test_the_suite_holds_with_state(name, settings, check):
    CHECKS[check](subject(name, settings))
