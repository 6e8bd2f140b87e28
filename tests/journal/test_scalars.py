"""Scalars for TensorBoard: the figures of metrics.jsonl, once a step, and a sentence where a package is missing."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
from runs import Place, finish, make_place

from zodist.config import load
from zodist.errors import ConfigError
from zodist.journal.scalars import Scalars, require, scalars


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    return make_place(tmp_path_factory.mktemp("scalars"))


def test_tags_are_the_finite_numbers_of_a_line():
    step = {"step": 3, "loss": 0.5, "slope": float("nan"), "lr": 1e-3, "forwards": 6}
    assert scalars(step) == {"train/loss": 0.5, "train/lr": 1e-3, "train/forwards": 6.0}
    found = {"step": 3, "split": "test", "loss": 0.25, "accuracy": None, "calibrated": None, "examples": 20}
    assert scalars(found) == {"test/loss": 0.25}
    assert scalars({"step": 3, "digest": "0123456789abcdef"}) == {}


def test_what_is_not_installed_is_a_sentence_with_the_command(place, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)  # as if it were not there
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(ConfigError, match=r"pip install 'zodist\[tensorboard\]'$"):
        require(load(place.config, ["output.tensorboard=true"]).output)
    with pytest.raises(ConfigError, match="pip install wandb$"):
        require(load(place.config, ["output.wandb=true"]).output)
    require(load(place.config).output)


@pytest.mark.skipif(find_spec("wandb") is not None, reason="wandb is installed")
def test_a_run_that_asks_for_wandb_ends_before_it_loads_anything(place):
    done = subprocess.run(
        [sys.executable, "-m", "zodist", "train", str(place.config), "output.wandb=true", "model.name=none"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 2 and "pip install wandb" in done.stderr, done.stderr
    assert not (place.run / "journal.jsonl").exists()


@pytest.mark.skipif(find_spec("tensorboard") is None, reason="tensorboard is not installed")
def test_a_run_that_goes_on_has_each_step_once_and_as_in_its_metrics(place):
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    finish(place, 2, "output.tensorboard=true", "run.steps=9")
    finish(place, 1, "output.tensorboard=true")
    events = EventAccumulator(str(place.run / "tensorboard"), size_guidance={SCALARS: 0}).Reload()
    lines = place.lines("metrics.jsonl")
    for tag, name in (("train/loss", "loss"), ("train/slope", "slope"), ("train/lr", "lr")):
        want = [(line["step"], line[name]) for line in lines if "slope" in line]
        got = [(event.step, event.value) for event in events.Scalars(tag)]
        assert [step for step, _ in got] == [step for step, _ in want] == list(range(1, 21))
        assert [value for _, value in got] == pytest.approx([value for _, value in want], rel=1e-6)
    tested = [line for line in lines if line.get("split") == "test" and line["step"] in (0, 20)]
    got = {event.step: event.value for event in events.Scalars("test/accuracy")}
    assert {line["step"]: pytest.approx(line["accuracy"]) for line in tested}.items() <= got.items()
    assert events.Scalars("bytes/sent")[0].value > 0


def test_nothing_is_written_unless_asked_for(place, tmp_path):
    shown = Scalars(load(place.config, [f"run.folder={tmp_path}"]), "0" * 16, 0)
    shown.write({"step": 1, "loss": 0.5, "slope": 1.0})
    shown.close()
    assert list(Path(tmp_path).iterdir()) == []
