"""Moments rebuilt from the last steps: equal to buffers while nothing is forgotten, truncated after."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from zodist.directions.direction import Combination
from zodist.directions.kept import Gradient, lay_out
from zodist.directions.moments import LaidRatio, Recent
from zodist.directions.param import Param, address
from zodist.methods import MeZO, MeZOSettings, Probe, StepSeeds
from zodist.models import digest
from zodist.step import RULES, Replica, Rule

N, EPS = 5000, 0.5
MEMORIES = ["momentum", "adam"]


@dataclass
class RuleSettings:
    name: str = "sgd"
    lr: float = 1e-3
    momentum: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    schedule: str = "constant"
    warmup: int = 0


def param(n: int = N) -> Param:
    flat = torch.zeros(n)
    return Param("w", address("w"), (n,), flat, flat)


def mezo(**settings: Any) -> MeZO:
    return MeZO(MeZOSettings.model_validate({"eps": EPS, **settings}))


def made_up(probes: int, step: int) -> np.ndarray:
    return 2.0 + np.random.Generator(np.random.PCG64(step)).standard_normal((probes, 2))


def gradient(method: MeZO, step: int, losses: np.ndarray | None = None) -> Any:
    generator = method.step(StepSeeds(7, step))
    probes = next(generator)
    with pytest.raises(StopIteration) as stop:
        generator.send(made_up(len(probes), step) if losses is None else losses)
    return stop.value.value.gradient


def rule_of(name: str, p: Param, **settings: float) -> Rule:
    return RULES[name](RuleSettings(name, **settings), [p])  # type: ignore[arg-type]


def numbers(method: MeZO, gradient: Gradient, p: Param, start: int = 0, stop: int = N) -> np.ndarray:
    """What the update makes of a gradient, float32."""
    law, out = method.update(p), torch.empty(1, stop - start)
    lay_out(law, p, [gradient], {}).write_(p, start, stop, out, add=False)
    return out[0].numpy().copy()


def test_without_memory_there_is_no_state_and_the_update_is_the_probes_law():
    method = mezo()
    assert method.state() == {} and method.update(param()) is method.direction(param())


@pytest.mark.parametrize("coupling", ["walsh", "independent"])
@pytest.mark.parametrize("law", ["gaussian", "rademacher"])
def test_momentum_is_the_full_buffer_while_nothing_is_forgotten(law, coupling):
    """The rule's buffer m <- beta m + g, times (1 - beta) / (1 - beta^t); float32 rounding of up to 6 sums."""
    settings = {"probes": 3, "noise": law, "coupling": coupling}
    plain, remembering = mezo(**settings), mezo(**settings, memory="momentum", horizon=6, beta1=0.8)
    p = param()
    rule = rule_of("momentum", p, momentum=0.8)
    for t in range(1, 7):
        rule.apply_(gradient(plain, t), {p.id: plain.update(p)}, 1e-3, 1)
        got = numbers(remembering, gradient(remembering, t), p)
        want = rule.state()["w"].numpy() * (0.2 / (1.0 - 0.8**t))
        np.testing.assert_allclose(got, want, rtol=0, atol=4e-7 * np.abs(want).max())


@pytest.mark.parametrize("coupling", ["walsh", "independent"])
@pytest.mark.parametrize("law", ["gaussian", "rademacher"])
def test_adam_is_the_rule_with_full_moments_while_nothing_is_forgotten(law, coupling):
    """Weights after every step; float32 rounding, relative to what a step moves, which is about the rate."""
    settings = {"probes": 3, "noise": law, "coupling": coupling}
    plain = mezo(**settings)
    remembering = mezo(**settings, memory="adam", horizon=6, beta1=0.8, beta2=0.9)
    full, rebuilt = param(), param()
    adam, sgd = rule_of("adam", full, momentum=0.8, beta2=0.9), rule_of("sgd", rebuilt)
    for t in range(1, 7):
        adam.apply_(gradient(plain, t), {full.id: plain.update(full)}, 1e-3, 1)
        sgd.apply_(gradient(remembering, t), {rebuilt.id: remembering.update(rebuilt)}, 1e-3, 1)
        torch.testing.assert_close(rebuilt.weights, full.weights, rtol=0, atol=1e-8)
    assert rebuilt.weights.abs().mean() > 1e-3


@pytest.mark.parametrize("memory", MEMORIES)
def test_steps_beyond_the_horizon_are_forgotten(memory):
    p, settings = param(), {"probes": 2, "memory": memory, "horizon": 3}
    long, short = mezo(**settings), mezo(**settings)
    for t in range(1, 8):
        late = gradient(long, t)
    for t in range(5, 8):
        early = gradient(short, t)
    assert (numbers(long, late, p) == numbers(short, early, p)).all()
    assert (long.state()["count"] == 3).all()


def test_a_horizon_of_one_step_is_mezo_and_its_sign():
    p, plain = param(), mezo(probes=2)
    g = numbers(plain, gradient(plain, 4), p)
    for memory, want in (("momentum", g), ("adam", np.sign(g))):
        method = mezo(probes=2, memory=memory, horizon=1, epsilon=1e-20)
        gradient(method, 3)
        np.testing.assert_allclose(numbers(method, gradient(method, 4), p), want, rtol=1e-6, atol=1e-6)


def test_with_one_rademacher_probe_adam_divides_every_weight_by_the_same_number():
    settings = {"noise": "rademacher", "horizon": 5, "beta1": 0.7, "beta2": 0.9}
    mean, ratio = mezo(**settings, memory="momentum"), mezo(**settings, memory="adam")
    p, c = param(), []
    for t in range(1, 9):
        losses = made_up(1, t)
        c.append((losses[0, 0] - losses[0, 1]) / (2 * EPS))
        m, q = numbers(mean, gradient(mean, t, losses), p), numbers(ratio, gradient(ratio, t, losses), p)
    powers = 0.9 ** np.arange(5)
    root = math.sqrt(powers @ np.square(c[:-6:-1]) / powers.sum())
    np.testing.assert_allclose(q * root, m, rtol=0, atol=1e-6 * np.abs(m).max())


def test_with_gaussian_noise_it_does_not():
    mean, ratio = mezo(memory="momentum"), mezo(memory="adam")
    p, m, q = param(), np.zeros(N), np.zeros(N)
    for t in range(1, 9):
        m, q = numbers(mean, gradient(mean, t), p), numbers(ratio, gradient(ratio, t), p)
    assert np.std(m / q) > 0.1 * np.mean(m / q)


@pytest.mark.parametrize("coupling", ["walsh", "independent"])
def test_any_piece_and_any_number_of_threads_gives_the_same_bits(coupling):
    n = 70_001
    method, p = mezo(probes=2, coupling=coupling, memory="adam"), param(n)
    for t in range(3):
        unit = gradient(method, t)
    whole = numbers(method, unit, p, 0, n)
    pieces = [numbers(method, unit, p, a, b) for a, b in ((0, 700), (700, 5000), (5000, n))]
    assert np.concatenate(pieces).tobytes() == whole.tobytes()
    out = torch.empty(1, n)
    lay_out(method.update(p), p, [unit], {}).write_(p, 0, n, out, add=False, parallel=True)
    assert out.numpy().tobytes() == whole.tobytes()


def test_a_ratio_scales_with_the_factor_and_is_no_probe():
    method, p = mezo(memory="adam"), param()
    unit = gradient(method, 1)
    assert (numbers(method, unit * 0.5, p) == numbers(method, unit, p) * np.float32(0.5)).all()
    laid = lay_out(method.update(p), p, [unit], {})
    assert isinstance(laid, LaidRatio)
    with pytest.raises(TypeError, match="no probe"):
        laid.write_(p, 0, N, torch.empty(1, N))
    with pytest.raises(TypeError, match="no probe"):
        laid.rows_(p, torch.tensor([0]), torch.empty(1, 1, N))


@pytest.mark.parametrize("memory", MEMORIES)
def test_memory_goes_on_from_its_saved_state(memory):
    settings = {"probes": 2, "memory": memory, "horizon": 3}
    p, whole, first, second = param(), *(mezo(**settings) for _ in range(3))
    for t in range(5):
        last = gradient(whole, t)
    for t in range(2):
        gradient(first, t)
    second.load({name: array.copy() for name, array in first.state().items()})
    for t in range(2, 5):
        again = gradient(second, t)
    assert (numbers(whole, last, p) == numbers(second, again, p)).all()


@pytest.mark.parametrize("memory", MEMORIES)
def test_a_replica_goes_on_from_a_snapshot_of_its_state_in_16_bits(memory):
    """Through the run's own fold: rule, rounding, and the state as tensors."""

    def answer(step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int) -> np.ndarray:
        return made_up(len(probes), step).astype(np.float32)

    def replica() -> Replica:
        p = Param("w", address("w"), (N,), flat := torch.zeros(N, dtype=torch.bfloat16), flat)
        method = mezo(probes=2, memory=memory, horizon=3, noise="rademacher")
        return Replica([p], method, rule_of("sgd", p), seed=3, steps=9, data_lanes=1)

    whole, first, second = replica(), replica(), replica()
    for _ in range(6):
        whole.advance(answer)
    for _ in range(2):
        first.advance(answer)
    second.load(2, {name: value.clone() for name, value in first.state().items()})
    for _ in range(4):
        second.advance(answer)
    states = [
        {name: value.numpy().tobytes() for name, value in r.state().items() if name[0] == "m"}
        for r in (whole, second)
    ]
    assert states[0] == states[1] and len(states[0]) == 3
    assert digest(whole.params) == digest(second.params) != digest(replica().params)


@pytest.mark.parametrize("memory", MEMORIES)
def test_holes_weigh_nothing_and_a_step_of_holes_changes_no_state(memory):
    method = mezo(probes=2, memory=memory)
    gradient(method, 1, np.array([[1.0, 2.0], [np.nan, 1.0]]))
    assert method.state()["weights"][0].tolist() == [-1.0, 0.0]
    before = {name: array.tobytes() for name, array in method.state().items()}
    assert len(gradient(method, 2, np.full((2, 2), np.nan))) == 0
    assert {name: array.tobytes() for name, array in method.state().items()} == before


def test_steps_whose_kept_codes_need_tables_of_other_lengths_fit_together():
    """Of 2,000 probes the later half fails in one step: its codes end below 1,024."""
    method, p = mezo(probes=2000, memory="adam", beta1=0.5, beta2=0.5), param()
    mean = mezo(probes=2000, memory="momentum", beta1=0.5)
    for t in range(2):
        losses = made_up(2000, t)
        losses[1000 + 1000 * t :] = np.nan
        ratio, m = gradient(method, t, losses), gradient(mean, t, losses)
    got = numbers(method, ratio, p)
    assert np.abs(got).max() < 2.0 and (np.sign(got) == np.sign(numbers(mean, m, p))).all()


def test_shares_of_the_kept_steps_are_powers_that_sum_to_one():
    recent = Recent(4, 1)
    assert len(recent.shares(0.5)) == 0 and len(recent.decayed(0.5)) == 0
    for count in range(1, 7):
        recent.add(Combination.of((count, 1.0)))
        shares = recent.shares(0.5)
        assert len(shares) == min(count, 4)
        np.testing.assert_allclose(shares, 0.5 ** np.arange(len(shares)) * 0.5 / (1 - 0.5 ** len(shares)))
    assert recent.seeds[:, 0].tolist() == [6, 5, 4, 3]
