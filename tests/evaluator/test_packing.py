"""Batches without padding give the logits of padded ones, rows do not see each other, and models that cannot are found."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from models import CONFIGS, VOCABULARY, batch, tiny
from runs import make_place
from transformers import AutoModelForCausalLM, BloomConfig, MambaConfig

from zodist import noise
from zodist.config import load
from zodist.directions import Combination, Dense, RankOne, Signed
from zodist.errors import ConfigError, ModelError
from zodist.evaluator import packing
from zodist.evaluator.forward import Evaluator
from zodist.evaluator.packing import Packed, pack_of
from zodist.evaluator.prefix import FrozenPrefix
from zodist.methods import Probe
from zodist.models import collect
from zodist.run import header, load_parts
from zodist.tasks import OptionRowsBatch, left_padded

DENSE = Dense(noise.GAUSSIAN, True)
PAIR = (Combination.of((5 << 16, 1e-2)), Combination.of((5 << 16, -1e-2)))


def evaluated(model, rows, points=PAIR, *, packed: bool, train: str = "", cached: bool = False):
    """Logits and losses of a batch at some points."""
    params = collect(model, train)
    prefix = FrozenPrefix(model, params, {}) if cached else None
    evaluator = Evaluator(model, params, lambda param: DENSE, packed=packed, prefix=prefix)
    try:
        return evaluator.logits(points, rows).numpy(), evaluator.losses(points, [rows])
    finally:
        evaluator.close()


def option_rows(prompts, options, labels) -> OptionRowsBatch:
    """As the task makes them: a row for every prompt and option, without the option's last token."""
    ids, mask, positions = left_padded([(*p, *o[:-1]) for p in prompts for o in options], 0)
    targets, counts, _ = left_padded(options, 0)
    keep = max(map(len, options))
    return OptionRowsBatch(
        ids, mask, positions, keep, None, len(prompts), torch.tensor(labels), targets, counts.bool()
    )


@pytest.mark.parametrize("keep", [1, 3])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_packed_logits_are_the_padded_ones(family, columns, keep):
    """Other shapes of products and sums of other lengths: float32 rounding of two layers, logits of order one."""
    model, rows = tiny(family), batch(6, columns=columns, keep=keep)
    assert packing.obstacle(model) == ""
    real = rows.attention_mask[:, -keep:].bool().numpy()
    for points in (PAIR, ()):
        want, want_losses = evaluated(model, rows, points, packed=False)
        got, losses = evaluated(model, rows, points, packed=True)
        assert got.shape == want.shape
        np.testing.assert_allclose(got[:, real], want[:, real], rtol=0, atol=5e-6)
        np.testing.assert_allclose(losses, want_losses, rtol=0, atol=5e-6)
    assert not np.array_equal(got, want), "then padding was not left out, and nothing has been tested"


@pytest.mark.parametrize("family", ["llama-tied", "opt", "gpt2", "gemma3"])
def test_what_one_example_says_changes_no_bit_of_another(family):
    model, rows = tiny(family), batch(5)
    other = rows.input_ids.clone()
    other[2] = (other[2] * 5 + 7) % VOCABULARY
    before, _ = evaluated(model, rows, packed=True)
    after, _ = evaluated(model, replace(rows, input_ids=other), packed=True)
    assert np.array_equal(np.delete(before, 2, 1), np.delete(after, 2, 1))
    assert abs(before[:, 2] - after[:, 2]).max() > 1e-2


def test_a_batch_has_its_real_tokens_once_and_those_of_the_loss_last():
    rows = batch(4, 7)
    packed = pack_of(rows)
    assert packed is not None
    real = rows.attention_mask.bool()
    assert sorted(packed.ids.tolist()) == sorted(rows.input_ids[real].tolist())
    assert packed.ids[-packed.kept :].tolist() == rows.input_ids[:, -1].tolist() and packed.kept == 4
    assert torch.equal(packed.place, packed.positions), "a row's places count from 0, as its positions do"


def test_a_batch_without_padding_stays_as_it_is():
    rows = batch(4)
    whole = replace(rows, attention_mask=torch.ones_like(rows.attention_mask))
    assert pack_of(whole) is None and pack_of(rows) is not None


@pytest.mark.parametrize("family", ["llama-tied", "opt", "gpt2", "qwen3"])
def test_options_of_one_example_share_its_prompt(family):
    """Three options of one to four tokens, two with a common beginning: the loss of a row for each, on fewer tokens."""
    model = tiny(family)
    prompts = [[3, 9, 12, 40, 7], [21, 8], [5, 6, 7, 8, 9, 10, 11, 12]]
    rows = option_rows(prompts, [(30, 31, 32, 33), (30, 44), (50, 51, 52)], [2, 0, 1])
    want, want_losses = evaluated(model, rows, packed=False)
    got, losses = evaluated(model, rows, packed=True)
    np.testing.assert_allclose(losses, want_losses, rtol=0, atol=5e-6)
    counted = rows.counts.repeat(len(prompts), 1).numpy()
    np.testing.assert_allclose(got[:, counted], want[:, counted], rtol=0, atol=5e-6)
    packed = pack_of(rows)
    # A prompt once, since the third option begins otherwise than the first; then 3, 1 and 2 tokens of options.
    assert packed is not None and len(packed.ids) == sum(len(p) + 3 + 1 + 2 for p in prompts)


def test_options_that_all_begin_alike_share_their_beginning():
    rows = option_rows([[3, 4], [5]], [(30, 31, 40), (30, 31, 50)], [0, 1])
    packed = pack_of(rows)
    assert packed is not None and len(packed.ids) == (2 + 2) + (1 + 2)
    want, want_losses = evaluated(tiny("llama-tied"), rows, packed=False)
    got, losses = evaluated(tiny("llama-tied"), rows, packed=True)
    np.testing.assert_allclose(losses, want_losses, rtol=0, atol=5e-6)


def test_an_option_does_not_see_another():
    model, prompts = tiny("llama-tied"), [[3, 9, 12], [21, 8]]
    options = [(30, 31, 32), (33, 44, 45), (50, 51, 52)]
    first, _ = evaluated(model, option_rows(prompts, options, [0, 1]), packed=True)
    options[1] = (33, 60, 45)
    second, _ = evaluated(model, option_rows(prompts, options, [0, 1]), packed=True)
    assert np.array_equal(first[:, 0::3], second[:, 0::3]) and np.array_equal(first[:, 2::3], second[:, 2::3])
    assert not np.array_equal(first[:, 1::3], second[:, 1::3])


@pytest.mark.parametrize("family", ["llama-tied", "qwen2", "gemma3"])
def test_frozen_lower_layers_are_skipped_in_packed_batches_too(family):
    model = tiny(family)
    several = option_rows([[3, 9, 12], [21, 8]], [(30, 31, 32), (33, 44)], [0, 1])
    for rows in (batch(5), several):
        _, want = evaluated(model, rows, packed=False, train=r"layers\.1\.")
        _, got = evaluated(model, rows, packed=True, train=r"layers\.1\.", cached=True)
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)


def test_rows_longer_than_a_sliding_window_are_padded():
    """The window of this model is 16: the grid's attention has none."""
    model = tiny("gemma3")
    assert packing.longest(model) == 16 and packing.longest(tiny("llama-tied")) == float("inf")
    params = collect(model)
    evaluator = Evaluator(model, params, lambda param: DENSE, packed=True)
    for length, stack in ((24, 2 * 4), (14, 2)):
        evaluator.losses(PAIR, [batch(4, length)])
        assert evaluator.frame.body.lead == stack
    evaluator.close()


def test_batches_of_unequal_length_share_a_grid():
    """They stand end to end; what the grid holds of each token comes back to its place."""
    packs = [pack_of(batch(rows, length)) for rows, length in ((4, 11), (2, 8))]
    whole = [p for p in packs if p is not None]
    grid = packing.Grid(whole, 2)
    tokens = grid.joined([p.ids for p in whole])
    first, second = (p.ids for p in whole)
    assert torch.equal(tokens, torch.cat([first, first, second, second])[None])
    x = torch.arange(tokens.numel(), dtype=torch.float32).view(1, 1, -1, 1)
    assert torch.equal(grid.line(grid.grid(x).transpose(1, 2)).view(-1), x.view(-1))


@pytest.mark.parametrize(
    ("config", "attention", "why"),
    [
        (
            BloomConfig(vocab_size=97, hidden_size=24, n_layer=2, n_head=4),
            None,
            "eager|other logits|cannot run|position_ids",
        ),
        (
            MambaConfig(vocab_size=97, hidden_size=24, num_hidden_layers=2, state_size=4),
            None,
            "eager|position_ids",
        ),
        (CONFIGS["llama-tied"], "eager", "'eager', not 'sdpa'"),
    ],
    ids=["bloom", "mamba", "eager"],
)
def test_a_model_that_needs_padding_is_found_out(config, attention, why):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(
        config, **({"attn_implementation": attention} if attention else {})
    )
    assert re.search(why, packing.obstacle(model.eval()))


@pytest.mark.parametrize("broken", ["positions", "neighbours"])
def test_the_probe_sees_positions_and_neighbours(broken, monkeypatch):
    """Were positions not to begin again at a row, or rows to see each other, the two rows' logits would say so."""
    model = tiny("llama-tied")
    if broken == "neighbours":
        monkeypatch.setattr(packing.Grid, "grid", lambda self, x: x)
        monkeypatch.setattr(packing.Grid, "line", lambda self, x: x)
    else:
        original = Packed.of.__func__

        def ongoing(cls, *args):
            made = original(cls, *args)
            return replace(made, positions=torch.arange(len(made.positions)))

        monkeypatch.setattr(Packed, "of", classmethod(ongoing))
    assert "other logits" in packing.obstacle(model)


def own_directions(law: str, examples: int, passes: int) -> tuple:
    """A law of directions for single examples, and a probe's points."""
    made = RankOne() if law == "rank-one" else Signed(noise.LAWS[law])
    return made, tuple(Combination.of(((7 << 16) + k, 1e-2)) for k in range(examples * passes))


@pytest.mark.parametrize("paired", [True, False])
@pytest.mark.parametrize("law", ["rank-one", "gaussian"])
@pytest.mark.parametrize("family", CONFIGS)
def test_every_example_has_its_own_direction_in_a_packed_batch_too(family, law, paired):
    model, rows = tiny(family), batch(5, columns=True)
    direction, points = own_directions(law, 5, 2)
    probe, found = Probe(1, points, 5, paired=paired), []
    for packed in (False, True):
        evaluator = Evaluator(model, collect(model), lambda param: direction, packed=packed)
        found.append(evaluator.single_losses(probe, [rows]))
        evaluator.close()
    want, got = found
    np.testing.assert_allclose(got, want, rtol=0, atol=5e-6)
    assert abs(want - want[-1]).max() > 1e-4 and not np.array_equal(got, want)


def test_options_of_several_tokens_may_have_a_direction_an_example_when_packed():
    """Padded, each option is a row of its own, with the direction of its example: one example at a time says the same."""
    model, prompts = tiny("llama-tied"), [[3, 9, 12], [21, 8]]
    options = [(30, 31, 32), (33, 44)]
    direction, points = own_directions("rank-one", 2, 1)
    evaluator = Evaluator(model, collect(model), lambda param: direction, packed=True)
    got = evaluator.single_losses(Probe(1, points, 2), [option_rows(prompts, options, [1, 0])])
    clean = evaluator.losses((), [option_rows(prompts, options, [1, 0])])[0]
    for k, (prompt, label) in enumerate(zip(prompts, [1, 0], strict=True)):
        alone = option_rows([prompt], options, [label])
        want = np.diff(evaluator.losses((Combination.of(), points[k]), [alone]))[0]
        assert got[k] - got[-1] == pytest.approx(want, abs=5e-6)
    assert got[-1] == pytest.approx(clean, abs=5e-6)
    evaluator.close()
    padded = Evaluator(model, collect(model), lambda param: direction)
    with pytest.raises(ModelError, match="4 rows for 2 examples.*batch.packed = true"):
        padded.single_losses(Probe(1, points, 2), [option_rows(prompts, options, [1, 0])])


def test_a_run_goes_on_as_it_was_begun(tmp_path):
    """Journals say whether their batches are packed; those of versions that could not say nothing, and stay padded."""
    place = make_place(tmp_path)
    parts = load_parts(load(place.config), 1)
    head = header(parts, 1, {})
    assert parts.padding == "" and head["packed"] is True and "packed" not in head["batch"]
    old = {key: value for key, value in head.items() if key != "packed"}
    again = load_parts(load(place.config), 1, begun=old)
    assert again.padding == "the run was begun so" and header(again, 1, {}) == old
    assert load_parts(load(place.config), 1, begun=head).padding == ""
    assert header(load_parts(load(place.config, ["batch.packed=false"]), 1), 1, {}) == old


def test_packing_that_is_asked_for_and_impossible_is_one_sentence(tmp_path):
    place = make_place(tmp_path)
    eager = load_parts(load(place.config, ["model.attention=eager"]), 1)
    assert eager.padding == "its attention is 'eager', not 'sdpa'"
    with pytest.raises(
        ModelError, match=r"batch\.packed = true, but LlamaForCausalLM .* set batch\.packed = 'auto'"
    ):
        load_parts(load(place.config, ["model.attention=eager", "batch.packed=true"]), 1)
    with pytest.raises(ConfigError, match=r"batch\.packed = 'yes' must be 'auto', true or false"):
        load(place.config, ["batch.packed=yes"])
