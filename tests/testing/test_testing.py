"""The suite finds what is wrong: methods with one fault each (made for this test in 2026), and the check that says so."""

from __future__ import annotations

import sys
from time import perf_counter as now  # a clock, as a method might come by it

import numpy as np
import pytest
from pydantic import BaseModel, Field

from zodist.directions import Combination, Kept, Scaled, Stored
from zodist.methods import METHODS, MeZO, MeZOSettings, Outcome, Probe, slopes
from zodist.testing.subject import subject
from zodist.testing.suite import CHECKS, check_method, suite


class Sound(MeZO):
    """Two rounds and a state: a running mean of the loss, which scales the gradient."""

    settings_type = MeZOSettings
    memory = "8 bytes"

    def linear_moments(self, gradients):
        return None

    def __init__(self, settings):
        super().__init__(settings)
        self.mean = np.ones(1)

    def step(self, seeds):
        s = self.settings
        first = seeds.independent(1)
        losses = yield (Probe(int(first[0]), (Combination.of((first[0], s.eps)), Combination.of())),)
        self.between(losses)
        outcome = yield from super().step(seeds)
        if not np.isfinite(losses).all():
            return Outcome(Combination.of(), np.nan, np.nan, outcome.skipped + 1)
        if outcome.empty:
            return outcome
        return self.after(losses, outcome)

    def between(self, losses):
        pass

    def after(self, losses, outcome):
        self.mean += 0.1 * (outcome.loss - self.mean)
        gradient = outcome.gradient * float(self.mean[0])
        return Outcome(gradient, outcome.loss, outcome.slope, outcome.skipped)

    def state(self):
        return {"mean": self.mean}


class Early(Sound):
    def between(self, losses):
        self.mean += 0.5


class Remembering(Sound):
    """Keeps a first round's losses in the method, where an abandoned step leaves them."""

    kept = 1.0

    def between(self, losses):
        self.kept = self.kept + 1.0

    def after(self, losses, outcome):
        return super().after(losses, Outcome(outcome.gradient * self.kept, outcome.loss, outcome.slope))


class Sharing(Sound):
    every = np.zeros(1)

    def after(self, losses, outcome):
        Sharing.every += outcome.loss
        return Outcome(outcome.gradient * float(self.every[0]), outcome.loss, outcome.slope)


class Timed(Sound):
    def after(self, losses, outcome):
        return Outcome(outcome.gradient * now(), outcome.loss, outcome.slope)


class Drawing(Sound):
    def after(self, losses, outcome):
        return Outcome(outcome.gradient * np.random.rand(), outcome.loss, outcome.slope)


class Hiding(Sound):
    """Its state is complete but for a counter."""

    taken = 0

    def after(self, losses, outcome):
        self.taken += 1
        return Outcome(outcome.gradient * self.taken, outcome.loss, outcome.slope, outcome.skipped)


class Copying(Sound):
    def state(self):
        return {"mean": self.mean.copy()}


class Learning(Sound):
    """Learns from losses that are not finite."""

    def step(self, seeds):
        self.mean += 0.1
        return (yield from MeZO.step(self, seeds))


class Trusting(MeZO):
    """Leaves no probe out."""

    def step(self, seeds):
        s, names = self.settings, seeds.coded(self.settings.probes)
        plus = [Combination.of((int(n), s.eps)) for n in names]
        losses = yield tuple(Probe(int(n), (p, p * -1.0)) for n, p in zip(names, plus, strict=True))
        return Outcome(Combination(names, slopes(losses, s.eps)), float(losses.mean()), 1.0)


class Rising(MeZO):
    def step(self, seeds):
        outcome = yield from super().step(seeds)
        return Outcome(outcome.gradient * -1.0, outcome.loss, outcome.slope, outcome.skipped)


class Elsewhere(MeZO):
    """Moves along other directions than it measured, as streams that are out of step do."""

    def step(self, seeds):
        outcome = yield from super().step(seeds)
        assert isinstance(outcome.gradient, Combination)
        gradient = Combination(outcome.gradient.seeds + np.uint64(1 << 20), outcome.gradient.weights)
        return Outcome(gradient, outcome.loss, outcome.slope, outcome.skipped)


class Centred(MeZO):
    """One-sided Walsh-coded points whose weights sum to zero: the first of every four weights never moves."""

    def step(self, seeds):
        s, names = self.settings, seeds.coded(4)
        losses = yield (Probe(int(names[0]), tuple(Combination.of((int(n), s.eps)) for n in names)),)
        if not np.isfinite(losses).all():
            return Outcome(Combination.of(), np.nan, np.nan, 1)
        weights = (losses[0] - losses[0].mean()) / (3 * s.eps)
        return Outcome(Combination(names, weights), float(losses.mean()), 1.0)


class Writing(MeZO):
    def step(self, seeds):
        outcome = yield from super().step(seeds)
        for p in self.params:
            p.weights.mul_(0.99)
        return outcome


class Boasting(MeZO):
    def linear_moments(self, gradients):
        declared = super().linear_moments(gradients)
        return None if declared is None else (declared[0], 0.8 * declared[1])


class Forgetful(MeZO):
    memory = "4 bytes a weight (mean)"


class Worked(MeZO):
    """Says what the step worked out, and leaves update() to the laws of seeds."""

    def step(self, seeds):
        outcome = yield from super().step(seeds)
        return outcome if outcome.empty else Outcome(Scaled(1.0), outcome.loss, outcome.slope)


class Whole(Kept):
    """Ones, whatever the factor."""

    def lay(self, param, factors, cache):
        return Stored(np.ones(param.weights.numel(), np.float32)).lay(param, [1.0] * len(factors), cache)


class Unscaled(Worked):
    def update(self, param):
        return Whole()


class Bare(BaseModel):
    probes: int = Field(1)


class Loose(MeZO):
    settings_type = Bare  # type: ignore[assignment]


class Nameless(MeZO):
    paper = ""


FAULTS = {
    Early: "state_waits_for_the_last_round",
    Remembering: "state_waits_for_the_last_round",
    Sharing: "equal_losses_give_equal_steps",
    Timed: "nothing_from_outside_enters",
    Drawing: "nothing_from_outside_enters",
    Hiding: "a_snapshot_in_the_middle_changes_no_bit",
    Copying: "a_snapshot_in_the_middle_changes_no_bit",
    Learning: "a_step_without_finite_losses_changes_nothing",
    Trusting: "losses_that_are_not_finite_are_left_out",
    Rising: "updates_lower_the_loss",
    Elsewhere: "mean_points_along_the_gradient",
    Centred: "every_weight_is_reached",
    Writing: "weights_are_read_only_during_evaluations",
    Boasting: "error_is_as_declared",
    Forgetful: "state_is_as_large_as_memory_says",
    Worked: "update_moves_by_what_the_step_returns",
    Unscaled: "update_moves_by_what_the_step_returns",
    Loose: "settings_are_strict_and_described",
    Nameless: "class_says_what_it_is",
}


@pytest.mark.parametrize("kind", FAULTS, ids=lambda kind: kind.__name__)
def test_a_fault_is_found_by_its_check_and_said_in_a_sentence(kind):
    with pytest.raises(AssertionError) as found:
        CHECKS[FAULTS[kind]](subject(kind))
    assert len(str(found.value)) > 40 and "\n" not in str(found.value)


@pytest.mark.parametrize("check", [c for c in CHECKS if c != "module_imports_nothing_of_the_run"])
def test_the_sound_two_round_method_passes(check):
    CHECKS[check](subject(Sound))


@pytest.mark.parametrize(
    "line", ["import time", "from zodist import journal", "import numpy as n; x = lambda: n.random.rand()"]
)
def test_a_method_file_that_reaches_outside_is_refused(tmp_path, monkeypatch, line):
    source = f"from zodist.methods.mezo import MeZO\n{line}\nclass Outside(MeZO):\n    pass\n"
    (tmp_path / "outside.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "outside", raising=False)
    import outside  # type: ignore[import-not-found]

    with pytest.raises(AssertionError, match=r"outside\.py:[0-9]+ "):
        CHECKS["module_imports_nothing_of_the_run"](subject(outside.Outside))


def test_check_method_needs_no_pytest_and_names_every_failed_check(monkeypatch):
    monkeypatch.setitem(sys.modules, "pytest", None)  # an import raises ImportError
    with pytest.raises(AssertionError) as found:
        check_method(Forgetful)
    lines = str(found.value).splitlines()
    assert {line.partition(":")[0] for line in lines} == {
        "state_is_as_large_as_memory_says",
        "module_imports_nothing_of_the_run",  # of this test file
    }


def test_a_suite_has_a_case_for_every_check():
    (mark,) = suite("mezo").pytestmark  # type: ignore[attr-defined]
    assert list(mark.kwargs["ids"]) == list(CHECKS)


def test_an_unknown_name_is_answered_with_those_there_are():
    with pytest.raises(AssertionError, match=f"no method 'meso' among .*{next(iter(METHODS))}"):
        subject("meso")


def test_settings_that_a_method_lacks_or_refuses_are_left_out():
    chosen = subject("mezo", {"eps": 0.5})
    assert chosen.settings(probes=3, rank=2, eps=0.1) == {"eps": 0.5, "probes": 3}
    assert chosen.settings(probes=-1) == {"eps": 0.5}
