"""Scores: accuracy, calibrated accuracy and what goes with them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zodist.tasks.score import (
    accuracy,
    calibrated_accuracy,
    macro_f1,
    majority,
    mean,
    standard_error,
    summary,
)


def test_scores_are_summed_up() -> None:
    scores = torch.tensor([[-0.1, -2.4], [-0.3, -1.4], [-0.2, -1.7], [-0.5, -0.9]])
    labels = torch.tensor([0, 1, 0, 1])
    assert accuracy(scores, labels) == 0.5
    assert calibrated_accuracy(scores, labels) == 1.0
    assert majority(torch.tensor([0, 1, 1, 1])) == 0.75
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    losses = -scores.gather(1, labels[:, None])[:, 0]
    score = summary(losses, scores, labels)
    assert score.examples == 4 and score.accuracy == 0.5 and score.calibrated == 1.0
    assert score.loss == pytest.approx(losses.double().mean().item())
    assert summary(losses).accuracy is None


@given(st.lists(st.integers(-50, 50), min_size=4, max_size=30, unique=True), st.floats(-3, 3))
def test_calibration_removes_any_constant_preference(margins: list[int], shift: float) -> None:
    """Margins a tenth apart keep their order through the rounding of a log-softmax in float64."""
    margin = torch.tensor(margins, dtype=torch.float64) / 10
    labels = (margin > margin.median()).long()
    scores = torch.stack([-margin, margin + shift], 1).log_softmax(1)
    assert calibrated_accuracy(scores, labels) == 1.0


def test_an_example_without_a_number_counts_as_wrong() -> None:
    scores = torch.tensor([[float("nan"), -0.1], [-2.0, -0.1]])
    assert accuracy(scores, torch.tensor([0, 1])) == 0.5


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(-1, 2)), min_size=2, max_size=12))
def test_macro_f1_and_its_jackknife_are_those_of_the_definition(pairs: list[tuple[int, int]]) -> None:
    """Pairs of label and answer; -1: no answer, because a score is not a number."""

    def f1(some: list[tuple[int, int]]) -> float:
        found = []
        for label in range(3):
            truth, said = [a == label for a, _ in some], [b == label for _, b in some]
            if any(truth) or any(said):
                right = sum(a and b for a, b in zip(truth, said, strict=True))
                found.append(2 * right / (sum(truth) + sum(said)))
        return sum(found) / len(found)

    scores = torch.tensor([[float("nan") if b < 0 else float(k == b) for k in range(3)] for _, b in pairs])
    got, error = macro_f1(scores, torch.tensor([a for a, _ in pairs]))
    n = len(pairs)
    without = [f1(pairs[:i] + pairs[i + 1 :]) for i in range(n)]
    spread = sum((value - sum(without) / n) ** 2 for value in without)
    assert got == pytest.approx(f1(pairs))
    assert error == pytest.approx(((n - 1) / n * spread) ** 0.5, abs=1e-12)


def test_a_mean_has_the_standard_error_of_independent_examples() -> None:
    values = torch.tensor([0.25, 1.0, 0.5, 0.0])
    assert mean(values) == (pytest.approx(0.4375), pytest.approx(values.double().std().item() / 2))
