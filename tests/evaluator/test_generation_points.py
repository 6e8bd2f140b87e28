"""Writing on at points near the weights: the text of a perturbed copy, drawn as the softmax says, alone or together."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from models import CONFIGS, MORE, VOCABULARY, tiny

from zodist import noise
from zodist.directions import Combination, Dense, Param, RankOne
from zodist.errors import ModelError
from zodist.evaluator import sampling
from zodist.evaluator.forward import Evaluator
from zodist.evaluator.generate import Manner, Opened, write
from zodist.evaluator.reader import Weights
from zodist.evaluator.sampling import Address
from zodist.models import collect, digest
from zodist.tasks import left_padded

DENSE = Dense(noise.GAUSSIAN, True)
# Far apart, so that the texts differ; the last is the weights themselves.
POINTS = [
    Combination.of((5 << 16, 0.1)),
    Combination.of((5 << 16, -0.1)),
    Combination.of(((7 << 16) + 1, 0.1)),
    Combination.of(),
]
PROMPTS = [(3, 9, 12, 40, 7), (21, 8), (60, 61, 62)]
ROWS = Opened(PROMPTS, [Address(99, n, 0) for n in range(3)])
MOST, STOP = 6, 1


def manner(temperature: float) -> Manner:
    return Manner(MOST, (STOP,), 0, temperature)


def copies(params: list[Param], point: Combination) -> dict[str, torch.Tensor]:
    """Every parameter perturbed, by name."""
    found = {}
    for p in params:
        total = p.weights.clone()
        for seed, weight in point:
            total += torch.from_numpy(DENSE.values(p.id, seed, 0, p.weights.numel()) * np.float32(weight))
        found[p.name] = total.view(p.shape)
    return found


def written_alone(model: Any, held: dict[str, torch.Tensor], temperature: float) -> list[list[int]]:
    """One row at a time, without keeping anything from token to token."""
    texts = []
    for prompt, address in zip(PROMPTS, ROWS.addresses, strict=True):
        text: list[int] = []
        while len(text) < MOST and text[-1:] != [STOP]:
            ids, mask, positions = left_padded([[*prompt, *text]], 0)
            given = {"input_ids": ids, "attention_mask": mask, "position_ids": positions}
            given = given if "mamba" not in type(model).__name__.lower() else {"input_ids": ids}
            with torch.no_grad():
                found = torch.func.functional_call(model, held, kwargs=given, tie_weights=True)
            logits = found.logits[0, -1]
            if temperature:
                logits = logits / temperature + sampling.gumbel([address], len(text), VOCABULARY)[0]
            text.append(int(logits.argmax()))
        texts.append(text)
    return texts


@pytest.mark.parametrize("family", [*CONFIGS, *(name for name in MORE if name not in ("mistral", "gemma"))])
def test_points_written_together_are_perturbed_copies_written_alone(family):
    """Token for token: logits of a tiny float32 model are never nearer to each other than its rounding."""
    model = tiny(family)
    model.generation_config.eos_token_id = None  # STOP alone ends a text
    params = collect(model)
    evaluator = Evaluator(model, params, lambda param: DENSE)
    before = digest(params)
    for temperature in (0.0, 1.5):
        got = write(evaluator, POINTS, [ROWS] * len(POINTS), manner(temperature))
        assert got == [written_alone(model, copies(params, point), temperature) for point in POINTS]
        assert got[0] != got[3] and got[0] != got[1], "the points must differ for this to mean anything"
    assert digest(params) == before
    evaluator.close()


def test_points_that_do_not_fit_and_rows_of_several_probes_change_no_token():
    model = tiny("llama-tied")
    params = collect(model)
    wide = Evaluator(model, params, lambda param: DENSE)
    other = Opened([(50, 51, 52, 53, 54, 55), (4,), (5, 6)], [Address(7, n, 2) for n in range(3)])
    opened = [ROWS, ROWS, other, other]
    want = write(wide, POINTS, opened, manner(1.0))
    each = [write(wide, [at], [own], manner(1.0))[0] for at, own in zip(POINTS, opened, strict=True)]
    wide.close()
    narrow = Evaluator(model, params, lambda param: DENSE, room=1.0)
    assert narrow.points_of(9) == 1
    assert write(narrow, POINTS, opened, manner(1.0)) == want == each


def test_directions_of_low_rank_and_a_subset_of_the_weights():
    """Whatever a seed means, a point's text is that of the point alone."""
    model = tiny("qwen3")
    evaluator = Evaluator(
        model, collect(model, "mlp|norm"), lambda p: RankOne() if len(p.shape) == 2 else DENSE
    )
    large = [Combination.of((3 << 16, 0.6)), Combination.of((3 << 16, -0.6))]
    together = write(evaluator, large, [ROWS] * 2, manner(1.0))
    assert together == [write(evaluator, [at], [ROWS], manner(1.0))[0] for at in large]
    assert together[0] != together[1]


def test_without_points_the_weights_write():
    model = tiny("llama-tied")
    evaluator = Evaluator(model, collect(model), lambda param: DENSE)
    want = write(evaluator, [Combination.of()], [ROWS], manner(1.0))[0]
    assert Weights(evaluator).write(PROMPTS, MOST, [STOP], 0, 1.0, ROWS.addresses) == want


def test_numbers_that_are_not_numbers_give_no_text():
    model = tiny("llama-tied")
    evaluator = Evaluator(model, collect(model), lambda param: DENSE)
    found = write(
        evaluator, [Combination.of((1 << 16, float("nan"))), Combination.of()], [ROWS] * 2, manner(0.0)
    )
    assert found[0] == [None] * 3 and None not in found[1]


def test_a_parameter_that_is_not_seen_is_named_while_writing():
    model = tiny("llama-tied")
    evaluator = Evaluator(model, collect(model), lambda param: DENSE)
    layer = model.model.layers[0].mlp
    layer.forward = lambda x: x
    with pytest.raises(ModelError, match="ran 0 times in one forward"):
        write(evaluator, POINTS[:1], [ROWS], manner(0.0))


def test_words_are_those_of_the_reference_and_have_addresses():
    rows = [Address(2**63 + 5, 2**32 - 1, 3), Address(1, 0, 0)]
    for size in (97, 64, 1001):
        blocks = 2 * -(-size // 8)
        got = sampling.words(rows, 7, size)
        for row, address in enumerate(rows):
            first = (address.sample << 32) + 7 * blocks
            numbers = np.arange(first, first + blocks, dtype=np.uint64)
            want = noise.words(address.key, address.example, noise.TOKEN, numbers).T.reshape(-1)[:size]
            np.testing.assert_array_equal(got[row], want)
        np.testing.assert_array_equal(sampling.words(rows[1:], 7, size)[0], got[1])


def test_tokens_follow_the_softmax():
    """Pearson's statistic of 40,000 draws, over keys, examples, samples and places: within 4 of its standard deviations."""
    logits = torch.from_numpy(noise.numbers(noise.GAUSSIAN, 3, 0, noise.U, 0, VOCABULARY)).float() * 2
    for temperature in (0.7, 1.5):
        counts = torch.zeros(VOCABULARY)
        for place in range(4):
            rows = [Address(n // 2500, n % 50, n % 2500 // 50) for n in range(10_000)]
            drawn = sampling.draw(logits, sampling.gumbel(rows, place, VOCABULARY), temperature)
            counts += drawn.bincount(minlength=VOCABULARY)
        expected = counts.sum() * (logits / temperature).softmax(0)
        common = expected > 5
        off = float(((counts - expected) ** 2 / expected)[common].sum())
        degrees = int(common.sum()) - 1
        assert degrees > 40 and abs(off - degrees) < 4 * (2 * degrees) ** 0.5


def test_near_points_draw_the_same_token_but_for_about_the_distance_of_their_softmaxes():
    rows = [Address(1, n, 0) for n in range(20_000)]
    shared = sampling.gumbel(rows, 0, VOCABULARY)
    logits = torch.from_numpy(noise.numbers(noise.GAUSSIAN, 3, 0, noise.U, 0, 2 * VOCABULARY)).float()
    one, other = logits[:VOCABULARY], logits[:VOCABULARY] + 0.05 * logits[VOCABULARY:]
    apart = float((sampling.draw(one, shared, 1.0) != sampling.draw(other, shared, 1.0)).float().mean())
    distance = float((one.softmax(0) - other.softmax(0)).abs().sum()) / 2
    assert 0.5 * distance < apart < 2.5 * distance
    alone = sampling.draw(
        other, sampling.gumbel([Address(2, n, 0) for n in range(20_000)], 0, VOCABULARY), 1.0
    )
    assert float((sampling.draw(one, shared, 1.0) != alone).float().mean()) > 20 * apart
