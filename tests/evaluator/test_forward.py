"""The evaluator gives the losses of a dense functional reference and never touches a weight.  No network."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from models import CONFIGS, batch, tiny

from zodist import noise
from zodist.directions import Combination, Dense, RankOne
from zodist.errors import ModelError
from zodist.evaluator import frame
from zodist.evaluator.forward import Evaluator
from zodist.evaluator.rows import bytes_of_token
from zodist.methods import Probe, StepSeeds
from zodist.models import collect, digest

EPS = 1e-2


def points(seeds: list[int]) -> list[Combination]:
    pair = [Combination.of((s, EPS)) for s in seeds]
    return [c for p in pair for c in (p, p * -1.0)]


def reference(model, params, dense, combination, b) -> float:
    """Loss with every parameter replaced by a perturbed dense copy."""
    replaced = {}
    for p in params:
        total = p.weights.float().clone()
        for seed, weight in combination:
            z = dense.values(p.id, seed, 0, p.weights.numel())
            total += torch.from_numpy(z * np.float32(weight))
        replaced[p.name] = total.view(p.shape).to(p.weights.dtype)
    inputs = {"input_ids": b.input_ids, "attention_mask": b.attention_mask, "position_ids": b.position_ids}
    with torch.no_grad():
        out = torch.func.functional_call(model, replaced, kwargs=inputs, tie_weights=True)
    logits = out.logits[:, -b.keep :]
    logits = logits if b.columns is None else logits[..., b.columns]
    return float(b.losses(logits).double().mean())


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("coded", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_losses_equal_the_dense_functional_reference(family, coded, columns):
    """Tolerance: float32 rounding of a two-layer model with losses of order one, of other GEMM shapes."""
    model, b = tiny(family), batch(columns=columns)
    params = collect(model)
    dense = Dense(noise.GAUSSIAN, coded)
    at = points([5 << 16, (5 << 16) + 3] if coded else [11, 12])
    want = [reference(model, params, dense, c, b) for c in at]
    evaluator = Evaluator(model, params, lambda param: dense)
    got = evaluator.losses(at, [b])
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-5)
    clean = evaluator.losses([], [b])
    assert abs(np.asarray(want) - clean).min() > 1e-4, (
        "the points must differ from the weights for this to mean anything"
    )


@pytest.mark.parametrize("family", ["llama-untied", "opt"])
def test_a_large_matrix_in_pieces_is_the_matrix(family, monkeypatch):
    """With pieces of 100 numbers every product goes row by row; GEMM shapes differ, so rounding does."""
    model, b = tiny(family), batch()
    params, dense = collect(model), Dense(noise.GAUSSIAN, True)
    at = points([5 << 16])
    monkeypatch.setattr(frame, "PIECE", 100)
    got = Evaluator(model, params, lambda param: dense).losses(at, [b])
    np.testing.assert_allclose(got, [reference(model, params, dense, c, b) for c in at], rtol=0, atol=3e-5)


@pytest.mark.parametrize("family", ["llama-tied", "opt"])
def test_a_mixed_combination_adds_up(family):
    """A point may be a sum of seeds of several bases: float32 sums, so rounding is all that may differ."""
    model, b = tiny(family), batch()
    params, dense = collect(model), Dense(noise.RADEMACHER, True)
    at = [Combination.of(((3 << 16) + 1, 0.01), (9 << 16, -0.02), ((3 << 16) + 2, 0.005))]
    got = Evaluator(model, params, lambda param: dense).losses(at, [b])
    np.testing.assert_allclose(got, [reference(model, params, dense, at[0], b)], rtol=0, atol=3e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_keep_every_bit_over_100_evaluations(dtype):
    model, b = tiny("llama-tied", dtype), batch()
    params = collect(model)
    before = digest(params)
    evaluator = Evaluator(model, params, lambda param: Dense(noise.GAUSSIAN, True))
    for k in range(100):
        evaluator.losses(points([k << 16]), [b])
    assert digest(params) == before


@pytest.mark.parametrize("family", CONFIGS)
def test_a_subset_of_parameters_leaves_the_rest_alone(family):
    model, b = tiny(family), batch()
    params = collect(model, r"norm|bias|embed|wte")
    dense = Dense(noise.GAUSSIAN, True)
    at = points([5 << 16])
    want = [reference(model, params, dense, c, b) for c in at]
    got = Evaluator(model, params, lambda param: dense).losses(at, [b])
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-5)


def test_a_parameter_the_method_leaves_out_is_not_perturbed():
    model, b = tiny("llama-untied"), batch()
    params, dense = collect(model), Dense(noise.GAUSSIAN, True)

    def direction(param):
        return dense if "mlp" in param.name else None

    chosen = [p for p in params if "mlp" in p.name]
    at = points([5 << 16])
    want = [reference(model, chosen, dense, c, b) for c in at]
    got = Evaluator(model, params, direction).losses(at, [b])
    np.testing.assert_allclose(got, want, rtol=0, atol=3e-5)


@pytest.mark.parametrize("packed", [False, True])
def test_points_that_do_not_fit_together_go_through_several_forwards(packed, monkeypatch):
    model, b = tiny("llama-untied"), batch()
    params = collect(model)
    at = points([11, 12, 13, 14, 15])
    losses, forwards = {}, {}
    for fit in (1, 3, 10):
        tokens = int(b.attention_mask.sum()) if packed else b.input_ids.numel()
        room = (fit + 0.5) * tokens * bytes_of_token(model)
        evaluator = Evaluator(
            model, params, lambda param: Dense(noise.RADEMACHER, True), packed=packed, room=room
        )
        calls, run = [], evaluator._run
        monkeypatch.setattr(evaluator, "_run", lambda *a, run=run, calls=calls: (calls.append(a), run(*a))[1])
        losses[fit], forwards[fit] = evaluator.losses(at, [b]), len(calls)
        evaluator.close()
    assert forwards == {1: 10, 3: 4, 10: 1}
    # Not to the bit: a product of one point may be another kernel's.  So the limit is part of a run.
    np.testing.assert_allclose(losses[1], losses[10], rtol=1e-6)
    np.testing.assert_allclose(losses[3], losses[10], rtol=1e-6)


@pytest.mark.parametrize("paired", [False, True])
def test_directions_of_single_examples_are_the_same_in_several_forwards(paired):
    model, b = tiny("llama-untied"), batch()
    params, law = collect(model), RankOne()
    names = StepSeeds(1, 2).coded(3 * b.examples)
    probe = Probe(1, tuple(Combination.of((int(n), EPS)) for n in names), b.examples, paired)
    losses = []
    for fit in (1, 2, 100):
        room = (fit + 0.5) * b.input_ids.numel() * bytes_of_token(model)
        evaluator = Evaluator(model, params, lambda param: law, room=room)
        losses.append(evaluator.single_losses(probe, [b]))
        evaluator.close()
    assert len(set(losses[0])) > b.examples
    np.testing.assert_allclose(losses[0], losses[2], rtol=0, atol=1e-6)
    np.testing.assert_allclose(losses[1], losses[2], rtol=0, atol=1e-6)


def test_pieces_of_a_batch_give_the_mean_over_examples():
    model = tiny("llama-tied")
    params, dense = collect(model), Dense(noise.GAUSSIAN, True)
    evaluator = Evaluator(model, params, lambda param: dense)
    small, large = batch(2, 11, seed=1), batch(6, 9, seed=2)
    at = points([5 << 16])
    want = (2 * evaluator.losses(at, [small]) + 6 * evaluator.losses(at, [large])) / 8
    np.testing.assert_allclose(evaluator.losses(at, [small, large]), want, rtol=1e-12)


def test_bfloat16_slope_keeps_its_sign_and_size():
    """The slope along one direction, 16-bit against float32: rounding of activations allows a few per cent here."""
    model, b = tiny("llama-tied"), batch(16, 16)
    params, dense = collect(model), Dense(noise.RADEMACHER, True)
    at = points([7 << 16])
    fine = Evaluator(model, params, lambda param: dense)
    want = -float(np.diff(fine.losses(at, [b]))[0])
    fine.close()
    model = model.to(torch.bfloat16)
    params = collect(model)
    got = -float(np.diff(Evaluator(model, params, lambda param: dense).losses(at, [b]))[0])
    assert got == pytest.approx(want, rel=0.3)


def test_closing_gives_the_model_back():
    model, b = tiny("gpt2"), batch()
    params = collect(model)
    with torch.no_grad():
        before = model(b.input_ids, attention_mask=b.attention_mask).logits
    evaluator = Evaluator(model, params, lambda param: Dense(noise.GAUSSIAN, True))
    evaluator.losses(points([1 << 16]), [b])
    with torch.no_grad():
        between = model(b.input_ids, attention_mask=b.attention_mask).logits
    evaluator.close()
    assert torch.equal(before, between)
    assert all("forward" not in vars(m) for m in model.modules())


def test_a_module_that_is_bypassed_stops_with_the_parameter_s_name():
    model, b = tiny("llama-untied"), batch()
    mlp = model.model.layers[1].mlp
    mlp.forward = lambda x: torch.nn.functional.linear(x, mlp.up_proj.weight) @ mlp.down_proj.weight.t()
    evaluator = Evaluator(model, collect(model), lambda param: Dense(noise.GAUSSIAN, True))
    with pytest.raises(ModelError, match=r"model\.layers\.1\.mlp\.gate_proj\.weight.*ran 0 times"):
        evaluator.losses(points([1 << 16]), [b])


def test_an_unknown_module_that_never_runs_is_refused_by_name():
    model, b = tiny("llama-untied"), batch()

    class Odd(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.gain = torch.nn.Parameter(torch.ones(3))

        def forward(self, x):
            return x * self.gain

    model.odd = Odd()
    evaluator = Evaluator(model, collect(model), lambda param: Dense(noise.GAUSSIAN, True))
    with pytest.raises(ModelError, match=r"odd\.gain: odd ran 0 times"):
        evaluator.losses(points([1 << 16]), [b])


def test_a_pattern_that_matches_nothing_shows_what_names_look_like():
    with pytest.raises(
        ModelError, match=r"matches no parameter; names look like model\.embed_tokens\.weight"
    ):
        collect(tiny("llama-tied"), "attention.query")
