"""Scores: accuracy, calibrated accuracy and what goes with them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from zodist.tasks.score import accuracy, calibrated_accuracy, majority, standard_error, summary


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
