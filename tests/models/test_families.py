"""Model families: each trained parameter is perturbed in one forward as if the weights had been changed, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from models import CONFIGS, MORE, TinyBatch, batch, tiny

from zodist import noise
from zodist.directions import Combination, Dense, Param, Signed
from zodist.errors import ModelError
from zodist.evaluator import Evaluator, obstacle
from zodist.methods import Probe
from zodist.models.params import collect
from zodist.shard import Gathered, Held

DENSE = Dense(noise.GAUSSIAN, True)
PAIR = (Combination.of((5 << 16, 1e-2)), Combination.of((5 << 16, -1e-2)))
ONE_BY_ONE = ("cohere", "falcon", "mixtral", "qwen3-moe", "mamba")  # one point per forward


def after_a_change(model, params: list[Param], point: Combination, rows: TinyBatch) -> float:
    """The loss of the model itself while its weights are other ones."""
    held = [p.model.clone() for p in params]
    for p in params:
        for seed, weight in point:
            z = DENSE.values(p.id, seed, 0, p.weights.numel())
            p.model.add_(torch.from_numpy(z * np.float32(weight)))
    with torch.no_grad():
        out = model(
            input_ids=rows.input_ids,
            attention_mask=rows.attention_mask,
            use_cache=False,
            # a model without an attention has no positions either
            **({} if type(model).__name__.startswith("Mamba") else {"position_ids": rows.position_ids}),
        )
    for p, before in zip(params, held, strict=True):
        p.model.copy_(before)
    logits = out.logits[:, -rows.keep :]
    logits = logits if rows.columns is None else logits[..., rows.columns]
    return float(rows.losses(logits).double().mean())


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("family", MORE)
def test_a_forward_of_several_points_is_one_of_changed_weights_for_each(family, columns):
    """Tolerance: float32 rounding of a two-layer model with losses of order one, of other GEMM shapes."""
    model, rows = tiny(family), batch(columns=columns)
    params = collect(model)
    want = [after_a_change(model, params, point, rows) for point in PAIR]
    assert abs(want[0] - want[1]) > 1e-3
    for packed in {False, not obstacle(model)}:
        evaluator = Evaluator(model, params, lambda param: DENSE, packed=packed)
        np.testing.assert_allclose(evaluator.losses(PAIR, [rows]), want, rtol=0, atol=3e-5)
        assert (evaluator.logits(PAIR, rows)[0] != evaluator.logits(PAIR, rows)[1]).any()
        assert evaluator.one_by_one == (family in ONE_BY_ONE)
        evaluator.close()


@pytest.mark.parametrize("family", [*CONFIGS, *MORE])
def test_each_parameter_alone_is_perturbed_where_it_acts(family):
    """A large step in one parameter at a time: none is left out, and none is perturbed in the name of another."""
    model, rows = tiny(family), batch(2, 7)
    params, point = collect(model), Combination.of((9 << 16, 0.3))
    for p in params:
        evaluator = Evaluator(model, params, {q.id: DENSE if q is p else None for q in params})
        (got,) = evaluator.losses((point,), [rows])
        evaluator.close()
        assert got == pytest.approx(after_a_change(model, [p], point, rows), abs=3e-5), p.name


def test_a_parameter_that_its_module_s_parent_reads_is_found():
    """Mamba's mixer takes the weights of its convolution and never calls it."""
    model, rows = tiny("mamba"), batch()
    params = collect(model, r"conv1d|dt_proj")
    got = Evaluator(model, params, lambda param: DENSE)
    with pytest.raises(
        ModelError, match=r"layers\.0\.mixer\..* ran 0 times .* leave it out with model\.train"
    ):
        got.losses(PAIR, [rows])


@pytest.mark.parametrize("family", ["mixtral", "mamba"])
def test_directions_for_single_examples_are_refused_where_modules_run_at_one_point(family):
    model, rows = tiny(family), batch(3)
    evaluator = Evaluator(model, collect(model), lambda param: Signed(noise.GAUSSIAN))
    points = tuple(Combination.of(((7 << 16) + k, 1e-2)) for k in range(3))
    with pytest.raises(ModelError, match=r"cannot give single examples directions in \w+; leave it out"):
        evaluator.single_losses(Probe(1, points, 3), [rows])
    evaluator.close()
    frozen = Evaluator(model, collect(model, r"norm"), lambda param: Signed(noise.GAUSSIAN))
    assert np.isfinite(frozen.single_losses(Probe(1, points, 3), [rows])).all()


def test_modules_that_run_at_one_point_are_refused_in_shards():
    """What stands in for a weight is made before the module's children have gathered theirs."""
    model, held = tiny("mixtral"), []
    for name, p in model.named_parameters():
        path, _, last = name.rpartition(".")
        held.append(Held(name, tuple(p.shape), 0, p.detach().view(-1), (model.get_submodule(path), last)))
    seen: list[Any] = [Gathered.of(h, torch.device("cpu")) for h in held]
    with pytest.raises(
        ModelError, match=r"mlp\.gate\.weight: zodist cannot perturb Mixtral\w+ in a model that is cut"
    ):
        Evaluator(model, seen, lambda param: DENSE)
    linear = [p for p in seen if "self_attn" in p.name]
    assert np.isfinite(Evaluator(model, linear, lambda param: DENSE).losses(PAIR, [batch()])).all()


@pytest.mark.parametrize("family", ["mixtral", "mamba"])
def test_modules_have_their_own_weights_again_after_a_forward(family):
    model, rows = tiny(family), batch()
    params = collect(model)
    before = {name: p.data_ptr() for name, p in model.named_parameters()}
    evaluator = Evaluator(model, params, lambda param: DENSE)
    evaluator.losses(PAIR, [rows])
    evaluator.close()
    assert {name: p.data_ptr() for name, p in model.named_parameters()} == before
    assert all(isinstance(p, torch.nn.Parameter) for p in model.parameters())


@pytest.mark.parametrize("family", [name for name in CONFIGS | MORE if name != "mamba"])
def test_the_expression_of_the_docs_names_every_norm_and_bias_and_no_matrix(family):
    """Whatever has one axis is one of them, in every family but Mamba."""
    model = tiny(family)
    vectors = [name for name, p in model.named_parameters() if p.dim() == 1]
    assert [p.name for p in collect(model, r"norm|bias|\bln_")] == vectors
