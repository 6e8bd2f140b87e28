"""Frozen lower layers computed once: the same logits, a function of the example alone, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from models import batch, tiny

from zodist import noise
from zodist.directions import Combination, Dense
from zodist.errors import ModelError
from zodist.evaluator.forward import Evaluator
from zodist.evaluator.prefix import FrozenPrefix
from zodist.models import collect

DENSE = Dense(noise.GAUSSIAN, True)
PAIR = (Combination.of((5 << 16, 1e-2)), Combination.of((5 << 16, -1e-2)))


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("family", ["llama-tied", "llama-untied", "qwen2", "qwen3", "gemma3"])
def test_losses_are_those_of_the_whole_model(family, columns):
    model, rows = tiny(family), batch(columns=columns)
    params = collect(model, r"layers\.1\.")
    plain = Evaluator(model, params, lambda param: DENSE)
    want, unperturbed = plain.losses(PAIR, [rows]), plain.logits((), rows)[0].numpy()
    plain.close()
    kept: dict[bytes, torch.Tensor] = {}
    short = Evaluator(model, params, lambda param: DENSE, prefix=FrozenPrefix(model, params, kept))
    np.testing.assert_allclose(short.losses(PAIR, [rows]), want, rtol=0, atol=2e-5)
    np.testing.assert_allclose(short.logits((), rows)[0].numpy(), unperturbed, atol=2e-4)
    assert len(kept) == 4


def test_frozen_layers_run_once_for_an_example_in_whatever_company():
    model = tiny("llama-tied")
    params, rows = collect(model, r"layers\.1\."), batch(8)
    prefix = FrozenPrefix(model, params, {})
    calls, original = [0], model.model.layers[0].self_attn.forward

    def counting(*args, **kwargs):
        calls[0] += 1
        return original(*args, **kwargs)

    model.model.layers[0].self_attn.forward = counting
    whole = prefix.states(rows)
    assert calls[0] == 8 + 1, "eight rows, and the check of the first"
    part = replace(
        rows,
        input_ids=rows.input_ids[2:5],
        attention_mask=rows.attention_mask[2:5],
        position_ids=rows.position_ids[2:5],
        examples=3,
    )
    assert torch.equal(prefix.states(part), whole[2:5]) and calls[0] == 9


def test_what_was_kept_serves_the_next_evaluator_of_the_same_model():
    model, rows = tiny("llama-tied"), batch()
    params, kept = collect(model, r"layers\.1\."), {}
    first = FrozenPrefix(model, params, kept).states(rows)
    model.model.layers[0].self_attn.forward = None  # it must not be needed again
    assert torch.equal(FrozenPrefix(model, params, kept).states(rows), first)


@pytest.mark.parametrize(
    ("family", "train", "why"),
    [
        ("llama-tied", "", "names the embedding"),
        ("llama-untied", r"layers\.0\.", "names the first layer"),
        ("llama-untied", r"^model\.norm", "names no layer at all"),
        ("gpt2", r"h\.1\.", "rotary positions, not GPT2LMHeadModel"),
    ],
)
def test_what_cannot_be_kept_is_one_sentence(family, train, why):
    model = tiny(family)
    with pytest.raises(ModelError, match=f"{why}.*set batch.cache_frozen = false"):
        FrozenPrefix(model, collect(model, train), {})
