"""Sparse-MeZO: thresholds are quantiles, and only what is small at the start of a step is perturbed and moved."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from driving import answer, begun, moves, numbers, params
from hypothesis import given, settings
from hypothesis import strategies as st

from zodist.directions import Combination
from zodist.errors import ModelError
from zodist.methods.sparse_mezo import SparseMeZO, SparseMeZOSettings
from zodist.methods.steps import StepSeeds
from zodist.step import Sgd

SHAPES = {"w": (40, 50), "u": (30, 20), "norm": (50,)}


class Plain:
    """The [rule] table of plain steps."""

    lr, momentum, beta2, epsilon, weight_decay, schedule, warmup = 1.0, 0.0, 0.0, 1e-8, 0.0, "constant", 0


def sparse(dtype: torch.dtype = torch.float32, **keys) -> SparseMeZO:
    method = SparseMeZO(SparseMeZOSettings.model_validate(keys))
    begun(method, params(SHAPES, dtype))
    return method


def magnitudes(method: SparseMeZO) -> list[np.ndarray]:
    return [np.abs(p.weights.float().numpy()) for p in method.params]


def update(method: SparseMeZO, outcome, lr: float) -> None:
    rule = Sgd(Plain(), method.params)
    rule.apply_(outcome.gradient, {p.id: method.update(p) for p in method.params}, lr, 3)


@settings(deadline=None, max_examples=30)
@given(st.floats(0.0, 0.999))
def test_a_threshold_is_the_quantile_of_the_base_weights(sparsity):
    """The k-th least magnitude, k = (1 - sparsity) n rounded, at least one."""
    method = sparse(sparsity=sparsity)
    for threshold, held in zip(method.thresholds[:2], magnitudes(method), strict=False):
        k = max(1, round((1.0 - sparsity) * held.size))
        assert threshold == np.sort(held)[k - 1] and np.count_nonzero(held <= threshold) == k
    assert method.thresholds.dtype == np.float32 and method.thresholds[2] == np.inf


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_only_small_weights_are_perturbed_and_moved(dtype):
    method = sparse(dtype, sparsity=0.75, probes=3)
    before, held = [p.weights.clone() for p in method.params], magnitudes(method)
    asked, outcome = answer(method, [[1.0, 2.0], [1.5, 1.1], [2.0, 2.7]])
    z = moves(method, [asked[0][0].points[0]])[0]
    update(method, outcome, 1e-3)
    at = 0
    for n, p in enumerate(method.params):
        small = held[n] <= method.thresholds[n]
        assert ((z[at : at + len(small)] != 0) == small).all()
        moved = (p.weights != before[n]).numpy()
        assert not moved[~small].any() and moved[small].mean() > (0.9 if dtype == torch.float32 else 0.01)
        at += len(small)
    assert (held[0] <= method.thresholds[0]).mean() == pytest.approx(0.25, abs=0.001)  # ties in 16 bits


def test_masks_are_those_of_the_weights_a_step_starts_from():
    """A step large enough to carry weights over the threshold: the mask follows, one step later."""
    method = sparse(sparsity=0.5)
    p, one = method.params[0], Combination(StepSeeds(7, 0).names(1, "walsh"), np.ones(1))
    start, threshold = p.weights.numpy().copy(), method.thresholds[0]
    direction = numbers(method.direction(p), p, [one])[0]
    _, outcome = answer(method, [[1.5, 1.0]])
    update(method, outcome, 1e-2)
    want = start - np.float32(1e-2 * float(outcome.gradient.weights[0])) * direction
    np.testing.assert_allclose(p.weights.numpy(), want, atol=1e-5)
    now = np.abs(p.weights.numpy()) <= threshold
    assert (now != (np.abs(start) <= threshold)).sum() > 100, "or the step was too small for the test"
    assert ((numbers(method.direction(p), p, [one])[0] != 0) == now).all()


def test_vectors_can_be_left_alone():
    dense, none = sparse(), sparse(vectors="none")
    assert dense.direction(dense.params[2]) is not None and none.direction(none.params[2]) is None
    assert none.direction(none.params[0]) is not None


def test_sparsity_0_perturbs_every_weight():
    method = sparse(sparsity=0.0)
    assert moves(method, [Combination.of((5, 1.0))]).all()


def test_thresholds_of_another_base_model_are_refused():
    method, other = sparse(), sparse(sparsity=0.5)
    method.load({name: array.copy() for name, array in method.state().items()})
    with pytest.raises(ModelError, match="base model"):
        method.load(other.state())


def test_a_part_of_a_matrix_is_refused():
    part = replace(params(SHAPES)[0], shape=(80, 50))
    with pytest.raises(ModelError, match="held in part"):
        SparseMeZO(SparseMeZOSettings.model_validate({})).begin([part])
