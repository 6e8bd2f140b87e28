"""GRZO: every example at its own weights, against one forward per example; directions, wire and update."""

from __future__ import annotations

import inspect
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from models import TinyBatch, batch, tiny

from zodist import noise
from zodist.directions import Combination, Law, Param, RankOne, Signed, address
from zodist.errors import ModelError
from zodist.evaluator import Evaluator
from zodist.methods.grzo import GRZO, GRZOSettings
from zodist.methods.method import Probe
from zodist.methods.steps import StepSeeds
from zodist.models import collect


def values(law: Law, param: Param, *at: Combination) -> np.ndarray:
    out = torch.empty(len(at), param.weights.numel())
    law.lay(param, list(at), {}).write_(param, 0, out.shape[1], out, add=False)
    return out.numpy().reshape(len(at), *param.shape)


def param(shape: tuple[int, ...]) -> Param:
    flat = torch.zeros(math.prod(shape))
    return Param("w", address("w"), shape, flat, flat)


@pytest.mark.parametrize("law", [noise.GAUSSIAN, noise.RADEMACHER])
def test_a_direction_is_the_shared_noise_with_rows_and_columns_of_other_signs(law):
    p, names = param((30, 50)), StepSeeds(4, 1).coded(3)
    z = values(Signed(law), p, *[Combination(names[k : k + 1], np.ones(1)) for k in range(3)])
    for name, got in zip(names.tolist(), z, strict=True):
        u = noise.numbers(law, name & ~0xFFFF, p.id, noise.Z, 0, 1500).reshape(30, 50)
        r = noise.numbers(noise.RADEMACHER, name, p.id, noise.U, 0, 30)
        s = noise.numbers(noise.RADEMACHER, name, p.id, noise.V, 0, 50)
        np.testing.assert_array_equal(got, u * np.outer(r, s))


def test_a_sum_of_directions_is_their_sum():
    p, names, w = param((12, 9)), StepSeeds(4, 1).coded(5), np.array([0.5, -1.0, 2.0, 0.25, -3.0])
    each = values(Signed(0), p, *[Combination(names[k : k + 1], w[k : k + 1]) for k in range(5)])
    together = values(Signed(0), p, Combination(names, w))[0]
    np.testing.assert_allclose(together, each.sum(axis=0), atol=1e-5)


@pytest.mark.parametrize("law", [Signed(noise.GAUSSIAN), RankOne()])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("family", ["llama-tied", "llama-untied", "gpt2", "opt", "gemma3", "qwen3"])
def test_every_example_is_evaluated_at_its_own_weights(family, columns, law):
    """Against plain forwards of one row each on a copy of the model with that row's weights; both signs, any pieces."""
    model, rows = tiny(family), 5
    params, whole = collect(model), batch(rows, columns=columns)
    names, eps = StepSeeds(2, 0).coded(rows), 2e-2
    points = [Combination(names[k : k + 1], np.array([eps])) for k in range(rows)]
    evaluator = Evaluator(model, params, lambda param: law)
    got = evaluator.single_losses(Probe(1, tuple(points), rows, paired=True), [whole])
    evaluator.close()
    base = [p.weights.clone() for p in params]
    named = ("input_ids", "attention_mask", "position_ids")
    inputs = {n: getattr(whole, n) for n in named if n in inspect.signature(model.forward).parameters}
    want, total = [], 0.0
    for k in range(rows):
        sides = []
        for sign in (1.0, -1.0):
            for p, start in zip(params, base, strict=True):
                moved = values(law, p, points[k] * sign).reshape(-1)
                p.model.copy_(start + torch.from_numpy(moved))
            with torch.inference_mode():
                out = model(**inputs, logits_to_keep=1).logits
                chosen = out if whole.columns is None else out[:, :, whole.columns]
                sides.append(float(whole.losses(chosen)[k].double()))
        want.append(sides[0] - sides[1])
        total += sum(sides)
    for p, start in zip(params, base, strict=True):
        p.model.copy_(start)
    assert np.abs(want).min() > 1e-4
    np.testing.assert_allclose(got[:-1] - got[-1], want, atol=2e-5)
    assert got[-1] == pytest.approx(total / (2 * rows), abs=1e-5)


@pytest.mark.parametrize("pieces", [1, 2])
def test_one_sided_passes_share_one_pass_at_the_weights(pieces):
    """Differences of three passes to the unperturbed losses; cut into pieces, the same to float32 rounding."""
    model, rows = tiny("llama-tied"), 4
    whole, names = batch(rows), StepSeeds(2, 0).coded(3 * rows)
    points = tuple(Combination(names[k : k + 1], np.array([1e-2])) for k in range(3 * rows))
    evaluator = Evaluator(model, collect(model), lambda param: Signed(noise.RADEMACHER))
    parts = [whole] if pieces == 1 else [part_of(whole, slice(0, 3)), part_of(whole, slice(3, 4))]
    got = evaluator.single_losses(Probe(1, points, rows), parts)
    pairs = [
        evaluator.single_losses(Probe(1, points[k * rows : (k + 1) * rows], rows, paired=True), [whole])
        for k in range(3)
    ]
    minus = [
        evaluator.single_losses(
            Probe(1, tuple(p * -1.0 for p in points[k * rows : (k + 1) * rows]), rows), [whole]
        )
        for k in range(3)
    ]
    for k in range(3):
        side = got[k * rows : (k + 1) * rows] - got[-1]
        np.testing.assert_allclose(
            side - (minus[k][:-1] - minus[k][-1]), pairs[k][:-1] - pairs[k][-1], atol=2e-5
        )
    assert got[-1] == pytest.approx(evaluator.losses((), [whole])[0], abs=1e-5)


def part_of(b: TinyBatch, rows: slice) -> TinyBatch:
    held = {n: getattr(b, n)[rows] for n in ("input_ids", "attention_mask", "position_ids", "labels")}
    return replace(b, **held, examples=len(held["labels"]))


def test_another_number_of_examples_than_of_directions_is_one_sentence():
    model = tiny("llama-tied")
    evaluator = Evaluator(model, collect(model), lambda param: Signed(0))
    names = StepSeeds(2, 0).coded(6)
    points = [Combination(names[k : k + 1], np.array([1e-3])) for k in range(6)]
    for rows in (4, 7):
        with pytest.raises(ModelError, match="examples.* set to batch.size|examples to batch.size"):
            evaluator.single_losses(Probe(1, tuple(points), 6, paired=True), [batch(rows)])


def test_weights_are_the_examples_own_differences():
    method = GRZO(GRZOSettings.model_validate({"probes": 2, "examples": 3, "eps": 0.5, "normalise": "none"}))
    method.begin([])
    generator = method.step(StepSeeds(1, 0))
    probes = next(generator)
    assert [(probe.losses, probe.forwards) for probe in probes] == [(4, 2), (4, 2)]
    losses = np.array([[1.5, 0.5, 1.0, 1.0], [3.0, 2.0, 2.25, 2.0]])
    with pytest.raises(StopIteration) as stop:
        generator.send(losses)
    np.testing.assert_allclose(stop.value.value.gradient.weights, np.array([0.5, -0.5, 0, 1.0, 0, 0.25]) / 6)
    assert method.count(np.zeros((2, 4), np.float32)) == 4


@pytest.mark.parametrize("shape", [(30, 64), (7, 48), (33,), (5, 5), (1, 2)])
def test_rank_one_directions_are_outer_products_of_signs(shape):
    p, names = param(shape), StepSeeds(4, 1).coded(9)
    z = values(RankOne(), p, *[Combination(names[k : k + 1], np.ones(1)) for k in range(9)])
    assert set(np.unique(np.abs(z))) == {1.0}
    assert all(np.linalg.matrix_rank(one.reshape(-1, shape[-1])) == 1 for one in z)
    left, right = (
        RankOne().lay(p, [Combination(names[k : k + 1], np.ones(1)) for k in range(9)], {}).vectors()
    )
    np.testing.assert_array_equal(np.einsum("cm,cn->cmn", left, right).reshape(z.shape), z)
    weights = np.linspace(-1.0, 2.0, 9)
    np.testing.assert_allclose(
        values(RankOne(), p, Combination(names, weights))[0], np.tensordot(weights, z, 1), atol=1e-5
    )


def test_rank_one_directions_of_different_codes_are_orthogonal_where_the_sizes_allow():
    p, names = param((64, 48)), StepSeeds(4, 1).coded(1024)
    z = values(RankOne(), p, *[Combination(names[k : k + 1], np.ones(1)) for k in range(1024)]).reshape(
        1024, -1
    )
    gram = z @ z.T
    assert (np.diag(gram) == 3072).all() and np.abs(gram - np.diag(np.diag(gram))).max() == 0
