"""State waits for the last round's losses, and losses that are not finite are left out."""

from __future__ import annotations

import numpy as np

from zodist.methods import Probe, StepSeeds
from zodist.testing.subject import Subject
from zodist.testing.toys import RUN, STEPS, Taken, made_up, stage, state_bits, through_the_wire, told

BEFORE = 4  # steps that build up a state
HOLES = (np.nan, np.inf, -np.inf)


def state_waits_for_the_last_round(chosen: Subject) -> None:
    """Until the last losses are in, state() keeps its bits; a step abandoned at any round leaves no trace."""
    for first in range(BEFORE + 1):
        left, twin = stage(chosen), stage(chosen)
        for step in range(first):
            left.take_made_up(step)
            twin.take_made_up(step)
        wanted = twin.take_made_up(first)
        state = state_bits(left.method)
        for rounds in range(len(wanted.rounds)):  # abandoned after so many answers
            generator = left.method.step(StepSeeds(RUN, first, STEPS))
            probes = next(generator)
            for round in range(rounds):
                probes = generator.send(through_the_wire(made_up(first, round, probes)))
            if state_bits(left.method) != state:
                raise AssertionError(
                    f"step {first}: state() changed after {rounds} of {len(wanted.rounds)} rounds; change it after the "
                    "last losses only, or a crash between rounds cannot be resumed"
                )
            generator.close()
            if state_bits(left.method) != state:
                raise AssertionError(
                    f"step {first}: state() changed when the step was abandoned after {rounds} rounds"
                )
        if left.take_made_up(first).bits() != wanted.bits():
            raise AssertionError(
                f"step {first} differs after it was begun and abandoned; keep what belongs to a step in local names"
            )
        if state_bits(left.method) != state_bits(twin.method):
            raise AssertionError(f"step {first} ends in another state after it was begun and abandoned")


def losses_that_are_not_finite_are_left_out(chosen: Subject) -> None:
    """One bad probe among several is counted, and leaves an estimate and a state of finite numbers."""
    for variant in chosen.variants("coupling"):
        for hole in HOLES:
            rounds = len(stage(chosen, probes=4, **variant).take_made_up(0).rounds)
            for bad in range(rounds):
                on = stage(chosen, probes=4, **variant)
                finite = {name: np.isfinite(array) for name, array in on.method.state().items()}
                taken = on.take(0, _holed(bad, hole, first_only=True))
                if bad < len(taken.rounds) and len(taken.rounds[bad]) > 1:
                    _check_finite(
                        taken, f"round {bad} had a loss of {hole} in one probe of {len(taken.rounds[bad])}"
                    )
                for name, array in on.method.state().items():
                    if not np.isfinite(array[finite[name]]).all():
                        raise AssertionError(
                            f"state()[{name!r}] is no longer finite after one loss of {hole}"
                        )
                on.take_made_up(1)  # the next step goes on


def a_step_without_finite_losses_changes_nothing(chosen: Subject) -> None:
    """No finite loss in a step, or in its last round: an empty gradient, all skipped, and the state as it was."""
    for hole in HOLES:
        on, twin = stage(chosen), stage(chosen)
        for step in range(2):
            on.take_made_up(step)
            twin.take_made_up(step)
        state = state_bits(on.method)
        rounds = len(twin.take_made_up(2).rounds)
        for bad in {-1, rounds - 1}:
            taken = on.take(2, _holed(bad, hole, first_only=False))
            outcome = taken.outcome
            what = "losses" if bad < 0 else "losses of the last round"
            if not outcome.empty and (bad < 0 or bad == len(taken.rounds) - 1):
                raise AssertionError(
                    f"all {what} were {hole}, yet there is a gradient; return "
                    "Outcome(Combination.of(), nan, nan, probes)"
                )
            if outcome.empty and outcome.skipped < 1:
                raise AssertionError(f"all {what} were {hole}, yet skipped is {outcome.skipped}")
            if outcome.empty and state_bits(on.method) != state:
                raise AssertionError(f"all {what} were {hole}, yet state() changed")


def _check_finite(taken: Taken, what: str) -> None:
    outcome = taken.outcome
    if outcome.skipped < 1:
        raise AssertionError(f"{what}, yet skipped is {outcome.skipped}; count the probes that are left out")
    if outcome.empty:
        raise AssertionError(f"{what}, and nothing was learned from the others")
    numbers = [outcome.loss, outcome.slope, *told(outcome.gradient)[-1], *taken.estimate]
    if not np.isfinite(numbers).all():
        raise AssertionError(f"{what}, and the outcome is not finite; leave such probes out")


def _holed(bad: int, hole: float, *, first_only: bool):
    """Made-up losses with holes: in round bad (-1: every round), in its first probe's first loss or everywhere."""

    def losses(round: int, probes: tuple[Probe, ...]) -> np.ndarray:
        made = made_up(2, round, probes)
        if bad in (-1, round):
            made[: 1 if first_only else None, : 1 if first_only else None] = hole
        return made

    return losses
