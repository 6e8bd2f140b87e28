"""Diagnostics against the true gradient: the gradient itself, and figures whose values are known by construction."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from runs import Place, finish, make_place

from zodist.config import load as load_config
from zodist.directions import Param, address
from zodist.errors import TaskError
from zodist.methods import METHODS, Method
from zodist.models import params
from zodist.run.assemble import load
from zodist.run.diagnose import Gradients, diagnose, gradients


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """A finished run of a method that learns something."""
    made = make_place(tmp_path_factory.mktemp("diagnose"))
    finish(made, 1, "method.name=ldsd", "method.points=3", "run.steps=4")
    return made


def test_the_gradient_is_that_of_the_mean_loss_and_its_noise_that_between_examples(place):
    loaded = load(load_config(place.config, ["method.name=ldsd", "method.points=3"]))
    chosen = params.collect(loaded.model)
    found = gradients(loaded.model, chosen, loaded.task, 12, 4)
    assert not any(w.requires_grad for w in loaded.model.parameters())
    named, alone = dict(loaded.model.named_parameters()), []
    for p in chosen:
        named[p.name].requires_grad_(True)
    for example in loaded.task.train[:12]:
        b = loaded.task.batch([example])
        logits = loaded.model(
            input_ids=b.input_ids, attention_mask=b.attention_mask, logits_to_keep=b.keep
        ).logits
        logits = logits if b.columns is None else logits[..., b.columns]
        grads = torch.autograd.grad(b.losses(logits).mean(), [named[p.name] for p in chosen])
        alone.append(torch.cat([g.reshape(-1) for g in grads]).double().numpy())
    each = np.stack(alone)
    got = np.concatenate([found.mean[p.name].reshape(-1) for p in chosen])
    np.testing.assert_allclose(got, each.mean(axis=0), rtol=0, atol=1e-5 * np.abs(got).max())
    of_batches = each.reshape(3, 4, -1).mean(axis=1)
    want = float(np.square(of_batches - got).sum()) / 2 * 4
    assert found.noise == pytest.approx(want, rel=1e-3)
    assert found.square == pytest.approx(float(got @ got) - want / 12, rel=1e-3)


def test_a_block_is_worth_its_share_of_signal_over_its_share_of_noise():
    names = ["layers.0.up.weight", "layers.11.up.weight", "norm.weight"]
    found = Gradients(
        {}, dict(zip(names, [1.0, 3.0, 4.0], strict=True)), dict(zip(names, [9.0, 3.0, 0.0], strict=True))
    )
    assert found.gains() == {
        "layers.*.up.weight": pytest.approx(4 / 16 * 20 / 8),
        "norm.weight": pytest.approx(1 * 20 / 8),
    }


def test_a_run_is_rebuilt_and_its_method_speaks(place):
    found = diagnose(place.run, examples=32, size=8)
    assert found["method"] == "ldsd" and found["step"] == 3
    assert found["gain"] == pytest.approx(1 + found["mu_along_gradient"] ** 2)
    assert 0 < sum(found["largest_shares"].values()) <= 1 + 1e-9
    json.dumps(found)
    with pytest.raises(TaskError, match="3 training examples make 0 batches of 8"):
        diagnose(place.run, examples=3, size=8)


def method(name: str, shape: tuple[int, int] = (12, 8), **settings) -> Method:
    made = METHODS[name].build(METHODS[name].settings(**settings))
    held = []
    for key in ("layers.0.w", "layers.1.w"):
        flat = torch.zeros(math.prod(shape))
        held.append(Param(key, address(key), shape, flat, flat))
    made.begin(held)
    return made


def test_what_methods_say_where_it_is_known():
    rng = np.random.default_rng(0)
    g = {
        "layers.0.w": np.outer(rng.standard_normal(12), rng.standard_normal(8)),
        "layers.1.w": np.zeros((12, 8)),
    }
    g["layers.1.w"][3, 4] = 0.1
    loren, ldsd, pgap, curvzo = method("loren"), method("ldsd"), method("pgap", rank=2), method("curvzo")
    loren.a["layers.0.w"][:] = g["layers.0.w"][0]  # type: ignore[attr-defined]
    assert loren.diagnose(g)["a_over_chance"] == pytest.approx(8.0, rel=0.01)
    for name, value in g.items():
        ldsd.mu[name][:] = -3.0 * value.reshape(-1)  # type: ignore[attr-defined]
        u, s, v = np.linalg.svd(value)
        bases = pgap.bases(next(p for p in pgap.params if p.name == name))  # type: ignore[attr-defined]
        for held, new in zip(bases, (u[:, :2], v[:2].T, np.diag(s[:2])), strict=True):
            held[:] = new
    size = math.sqrt(sum(float(np.square(x).sum()) for x in g.values()))
    said = ldsd.diagnose(g)
    assert said["mu_cosine"] == pytest.approx(-1.0, abs=1e-6)
    assert said["mu_along_gradient"] == pytest.approx(-3.0 * size, rel=1e-6)
    said = pgap.diagnose(g)
    assert (said["captured"], said["estimate_cosine"]) == (pytest.approx(1.0), pytest.approx(1.0))
    assert said["captured_over_chance"] == pytest.approx(96 / 4)
    curvzo.sums[:], curvzo.counts[:] = [[50.0, 1.0], [60.0, 60.0]], 10.0  # type: ignore[attr-defined]
    said = curvzo.diagnose(g)
    assert said["score_correlation"] == pytest.approx(1.0)
    blocks = len(curvzo.blocks)  # type: ignore[attr-defined]
    assert 0 < said["least_share"] <= said["budget"] / blocks <= said["largest_share"] <= 1
