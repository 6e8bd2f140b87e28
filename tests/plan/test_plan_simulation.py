"""Simulated fleets: a function of their settings, slower with more of what slows, and the wall where the model has it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from zodist.plan.calibration import REFERENCE
from zodist.plan.cost import Job
from zodist.plan.shapes import Shape
from zodist.plan.simulation import Fleet, simulate
from zodist.plan.skew import slowest
from zodist.plan.wall import POPULATIONS, draw, half, scaling

FLEET = Fleet(workers=200, forward_s=1.0, fixed_s=0.25, spread=0.1)
SHAPE = Shape("made up", 10**9, 9 * 10**8, 10**8, 2 * 10**8, 300, 2048, 24, 50_000, 10**6, 24 * 2048, 10**6)


def test_a_simulation_is_a_function_of_its_settings() -> None:
    fleet = replace(FLEET, slow_share=0.05, life_s=500.0, elastic=True)
    a, b, other = (simulate(fleet, 30, seed) for seed in (1, 1, 2))
    assert np.array_equal(a.step_s, b.step_s) and (a.failures, a.reissued) == (b.failures, b.reissued)
    assert not np.array_equal(a.step_s, other.step_s)


def test_without_scatter_a_step_is_its_parts() -> None:
    found = simulate(replace(FLEET, spread=0.0), 5)
    assert np.array_equal(found.step_s, np.full(5, 1.25)) and found.efficiency == 0.8


def test_the_slowest_worker_is_as_late_as_the_model_says() -> None:
    """Means of 400 steps: their standard error is below 0.3 %."""
    found = simulate(FLEET, 400)
    assert found.mean_s - 0.25 == pytest.approx(slowest(200, 0.1), rel=0.01)


@pytest.mark.parametrize("elastic", [False, True])
@pytest.mark.parametrize(
    "setting", [{"slow_share": 0.02}, {"slow_share": 0.02, "slow_factor": 9.0}, {"life_s": 300.0}]
)
def test_what_slows_workers_slows_every_step(setting: dict[str, float], elastic: bool) -> None:
    base = replace(FLEET, elastic=elastic)
    before, after = simulate(base, 20), simulate(replace(base, **setting), 20)
    assert after.mean_s >= before.mean_s
    if not elastic and "slow_share" in setting:
        assert (after.step_s >= before.step_s).all()  # the same luck, so no step is faster


@pytest.mark.parametrize("spread", [0.05, 0.2, 0.4])
def test_more_scatter_and_more_workers_wait_longer(spread: float) -> None:
    found = [simulate(replace(FLEET, workers=n, spread=spread), 20).mean_s for n in (10, 1000, 10_000)]
    assert found == sorted(found)
    assert (
        simulate(replace(FLEET, spread=2 * spread), 20).mean_s
        > simulate(replace(FLEET, spread=spread), 20).mean_s
    )


def test_an_elastic_crew_survives_stragglers_and_failures_better() -> None:
    hard = replace(FLEET, slow_share=0.05, slow_factor=10.0, life_s=2_000.0)
    fixed, elastic = simulate(hard, 50), simulate(replace(hard, elastic=True), 50)
    assert fixed.failures > 0 and elastic.reissued > 0
    assert elastic.mean_s < 0.5 * fixed.mean_s


def test_a_hundred_thousand_workers_are_simulated() -> None:
    found = simulate(replace(FLEET, workers=100_000, life_s=30 * 86_400.0, elastic=True), 3)
    assert found.step_s.shape == (3,) and np.isfinite(found.step_s).all()


def test_everybody_failing_is_waited_for() -> None:
    found = simulate(Fleet(workers=2, forward_s=1.0, fixed_s=0.0, life_s=0.01, away_s=10.0, elastic=True), 20)
    assert found.failures > 0 and np.isfinite(found.step_s).all()


def test_the_wall_stands_for_independent_seeds_alone(tmp_path: Path) -> None:
    job = Job(batch=16, tokens=300, dtype="bfloat16")
    points = scaling(SHAPE, job, REFERENCE, workers=(10, 100, 10_000))
    gaussian, rademacher, walsh, thin = (population.name for population in POPULATIONS)
    reached = {name: half(points, name) for name in (gaussian, rademacher, walsh, thin)}
    assert reached[gaussian] == 100 and reached[walsh] is None
    by = {(p.population, p.workers): p for p in points}
    assert by[walsh, 10_000].efficiency > 5 * by[gaussian, 10_000].efficiency
    assert by[rademacher, 100].efficiency > by[gaussian, 100].efficiency
    assert by[thin, 100].efficiency > by[gaussian, 100].efficiency
    for point in points:  # stragglers and failures only cost
        assert point.simulated <= 1.05 * point.efficiency
    draw(points, "made up", tmp_path / "wall.png")
    assert (tmp_path / "wall.png").read_bytes()[:4] == b"\x89PNG"
