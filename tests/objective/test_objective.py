"""Objectives other than the loss: their numbers, rewards and how these fail, and runs whose bits nobody changes."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import Place, finish, make_place
from typer.testing import CliRunner

import zodist
from zodist.__main__ import app
from zodist.config import load
from zodist.errors import ConfigError, TaskError
from zodist.evaluator import Weights
from zodist.methods import StepSeeds
from zodist.models import load_model
from zodist.objective.reward import Written
from zodist.run import Parts, early, load_parts, replay
from zodist.step import Share
from zodist.tasks import Score

PROMPTS = """
kind = "prompts"
template = "{{sentence}} it was"
reference_field = "label"
most_tokens = 5
stop = ""
[source.files]
train = "{folder}/train.jsonl"
validation = "{folder}/validation.jsonl"
"""
CHOICE = """
kind = "choice"
template = "{{sentence}} it was"
options = [" bad", " good very"]
[source.files]
train = "{folder}/train.jsonl"
validation = "{folder}/validation.jsonl"
"""
GENERATION = """
kind = "generation"
template = "{{sentence}} it"
answers_field = "sentence"
most_tokens = 4
[source.files]
train = "{folder}/train.jsonl"
validation = "{folder}/validation.jsonl"
"""
REWARD = """
def very(written):
    assert written.prompt and written.reference == str(written.row["label"])
    return written.answer.count("very")
"""
PROGRAM = """
import json, sys
for line in sys.stdin:
    print(json.loads(line)["answer"].count("very"))
"""
SHORT = (
    "run.steps=6",
    "method.probes=3",
    "output.evaluate_every=3",
    "output.snapshot_every=2",
    "batch.size=4",
)
DRAWN = ("objective.kind=reward", "objective.samples=2", "objective.temperature=1.0", "rule.lr=1e-4")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Place:
    made = make_place(tmp_path_factory.mktemp("objectives"))
    for name, text in (("prompts", PROMPTS), ("choice", CHOICE), ("generation", GENERATION)):
        (made.folder / f"{name}.toml").write_text(text.format(folder=made.folder))
    (made.folder / "reward.py").write_text(REWARD)
    (made.folder / "program.py").write_text(PROGRAM)
    return made


def of(place: Place, task: str) -> str:
    return f"task.name={place.folder / task}.toml"


def by_function(place: Place) -> tuple[str, ...]:
    return *SHORT, *DRAWN, of(place, "prompts"), f"objective.function={place.folder}/reward.py:very"


def files(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in ("journal.jsonl", "metrics.jsonl")}


@pytest.fixture(scope="module")
def reference(place, tmp_path_factory) -> Path:
    """A run of one worker."""
    folder = tmp_path_factory.mktemp("reference")
    finish(place, 1, *by_function(place), f"run.folder={folder}")
    return folder


def test_a_run_tells_its_reward_and_two_workers_have_its_bits(place, reference, tmp_path):
    finish(place, 2, *by_function(place), f"run.folder={tmp_path}")
    assert files(tmp_path) == files(reference)
    lines = [json.loads(line) for line in (reference / "metrics.jsonl").read_bytes().splitlines()]
    told = [line for line in lines if "split" in line]
    assert {line["step"] for line in told} == {0, 3, 6}
    for line in told:
        assert line["aim"] == line["loss"] == -line["reward"] and line["reward_error"] > 0
    losses = [line["loss"] for line in lines if "slope" in line]
    assert len(losses) == 6 and -5 <= min(losses) and max(losses) <= 0
    header = json.loads((reference / "journal.jsonl").read_bytes().splitlines()[0])
    told = {"kind": "reward", "function": "reward.py:very", "samples": 2, "temperature": 1.0}
    assert header["objective"] == told, "where the file lies is no part of a run"


def test_a_run_that_is_taken_up_again_has_the_same_bits(place, reference, tmp_path):
    finish(place, 2, *by_function(place), "run.steps=3", f"run.folder={tmp_path}")
    finish(place, 1, *by_function(place), f"run.folder={tmp_path}")
    assert files(tmp_path)["journal.jsonl"] == files(reference)["journal.jsonl"]


def test_a_replay_asks_for_no_reward(place, reference, tmp_path):
    text = (reference / "config.toml").read_text()
    (tmp_path / "run").mkdir()
    for name in ("journal.jsonl", "metrics.jsonl"):
        (tmp_path / "run" / name).write_bytes((reference / name).read_bytes())
    (tmp_path / "run" / "config.toml").write_text(text.replace("/reward.py", "/absent/reward.py"))
    told = [json.loads(line) for line in (reference / "metrics.jsonl").read_bytes().splitlines()]
    assert (
        replay(tmp_path / "run", tmp_path / "out").digest == [x for x in told if "digest" in x][-1]["digest"]
    )


def test_a_command_gives_what_a_function_gives(place, reference, tmp_path):
    command = json.dumps([sys.executable, str(place.folder / "program.py")])
    given = [x for x in by_function(place) if "function" not in x]
    finish(place, 1, *given, f"objective.command={command}", f"run.folder={tmp_path}")
    ours, theirs = (files(folder)["journal.jsonl"].splitlines()[1:] for folder in (tmp_path, reference))
    assert ours == theirs


def test_probes_in_one_forward_have_the_rewards_of_single_ones(place, reference, tmp_path):
    """Token for token, so the records are the same: the model is float32 and tiny."""
    finish(place, 1, *by_function(place), "batch.probes_per_forward=2", f"run.folder={tmp_path}")
    ours, theirs = (files(folder)["journal.jsonl"].splitlines()[1:] for folder in (tmp_path, reference))
    assert ours == theirs


def at(parts: Parts, point) -> Score:
    """The training examples' score under moved weights, as an evaluation has it."""
    replica = parts.replica()
    kept = [p.weights.clone() for p in parts.params]
    for p in parts.params:
        law = replica.directions[p.id]
        assert law is not None
        moved = p.weights.new_empty(1, len(p.weights))
        law.lay(p, [point], {}).write_(p, 0, len(p.weights), moved, parallel=False)
        p.weights.copy_(moved[0])
    evaluator = parts.evaluator()
    examples = [e for piece in parts.pieces(np.arange(12)) for e in piece]
    try:
        figures = parts.task.measure(Weights(evaluator), examples)
        return parts.task.score(figures, examples)
    finally:
        evaluator.close()
        for p, before in zip(parts.params, kept, strict=True):
            p.weights.copy_(before)


@pytest.mark.parametrize(
    "task, kind",
    [
        ("task", "accuracy"),
        ("task", "f1"),
        ("choice", "accuracy"),
        ("generation", "f1"),
        ("generation", "exact"),
    ],
)
def test_numbers_are_those_of_an_evaluation_at_the_point(place, task, kind):
    config = load(
        place.config, [of(place, task), f"objective.kind={kind}", "batch.size=12", "method.eps=0.1"]
    )
    parts = load_parts(config, 1)
    replica = parts.replica()
    probes = next(replica.method.step(StepSeeds(0, 0)))[:2]
    evaluator = parts.evaluator(replica)
    got = parts.losses(evaluator, Share(probes, (np.arange(12),) * 2, ((0, 0),) * 2))
    evaluator.close()
    want = [[1.0 - getattr(at(parts, point), kind) for point in probe.points] for probe in probes]
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-7)
    assert kind == "exact" or len(set(got.reshape(-1))) > 1, (
        "the points must differ for this to mean anything"
    )


def test_a_file_beside_the_configuration_is_found(place):
    given = ["objective.kind=reward", "objective.function=reward.py:very"]
    assert load(place.config, given).objective.function == f"{place.folder.as_posix()}/reward.py:very"
    command = "objective.command=['python3', 'program.py', '--fast']"
    found = load(place.config, ["objective.kind=reward", command]).objective.command
    assert found == ["python3", f"{place.folder.as_posix()}/program.py", "--fast"]


def test_early_stopping_and_the_best_step_follow_the_objective():
    lines = [
        {"step": step, "split": "validation", "loss": loss, "aim": aim}
        for step, loss, aim in ((0, 1.0, 0.5), (10, 2.0, 0.2), (20, 0.5, 0.4))
    ]
    assert early.best(early.course(lines)) == 10
    assert early.best(early.course([{k: v for k, v in line.items() if k != "aim"} for line in lines])) == 20
    assert Score(1, 2.0, 0.1).criterion == 2.0 and Score(1, 2.0, 0.1, aim=-3.0).criterion == -3.0


def test_a_function_at_hand_gives_the_run_of_the_command_line(place, reference):
    model, tokenizer = load_model(str(place.folder / "model"), torch.float32, "sdpa")

    def very(written: Written) -> float:
        return written.answer.count("very")

    counts = {"task.train": 48, "task.validation": 12, "task.test": 20}
    given = {
        "method.probes": 3,
        "method.eps": 1e-2,
        "objective.samples": 2,
        "objective.temperature": 1.0,
        **counts,
    }
    task = place.folder / "prompts.toml"
    tuned = zodist.fine_tune(
        model, task, steps=6, lr=1e-4, batch_size=4, tokenizer=tokenizer, reward=very, settings=given
    )
    lines = [json.loads(line) for line in (reference / "metrics.jsonl").read_bytes().splitlines()]
    assert tuned.losses == [line["loss"] for line in lines if "slope" in line]
    assert (
        tuned.after
        and tuned.after.reward == [line for line in lines if line.get("split") == "test"][-1]["reward"]
    )
    with pytest.raises(ConfigError, match="give reward with a task whose answers it judges"):
        zodist.fine_tune(model, lambda model, batch: 0.0, [1], steps=1, lr=1e-4, reward=very)


@pytest.mark.parametrize(
    "given, sentence",
    [
        (["objective.kind=reward"], "and neither is given; set one of them"),
        (
            ["objective.kind=reward", "objective.function=a:b", "objective.command=['c']"],
            "and both are given",
        ),
        (
            ["objective.kind=reward", "objective.function=score"],
            "must read 'package.module:name' or 'file.py:name'",
        ),
        (["objective.function=a:b"], "has no effect with objective.kind = 'loss'"),
        (["objective.kind=accuracy", "objective.temperature=1.0"], "objective.temperature has no effect"),
        (["objective.kind=exact", "objective.samples=2"], "with objective.temperature = 0 are all the same"),
        (["objective.kind=f1", "method.name=grzo"], "needs one of each example; choose another method"),
        (["objective.kind=f1", "shard.kind=fsdp"], "needs a whole model on every worker"),
        (
            ["objective.kind=reward", "objective.function=a:b", "batch.cache_frozen=true"],
            "rows that are being written",
        ),
    ],
)
def test_a_contradiction_is_one_sentence(place, given, sentence):
    with pytest.raises(ConfigError, match=sentence):
        load(place.config, given)


@pytest.mark.parametrize(
    "task, kind, sentence",
    [
        ("prompts", "loss", "has prompts and no answers, so it has no loss; set objective.kind = 'reward'"),
        ("task", "reward", "judges what a model writes, and task 'task' has it choose"),
        ("task", "exact", "objective.kind = 'exact' is no figure of task 'task', whose metric is 'accuracy'"),
        ("generation", "accuracy", "objective.kind = 'accuracy' is no figure of task 'generation'"),
        ("choice", "f1", "objective.kind = 'f1' is no figure of task 'choice'"),
    ],
)
def test_a_task_without_the_figure_is_named(place, task, kind, sentence):
    function = ["objective.function=a:b"] if kind == "reward" else []
    with pytest.raises(TaskError, match=sentence):
        load_parts(load(place.config, [of(place, task), f"objective.kind={kind}", *function]), 1)


def test_a_task_of_prompts_is_shown(place):
    told = CliRunner().invoke(
        app,
        [
            "tasks",
            "show",
            str(place.folder / "prompts.toml"),
            "--model",
            str(place.folder / "model"),
            "--json",
        ],
    )
    assert told.exit_code == 0, told.output
    found = json.loads(told.output)
    assert found["metric"] == "reward" and len(found["examples"]) == 3
    assert all(piece["loss"] is False for example in found["examples"] for piece in example["pieces"])


def test_the_loss_is_what_it_was(place, tmp_path):
    """Naming the default changes neither journal nor header."""
    config = load(place.config, ["objective.kind=loss"])
    assert "objective" not in config.identity() and load_parts(config, 1).objective is None


@pytest.mark.slow
def test_a_tiny_model_learns_what_is_rewarded(place, tmp_path):
    """A count of words has no gradient; the reward rises by many standard errors."""
    given = [
        *by_function(place),
        "run.steps=80",
        "method.probes=4",
        "method.eps=3e-2",
        "rule.lr=2e-3",
        "batch.size=8",
    ]
    finish(place, 1, *given, "output.evaluate_every=0", "rule.shaping=group", f"run.folder={tmp_path}")
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_bytes().splitlines()]
    before, after = (line for line in lines if line.get("split") == "test")
    error = math.hypot(before["reward_error"], after["reward_error"])
    assert after["reward"] - before["reward"] > 5 * error
