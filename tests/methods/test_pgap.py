"""P-GAP: its perturbation, the mean of its estimate, the subspace that pooled records find, and its state."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from zodist import noise
from zodist.config import Rule
from zodist.directions import Combination, Param, address
from zodist.methods import Probe
from zodist.methods.pgap import Pgap, PgapSettings, signs
from zodist.methods.steps import StepSeeds
from zodist.step import RULES, Replica

ROWS, COLUMNS = 24, 16


def pgap(**settings) -> Pgap:
    method = Pgap(PgapSettings(**settings))
    flat = torch.zeros(ROWS * COLUMNS)
    method.begin([Param("w", address("w"), (ROWS, COLUMNS), flat, flat)])
    return method


def values(method: Pgap, *at: Combination) -> np.ndarray:
    param = method.params[0]
    out = torch.empty(len(at), ROWS * COLUMNS)
    method.direction(param).lay(param, list(at), {}).write_(param, 0, ROWS * COLUMNS, out, add=False)
    return out.numpy().astype(np.float64).reshape(len(at), ROWS, COLUMNS)


def with_basis(rank: int = 4, delta: float = 1.0, **settings) -> Pgap:
    """A method in its subspace; U, V, S are arbitrary orthonormal ones and a core that is not diagonal."""
    method = pgap(rank=rank, delta=delta, delta_end=delta, **settings)
    g = np.random.default_rng(3)
    u, v, s = method.bases(method.params[0])
    u[:], v[:] = np.linalg.qr(g.standard_normal(u.shape))[0], np.linalg.qr(g.standard_normal(v.shape))[0]
    s[:] = g.standard_normal(s.shape)
    method.dense_now, method.delta = False, delta
    return method


def run(method: Pgap, gradient: np.ndarray, steps: int, first: int = 0) -> None:
    for t in range(first, first + steps):
        generator = method.step(StepSeeds(9, t, 1000))
        probes = next(generator)
        z = values(method, *[probe.points[0] for probe in probes])
        along = np.einsum("kmn,mn->k", z, gradient)
        with pytest.raises(StopIteration) as stop:
            generator.send(np.stack([along, -along], axis=1))
        stop.value.value.then()


@pytest.mark.parametrize("delta", [0.0, 1.0, 2.0])
def test_a_perturbation_lies_in_the_subspace_with_its_part_along_the_estimate_fixed(delta):
    method = with_basis(delta=delta)
    u, v, s = method.bases(method.params[0])
    names = StepSeeds(1, 0).coded(6)
    for k, z in enumerate(values(method, *[Combination.of((int(n), 1.0)) for n in names])):
        core = u.T @ z @ v / np.sqrt(ROWS * COLUMNS / 16)
        np.testing.assert_allclose(u @ (u.T @ z @ v) @ v.T, z, atol=1e-5)
        want = signs(names[k : k + 1], address("w"))[0] * np.sqrt(delta) * np.linalg.norm(s)
        assert (s * core).sum() == pytest.approx(want, abs=1e-4)


def test_signs_and_rotations_of_the_bases_change_nothing():
    """U R, V Q with R^T S Q: the same projectors, the same perturbation to rounding."""
    method, other = with_basis(), with_basis()
    g = np.random.default_rng(5)
    r, q = (np.linalg.qr(g.standard_normal((4, 4)))[0] for _ in range(2))
    u, v, s = other.bases(other.params[0])
    u[:], v[:], s[:] = u @ r, v @ q, r.T @ s @ q
    at = Combination.of((int(StepSeeds(1, 0).coded(3)[2]), 1.0))
    np.testing.assert_allclose(values(other, at), values(method, at), atol=2e-5)


def test_an_antithetic_pair_and_a_sum_are_linear_in_their_weights():
    method = with_basis(delta=2.0)
    a, b = (Combination.of((int(n), 1.0)) for n in StepSeeds(1, 0).coded(2))
    one, two, pair, back, both = values(method, a, b, a * 0.5, a * -0.5, a * 2.0 + b * -3.0)
    np.testing.assert_allclose(pair, 0.5 * one, atol=1e-5)
    np.testing.assert_allclose(back, -pair, atol=1e-6)
    np.testing.assert_allclose(both, 2.0 * one - 3.0 * two, atol=3e-5)
    np.testing.assert_allclose(values(method, a * 0.5, a * -0.5)[0], pair, atol=1e-5)


@pytest.mark.parametrize("delta", [0.0, 1.0, 2.0])
def test_the_mean_of_the_estimate_is_the_declared_one(delta):
    """U [(1 - P_S + delta P_S)(U^T G V)] V^T, by 4,000 probes on a linear loss."""
    method = with_basis(delta=delta)
    gradient = np.random.default_rng(0).standard_normal((ROWS, COLUMNS))
    names = [Combination.of((int(StepSeeds(2, t).coded(1)[0]), 1.0)) for t in range(4000)]
    z = np.concatenate([values(method, *names[k : k + 50]) for k in range(0, 4000, 50)])
    mean = np.einsum("kmn,mn,kij->ij", z, gradient, z) / len(z)
    want = method.expected({"w": gradient})["w"]
    assert np.linalg.norm(mean - want) < 0.15 * max(np.linalg.norm(want), np.linalg.norm(gradient))


def test_pooled_records_find_a_subspace_that_holds_the_gradient():
    """A rank-2 gradient, 40 dense steps of 32 probes: beyond the threshold; ten steps of one probe: far below it."""
    g = np.random.default_rng(1)
    gradient = g.standard_normal((ROWS, 2)) @ g.standard_normal((2, COLUMNS))
    shares = []
    for probes, steps in ((32, 40), (1, 10)):
        method = pgap(
            rank=4, probes=probes, refresh=steps, history=steps, dense_share=1.0, noise="rademacher"
        )
        run(method, gradient, steps)
        u, v, _ = method.bases(method.params[0])
        shares.append(np.sum((u.T @ gradient @ v) ** 2) / np.sum(gradient**2))
    assert shares[0] > 0.9 and shares[1] < 0.6


def test_after_the_first_refresh_the_declared_share_of_steps_is_dense():
    method, dense = pgap(refresh=4, dense_share=0.25), []
    for t in range(20):
        generator = method.step(StepSeeds(9, t, 1000))
        next(generator)
        dense.append(method.dense_now)
        with pytest.raises(StopIteration) as stop:
            generator.send(np.array([[1.0, 1.5]]))
        stop.value.value.then()
    assert all(dense[:4]) and sum(dense[4:]) == 4


def deltas(steps: int, **settings) -> list[float]:
    """delta of every step of a run, as its probes saw it."""
    seen = []
    for t in range(steps):
        method = pgap(**settings)
        next(method.step(StepSeeds(9, t, steps)))
        seen.append(method.delta)
    return seen


@pytest.mark.parametrize("steps", [1, 10, 3000])
def test_delta_falls_over_the_whole_run_however_long_it_is(steps):
    """The paper's schedule is over the training: linear, 0 at the end, which is never a step's."""
    np.testing.assert_allclose(deltas(steps), 2.0 * (1.0 - np.arange(steps) / steps), rtol=1e-12)


def test_delta_may_fall_over_steps_of_its_own():
    assert deltas(8, delta_steps=4, delta_end=1.0) == [2.0, 1.75, 1.5, 1.25, 1.0, 1.0, 1.0, 1.0]


def test_delta_of_a_replica_follows_the_steps_of_its_run():
    """What training and replay share: the state machine says how long the run is."""
    method = pgap()
    rule = RULES["sgd"](Rule(lr=1e-3), method.params)
    replica = Replica(method.params, method, rule, seed=1, steps=4, data_lanes=1)
    seen = []

    def answer(step: int, round: int, lr: float, probes: tuple[Probe, ...], lanes: int) -> np.ndarray:
        return np.array([[1.0, 1.5]], np.float32)

    for _ in range(4):
        replica.advance(answer)
        seen.append(method.delta)
    assert seen == [2.0, 1.5, 1.0, 0.5]


def test_delta_over_a_run_of_no_length_is_refused():
    with pytest.raises(ValueError, match="StepSeeds needs its steps"):
        next(pgap().step(StepSeeds(9, 0)))


def test_a_matrix_without_a_signal_keeps_its_subspace():
    method = pgap(refresh=2, rank=4)
    run(method, np.zeros((ROWS, COLUMNS)), 4)
    u, v, s = method.bases(method.params[0])
    assert not u.any() and not v.any() and not s.any()
    assert np.isfinite(values(method, Combination.of((1 << 16, 1.0)))).all()


def test_signs_are_fair_and_keyed_by_seed_and_parameter():
    seeds = StepSeeds(3, 0).coded(4096)
    a, b = signs(seeds, 1), signs(seeds, 2)
    assert abs(a.mean()) < 5 / 64 and abs((a * b).mean()) < 5 / 64 and set(a) == {1.0, -1.0}
    assert noise.RADIUS == 4
