"""LOZO-M: its momentum is the dense one within a window, turns into the next V, and is all the state there is."""

from __future__ import annotations

import numpy as np
import pytest
from linear_toy import SHAPES, answer, ask, build, factors, gradients_of, linear_step, numbers

from zodist.directions import Combination, Scaled

BETA = 0.75


def stepped(method, steps, gradients):
    return [linear_step(method, step, gradients)[1] for step in steps]


def copy(state):
    return {name: value.copy() for name, value in state.items()}


def test_within_a_window_the_momentum_is_the_mean_of_dense_gradients():
    gradients = gradients_of()
    plain = stepped(build("lozo", rank=3, refresh=0, probes=2), range(6), gradients)
    moved = stepped(build("lozo", rank=3, refresh=0, probes=2, momentum=BETA), range(6), gradients)
    for name in SHAPES:
        want = np.zeros(SHAPES[name])
        for step in range(6):
            want = BETA * want + (1.0 - BETA) * plain[step][name].astype(np.float64)
            got = moved[step][name]
            np.testing.assert_allclose(got, want, rtol=0, atol=1e-6 * np.abs(want).max())


def test_at_a_refresh_the_momentum_is_expressed_in_the_new_basis():
    """N V_old^T becomes N (V_old^T V_new) / n V_new^T, then the step's gradient is taken up."""
    gradients, settings = gradients_of(), {"rank": 3, "refresh": 4, "probes": 2}
    method, plain = build("lozo", **settings, momentum=BETA), build("lozo", **settings)
    stepped(method, range(4), gradients)
    held, p = method.state()["momentum/w"].astype(np.float64), method.params[0]
    bases = {}
    for step in (3, 4):
        ask(plain, step)
        bases[step] = (
            factors(plain.direction(p), p, Combination.of((1 << 20, 1.0))).right[0].astype(np.float64)
        )
    (found,), (new,) = stepped(method, [4], gradients), stepped(plain, [4], gradients)
    turned = held @ (bases[3] @ bases[4].T) / p.shape[1] @ bases[4]
    want = BETA * turned + (1.0 - BETA) * new["w"].astype(np.float64)
    np.testing.assert_allclose(found["w"], want, rtol=0, atol=1e-6 * np.abs(want).max())
    assert np.abs(BETA * turned).max() > 0.1 * np.abs(want).max(), "otherwise the turn is not seen"
    assert method.state()["window"].tolist() == [1]


def test_the_update_scales_with_the_factor():
    """A rule hands in its learning rate so."""
    method = build("lozo", rank=3, momentum=BETA)
    outcome, found = linear_step(method, 0, gradients_of())
    assert outcome.gradient == Scaled(1.0)
    for p in method.params:
        assert (
            numbers(method.update(p), p, outcome.gradient * 0.5)[0] == np.float32(0.5) * found[p.name]
        ).all()


def test_a_step_without_a_finite_loss_changes_nothing_not_even_the_window():
    method = build("lozo", rank=3, refresh=2, momentum=BETA)
    stepped(method, range(2), gradients_of())
    before = copy(method.state())
    outcome = answer(ask(method, 2)[0], np.full((1, 2), np.nan))
    assert outcome.empty
    after = method.state()
    assert all((after[name] == value).all() for name, value in before.items())


def test_a_question_changes_nothing():
    """Probes see the state before the answer, and a round may be asked again."""
    method = build("lozo", rank=3, refresh=2, momentum=BETA)
    stepped(method, range(2), gradients_of())
    before = copy(method.state())
    ask(method, 2)
    assert all((method.state()[name] == value).all() for name, value in before.items())


@pytest.mark.parametrize("at", [3, 4, 5])
def test_a_fresh_method_goes_on_from_the_state(at):
    """Around a refresh at step 4, with the same bits."""
    gradients, settings = gradients_of(), {"rank": 3, "refresh": 4, "probes": 2, "momentum": BETA}
    whole, first, second = (build("lozo", **settings) for _ in range(3))
    want = stepped(whole, range(8), gradients)[-1]
    stepped(first, range(at), gradients)
    second.load(copy(first.state()))
    got = stepped(second, range(at, 8), gradients)[-1]
    assert all((got[name] == want[name]).all() for name in want)


def test_plain_lozo_has_no_state_and_momentum_only_thin_ones():
    assert build("lozo").state() == {}
    sizes = {name: value.size for name, value in build("lozo", rank=2, momentum=BETA).state().items()}
    assert sizes == {"momentum/w": 48, "momentum/b": 24, "momentum/c": 12, "window": 1}
