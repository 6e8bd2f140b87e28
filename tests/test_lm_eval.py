"""The exported folder under lm-evaluation-harness: a model like any other, with the accuracy that zodist measured."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest
from runs import finish, make_place
from transformers import AutoTokenizer

from zodist.run import replay

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("lm_eval") is None,
        reason="lm-evaluation-harness is not installed: pip install 'zodist[eval]'",
    ),
]

TASK = """
task: films
dataset_path: json
dataset_kwargs:
  data_files:
    validation: {folder}/validation.jsonl
  cache_dir: {folder}/cache
output_type: multiple_choice
validation_split: validation
doc_to_text: "{{{{sentence}}}} it was"
doc_to_choice: ["bad", "good"]
doc_to_target: label
metric_list:
  - metric: acc
"""


def test_the_harness_measures_the_accuracy_that_zodist_measured(tmp_path: Path) -> None:
    place = make_place(tmp_path)
    words = AutoTokenizer.from_pretrained(place.folder / "model")
    words.eos_token = words.pad_token  # the harness wants one; what it stands for is not asked here
    words.save_pretrained(place.folder / "model")
    finish(place, 1, "task.test=24")  # all rows of the file
    replay(place.run, tmp_path / "tuned")
    (tmp_path / "tasks").mkdir()
    (tmp_path / "tasks" / "films.yaml").write_text(TASK.format(folder=tmp_path))

    from lm_eval import simple_evaluate
    from lm_eval.tasks import TaskManager

    found = simple_evaluate(
        model="hf",
        model_args={"pretrained": str(tmp_path / "tuned"), "dtype": "float32"},
        tasks=["films"],
        device="cpu",
        batch_size=8,
        bootstrap_iters=0,
        task_manager=TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False),
    )
    assert found is not None
    last = [line for line in place.lines("metrics.jsonl") if line.get("split") == "test"][-1]
    said = json.loads(json.dumps(found["results"]["films"]))
    assert last["examples"] == 24 and said["acc,none"] == pytest.approx(last["accuracy"], abs=1e-12)
