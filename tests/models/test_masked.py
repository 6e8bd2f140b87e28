"""Masked language models: the word at a mask behind the prompt, at points as after a change of weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from models import TinyBatch
from runs import finish, make_place
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    PretrainedConfig,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
)

from zodist import noise
from zodist.adapter import attached
from zodist.config import Adapter
from zodist.directions import Combination, Dense
from zodist.errors import ModelError
from zodist.evaluator import Evaluator, Weights, packing
from zodist.models.load import load_model
from zodist.models.masked import Masked
from zodist.models.params import collect
from zodist.run import replay
from zodist.tasks import left_padded

DENSE = Dense(noise.GAUSSIAN, True)
PAIR = (Combination.of((5 << 16, 1e-2)), Combination.of((5 << 16, -1e-2)))
SIZES: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
CONFIGS: dict[str, PretrainedConfig] = {
    "roberta": RobertaConfig(**SIZES, max_position_embeddings=40, pad_token_id=1),
    "bert": BertConfig(**SIZES, max_position_embeddings=40),
}


@dataclass
class Ends:
    """What is asked of a tokenizer."""

    mask_token_id: int | None = 96
    sep_token_id: int = 2


def tiny(family: str) -> Masked:
    torch.manual_seed(1)
    model = AutoModelForMaskedLM.from_config(CONFIGS[family], attn_implementation="sdpa")
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn_like(p) * 0.1)
    return Masked(model.eval().requires_grad_(False), Ends()).eval()


def rows(prompts: list[tuple[int, ...]], columns: bool = False) -> TinyBatch:
    ids, mask, positions = left_padded(prompts, 1)
    chosen = torch.tensor([5, 40, 77]) if columns else None
    return TinyBatch(ids, mask, positions, 1, chosen, len(prompts), torch.tensor([1, 2, 0][: len(prompts)]))


PROMPTS = [(0, 9, 12, 40, 7), (0, 21), (0, 8, 33, 60)]


@pytest.mark.parametrize("family", CONFIGS)
def test_the_logits_are_those_at_the_mask_of_each_row_alone(family):
    model = tiny(family)
    batch = rows(PROMPTS)
    with torch.no_grad():
        got = model(batch.input_ids, batch.attention_mask).logits
        for n, prompt in enumerate(PROMPTS):
            alone = model.base(input_ids=torch.tensor([[*prompt, 96, 2]])).logits[0, len(prompt)]
            np.testing.assert_allclose(got[n, 0].numpy(), alone.numpy(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("train", ["", "LayerNorm|bias", "embeddings"])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_forward_of_several_points_is_one_of_changed_weights_for_each(family, train, columns):
    """Tolerance: float32 rounding of a two-layer model with losses of order one, of other GEMM shapes."""
    model, batch = tiny(family), rows(PROMPTS, columns)
    params, want = collect(model, train), []
    start = [p.model.clone() for p in params]
    for ((seed, weight),) in (tuple(point) for point in PAIR):
        for p in params:
            z = DENSE.values(p.id, seed, 0, p.weights.numel())
            p.model.add_(torch.from_numpy(z * np.float32(weight)))
        with torch.no_grad():
            logits = model(batch.input_ids, batch.attention_mask).logits
        logits = logits if batch.columns is None else logits[..., batch.columns]
        want.append(float(batch.losses(logits).double().mean()))
        for p, before in zip(params, start, strict=True):
            p.model.copy_(before)
    assert abs(want[0] - want[1]) > 1e-4
    evaluator = Evaluator(model, params, lambda param: DENSE)
    np.testing.assert_allclose(evaluator.losses(PAIR, [batch]), want, rtol=0, atol=3e-5)
    assert packing.obstacle(model) == "its forward takes no position_ids"


def test_what_a_masked_model_cannot_do_is_one_sentence():
    model = tiny("roberta")
    with pytest.raises(ModelError, match=r"answers with one word; choose a classification task"):
        model(torch.tensor([[5, 6]]), torch.ones(1, 2, dtype=torch.int64), logits_to_keep=2)
    evaluator = Evaluator(model, collect(model), lambda param: DENSE)
    with pytest.raises(ModelError, match=r"answers with one word"):
        Weights(evaluator).write([(5, 6)], 3, (), 1)
    with pytest.raises(ModelError, match=r"is for causal language models; set model\.adapter = ''"):
        attached(model, "lora", Adapter(), 0)
    with pytest.raises(ModelError, match=r"its tokenizer has no mask or no separator"):
        Masked(model.base, Ends(mask_token_id=None))


def test_a_run_on_a_masked_model_is_replayed_and_loads_again(tmp_path):
    """The task is the one that causal models have: what follows "... it was"."""
    place = make_place(tmp_path)
    folder = tmp_path / "model"
    words = PreTrainedTokenizerFast.from_pretrained(folder)
    words.add_special_tokens({"mask_token": "<mask>", "sep_token": "</s>", "cls_token": "<s>"})
    words.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.unlink()
    torch.manual_seed(0)
    sizes = {**SIZES, "vocab_size": len(words)}
    pad = words.pad_token_id
    RobertaForMaskedLM(RobertaConfig(**sizes, pad_token_id=pad, initializer_range=0.2)).save_pretrained(
        folder
    )
    finish(place, 1, "run.steps=8", "rule.lr=1e-2")
    found = replay(place.run, tmp_path / "tuned")
    assert (found.digest, found.verified) == (place.digest(), True)
    again, _ = load_model(str(tmp_path / "tuned"), torch.float32, "sdpa")
    assert isinstance(again, Masked) and again.first == pad + 1
    first, last = (
        [e for e in place.lines("metrics.jsonl") if e.get("split") == "test" and e["step"] == step][0]
        for step in (0, 8)
    )
    assert first["loss"] != last["loss"] and first["accuracy"] is not None
