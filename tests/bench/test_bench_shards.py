"""`zodist bench shards`: random models that are written and never in memory, and real steps on them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from shapes import shaped
from transformers import AutoTokenizer

from zodist.bench.random_model import write
from zodist.bench.shards import Shards, measure_shards
from zodist.errors import ConfigError
from zodist.shard import WeightFiles

SHARDS = Shards(
    model="",
    kind="fsdp",
    workers=1,
    size=1,
    offload="none",
    limit=0,
    layers=0,
    batch=2,
    tokens=5,
    probes=1,
    steps=2,
    threads=1,
    folder="",
)


def test_a_random_model_is_a_model_folder(tmp_path: Path) -> None:
    given = shaped(tmp_path / "given")
    task, parameters = write(tmp_path / "made", str(given), 2, 7)
    files = WeightFiles(tmp_path / "made", "made", "model")
    row = torch.empty(64 * 32)
    files.read_("model.embed_tokens.weight", (64, 32), 0, row)
    assert (
        row.abs().unique().tolist() == [pytest.approx(0.02, rel=1e-2)]
        and 0.4 < (row > 0).float().mean() < 0.6
    )
    norm = torch.empty(32)
    files.read_("model.norm.weight", (32,), 0, norm)
    assert (norm == 1).all()
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(tmp_path / "made")
    assert len(model.model.layers) == 2 and parameters == sum(p.numel() for p in model.parameters())
    assert model.dtype == torch.bfloat16
    sentence = json.loads((tmp_path / "made" / "rows.jsonl").read_text().splitlines()[0])["sentence"]
    assert len(AutoTokenizer.from_pretrained(tmp_path / "made")(f"{sentence} it was").input_ids) == 7
    assert task.exists()


@pytest.mark.slow
def test_the_whole_models_step_is_calculated_from_two_cuts(tmp_path: Path) -> None:
    given = shaped(tmp_path / "given")
    lines = measure_shards(replace(SHARDS, model=str(given), folder=str(tmp_path)), [1, 2])
    found = {line.name: line for line in lines}
    assert len(found) == len(lines)
    one, two = found["step, 1 layers"].value, found["step, 2 layers"].value
    whole = found["a step with all 3 layers"]
    assert whole.value == pytest.approx(one + 2 * (two - one)) and "not measured" in whole.note
    assert all(0 < line.value for name, line in found.items() if "memory" in name)
    assert not [path for path in tmp_path.iterdir() if path.name != "given"], "nothing stays"


def test_numbers_that_do_not_fit_are_one_sentence() -> None:
    for asked, layers, sentence in [
        (replace(SHARDS, steps=1), [], "--steps 1 must be >= 2"),
        (SHARDS, [2, 1], r"--layers \[2, 1\] must be two numbers"),
    ]:
        with pytest.raises(ConfigError, match=sentence):
            measure_shards(asked, layers)
