"""The in-place reference step agrees with the evaluator and the rule, and shows why they do not work in place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from models import TinyBatch, batch, tiny
from torch import Tensor

from zodist import noise
from zodist.bench import inplace
from zodist.config import Rule
from zodist.directions import Combination, Dense, Param
from zodist.evaluator.forward import Evaluator
from zodist.models import collect
from zodist.step import RULES

EPS, LR, SEED = 1e-2, 1e-2, 7 << 16
DENSE = Dense(noise.GAUSSIAN, True)


def addressed(params: Sequence[Param]) -> inplace.Draw:
    """Draws zodist's own directions in place of a stream's."""

    def draw(weights: Sequence[Tensor], seed: int) -> Iterator[Tensor]:
        for p, weight in zip(params, weights, strict=True):
            z = DENSE.values(p.id, seed, 0, weight.numel())
            yield torch.from_numpy(z).view(weight.shape).to(weight.dtype)

    return draw


def loss_of(model: torch.nn.Module, b: TinyBatch) -> float:
    out = model(
        input_ids=b.input_ids, attention_mask=b.attention_mask, position_ids=b.position_ids, use_cache=False
    )
    return float(b.losses(out.logits).double().mean())


@pytest.mark.parametrize("family", ["llama-tied", "opt", "gpt2"])
def test_the_slope_is_the_evaluators_for_the_same_direction(family: str) -> None:
    """Float32: the two losses round to about 1e-6 each, and weights on the way by half an ulp."""
    model, b = tiny(family), batch()
    params, weights = collect(model), list(model.parameters())
    plus = Combination.of((SEED, EPS))
    batches: list[Any] = [b]
    evaluator = Evaluator(model, params, lambda param: DENSE)
    up, down = evaluator.losses([plus, plus * -1.0], batches)
    evaluator.close()
    slope = inplace.step_(
        weights, lambda: loss_of(model, b), seed=SEED, eps=EPS, lr=LR, draw=addressed(params)
    )
    assert abs(slope) > 0.1, "a flat direction would show nothing"
    assert slope == pytest.approx((up - down) / (2 * EPS), abs=1e-5 / EPS)


def test_the_update_is_the_rules_within_rounding() -> None:
    """Five roundings to float32 here, one there: for weights and steps below 1 less than 1e-6 apart."""
    model, b = tiny("llama-tied"), batch()
    params, weights = collect(model), list(model.parameters())
    before = [w.clone() for w in weights]
    slope = inplace.step_(
        weights, lambda: loss_of(model, b), seed=SEED, eps=EPS, lr=LR, draw=addressed(params)
    )
    after = [w.clone() for w in weights]
    for w, old, p in zip(weights, before, params, strict=True):
        z = DENSE.values(p.id, SEED, 0, w.numel()).reshape(w.shape)
        np.testing.assert_allclose(w.numpy() - old.numpy(), -LR * slope * z, rtol=0, atol=2e-6)
        w.copy_(old)
    rule = RULES["sgd"](Rule(lr=LR), params)
    rule.apply_(Combination.of((SEED, slope)), {p.id: DENSE for p in params}, LR, 0)
    for w, theirs in zip(weights, after, strict=True):
        np.testing.assert_allclose(w.numpy(), theirs.numpy(), rtol=0, atol=2e-6)


def test_in_place_evaluation_does_not_give_16_bit_weights_back() -> None:
    """The negative result that zodist is built on: after +eps, -2 eps, +eps many weights are others."""
    model, b = tiny("llama-tied", torch.bfloat16), batch()
    weights = list(model.parameters())
    before = [w.clone() for w in weights]
    for seed in range(10):
        inplace.step_(weights, lambda: loss_of(model, b), seed=seed, eps=1e-3, lr=0.0)
    changed = sum(int((w != old).sum()) for w, old in zip(weights, before, strict=True))
    assert changed > 0.2 * sum(w.numel() for w in weights)


def test_directions_are_those_of_the_published_code() -> None:
    """A stream set to the step's seed, one normal tensor after the other; the caller's stream goes on undisturbed."""
    weights = [torch.zeros(3, 5), torch.zeros(7)]
    torch.manual_seed(3)
    state = torch.get_rng_state()
    drawn = list(inplace.stream(weights, 11))
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(11)
    for w, z in zip(weights, drawn, strict=True):
        assert torch.equal(z, torch.normal(mean=0, std=1, size=w.size(), dtype=w.dtype))
