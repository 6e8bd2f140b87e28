"""All checks of a method, as one test for pytest or without it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zodist.methods import Method, MethodEntry
from zodist.testing import declared, estimate, fold, purity, read_only, waiting
from zodist.testing.subject import Subject, subject

Check = Callable[[Subject], None]
CHECKS: Mapping[str, Check] = {
    check.__name__: check
    for check in (
        declared.settings_are_strict_and_described,
        declared.class_says_what_it_is,
        declared.state_is_as_large_as_memory_says,
        declared.update_moves_by_what_the_step_returns,
        purity.equal_losses_give_equal_steps,
        purity.nothing_from_outside_enters,
        purity.module_imports_nothing_of_the_run,
        waiting.state_waits_for_the_last_round,
        waiting.losses_that_are_not_finite_are_left_out,
        waiting.a_step_without_finite_losses_changes_nothing,
        fold.a_snapshot_in_the_middle_changes_no_bit,
        fold.a_replayed_journal_gives_the_same_bits,
        fold.a_journal_that_ends_within_a_step_ends_before_it,
        read_only.weights_are_read_only_during_evaluations,
        estimate.mean_points_along_the_gradient,
        estimate.mild_curvature_leaves_the_mean_alone,
        estimate.every_weight_is_reached,
        estimate.updates_lower_the_loss,
        estimate.error_is_as_declared,
        estimate.progress_in_a_bowl_is_as_declared,
    )
}


def check_method(method: str | MethodEntry | type[Method], settings: Mapping[str, Any] | None = None) -> None:
    """Run every check on a method; raises AssertionError with one sentence for each that fails.

    settings: keys of its [method] table on top of the defaults, in every check but those of the defaults themselves.
    """
    chosen = subject(method, settings)
    failures = []
    for name, check in CHECKS.items():
        try:
            check(chosen)
        except AssertionError as failure:
            failures.append(f"{name}: {failure}")
    if failures:
        raise AssertionError("\n".join(failures))


def suite(
    method: str | MethodEntry | type[Method], settings: Mapping[str, Any] | None = None
) -> Callable[..., None]:
    """A test for pytest with one case for each check; bind it to a name that begins with test_."""
    import pytest  # here, because only those who write tests have it

    @pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
    def test(check: Check) -> None:
        check(subject(method, settings))

    return test
