"""Groups of probes: which items they have, and that the losses of a group are those of its probes alone, to rounding."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from models import CONFIGS, TinyBatch, batch, tiny

from zodist import noise
from zodist.directions import Combination, Dense
from zodist.errors import ModelError
from zodist.evaluator import frame
from zodist.evaluator.belonging import EndToEnd
from zodist.evaluator.forward import Evaluator
from zodist.evaluator.prefix import FrozenPrefix
from zodist.evaluator.rows import bytes_of_token
from zodist.methods import METHODS, StepSeeds
from zodist.models import collect
from zodist.step import Groups

DENSE = Dense(noise.GAUSSIAN, True)
LENGTHS = (8, 11, 9, 9, 10)
ROUNDING = 2e-6  # of losses about 4.6: sums of other lengths and orders in float32

COUNTS = st.integers(1, 9)


def probes(count: int = len(LENGTHS)) -> list[tuple[Combination, ...]]:
    """Two-sided probes of one base noise."""
    return [tuple(Combination.of(((7 << 16) + k, eps)) for eps in (1e-2, -1e-2)) for k in range(count)]


def own_batches(**kwargs) -> list[list[TinyBatch]]:
    """A batch of its own for each probe, of unequal lengths."""
    return [[batch(4, length, seed=k, **kwargs)] for k, length in enumerate(LENGTHS)]


def compared(evaluator: Evaluator, points, batches) -> None:
    """The losses of a group beside those of its probes alone."""
    try:
        want = np.stack([evaluator.losses(own, b) for own, b in zip(points, batches, strict=True)])
        got = evaluator.group_losses(points, batches)
    finally:
        evaluator.close()
    np.testing.assert_allclose(got, want, rtol=0, atol=ROUNDING)
    assert abs(want[:, 0] - want[:, 1]).min() > 1e-3, "then the points are not where they should be"


@given(probes=st.integers(1, 40), lanes=COUNTS, size=COUNTS, workers=COUNTS)
def test_every_item_is_in_one_group_and_with_one_worker(probes, lanes, size, workers):
    groups = Groups(probes * lanes, lanes, size)
    members = [groups.members(g).tolist() for g in range(groups.count)]
    assert sorted(sum(members, [])) == list(range(probes * lanes))
    assert all(0 < len(own) <= size and len({item % lanes for item in own}) == 1 for own in members)
    assert [m[0] for m in members if len(m) < size] == [m[0] for m in members][-lanes:] or probes % size == 0
    shares = [groups.share(w, workers).tolist() for w in range(workers)]
    assert shares == [sum(members[w::workers], []) for w in range(workers)]


def test_a_group_of_one_probe_is_an_item():
    groups = Groups(6, 2)
    assert [groups.members(g).tolist() for g in range(groups.count)] == [[0], [1], [2], [3], [4], [5]]


def test_unequal_points_are_multiplied_by_their_own_matrices():
    lengths = [3, 3, 1, 4, 4]
    ragged = EndToEnd(lengths, torch.device("cpu"))
    x, matrices = torch.arange(45.0).view(15, 3), torch.arange(30.0).view(5, 3, 2)
    want = torch.cat([own @ matrix for own, matrix in zip(x.split(lengths), matrices, strict=True)])
    assert torch.equal(ragged.times(x, matrices), want)
    assert ragged.owner.tolist() == [0, 0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 4, 4, 4, 4]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("columns", [False, True])
@pytest.mark.parametrize("family", CONFIGS)
def test_a_group_has_the_losses_of_its_probes(family, columns, packed):
    model = tiny(family)
    evaluator = Evaluator(model, collect(model), lambda param: DENSE, packed=packed)
    compared(evaluator, probes(), own_batches(columns=columns, keep=3))
    assert evaluator.frame.body.lead == (1 if packed else 2 * 4 * len(LENGTHS)), (
        "then they had forwards of their own"
    )


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("family", ["llama-untied", "gpt2", "opt"])
def test_low_rank_directions_are_kept_apart_too(family, packed):
    model = tiny(family)
    method = METHODS["lozo"].build(METHODS["lozo"].settings.model_validate({"probes": 5, "eps": 1e-2}))
    method.begin(params := collect(model))
    points = [probe.points for probe in next(method.step(StepSeeds(3, 0)))]
    compared(Evaluator(model, params, method.direction, packed=packed), points, own_batches())


def test_a_large_matrix_goes_in_pieces_for_unequal_points_too(monkeypatch):
    monkeypatch.setattr(frame, "PIECE", 100)
    model = tiny("llama-untied")
    compared(
        Evaluator(model, collect(model), lambda param: DENSE, packed=True),
        probes(),
        own_batches(columns=True),
    )


@pytest.mark.parametrize("packed", [False, True])
def test_frozen_lower_layers_are_skipped_for_a_group(packed):
    model = tiny("llama-tied")
    params, kept = collect(model, r"layers\.1\."), {}
    evaluator = Evaluator(
        model, params, lambda param: DENSE, packed=packed, prefix=FrozenPrefix(model, params, kept)
    )
    compared(evaluator, probes(), own_batches())
    assert len(kept) == 4 * len(LENGTHS)


def test_a_batch_without_padding_stands_beside_packed_ones():
    """Its rows are of equal length; the others' are not."""
    whole = batch(4, 6)
    whole.attention_mask.fill_(1)
    whole.position_ids.copy_(torch.arange(6).expand(4, -1))
    model, batches = tiny("llama-tied"), own_batches()
    batches[2] = [whole]
    evaluator = Evaluator(model, collect(model), lambda param: DENSE, packed=True)
    compared(evaluator, probes(), batches)
    assert evaluator.frame.body.lead == 1


@pytest.mark.parametrize("packed", [False, True])
def test_pieces_and_limited_room_split_a_group(packed, monkeypatch):
    """Three pieces a probe; a forward has room for one point, a probe, two probes, or all."""
    model = tiny("llama-tied")
    points, batches = (
        probes(),
        [[batch(4, n, seed=10 * k + n) for n in (11, 11, 11)] for k in range(len(LENGTHS))],
    )
    tokens = int(batches[0][0].attention_mask.sum()) if packed else batches[0][0].input_ids.numel()
    found, forwards = [], []
    for copies in (1, 2, 5, 1000):
        room = (copies + 0.5) * tokens * bytes_of_token(model)
        evaluator = Evaluator(model, collect(model), lambda param: DENSE, packed=packed, room=room)
        calls, run = [], evaluator._run
        monkeypatch.setattr(evaluator, "_run", lambda *a, run=run, calls=calls: (calls.append(a), run(*a))[1])
        found.append(evaluator.group_losses(points, batches))
        forwards.append(len(calls))
        evaluator.close()
    assert forwards == [3 * 10, 3 * 5, 3 * 3, 3]
    for losses in found[:-1]:
        np.testing.assert_allclose(losses, found[-1], rtol=0, atol=ROUNDING)


def test_padded_batches_of_unequal_rows_have_forwards_of_their_own():
    model = tiny("llama-tied")
    batches = [[batch(rows, 9, seed=rows)] for rows in (4, 4, 2, 4)]
    evaluator = Evaluator(model, collect(model), lambda param: DENSE)
    compared(evaluator, probes(4), batches)
    assert evaluator.frame.body.lead == 2 * 4, "the last one alone"


def test_an_activation_of_another_length_stops_with_the_path():
    body = EndToEnd([3, 4], torch.device("cpu"))
    assert body.gathered(torch.zeros(1, 7, 2), "layer").shape == (7, 2)
    with pytest.raises(ModelError, match="layer: its input has 5 tokens"):
        body.gathered(torch.zeros(1, 5, 2), "layer")


@pytest.mark.parametrize("lengths", [(3, 5), (4, 4), (3, 6)])
@pytest.mark.parametrize("family", ["qwen3", "gemma3"])
def test_as_many_tokens_as_heads_are_told_apart(family, lengths):
    """Norms of heads see [1, tokens, heads, size] or [1, heads, tokens, size], here with 16 heads and 16 or 18 tokens."""
    model = tiny(family, hidden_size=32, num_attention_heads=16, num_key_value_heads=2)
    batches = [[batch(1, length, seed=length + n)] for n, length in enumerate(lengths)]
    compared(Evaluator(model, collect(model), lambda param: DENSE, packed=True), probes(2), batches)
