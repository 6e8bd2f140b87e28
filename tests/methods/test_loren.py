"""LOREN: covariance, score and mean against their definitions; a learns; the released form does not."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zodist import noise
from zodist.directions import Combination, Law, Param, address
from zodist.methods.loren import Loren, LorenSettings
from zodist.methods.loren_released import LorenReleased, LorenReleasedSettings
from zodist.methods.steps import StepSeeds, leave_one_out

SHAPES = {"w": (6, 5), "tall": (40, 3), "v": (7,)}


def params(shapes=SHAPES) -> list[Param]:
    made = []
    for name, shape in shapes.items():
        flat = torch.zeros(math.prod(shape))
        made.append(Param(name, address(name), shape, flat, flat))
    return made


def values(law: Law, param: Param, *at: Combination) -> np.ndarray:
    """The directions of combinations, float64 [combinations, rows, columns]."""
    out = torch.empty(len(at), param.weights.numel())
    law.lay(param, list(at), {}).write_(param, 0, out.shape[1], out, add=False)
    shape = param.shape if len(param.shape) == 2 else (1, *param.shape)
    return out.numpy().astype(np.float64).reshape(len(at), *shape)


def loren(**settings) -> Loren:
    method = Loren(LorenSettings.model_validate(settings))
    method.begin(params())
    return method


def singles(names: np.ndarray) -> list[Combination]:
    return [Combination(names[k : k + 1], np.ones(1)) for k in range(len(names))]


def test_rows_have_the_covariance_of_the_model():
    """Oracle 4: sqrt(rho) Z, rows ~ N(0, rho (rho I + a a^T)^-1), within five standard errors."""
    method = loren(rho=0.5, start_a=0.6)
    p = method.params[0]
    names = np.array(
        [StepSeeds(1, t).coded(1)[0] for t in range(400)]
    )  # codes of one noise would share its squares
    law = method.direction(p)
    z = np.concatenate([values(law, p, one) for one in singles(names)]).reshape(-1, 5)
    a = method.a["w"].astype(np.float64)
    want = 0.5 * np.linalg.inv(0.5 * np.eye(5) + np.outer(a, a))
    np.testing.assert_allclose(z.T @ z / len(z), want, atol=5 * 1.5 / np.sqrt(len(z)))
    assert np.abs(want - np.eye(5)).max() > 0.2, "or the test could not tell it from isotropic noise"


def test_a_vector_of_length_zero_leaves_the_noise_as_it_is():
    method = loren(start_a=0.0)
    p, names = method.params[0], StepSeeds(1, 0).coded(2)
    z = values(method.direction(p), p, *singles(names))
    plain = [noise.direction(0, int(n), p.id, 0, 30, coded=True).reshape(6, 5) for n in names]
    np.testing.assert_array_equal(z, np.stack(plain).astype(np.float64))


@pytest.mark.parametrize("coupling", ["walsh", "independent"])
def test_the_step_on_a_follows_the_score_by_autograd(coupling):
    """Oracle 4: log p(Z) = m/2 log det H - 1/2 sum_rows z H z^T, differentiated by torch."""
    method = loren(rho=0.3, probes=2, points=3, lr_a=1.0, coupling=coupling)
    before = {name: a.astype(np.float64) for name, a in method.a.items()}
    generator = method.step(StepSeeds(5, 2))
    probes = next(generator)
    losses = np.array([[1.0, 1.2, 0.7], [0.3, 0.1, 0.9]])
    weights, _ = leave_one_out(losses, 3, pool="probe")
    want = {}
    for p in method.params:
        at = [point * (1.0 / 1e-3) for probe in probes for point in probe.points]
        z = torch.from_numpy(values(method.direction(p), p, *at) / math.sqrt(0.3))
        a = torch.tensor(before[p.name], requires_grad=True)
        h = 0.3 * torch.eye(len(a), dtype=torch.float64) + torch.outer(a, a)
        log_p = 0.5 * z.shape[1] * torch.logdet(h) - 0.5 * torch.einsum("krn,nm,krm->k", z, h, z)
        (log_p * torch.from_numpy(weights.reshape(-1))).sum().backward()
        want[p.name] = -a.grad.numpy()  # type: ignore[union-attr]
    with pytest.raises(StopIteration) as stop:
        generator.send(losses)
    assert all((method.a[name] == before[name]).all() for name in before), (
        "a waits until the weights have moved"
    )
    stop.value.value.then()
    for name, change in want.items():
        got = method.a[name].astype(np.float64) - before[name]
        np.testing.assert_allclose(got, change, rtol=2e-5, atol=2e-6 * np.abs(change).max())


def test_the_mean_of_the_estimate_is_the_preconditioned_gradient():
    """Oracle 2: rho G (rho I + a a^T)^-1, by 18,000 points on a linear loss."""
    method = loren(rho=0.5, start_a=0.6, probes=2, points=6, eps=1.0)
    p = method.params[0]
    g = np.random.default_rng(0).standard_normal((6, 5))
    total, steps = np.zeros((6, 5)), 1500
    law = method.direction(p)
    for t in range(steps):
        generator = method.step(StepSeeds(3, t))
        probes = next(generator)
        z = values(law, p, *[point for probe in probes for point in probe.points])
        losses = np.einsum("kmn,mn->k", z, g).reshape(2, 6)
        with pytest.raises(StopIteration) as stop:
            generator.send(losses)
        total += values(law, p, stop.value.value.gradient)[0]
    a = method.a["w"].astype(np.float64)
    want = 0.5 * g @ np.linalg.inv(0.5 * np.eye(5) + np.outer(a, a))
    np.testing.assert_allclose(total / steps, want, atol=6 * np.linalg.norm(g) / np.sqrt(steps * 10))
    assert np.linalg.norm(want - g) > 0.3 * np.linalg.norm(g)


@pytest.mark.parametrize("points", [2, 6, 16])
def test_leave_one_out_is_its_short_form(points):
    """Oracle 1: (1/K) sum A_k v_k = (1/(K-1)) sum (f_k - mean) v_k to machine precision."""
    f = np.random.default_rng(points).standard_normal(points)
    advantage = np.array([f[k] - np.delete(f, k).mean() for k in range(points)])
    weights, kept = leave_one_out(f[None], points, pool="probe")
    np.testing.assert_allclose(weights[0], advantage / points, atol=1e-15)
    assert kept.all()


def test_pooled_over_all_probes_a_shift_of_one_probes_data_changes_nothing():
    losses = np.random.default_rng(1).standard_normal((3, 5))
    shifted = losses + np.array([[0.0], [4.0], [-8.0]])
    a, b = (leave_one_out(x, 4, pool="all")[0] for x in (losses, shifted))
    np.testing.assert_allclose(a, b, atol=1e-14)
    assert abs(a.sum()) < 1e-15 and not np.allclose(a[1], leave_one_out(losses[:, :4], 4, pool="probe")[0][1])


def test_a_learns_and_the_released_a_does_not():
    """Oracle 6: with losses spread by 0.02 a moves by more than ten units in the last place, the released one by none."""
    losses = 0.7 + 0.02 * np.random.default_rng(2).standard_normal((1, 6))
    moved = {}
    for method in (
        Loren(LorenSettings.model_validate({})),
        LorenReleased(LorenReleasedSettings.model_validate({})),
    ):
        method.begin(params({"w": (64, 32)}))
        before = method.a["w"].copy()
        generator = method.step(StepSeeds(1, 0))
        next(generator)
        with pytest.raises(StopIteration) as stop:
            generator.send(losses)
        stop.value.value.then()
        units = np.abs(method.a["w"] - before) / np.spacing(np.abs(before))
        moved[type(method).__name__] = np.median(units)
    assert moved["Loren"] >= 10 and moved["LorenReleased"] == 0


def test_the_released_direction_is_damped_along_one_vector_of_the_matrix():
    """Covariance rho (rho I + a~ a~^T)^-1 along a~ and 1 across it, with a~ the rows repeated."""
    method = LorenReleased(LorenReleasedSettings.model_validate({"rho": 2.0}))
    method.begin(params({"w": (4, 3)}))
    p = method.params[0]
    names = np.array([StepSeeds(1, t).coded(1)[0] for t in range(2500)])
    law = method.direction(p)
    v = np.concatenate([values(law, p, one) for one in singles(names)]).reshape(-1, 12)
    a = np.tile(method.a["w"].astype(np.float64), 4)
    want = 2.0 * np.linalg.inv(2.0 * np.eye(12) + np.outer(a, a))
    np.testing.assert_allclose(v.T @ v / len(v), want, atol=5 * 1.5 / np.sqrt(len(v)))
