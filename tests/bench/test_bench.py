"""``zodist bench step``, ``memory`` and ``methods`` on a small model: real runs, and figures that belong together."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from films import byte_level
from transformers import LlamaConfig, LlamaForCausalLM

from zodist.bench.memory import measure_memory
from zodist.bench.methods import measure_methods
from zodist.bench.population import measure_population
from zodist.bench.step import measure_step
from zodist.bench.targets import judge
from zodist.bench.variants import Bench, Settings, load
from zodist.errors import ConfigError, ModelError
from zodist.models import collect, digest

SETTINGS: dict[str, Any] = {
    "noise": "rademacher",
    "batch": 2,
    "tokens": 5,
    "dtype": "float32",
    "probes": 2,
    "threads": 1,
    "columns": 2,
    "wide": 64,
}
TIMES = ("bare forwards", "bare forwards, all logits", "step", "evaluation", "update")
CASE = "rademacher, 2 x 5"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model whose largest layer, 16 MiB of embedding, stands out from what else a process allocates."""
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=16384,
        hidden_size=256,
        intermediate_size=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    folder = tmp_path_factory.mktemp("bench") / "small"
    LlamaForCausalLM(config).save_pretrained(folder)
    byte_level().save_pretrained(str(folder))
    return folder


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def settings(saved: Path) -> Settings:
    return Settings(str(saved), **SETTINGS)


@pytest.mark.slow
def test_a_step_stands_beside_bare_forwards_and_the_in_place_step(settings: Settings) -> None:
    lines = measure_step(settings, repeats=2)
    found = {line.name: line for line in lines}
    assert len(found) == len(lines)
    for what in (*TIMES, "given losses to update, 1 probe", "given losses to update, 64 probes"):
        line = found[f"{what}, {CASE}"]
        assert 0 < line.low <= line.value <= line.high < math.inf and line.rounds == 2  # type: ignore[operator]
    step, bare = found[f"step, {CASE}"], found[f"bare forwards, {CASE}"]
    assert step.ceiling == bare.value and step.ratio == step.value / bare.value
    assert step.peer and step.speedup == step.peer / step.value
    rate = found[f"product with the largest layer, {CASE}"]
    assert rate.unit == "GFLOP/s" and bare.ceiling and bare.ceiling > 0
    for line in lines:
        json.dumps(line.plain())
    profile = {line.what: line for line in lines if line.bench == "profile"}
    shares = [line.ratio for line in profile.values() if line.unit == "s"]
    assert sum(s for s in shares if s) == pytest.approx(1.0)
    assert {"kernel update", "Python", "other operations and kernels"} <= set(profile)
    for what in ("Python in a step", "Python in bare forwards"):
        assert 0 < profile[what].value < 100


@pytest.mark.slow
def test_sentences_are_packed_in_our_step_alone(settings: Settings) -> None:
    lines = measure_step(replace(settings, sentences=True, batch=16), repeats=1, brief=True)
    step = next(line for line in lines if line.what == "step")
    assert step.case == "rademacher, 16 x 4 to 37" and step.speedup and step.ratio
    figures = [verdict.figure for verdict in judge([step]) if verdict.figure is not None]
    assert figures == [step.speedup]


@pytest.mark.slow
def test_a_brief_step_has_no_peer_and_no_profile(settings: Settings) -> None:
    lines = measure_step(settings, repeats=1, brief=True)
    names = {line.what: line for line in lines}
    assert set(names) == {"product with the largest layer", "bare forwards", "step", "evaluation", "update"}
    assert names["step"].peer is None and names["step"].ratio


@pytest.mark.slow
def test_memory_of_a_step_is_at_most_two_layers_above_a_bare_forward(settings: Settings) -> None:
    """And the in-place step, which draws a whole layer's noise and its products, needs at least one."""
    bare, step, above = measure_memory(settings)
    layer = 16384 * 256 * 4 / 2**20
    assert above.ceiling == layer and bare.value < step.value + 1
    assert above.value == max(step.value - bare.value, 0.0) <= 2 * layer
    assert above.peer and above.peer >= layer and step.peer == pytest.approx(bare.value + above.peer)


def test_points_that_share_a_forward_are_timed_beside_a_forward_each(settings: Settings) -> None:
    single, four = measure_population(settings, [4], repeats=1)
    assert (single.what, four.what) == ("2 probes, one a forward", "2 probes, 4 points a forward")
    assert single.ceiling == four.ceiling and four.peer == single.value
    assert single.speedup is None and four.speedup == single.value / four.value


@pytest.mark.parametrize("points", [0, 3, 6])
def test_points_that_no_forward_can_hold_are_refused(settings: Settings, points: int) -> None:
    with pytest.raises(ConfigError, match=f"--points {points} must be an even number from 2"):
        measure_population(settings, [points], repeats=1)


def test_the_loss_over_the_whole_vocabulary_is_measured_too(saved: Path) -> None:
    for columns in (0, 3):
        settings = Settings(str(saved), "gaussian", 2, 5, "bfloat16", 1, 1, columns, 2)
        model = load(settings)
        bench = Bench(model, settings)
        before = digest(collect(model))
        few, every = bench.bare.few_logits(), bench.bare.all_logits()
        (ours,) = bench.evaluator.losses([], [bench.batch])
        assert few == pytest.approx(every, abs=0.02) and ours == pytest.approx(every, abs=0.02)
        bench.run("bare_forwards")
        assert digest(collect(model)) == before
        bench.run("step")
        assert digest(collect(model)) != before, "a step of which nothing remains is not a step"
        bench.close()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"noise": "cauchy"}, r"noise = 'cauchy' is not known; choose one of gaussian, rademacher"),
        ({"dtype": "int8"}, r"dtype = 'int8' is not known"),
        ({"probes": 0}, r"probes = 0 must be >= 1"),
        ({"columns": 1}, r"columns = 1 must be 0 \(the whole vocabulary\) or >= 2"),
    ],
)
def test_a_setting_that_cannot_be_measured_is_one_sentence(wrong: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        Settings("/nowhere", **SETTINGS | wrong)


def test_a_model_that_does_not_exist_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        measure_step(Settings(str(tmp_path / "none"), **SETTINGS), repeats=1)


def test_every_chosen_method_is_timed_beside_mezo(settings: Settings) -> None:
    """Forwards, state and the ratio of a real step of three methods: one plain, one with state, one with two rounds."""
    given = {"ldsd": {"points": 3}, "zodist": {"passes": 2}}
    lines = {
        line.what: line
        for line in measure_methods(["mezo", "ldsd", "zodist"], settings, repeats=2, given=given)
    }
    notes = {name: line.note.split(" forwards a step, ") for name, line in lines.items()}
    assert {name: note[0] for name, note in notes.items()} == {"mezo": "2", "ldsd": "4", "zodist": "3"}
    assert notes["mezo"][1] == "0.0 MiB of state" and not notes["ldsd"][1].startswith("0.0 ")
    for line in lines.values():
        assert line.peer and line.ceiling and line.ratio == line.value / line.ceiling
        assert line.speedup == line.peer / line.value
        json.dumps(line.plain())


@pytest.mark.parametrize(
    ("names", "given", "why"),
    [
        (["mezzo"], {}, "'mezzo' is not a method; did you mean 'mezo'"),
        (["mezo"], {"mezo": {"probe": 2}}, "method 'mezo': probe"),
    ],
)
def test_a_method_or_setting_that_is_unknown_is_named(settings: Settings, names, given, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        measure_methods(names, settings, repeats=1, given=given)
