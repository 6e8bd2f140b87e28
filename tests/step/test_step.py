"""The fold over a journal: the same state machine live and replayed, pinned by a golden journal.  No model."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zodist import noise
from zodist.directions import Combination, Dense, Gradient, Kept, Law, Param, Recalled, Scaled, address
from zodist.errors import JournalError, ZodistError
from zodist.methods import METHODS, MeZO, MeZOSettings, Outcome
from zodist.models import params
from zodist.step.fold import Replayed, Replica
from zodist.step.records import Entry, to_values
from zodist.step.rules import RULES, schedule

UNIT, DENSE = Combination.of((1 << 16, 1.0)), Dense(noise.GAUSSIAN, coded=True)
RECALLED = Recalled(DENSE, lambda: UNIT)


class Rate:
    """Rule settings."""

    lr, momentum, weight_decay, schedule, warmup = 0.05, 0.9, 0.01, "linear", 2
    beta2, epsilon = 0.999, 1e-8


def weights(dtype: torch.dtype) -> list[Param]:
    """Two parameters whose weights are addressed noise: the same everywhere."""
    made = []
    for name, shape in (("layer.weight", (40, 50)), ("layer.bias", (40,))):
        n = math.prod(shape)
        values = torch.from_numpy(noise.numbers(noise.GAUSSIAN, 7, address(name), noise.U, 0, n) * 0.1)
        flat = values.to(dtype)
        made.append(Param(name, address(name), shape, flat, flat))
    return made


def replica(dtype: torch.dtype, rule: str, **settings) -> Replica:
    entry = METHODS["mezo"]
    method = entry.build(entry.settings(**settings))
    held = weights(dtype)
    return Replica(held, method, RULES[rule](Rate(), held), seed=3, steps=6, data_lanes=2)


def entries(probes: int) -> list[Entry]:
    """Six steps of made-up losses, two data lanes a probe; learning rates as the schedule has them."""
    made = []
    for step in range(6):
        lr = schedule(Rate(), step, 6)
        z = noise.numbers(noise.GAUSSIAN, 11, step, noise.V, 0, 4 * probes).astype(np.float64)
        made.append(Entry(step, 0, lr, to_values(1.0 + 0.001 * z.reshape(2 * probes, 2))))
    return made


GOLDEN = {
    ("float32", "sgd", "gaussian"): "20ca53b591ec2081",
    ("bfloat16", "sgd", "rademacher"): "9c326ebc418a107a",
    ("float16", "momentum", "gaussian"): "2e1c22b1b4d46cf3",
    ("bfloat16", "momentum", "rademacher"): "93ebcf071e5c965a",
}


@pytest.mark.parametrize("case", GOLDEN)
def test_the_golden_journal_folds_to_the_pinned_digest(case):
    """Journals are a format: a change of these digests means that older runs cannot be rebuilt."""
    dtype, rule, law = case
    machine = replica(getattr(torch, dtype), rule, probes=3, eps=1e-2, noise=law)
    answer = Replayed(entries(3), 2)
    for _ in range(6):
        machine.advance(answer)
    assert f"{params.digest(machine.params):016x}" == GOLDEN[case]


@pytest.mark.parametrize("rule", RULES)
def test_a_snapshot_in_the_middle_changes_no_bit(rule):
    whole, first, second = (replica(torch.bfloat16, rule, probes=2) for _ in range(3))
    journal = entries(2)
    answer = Replayed(journal, 2)
    for _ in range(6):
        whole.advance(answer)
    answer = Replayed(journal, 2)
    for _ in range(3):
        first.advance(answer)
    second.load(3, {name: value.clone() for name, value in first.state().items()})
    answer = Replayed(journal[3:], 2)
    for _ in range(3):
        second.advance(answer)
    assert params.digest(second.params) == params.digest(whole.params)


def test_a_journal_of_other_settings_is_refused_with_both_sides():
    machine = replica(torch.float32, "sgd", probes=3)
    with pytest.raises(
        JournalError, match=r"step 0 round 0 asks for losses \(6, 2\).*the journal has.*\(4, 2\)"
    ):
        machine.advance(Replayed(entries(2), 2))


def test_a_journal_that_ends_is_said_with_the_step():
    machine = replica(torch.float32, "sgd", probes=2)
    answer = Replayed(entries(2)[:1], 2)
    machine.advance(answer)
    with pytest.raises(JournalError, match="ends before step 1 round 0"):
        machine.advance(answer)


def test_a_step_without_a_finite_loss_leaves_the_weights_alone():
    machine = replica(torch.float32, "sgd", probes=2)
    before = params.digest(machine.params)
    values = to_values(np.full((4, 2), np.nan))
    with pytest.raises(ZodistError, match="step 0: no probe has a finite loss"):
        machine.advance(Replayed([Entry(0, 0, 0.025, values)], 2))
    assert params.digest(machine.params) == before and machine.step == 0


class Fitting(MeZO):
    """MeZO whose step returns ``ends`` and whose update gives ``moves``."""

    ends: Gradient
    moves: Law | Kept

    def step(self, seeds):
        outcome = yield from super().step(seeds)
        return outcome if outcome.empty else Outcome(self.ends, outcome.loss, outcome.slope)

    def update(self, param: Param) -> Law | Kept:
        return self.moves


@pytest.mark.parametrize(
    ("ends", "moves", "said"),
    [
        (
            Scaled(1.0),
            DENSE,
            "has a Scaled, which takes a Kept to move weights, and Fitting.update gave a Dense",
        ),
        (
            UNIT,
            RECALLED,
            "has a Combination, which takes a Law to move weights, and Fitting.update gave a Recalled",
        ),
    ],
    ids=["scaled", "estimate"],
)
def test_an_outcome_that_the_update_cannot_take_is_refused_with_the_method_s_name(ends, moves, said):
    """And the weights are those of before; a step without a finite loss is one, whatever its update gives."""
    method, held = Fitting(MeZOSettings.model_validate({"probes": 2})), weights(torch.float32)
    method.ends, method.moves = ends, moves
    machine = Replica(held, method, RULES["sgd"](Rate(), held), seed=3, steps=6, data_lanes=2)
    before = params.digest(machine.params)
    with pytest.raises(ZodistError, match="step 0: the outcome of Fitting.step " + said) as found:
        machine.advance(Replayed(entries(2)[:1], 2))
    assert "\n" not in str(found.value)
    bad = Entry(0, 0, 0.025, to_values(np.full((4, 2), np.nan)))
    with pytest.raises(ZodistError, match="no probe has a finite loss"):
        machine.advance(Replayed([bad], 2))
    assert params.digest(machine.params) == before and machine.step == 0


def test_a_probe_that_is_not_finite_is_left_out_of_the_step():
    """The step is that of the other probe alone, with its full weight."""
    both, one = replica(torch.float32, "sgd", probes=2), replica(torch.float32, "sgd", probes=2)
    losses = np.array([[1.0, 1.5], [1.0, 1.5], [2.0, 1.0], [2.0, 1.0]])
    broken = losses.copy()
    broken[2, 0] = np.inf
    outcome = both.advance(Replayed([Entry(0, 0, 0.025, to_values(broken))], 2))
    assert isinstance(outcome.gradient, Combination)
    assert outcome.skipped == 1 and len(outcome.gradient) == 1
    assert outcome.gradient.weights[0] == pytest.approx(-0.5 / (2 * 1e-3))
    kept = one.advance(Replayed([Entry(0, 0, 0.025, to_values(losses))], 2))
    assert isinstance(kept.gradient, Combination)
    assert len(kept.gradient) == 2 and kept.skipped == 0
