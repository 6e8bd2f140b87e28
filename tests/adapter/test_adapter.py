"""Adapters: only they are trained, exactly; equal for all workers; saved so that peft reads them."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from models import TinyBatch, batch, tiny
from runs import finish, make_place
from safetensors.torch import load_file

from zodist import noise
from zodist.adapter.beside import attached, save
from zodist.config import Adapter, load
from zodist.directions import Combination, Dense, Param
from zodist.errors import ConfigError, JournalError, ModelError
from zodist.evaluator import Evaluator, FrozenPrefix, Weights, packing
from zodist.models import collect, digest
from zodist.run import replay
from zodist.tasks import left_padded

peft = pytest.importorskip("peft")

DENSE = Dense(noise.GAUSSIAN, True)
KINDS = ["lora", "dora", "ia3", "prefix", "prompt"]
SMALL = Adapter(rank=4, tokens=3)
POINTS = tuple(Combination.of((s, w)) for s, w in ((5 << 16, 0.1), (5 << 16, -0.1), (7 << 16, 0.1)))


def moved(params: list[Param], point: Combination) -> None:
    for p in params:
        for seed, weight in point:
            z = DENSE.values(p.id, seed, 0, p.weights.numel())
            p.model.add_(torch.from_numpy(z * np.float32(weight)))


def plain_loss(model, rows: TinyBatch) -> float:
    """The loss of the model as it is, without an evaluator."""
    inputs = {"input_ids": rows.input_ids, "attention_mask": rows.attention_mask}
    with torch.no_grad():
        logits = model(**inputs, position_ids=rows.position_ids).logits[:, -rows.keep :]
    return float(rows.losses(logits).double().mean())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("family", ["llama-untied", "gpt2", "opt", "qwen3"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_adapter_has_addressed_numbers_and_leaves_the_stream_alone(kind, family, dtype):
    torch.manual_seed(3)
    state = torch.random.get_rng_state()
    first = collect(attached(tiny(family, dtype), kind, SMALL, 1))
    torch.manual_seed(3)
    again = collect(attached(tiny(family, dtype), kind, SMALL, 1))
    other = collect(attached(tiny(family, dtype), kind, SMALL, 2))
    assert digest(first) == digest(again)
    # IA3 begins with ones
    assert (digest(first) == digest(other)) == (kind == "ia3")
    assert all(p.weights.dtype == torch.float32 for p in first)
    model = tiny(family, dtype)
    torch.random.set_rng_state(state)
    made = attached(model, kind, SMALL, 1)
    assert torch.equal(torch.random.get_rng_state(), state)
    trained = {p.name for p in collect(made)}
    assert trained == {n for n, p in made.named_parameters() if p.requires_grad}
    assert all(("lora_" in n) or ("ia3_" in n) or n == "virtual.weight" for n in trained)


@pytest.mark.parametrize("kind", ["lora", "dora", "ia3"])
def test_a_fresh_adapter_in_the_layers_changes_nothing(kind):
    rows = batch()
    want = plain_loss(tiny("llama-untied"), rows)
    assert plain_loss(attached(tiny("llama-untied"), kind, SMALL, 1), rows) == pytest.approx(want, abs=1e-6)


def test_a_of_lora_has_the_spread_that_peft_gives_it():
    model = attached(tiny("llama-untied"), "lora", Adapter(rank=64), 1)
    (a,) = (p for p in collect(model, r"layers\.0\.self_attn\.q_proj\.lora_A"))
    assert float(a.weights.std()) == pytest.approx(1 / math.sqrt(3 * 24), rel=0.05)


@pytest.mark.parametrize("family", ["llama-untied", "gpt2", "opt", "qwen3", "gemma3", "mistral"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_forward_of_several_points_is_one_of_changed_adapters_for_each(kind, family):
    """Tolerance: float32 rounding of a two-layer model with losses of order one, of other GEMM shapes."""
    rows, model = batch(), attached(tiny(family), kind, SMALL, 1)
    params = collect(model)
    moved(params, Combination.of((1 << 16, 0.3)))  # B of LoRA is zero at first, and A has no effect
    start = [p.model.clone() for p in params]
    want = []
    for point in POINTS:
        moved(params, point)
        want.append(plain_loss(model, rows))
        for p, before in zip(params, start, strict=True):
            p.model.copy_(before)
    assert min(abs(want[0] - want[1]), abs(want[0] - want[2])) > 1e-4
    for packed in {False, not packing.obstacle(model)}:
        evaluator = Evaluator(model, params, lambda param: DENSE, packed=packed)
        np.testing.assert_allclose(evaluator.losses(POINTS, [rows]), want, rtol=0, atol=3e-5)
        assert evaluator.one_by_one == (kind in ("dora", "ia3"))
        evaluator.close()


@pytest.mark.parametrize("family", ["llama-tied", "gpt2", "opt", "qwen3"])
@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_what_is_saved_and_gives_the_same_logits(kind, family, tmp_path):
    base = tiny(family)
    model = attached(base, kind, SMALL, 1)
    params = collect(model)
    moved(params, Combination.of((1 << 16, 0.1)))
    ids = torch.tensor([[5, 17, 40, 8, 22]])
    with torch.no_grad():
        want = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    save(tmp_path, base, kind, SMALL, params)
    files = {f.name for f in tmp_path.iterdir()}
    assert files - {"README.md"} == {"adapter_config.json", "adapter_model.safetensors"}
    held = load_file(tmp_path / "adapter_model.safetensors")
    assert sum(t.numel() for t in held.values()) == sum(p.weights.numel() for p in params)
    theirs = peft.PeftModel.from_pretrained(tiny(family), str(tmp_path)).eval()
    with torch.no_grad():
        got = theirs(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        without = tiny(family)(input_ids=ids).logits
    np.testing.assert_allclose(got[:, -5:].numpy(), want.numpy(), rtol=0, atol=2e-5)
    assert float((without - want).abs().max()) > 1e-3


@pytest.mark.parametrize("kind", ["prefix", "prompt"])
def test_virtual_tokens_do_not_see_padding(kind):
    """A row has the logits that it has alone, and is continued as it is alone."""
    model = attached(tiny("llama-tied"), kind, SMALL, 1)
    params = collect(model)
    moved(params, Combination.of((1 << 16, 0.3)))
    prompts = [(3, 9, 12, 40, 7), (21, 8)]
    evaluator = Evaluator(model, params, lambda param: DENSE)
    reader = Weights(evaluator)
    both = reader.write(prompts, 4, (), 0)
    assert both == [reader.write([p], 4, (), 0)[0] for p in prompts]
    ids, mask, positions = left_padded(prompts, 0)
    rows = TinyBatch(ids, mask, positions, 1, None, 2, torch.tensor([1, 2]))
    logits = reader.logits(rows)
    for n, prompt in enumerate(prompts):
        ids, mask, positions = left_padded([prompt], 0)
        alone = reader.logits(TinyBatch(ids, mask, positions, 1, None, 1, torch.tensor([1])))
        np.testing.assert_allclose(logits[n].numpy(), alone[0].numpy(), rtol=0, atol=1e-5)
        written = both[n]
        assert written is not None and int(logits[n, -1].argmax()) == written[0]


def test_frozen_layers_below_an_adapter_are_run_once():
    rows, model = batch(5), attached(tiny("llama-tied"), "lora", Adapter(targets=r".*layers\.1\..*_proj"), 1)
    params = collect(model)
    moved(params, POINTS[0])
    found = []
    for prefix in (None, FrozenPrefix(model, params, {})):
        evaluator = Evaluator(model, params, lambda param: DENSE, prefix=prefix)
        found.append(evaluator.losses(POINTS, [rows]))
        evaluator.close()
    np.testing.assert_allclose(found[1], found[0], rtol=0, atol=3e-5)
    with pytest.raises(ModelError, match=r"needs frozen lower layers"):
        whole = attached(tiny("llama-tied"), "lora", SMALL, 1)
        FrozenPrefix(whole, collect(whole), {})


def test_an_adapter_takes_the_place_of_an_earlier_one():
    """A model in memory serves several runs."""
    base, rows = tiny("llama-untied"), batch()
    moved(collect(attached(base, "lora", SMALL, 1)), POINTS[0])
    again = attached(base, "lora", SMALL, 1)
    fresh = attached(tiny("llama-untied"), "lora", SMALL, 1)
    assert digest(collect(again)) == digest(collect(fresh))
    assert plain_loss(again, rows) == plain_loss(fresh, rows)


@pytest.mark.parametrize("kind", ["lora", "prefix"])
def test_a_run_with_an_adapter_is_replayed_to_the_bit_and_exported_for_peft(kind, tmp_path):
    place = make_place(tmp_path)
    settings = (f"model.adapter={kind}", "run.steps=12", "output.snapshot_every=0")
    settings += ("adapter.rank=2",) if kind == "lora" else ("adapter.tokens=3",)
    finish(place, 2, *settings)
    found = replay(place.run, tmp_path / "tuned")
    assert (found.digest, found.verified) == (place.digest(), True)
    head = place.lines("journal.jsonl")[0]
    assert head["adapter"]["kind"] == kind
    said = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())
    assert said["peft_type"] == {"lora": "LORA", "prefix": "PREFIX_TUNING"}[kind]
    assert not (tmp_path / "tuned" / "model.safetensors").exists()
    text = (place.run / "config.toml").read_text()
    (place.run / "config.toml").write_text(text.replace(f'adapter = "{kind}"', 'adapter = ""'))
    with pytest.raises((JournalError, ConfigError)):
        replay(place.run)


def test_what_does_not_go_together_is_one_sentence(tmp_path):
    place = make_place(tmp_path)
    for settings, sentence in {
        (
            "adapter.rank=4",
        ): r"adapter\.rank has no effect with model\.adapter = ''; set model\.adapter = 'lora' or 'dora'",
        (
            "model.adapter=prompt",
            "adapter.alpha=2.0",
        ): r"adapter\.alpha has no effect with model\.adapter = 'prompt'",
        ("model.adapter=prefix", "batch.cache_frozen=true"): r"set batch\.cache_frozen = false",
        ("model.adapter=lara",): r"model\.adapter = 'lara' must be",
        ("model.adapter=lora", "adapter.targets=("): r"adapter\.targets = '\(' is not a regular expression",
    }.items():
        with pytest.raises(ConfigError, match=sentence):
            load(place.config, settings)
    with pytest.raises(ModelError, match=r"finds no place in LlamaForCausalLM: .*; set adapter\.targets"):
        attached(tiny("llama-tied"), "lora", Adapter(targets="no_such_layer"), 0)


def test_without_peft_its_command_is_named(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the package peft; run: pip install 'zodist\[peft\]'"):
        attached(tiny("llama-tied"), "lora", SMALL, 0)
