"""What a budget pays for, counted without a model; means and errors over seeds."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zodist.compare.cost import Cost, forwards_of_steps, forwards_per_step, within
from zodist.compare.results import best_rate, mean
from zodist.config import Method as MethodTable
from zodist.directions import Combination, Law, Param
from zodist.methods import METHODS, Method, MethodEntry, Outcome, Probe, Settings, Step, StepSeeds, registry


@pytest.mark.parametrize("name", list(METHODS))
@pytest.mark.parametrize("lanes", [1, 2])
def test_a_budget_pays_for_the_most_whole_steps(name, lanes):
    method = MethodTable(name=name, settings=METHODS[name].settings())
    budget = 1500 * lanes
    paid = within(budget, method, lanes)
    counts = forwards_of_steps(method, lanes)
    assert sum(next(counts) for _ in range(paid.steps)) == paid.forwards <= budget
    assert paid.forwards + next(counts) > budget
    assert forwards_per_step(method, lanes) > 0


class TwoRounds(Method):
    """Asks 3 points of 2 probes, then 1 point of 1 probe; every third step 4 points more."""

    settings_type, paper, replay, forwards = Settings, "", "", "7"

    def __init__(self, settings: Settings) -> None:
        self.moved = 0

    def direction(self, param: Param) -> Law | None:
        return None

    def step(self, seeds: StepSeeds) -> Step:
        still = Combination.of()
        first = yield (Probe(1, (still,) * 3), Probe(2, (still,) * 3))
        assert first.shape == (2, 3) and np.isfinite(first).all() and len(np.unique(first)) == 6
        yield (Probe(3, (still,)),)
        if self.moved % 3 == 2:
            yield (Probe(4, (still,) * 4),)

        def then() -> None:
            self.moved += 1

        return Outcome(still, 0.0, 0.0, then=then)


def test_rounds_lanes_and_dear_steps_are_counted(monkeypatch):
    monkeypatch.setitem(registry(), "two-rounds", MethodEntry(f"{__name__}:TwoRounds"))  # type: ignore[arg-type]
    method = MethodTable(name="two-rounds", settings=Settings())
    counts = forwards_of_steps(method, 2)
    assert [next(counts) for _ in range(6)] == [14, 14, 22, 14, 14, 22]
    assert within(14 + 14 + 21, method, 2) == Cost(2, 28)
    assert within(50 * 1000 + 49, method, 2) == Cost(3002, 50028)


def test_mezo_costs_two_forwards_a_probe_and_lane():
    method = MethodTable(name="mezo", settings=METHODS["mezo"].settings(**{"probes": 5}))
    assert forwards_per_step(method, 3) == 30


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=9))
def test_the_standard_error_divides_by_n_minus_1(values):
    n, found = len(values), mean(values)
    expected = (sum((v - sum(values) / n) ** 2 for v in values) / (n - 1) / n) ** 0.5
    assert found.value == pytest.approx(statistics.fmean(values), abs=1e-9)
    assert found.error == pytest.approx(expected, rel=1e-6, abs=1e-6)


def test_one_seed_shows_no_error():
    assert mean([0.5]).error is None and mean([0.5, float("inf")]).error is None


def test_a_failed_run_is_infinitely_bad():
    def line(rate: float, loss: float | None) -> dict:
        return {"lr": rate, "scores": None if loss is None else {"loss": loss}}

    assert best_rate([line(1.0, 0.1), line(1.0, None), line(2.0, 5.0), line(2.0, 6.0)]) == 2.0
    assert best_rate([line(2.0, 0.5), line(1.0, 0.5)]) == 1.0
    assert best_rate([line(1.0, None)]) is None
