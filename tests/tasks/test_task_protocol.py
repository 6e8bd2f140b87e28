"""The eleven tasks of MeZO's protocol: each renders, trains and evaluates, with the same figures on one worker and two."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from films import byte_level, write
from protocol_rows import ROWS
from runs import Place, finish
from task_rows import random_llama, text_of

from zodist.tasks.loading import load_task
from zodist.tasks.task import Task
from zodist.tasks.task_file import built_in, describe

CONFIG = """
[run]
folder = "{folder}/run"
steps = 2
threads = 1
[model]
name = "{folder}/model"
[task]
name = "{name}"
files = {{train = "{folder}/train.jsonl", validation = "{folder}/validation.jsonl"}}
train = 8
validation = 3
test = 9
[rule]
lr = 1e-3
[batch]
size = 3
[output]
plot = false
"""
# The field whose text a prompt must hold, and what carries the loss in the first training row of seed 0.
HOLDS = {
    "sst2": ["It was"],
    "rte": ['"It was dull"'],
    "cb": ['"it was dull"'],
    "boolq": ["Was it dull?"],
    "wsc": ['is "it" the same as'],
    "wic": ['does "cast" mean'],
    "multirc": ["Who saw it?"],
    "copa": ["dull because", "dull so"],
    "record": ["\n- They saw a film\n-"],
    "squad": ["Article: Films"],
    "drop": ["How often?"],
}


def load(name: str, folder: Path) -> Task:
    files = {
        "train": write(folder / "train.jsonl", [ROWS[name](n) for n in range(14)]),
        "validation": write(folder / "validation.jsonl", [ROWS[name](n) for n in range(14, 26)]),
    }
    counts = {"train": 8, "validation": 3, "test": 9, "seed": 0, "max_tokens": None}
    return load_task(name, byte_level(), files=files, **counts)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    byte_level().save_pretrained(folder)
    random_llama().save_pretrained(folder)
    return folder


def test_the_protocol_is_complete() -> None:
    assert set(ROWS) == set(HOLDS) <= set(built_in())
    for name in ROWS:
        d = describe(name).defaults
        assert (d.train, d.test) == (1000, 1000)
        assert d.validation == (100 if name in ("cb", "copa") else 500)


@pytest.mark.parametrize("name", ROWS)
def test_a_task_renders_its_rows(name: str, tmp_path: Path) -> None:
    task = load(name, tmp_path)
    assert [len(split) for split in (task.train, task.validation, task.test)] == [8, 3, 9]
    rows = [ROWS[name](n) for n in range(14)]
    for example in task.train:
        row = rows[int(example.place.rpartition(":")[2]) - 1]
        tokens, ranges = task.shown(example)
        prompt = text_of(tokens[: ranges[0][0]])
        answer = text_of(tokens[ranges[0][0] :])
        assert any(words in prompt for words in HOLDS[name]) and len(ranges) == 1
        assert ranges[0][1] == len(tokens)
        if task.label_words:
            assert answer == task.label_words[row["label"]]
        elif name == "copa":
            choice = (row["choice1"], row["choice2"])[row["label"]]
            assert answer == " " + (choice if choice.startswith("I ") else choice[0].lower() + choice[1:])
            assert prompt.endswith({"cause": " because", "effect": " so"}[row["question"]])
        elif name == "record":
            assert answer == " " + row["query"].replace("@placeholder", row["answers"][0])
        else:
            given = row["answers"]["text"] if name == "squad" else row["answers_spans"]["spans"]
            assert answer == f" {given[0]}\n"


QUICK = {"cb", "copa", "squad"}  # one of each kind; the others are the same path with other words


@pytest.mark.parametrize(
    "name", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ROWS]
)
def test_a_task_trains_and_evaluates_alike_on_one_worker_and_on_two(
    name: str, model: Path, tmp_path: Path
) -> None:
    load(name, tmp_path)
    (tmp_path / "model").symlink_to(model)
    config = tmp_path / "config.toml"
    config.write_text(CONFIG.format(folder=tmp_path, name=name))
    place, found = Place(tmp_path, config), []
    for workers in (1, 2):
        finish(place, workers, f"run.folder={tmp_path}/run{workers}")
        found.append((tmp_path / f"run{workers}" / "metrics.jsonl").read_text())
    assert found[0] == found[1]
    lines = [json.loads(line) for line in found[0].splitlines()]
    scores = [line for line in lines if line.get("split") == "test"]
    assert [s["examples"] for s in scores] == [9, 9] and scores[0]["loss"] != scores[1]["loss"]
    for score in scores:
        told = {key for key in ("accuracy", "calibrated", "f1", "exact", "by_sum") if score[key] is not None}
        if name in ("squad", "drop"):
            assert told == {"f1", "exact"}
        elif name in ("copa", "record"):
            assert told == {"accuracy", "by_sum", "calibrated" if name == "copa" else "f1"}
        else:
            assert told == {"accuracy", "calibrated", "f1"}
