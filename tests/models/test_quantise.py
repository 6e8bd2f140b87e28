"""Frozen weights in 8 bits: what is trained beside them is perturbed exactly, and a replay needs none of it."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from models import batch, tiny
from runs import finish, make_place

from zodist import noise
from zodist.adapter import attached
from zodist.config import Adapter, load
from zodist.directions import Combination, Dense
from zodist.errors import ConfigError, ModelError
from zodist.evaluator import Evaluator
from zodist.models.params import collect
from zodist.models.quantise import quantise_
from zodist.run import load_parts, replay

torchao = pytest.importorskip("torchao")
pytest.importorskip("peft")

DENSE = Dense(noise.GAUSSIAN, True)
PAIR = (Combination.of((5 << 16, 0.05)), Combination.of((5 << 16, -0.05)))


def stored(model) -> set[str]:
    """The names of the matrices in 8 bits."""
    return {name for name, p in model.named_parameters() if type(p.data) is not torch.Tensor}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["", "lora", "dora", "ia3", "prompt"])
def test_what_is_trained_beside_8_bit_weights_is_perturbed_as_if_changed(kind, dtype):
    """Tolerance: rounding of a two-layer model; in 16 bits that of its activations."""
    rows, model = batch(), attached(tiny("llama-untied", dtype), kind, Adapter(rank=4, tokens=3), 1)
    params = collect(model, "" if kind else "norm")
    for p in params:
        z = DENSE.values(p.id, 1 << 16, 0, p.weights.numel())
        p.model.add_(torch.from_numpy(z * np.float32(0.1)))
    inputs = {
        "input_ids": rows.input_ids,
        "attention_mask": rows.attention_mask,
        "position_ids": rows.position_ids,
    }
    with torch.no_grad():
        whole = model(**inputs).logits[:, -1].float()
    quantise_(model, params, "int8")
    quantise_(model, params, "int8")  # twice is once
    assert len(stored(model)) == 14, "seven matrices in each of two layers"
    want = []
    with torch.no_grad():
        near = model(**inputs).logits[:, -1].float()
        for sign in (1, -1):
            start = [p.model.clone() for p in params]
            for p in params:
                z = DENSE.values(p.id, 5 << 16, 0, p.weights.numel())
                p.model.add_(torch.from_numpy(z * np.float32(sign * 0.05)))
            want.append(float(rows.losses(model(**inputs).logits[:, -1:]).double().mean()))
            for p, before in zip(params, start, strict=True):
                p.model.copy_(before)
    assert 0 < float((near - whole).norm() / whole.norm()) < 0.1
    evaluator = Evaluator(model, params, lambda param: DENSE)
    tolerance = 3e-5 if dtype == torch.float32 else 3e-2
    np.testing.assert_allclose(evaluator.losses(PAIR, [rows]), want, rtol=0, atol=tolerance)


def test_what_is_not_stored_so():
    model = tiny("llama-untied")
    params = collect(model, r"layers\.0\.mlp|norm")
    quantise_(model, params, "int8")
    found = stored(model)
    assert len(found) == 14 - 3 and not any("layers.0.mlp" in name for name in found)
    assert not any(re.search("embed|lm_head|norm", name) for name in found)


def test_a_run_on_8_bit_weights_is_replayed_on_the_original_ones(tmp_path):
    place = make_place(tmp_path)
    settings = ("model.adapter=lora", "model.quantise=int8", "run.steps=6", "output.test=false")
    finish(place, 1, *settings)
    assert replay(place.run).digest == place.digest()
    head = place.lines("journal.jsonl")[0]
    assert head["model"]["quantise"] == "int8" and set(head["versions"]) >= {"peft", "torchao"}
    parts = load_parts(load(place.config, settings), 1)
    assert stored(parts.model) and parts.fingerprint == head["model"]["fingerprint"]


def test_what_cannot_be_stored_in_8_bits_is_one_sentence(tmp_path, monkeypatch):
    model = tiny("llama-untied")
    with pytest.raises(ModelError, match=r"every linear layer is trained; set model\.adapter, or train less"):
        quantise_(model, collect(model), "int8")
    place = make_place(tmp_path)
    with pytest.raises(
        ConfigError, match=r"cuts a model's weights as they are; set model\.quantise = 'none'"
    ):
        load(place.config, ["model.quantise=int8", "shard.kind=fsdp"])
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package torchao; run: pip install 'zodist\[quantise\]'"):
        quantise_(model, collect(model, "norm"), "int8")
