"""TeZO: the history of a matrix is one r-vector; TeZO-m and TeZO-Adam against dense references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from linear_toy import SHAPES, answer, ask, build, factors, gradients_of, linear_step, numbers

from zodist import noise
from zodist.directions import Combination, Quotient, Scaled, Stored
from zodist.methods.registry import METHODS

BETAS = {"beta1": 0.75, "beta2": 0.875}
STEPS = 5


def run(gradients, **settings):
    method = build("tezo", rank=3, probes=2, **settings)
    return method, [linear_step(method, step, gradients)[1] for step in range(STEPS)]


def bases(method, param) -> tuple[np.ndarray, np.ndarray]:
    """U and V: the factors of a direction are (U tau, V^T)."""
    return method._bases.left(param).astype(np.float64), method._bases.right(param).astype(np.float64)


def test_the_history_of_a_matrix_is_one_vector_of_rank_numbers():
    """The sum of all updates is U diag(t) V^T, and t is the sum of slope * tau."""
    gradients, method = gradients_of(), build("tezo", rank=3, probes=2)
    every, total, taus = Combination.of(), {name: np.zeros(s) for name, s in SHAPES.items()}, np.zeros(3)
    for step in range(STEPS):
        outcome, found = linear_step(method, step, gradients)
        every = every + outcome.gradient
        total = {name: total[name] + found[name] for name in total}
        p = method.params[0]
        laid = factors(method.direction(p), p, outcome.gradient)
        ratio = laid.left[0] / method._bases.left(p)
        np.testing.assert_allclose(ratio, np.broadcast_to(ratio[0], ratio.shape), rtol=1e-5)
        taus += ratio[0]
    u, v = bases(method, method.params[0])
    np.testing.assert_allclose((u * taus) @ v.T, total["w"], rtol=0, atol=1e-5 * np.abs(total["w"]).max())
    for p in method.params:
        got = numbers(method.update(p), p, every)[0]
        np.testing.assert_allclose(got, total[p.name], rtol=0, atol=1e-5 * np.abs(got).max())


def test_momentum_is_the_mean_of_dense_gradients():
    gradients = gradients_of()
    _, plain = run(gradients)
    method, moved = run(gradients, memory="momentum", **BETAS)
    for name in SHAPES:
        want = np.zeros(SHAPES[name])
        for step in range(STEPS):
            want = 0.75 * want + 0.25 * plain[step][name].astype(np.float64)
            np.testing.assert_allclose(moved[step][name], want, rtol=0, atol=1e-6 * np.abs(want).max())
    assert {name: value.size for name, value in method.state().items()} == {
        "first/w": 3, "first/b": 24, "first/c": 3, "steps": 1
    }  # fmt: skip


def test_adam_divides_by_the_root_of_the_separable_second_moment():
    gradients = gradients_of()
    method, moved = run(gradients, memory="adam", epsilon=1e-3, **BETAS)
    plain, _ = run(gradients)
    for p in method.params:
        if len(p.shape) == 1:
            continue
        u, v = bases(plain, p)
        first = second = np.zeros(u.shape[1])
        for step in range(STEPS):
            outcome, _ = linear_step(plain, step, gradients)
            laid = factors(plain.direction(p), p, outcome.gradient)
            tau = (laid.left[0] / plain._bases.left(p))[0].astype(np.float64)
            first, second = 0.75 * first + 0.25 * tau, 0.875 * second + 0.125 * tau**2
            m = (u * first) @ v.T / (1.0 - 0.75 ** (step + 1))
            root = np.sqrt((u**2 * second) @ (v**2).T / (1.0 - 0.875 ** (step + 1)))
            want = (m / (root + 1e-3)).reshape(p.shape)
            np.testing.assert_allclose(moved[step][p.name], want, rtol=0, atol=1e-4 * np.abs(want).max())


def test_vectors_have_ordinary_adam():
    gradients = gradients_of()
    _, moved = run(gradients, memory="adam", epsilon=1e-3, **BETAS)
    _, plain = run(gradients)
    first = second = np.zeros(SHAPES["b"])
    for step in range(STEPS):
        g = plain[step]["b"].astype(np.float64)
        first, second = 0.75 * first + 0.25 * g, 0.875 * second + 0.125 * g**2
        m, v = first / (1.0 - 0.75 ** (step + 1)), second / (1.0 - 0.875 ** (step + 1))
        np.testing.assert_allclose(moved[step]["b"], m / (np.sqrt(v) + 1e-3), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("memory", ["momentum", "adam"])
def test_a_fresh_method_goes_on_from_the_state(memory):
    gradients = gradients_of()
    whole, want = run(gradients, memory=memory, **BETAS)
    first, second = (build("tezo", rank=3, probes=2, memory=memory, **BETAS) for _ in range(2))
    for step in range(3):
        linear_step(first, step, gradients)
    second.load({name: value.copy() for name, value in first.state().items()})
    for step in (3, 4):
        got = linear_step(second, step, gradients)[1]
    assert all((got[name] == want[-1][name]).all() for name in want[-1])
    before = {name: value.copy() for name, value in whole.state().items()}
    answer(ask(whole, STEPS)[0], np.full((2, 2), np.nan))
    assert all((whole.state()[name] == value).all() for name, value in before.items())


def test_plain_tezo_has_no_state_and_moments_forbid_a_refresh():
    assert build("tezo").state() == {}
    with pytest.raises(ValueError, match="method.refresh = 10 would drop the moments"):
        METHODS["tezo"].settings.model_validate({"refresh": 10, "memory": "adam"})


# Quotients


def quotient(p) -> tuple[Quotient, np.ndarray, np.ndarray]:
    size = p.weights.numel()
    above = noise.numbers(noise.GAUSSIAN, 1, p.id, noise.U, 0, size)
    below = noise.numbers(noise.GAUSSIAN, 2, p.id, noise.U, 0, size) ** 2
    return Quotient(Stored(above), Stored(below), 0.01, lambda: (2.0, 4.0)), above, below


def test_a_quotient_is_rounded_after_each_operation():
    p = build("tezo").params[0]
    law, above, below = quotient(p)
    got = numbers(law, p, Scaled(0.25), Scaled(3.0))
    root = np.sqrt(np.float32(4.0) * below) + np.float32(0.01)
    for factor, found in zip((0.5, 6.0), got, strict=True):
        assert (found.reshape(-1) == np.float32(factor) * above / root).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_quotient_is_added_to_the_weights_by_range_and_by_row(dtype):
    p = build("tezo").params[0]
    law, _, _ = quotient(p)
    p.weights.copy_(torch.linspace(-1.0, 1.0, p.weights.numel()))
    at = [1.0, -1.0]
    alone = torch.from_numpy(numbers(law, p, *map(Scaled, at))).view(2, -1)
    want = (alone + p.weights).to(dtype)
    laid, out = law.lay(p, at, {}), torch.empty(2, 32, dtype=dtype)
    laid.write_(p, 16, 48, out)
    assert (out == want[:, 16:48]).all()
    rows = torch.empty(2, 2, 16, dtype=dtype)
    laid.rows_(p, torch.tensor([7, 2]), rows)
    assert (rows == want.view(2, 24, 16)[:, [7, 2]]).all()


def test_a_quotient_takes_whole_rows_where_one_of_its_parts_does():
    method = build("tezo", rank=3, memory="adam")
    linear_step(method, 0, gradients_of())
    p = method.params[0]
    assert method.update(p).lay(p, [1.0], {}).grain == 16
    assert quotient(p)[0].lay(p, [1.0], {}).grain == 1
