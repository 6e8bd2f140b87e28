"""``zodist bench step`` on a small model: a real run, its figures and its memory."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from films import byte_level
from rich.console import Console
from transformers import LlamaConfig, LlamaForCausalLM

from zodist.bench.methods import measure_methods
from zodist.bench.methods import table as methods_table
from zodist.bench.step import measure_step, table
from zodist.errors import ConfigError, ModelError
from zodist.params import collect, digest

SETTINGS: dict[str, Any] = {
    "noise": "rademacher",
    "batch": 2,
    "tokens": 5,
    "dtype": "float32",
    "probes": 2,
    "threads": 1,
    "repeats": 2,
    "wide": 64,
}
TIMES = (
    "bare_forwards bare_forwards_all_logits step evaluate update inplace_step update_one update_wide".split()
)
RATIOS = ["ratio_to_bare", "speedup_over_inplace", "update_ratio"]
PEAKS = ["peak_bytes", "bare_peak_bytes", "inplace_peak_bytes", "largest_layer_bytes"]


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


@pytest.fixture(scope="module")
def result(saved: Path) -> Iterator[dict[str, Any]]:
    threads = torch.get_num_threads()
    yield measure_step(model=str(saved), **SETTINGS)
    torch.set_num_threads(threads)


@pytest.mark.slow
def test_every_figure_is_there_and_makes_sense(result: dict[str, Any]) -> None:
    for key in [f"{name}_s" for name in TIMES] + RATIOS:
        low, middle, high = (result["spread"][key][name] for name in ("min", "median", "max"))
        assert 0 < low <= middle <= high < math.inf, key
        assert 0 < result[key] < math.inf, key
    assert result["evaluate_s"] + result["update_s"] == pytest.approx(result["step_s"], rel=0.5)
    assert result["ratio_to_bare"] == result["step_s"] / result["bare_forwards_s"]
    assert result["speedup_over_inplace"] == result["inplace_step_s"] / result["step_s"]
    for key in SETTINGS:
        assert result[key] == SETTINGS[key]
    assert result["torch"] == torch.__version__
    assert json.loads(json.dumps(result)) == result


@pytest.mark.slow
def test_a_step_needs_at_most_two_layers_more_than_a_bare_forward(result: dict[str, Any]) -> None:
    """And the in-place step, which draws a whole layer's noise and its products, needs at least that."""
    weights, layer = 4 * result["parameters"], result["largest_layer_bytes"]
    assert layer == 16384 * 256 * 4
    assert weights <= result["bare_peak_bytes"] < weights + layer
    assert result["peak_bytes"] <= result["bare_peak_bytes"] + 2 * layer
    assert result["inplace_peak_bytes"] >= result["bare_peak_bytes"] + layer


@pytest.mark.slow
def test_the_table_shows_every_variant(result: dict[str, Any]) -> None:
    console = Console(file=io.StringIO(), width=160)
    console.print(table(result))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    for part in (
        "bare forwards",
        "zodist step",
        "in-place step",
        "update, 64 probes",
        "16.0 MiB",
        "2 probes",
    ):
        assert part in text


def test_the_loss_over_the_whole_vocabulary_is_measured_too(saved: Path) -> None:
    from zodist.bench.variants import Bench, Settings, load

    for columns in (0, 3):
        settings = Settings(str(saved), "gaussian", 2, 5, "bfloat16", 1, 1, columns, 2)
        model = load(settings)
        bench = Bench(model, settings)
        before = digest(collect(model))
        few, every = bench._few_logits(), bench._all_logits()
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
        ({"repeats": 0}, r"repeats = 0 must be >= 1"),
        ({"columns": 1}, r"columns = 1 must be 0 \(the whole vocabulary\) or >= 2"),
    ],
)
def test_a_setting_that_cannot_be_measured_is_one_sentence(wrong: dict[str, Any], sentence: str) -> None:
    settings: dict[str, Any] = {"model": "/nowhere"} | SETTINGS | wrong
    with pytest.raises(ConfigError, match=sentence):
        measure_step(**settings)  # pyright: ignore


def test_a_model_that_does_not_exist_is_said_before_anything_runs(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="does not exist"):
        measure_step(model=str(tmp_path / "none"), **SETTINGS)


def test_every_chosen_method_is_timed_beside_mezo(saved: Path) -> None:
    """Forwards, state and the ratio of a real step of three methods: one plain, one with state, one with two rounds."""
    given = {"ldsd": {"points": 3}, "zodist": {"passes": 2}}
    names = ["mezo", "ldsd", "zodist"]
    shared = {key: SETTINGS[key] for key in ("noise", "batch", "tokens", "dtype", "threads", "repeats")}
    lines = {line["method"]: line for line in measure_methods(names, model=str(saved), given=given, **shared)}
    assert {name: line["forwards"] for name, line in lines.items()} == {"mezo": 2, "ldsd": 4, "zodist": 3}
    weights = 4 * sum(p.numel() for p in LlamaForCausalLM.from_pretrained(saved).parameters())
    assert (lines["mezo"]["state_bytes"], lines["ldsd"]["state_bytes"]) == (0, weights)
    for line in lines.values():
        assert 0 < line["ratio_min"] <= line["ratio"] <= line["ratio_max"] < math.inf
        assert line["step_s"] == pytest.approx(line["evaluate_s"] + line["update_s"], rel=0.5)
        json.dumps(line)
    console = Console(file=io.StringIO(), width=140)
    console.print(methods_table(list(lines.values())))
    assert all(name in console.file.getvalue() for name in names)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("names", "given", "why"),
    [
        (["mezzo"], {}, "'mezzo' is not a method; did you mean 'mezo'"),
        (["mezo"], {"mezo": {"probe": 2}}, "method 'mezo': probe"),
    ],
)
def test_a_method_or_setting_that_is_unknown_is_named(saved: Path, names, given, why: str) -> None:
    shared = {key: SETTINGS[key] for key in ("noise", "batch", "tokens", "dtype", "threads", "repeats")}
    with pytest.raises(ConfigError, match=why):
        measure_methods(names, model=str(saved), given=given, **shared)
