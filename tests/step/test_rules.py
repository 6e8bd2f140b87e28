"""Update rules: fused kernels equal a plain float32 reference bit for bit, and schedules do what they say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from exact import DTYPES, HALVES, KINDS, as_floats, moves, random, stepped, stochastic, to_words, weights
from hypothesis import given
from hypothesis import strategies as st

from zodist import noise
from zodist.directions import Combination, Dense, Param, address, coded_tables
from zodist.kernels import BFLOAT16, FLOAT32
from zodist.models import digest
from zodist.noise import GAUSSIAN, RADEMACHER
from zodist.step.rules import RULES, Rule, schedule

DENSE = Dense(GAUSSIAN, True)
GRADIENT = Combination.of((5 << 16, 0.5), ((5 << 16) + 1, -1.5), (9 << 16, 0.25))
ROUNDING = 0xFEEDFACECAFEBEEF


@dataclass
class Settings:
    name: str = "sgd"
    lr: float = 1e-3
    momentum: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0


def param(kind: int, name: str = "layer.weight", n: int = 5000, origin: int = 0) -> Param:
    words = weights(kind, n, seed=len(name))
    tensor = torch.from_numpy(words).view(DTYPES[kind])
    return Param(name, address(name), (n,), tensor, tensor, origin)


def build(params: Sequence[Param], settings: Settings, *, parallel: bool = False) -> Rule:
    return RULES[settings.name](settings, params, parallel=parallel)


def everywhere(params: Sequence[Param]) -> dict[int, Dense | None]:
    return {p.id: DENSE for p in params}


def rounded(kind: int, x: np.ndarray, rounding: int, p: Param) -> np.ndarray:
    bits = noise.numbers(noise.BITS16, rounding, p.id, noise.ROUNDING, p.origin, p.origin + len(x))
    return to_words(kind, x) if kind == FLOAT32 else stochastic(kind, x, bits)


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_sgd_equals_a_float32_reference(kind, decay):
    """Table of lr * gradient, one product, one sum and one difference in float32, one rounding."""
    p, settings = param(kind, origin=3000), Settings(weight_decay=decay)
    rule, words = build([p], settings), p.words.copy()
    for step in range(3):
        keys, tables = coded_tables(DENSE, [GRADIENT * settings.lr])
        move = moves(DENSE.law, keys, tables[0], p.origin, p.origin + 5000, p.id)
        x = stepped(as_floats(kind, words), settings.lr * decay, move)
        words = rounded(kind, x, ROUNDING + step, p)
        rule.apply_(GRADIENT, everywhere([p]), settings.lr, ROUNDING + step)
        assert (p.words == words).all()
    assert rule.state() == ({"weight_decay": torch.zeros(1)} if decay else {}), (
        "lr * decay is taken off at once"
    )


@pytest.mark.parametrize("decay", [0.0, 0.1])
@pytest.mark.parametrize("kind", KINDS)
def test_momentum_equals_a_float32_reference(kind, decay):
    """m <- momentum * m + g; weights <- weights - (lr * decay * weights + lr * m): float32, in this order of operations."""
    p, settings = param(kind, origin=3000), Settings("momentum", momentum=0.8, weight_decay=decay)
    rule, words, m = build([p], settings), p.words.copy(), np.zeros(5000, np.float32)
    keys, tables = coded_tables(DENSE, [GRADIENT])
    move = moves(DENSE.law, keys, tables[0], p.origin, p.origin + 5000, p.id)
    for step, lr in enumerate([1e-3, 2e-3, 5e-4]):
        m = np.float32(0.8) * m + move
        x = stepped(as_floats(kind, words), lr * decay, np.float32(lr) * m)
        words = rounded(kind, x, ROUNDING + step, p)
        rule.apply_(GRADIENT, everywhere([p]), lr, ROUNDING + step)
        assert (p.words == words).all()
        assert rule.state()[p.name].numpy().tobytes() == m.tobytes()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_parallel_rules_give_the_bits_of_serial_ones(name, kind):
    results = []
    for parallel in (False, True):
        params = [param(kind, n=40_000), param(kind, "other", 777)]
        rule = build(params, Settings(name), parallel=parallel)
        for step in range(2):
            rule.apply_(GRADIENT, everywhere(params), 1e-2, ROUNDING + step)
        results.append([p.words.tobytes() for p in params])
    assert results[0] == results[1]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_parameter_without_a_direction_keeps_its_bits(name, kind):
    """Weight decay too must leave it alone."""
    moved, frozen = param(kind), param(kind, "frozen")
    before = digest([frozen]), digest([moved])
    rule = build([moved, frozen], Settings(name, weight_decay=0.5))
    rule.apply_(GRADIENT, {moved.id: DENSE, frozen.id: None}, 0.1, ROUNDING)
    assert digest([frozen]) == before[0] and digest([moved]) != before[1]


@pytest.mark.parametrize("name", RULES)
def test_a_parameter_moves_alike_whoever_its_neighbours_are(name):
    """The address of its noise is its own: neither order nor company may change it."""
    alone, a, b = param(FLOAT32), param(FLOAT32), param(FLOAT32, "b")
    build([alone], Settings(name)).apply_(GRADIENT, everywhere([alone]), 0.1, ROUNDING)
    build([b, a], Settings(name)).apply_(GRADIENT, everywhere([a, b]), 0.1, ROUNDING)
    assert (a.words == alone.words).all()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", HALVES)
def test_rounding_is_a_function_of_the_step_s_seed(name, kind):
    def after(rounding: int) -> bytes:
        p = param(kind)
        build([p], Settings(name)).apply_(GRADIENT, everywhere([p]), 1e-4, rounding)
        return p.words.tobytes()

    assert after(ROUNDING) == after(ROUNDING) != after(ROUNDING + 1)


def test_parameters_may_have_laws_of_their_own():
    a, b = param(FLOAT32), param(FLOAT32, "b")
    other = Dense(RADEMACHER, False, scale=0.5)
    want = []
    for p, dense in ((a, DENSE), (b, other)):
        keys, tables = coded_tables(dense, [GRADIENT * 0.1])
        want.append(as_floats(FLOAT32, p.words) - moves(dense.law, keys, tables[0], 0, 5000, p.id))
    build([a, b], Settings()).apply_(GRADIENT, {a.id: DENSE, b.id: other}, 0.1, ROUNDING)
    assert a.weights.numpy().tobytes() == want[0].tobytes()
    assert b.weights.numpy().tobytes() == want[1].tobytes()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", HALVES)
def test_a_master_copy_moves_in_float32_and_the_model_is_its_rounding(name, kind):
    master = param(FLOAT32)
    alone = param(FLOAT32)
    model = master.weights.to(DTYPES[kind])
    pair = Param(master.name, master.id, master.shape, master.weights, model)
    for p in (alone, pair):
        rule = build([p], Settings(name))
        for step in range(3):
            rule.apply_(GRADIENT, everywhere([p]), 1e-4, ROUNDING + step)
    assert (pair.words == alone.words).all()
    assert torch.equal(model, alone.weights.to(DTYPES[kind]))


def test_weight_decay_alone_shrinks_by_its_share():
    p = param(FLOAT32)
    before = p.weights.clone()
    build([p], Settings(weight_decay=0.5)).apply_(Combination.of((7, 0.0)), everywhere([p]), 0.25, ROUNDING)
    assert torch.equal(p.weights, before * 0.875)


TINY, WHILE = (
    1e-8,
    4578,
)  # lr * weight_decay, far below float32's last place, and steps in which it comes to 4.6e-5


def shares_lost(kind: int, settings: Settings, gradient: Callable[[int], Combination]) -> np.ndarray:
    """Less the same steps without decay: float64 [weights], whose mean is the share that the weights lost."""
    n, lr, ends = 20_000, 1e-6, []
    base = weights(kind, n)
    for decay in (0.0, TINY / lr):
        tensor = torch.from_numpy(base.copy()).view(DTYPES[kind])
        p = Param("w", address("w"), (n,), tensor, tensor)
        rule = build([p], replace(settings, weight_decay=decay))
        for step in range(WHILE):
            rule.apply_(gradient(step), everywhere([p]), lr, noise.derive(3, step, 0, noise.ROUNDING))
        ends.append(as_floats(kind, p.words).astype(np.float64))
    start = as_floats(kind, base).astype(np.float64)
    return (ends[0] - ends[1]) * np.sign(start) / np.abs(start).mean()


def has_mean(found: np.ndarray, want: float) -> bool:
    """Within five standard errors, which are less than what is looked for."""
    error = 5.0 * found.std() / np.sqrt(len(found))
    return abs(found.mean() - want) < error < want


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_a_decay_far_below_the_last_place_has_its_mean_effect(name, kind):
    """Weights without a gradient: nothing but the decay moves them, and none of its steps does alone."""
    nothing = Combination.of()
    lost = shares_lost(kind, Settings(name), lambda step: nothing)
    assert has_mean(lost, 1.0 - (1.0 - TINY) ** WHILE)


@pytest.mark.parametrize("kind", [FLOAT32, BFLOAT16])
def test_a_decay_far_below_the_last_place_has_its_mean_effect_beside_a_gradient(kind):
    """Steps far larger than the decay, which cancel in the difference but for roundings."""
    lost = shares_lost(kind, Settings(), lambda step: Combination.of((step << 16, 0.5 + step % 7)))
    assert has_mean(lost, 1.0 - (1.0 - TINY) ** WHILE)


def test_what_is_due_of_a_decay_comes_back_with_the_state():
    """A run that stops between two steps of the decay goes on as if it had not."""

    def run(stop_after: int | None) -> bytes:
        p = param(FLOAT32)
        rule = build([p], Settings(weight_decay=1.0))
        for step in range(40):
            if step == stop_after:
                kept = {key: value.clone() for key, value in rule.state().items()}
                rule = build([p], Settings(weight_decay=1.0))
                rule.load(kept)
            rule.apply_(Combination.of(), everywhere([p]), 1e-6, ROUNDING + step)
        return p.words.tobytes()

    assert run(None) == run(10) != param(FLOAT32).words.tobytes()


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize("kind", KINDS)
def test_without_decay_infinite_weights_and_zeros_of_both_signs_stay(name, kind):
    """A share of nothing is not taken: 0 times infinity would be NaN."""
    p = param(kind)
    x = np.resize(np.array([np.inf, -np.inf, 0.0, -0.0], np.float32), 5000)
    p.weights.copy_(torch.from_numpy(x))
    before = p.words.tobytes()
    build([p], Settings(name)).apply_(Combination.of(), everywhere([p]), 1e-3, ROUNDING)
    assert p.words.tobytes() == before


@pytest.mark.parametrize("name", RULES)
def test_a_rule_goes_on_from_its_saved_state(name):
    def run(stop_after: int | None) -> bytes:
        p = param(FLOAT32)
        rule = build([p], Settings(name))
        for step in range(4):
            if step == stop_after:
                kept = {key: value.clone() for key, value in rule.state().items()}
                rule = build([p], Settings(name))
                rule.load(kept)
            rule.apply_(GRADIENT * (1.0 + step), everywhere([p]), 1e-2, ROUNDING + step)
        return p.words.tobytes()

    assert run(None) == run(2)


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_schedules_start_at_the_rate_and_end_as_named(shape):
    settings = Settings(lr=0.5, schedule=shape)
    rates = [schedule(settings, t, 10) for t in range(11)]
    assert rates[0] == 0.5
    assert rates[10] == (0.5 if shape == "constant" else pytest.approx(0.0, abs=1e-16))
    assert rates[5] == (0.5 if shape == "constant" else pytest.approx(0.25))
    assert all(a >= b > 0 for a, b in zip(rates, rates[1:10], strict=False)), "the last step still learns"


@pytest.mark.parametrize("shape", ["constant", "linear", "cosine"])
def test_warm_up_rises_in_equal_steps_to_the_rate(shape):
    settings = Settings(lr=0.5, schedule=shape, warmup=4)
    rates = [schedule(settings, t, 12) for t in range(12)]
    assert rates[:5] == [0.125, 0.25, 0.375, 0.5, 0.5]
    if shape == "cosine":
        want = [0.25 * (1.0 + math.cos(math.pi * k / 8)) for k in range(8)]
        assert rates[4:] == pytest.approx(want, rel=1e-15)


@given(
    st.sampled_from(["constant", "linear", "cosine"]),
    st.floats(1e-9, 10.0),
    st.integers(1, 50),
    st.integers(0, 60),
)
def test_rates_lie_between_zero_and_the_rate(shape, lr, steps, warmup):
    """Also where the warm-up outlasts the run.  The product of its last step may round up once."""
    settings = Settings(lr=lr, schedule=shape, warmup=warmup)
    for step in range(steps):
        assert 0.0 < schedule(settings, step, steps) <= lr * (1.0 + 2.0**-52)


def test_a_gradient_of_many_probes_costs_one_base():
    """4,096 coded probes move the weights by their sum, spelled out in float64: float32 rounding differs."""
    p, n = param(FLOAT32), 4096
    slopes = random(3).standard_normal(n)
    before = p.weights.numpy().astype(np.float64)
    gradient = Combination(np.uint64(5 << 16) + np.arange(n, dtype=np.uint64), slopes / n)
    build([p], Settings()).apply_(gradient, everywhere([p]), 1.0, ROUNDING)
    index = np.arange(5000)
    signs = 1.0 - 2.0 * (np.bitwise_count(np.arange(n)[:, None] & index[None, :]) % 2)
    move = noise.numbers(GAUSSIAN, 5 << 16, p.id, noise.Z, 0, 5000) * (slopes @ signs / n)
    np.testing.assert_allclose(p.weights.numpy(), before - move, rtol=0, atol=1e-7)
