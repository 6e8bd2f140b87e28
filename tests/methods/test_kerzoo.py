"""KerZOO: moments of its kernels, its addressed radii, and bias and variance of its estimate."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zodist.methods.kerzoo import KERNELS, KerZOO, KerZOOSettings, radii
from zodist.methods.method import Outcome
from zodist.methods.registry import METHODS
from zodist.methods.steps import StepSeeds

# Gauss-Legendre with 20 nodes is exact for polynomials up to degree 39; over 2, because r has density 1/2.
NODES, WEIGHTS = np.polynomial.legendre.leggauss(20)
INFLATION = {"linear": 1.8, "quartic": 6.25, "fifth": 13.2512}
FREE_OF = {"linear": (), "quartic": (3,), "fifth": (3, 5)}


def kerzoo(**settings: Any) -> KerZOO:
    return KerZOO(KerZOOSettings.model_validate(settings))


def expectation(values: np.ndarray) -> float:
    return float(values @ WEIGHTS / 2.0)


def answered(method: KerZOO, losses, step: int = 3) -> Outcome:
    """losses: of the signed sizes of the probes' points, [probes, 2]."""
    generator = method.step(StepSeeds(7, step))
    sizes = np.array([[point.weights[0] for point in probe.points] for probe in next(generator)])
    with pytest.raises(StopIteration) as stop:
        generator.send(losses(sizes))
    return stop.value.value


def test_the_registry_builds_it():
    assert METHODS["kerzoo"].kind is KerZOO


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_keep_the_slope_drop_the_bias_and_cost_variance(name):
    weight = KERNELS[name](NODES)
    assert expectation(NODES * weight) == pytest.approx(1.0, rel=1e-12)
    for power in FREE_OF[name]:
        assert expectation(NODES**power * weight) == pytest.approx(0.0, abs=1e-12)
    assert expectation((NODES * weight) ** 2) == pytest.approx(INFLATION[name], rel=1e-4)
    assert expectation(weight**2) == pytest.approx(
        {"linear": 3.0, "quartic": 18.75}.get(name, 57.421875), rel=1e-12
    )


def test_radii_are_uniform_pinned_and_functions_of_the_seed():
    """The first two are what journals stand on; a change breaks replays."""
    seeds = StepSeeds(1, 2).coded(4096)
    r = radii(seeds)
    assert r[:2].tolist() == [0.1183963741580365, 0.15612260162855685]
    assert (radii(seeds[7:9]) == r[7:9]).all() and len(set(r)) == 4096
    assert np.abs(r).max() < 1.0 and np.abs(r).min() > 0.0
    assert abs(r.mean()) < 4 / np.sqrt(3 * 4096) and abs((r**2).mean() - 1 / 3) < 4 * 0.3 / 64
    assert np.abs(np.corrcoef(r[1:], r[:-1])[0, 1]) < 4 / 64


@pytest.mark.parametrize("coupling", ["walsh", "independent"])
def test_a_probe_s_points_lie_at_plus_and_minus_its_radius(coupling):
    probes = next(kerzoo(probes=6, eps=0.25, coupling=coupling).step(StepSeeds(7, 3)))
    r = radii(np.array([probe.seed for probe in probes], np.uint64))
    for probe, size in zip(probes, 0.25 * r, strict=True):
        assert [list(point) for point in probe.points] == [[(probe.seed, size)], [(probe.seed, -size)]]


@pytest.mark.parametrize("name", KERNELS)
def test_the_mean_slope_is_right_and_its_variance_inflated(name):
    """A loss of slope 3: E c = 3 C, E c^2 = 9 C^2 times the inflation; four standard errors of 40,000 probes."""
    c = []
    for step in range(10):
        got = answered(kerzoo(probes=4000, kernel=name, scale=0.5), lambda x: 3.0 * x, step)
        c.append(got.gradient.weights * 4000)
    c = np.concatenate(c) / 1.5
    assert c.mean() == pytest.approx(1.0, abs=4 * c.std() / 200)
    assert (c**2).mean() == pytest.approx(INFLATION[name], abs=4 * (c**2).std() / 200)


def test_the_quartic_kernel_is_blind_to_a_cubic_loss_and_the_linear_one_is_not():
    """L = (x / eps)^3: its slope at 0 is 0, a central difference at eps measures 1 / eps."""
    eps, cubic = 0.5, lambda x: (x / 0.5) ** 3
    means = {}
    for name in ("linear", "quartic"):
        method = kerzoo(probes=4000, kernel=name, eps=eps)
        c = np.concatenate([answered(method, cubic, t).gradient.weights for t in range(10)]) * 4000 * eps
        means[name] = c.mean(), 4 * c.std() / 200
    assert means["quartic"][0] == pytest.approx(0.0, abs=means["quartic"][1])
    assert means["linear"][0] == pytest.approx(3 / 5, abs=means["linear"][1])


def test_probes_with_a_hole_are_left_out():
    def holed(sizes):
        sizes[1, 0] = np.nan
        return sizes

    got = answered(kerzoo(probes=3), holed)
    assert got.skipped == 1 and len(got.gradient) == 2 and np.isfinite(got.gradient.weights).all()
    assert len(answered(kerzoo(probes=3), lambda sizes: sizes * np.inf).gradient) == 0
