"""Averages of a run's weights, early stopping, and the best step: all from the files that a run leaves."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from runs import Place, finish, make_place
from safetensors.torch import load_file
from typer.testing import CliRunner

from zodist.__main__ import app
from zodist.config import load
from zodist.directions import Param, address
from zodist.errors import ConfigError, JournalError
from zodist.run import assess, best_step, early, replay
from zodist.step.average import Average


def weights(folder) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def param(values: list[float], dtype: torch.dtype = torch.float32) -> Param:
    flat = torch.tensor(values, dtype=dtype)
    return Param("w", address("w"), (len(values),), flat, flat)


def test_an_average_is_the_weighted_sum_of_all_steps_and_the_start():
    p, mean, seen = param([0.0, 1.0]), Average(0.75), [np.array([0.0, 1.0])]
    mean.begin([p])
    for step in range(5):
        p.weights.add_(torch.tensor([0.5, -0.25]) * (step + 1))
        seen.append(p.weights.double().numpy().copy())
        mean.take([p])
    mean.give([p])
    shares = [0.75**5] + [0.25 * 0.75 ** (4 - k) for k in range(5)]
    assert sum(shares) == pytest.approx(1)
    want = sum(share * at for share, at in zip(shares, seen, strict=True))
    np.testing.assert_allclose(p.weights.numpy(), want, rtol=1e-6)


def test_an_average_of_16_bit_weights_is_kept_in_32():
    """A step of a tenth of the last place, ten times, is a whole one; summed in 16 bits it would be none."""
    p, mean = param([1.0], torch.bfloat16), Average(0.9)
    mean.begin([p])
    p.weights.fill_(1.0 + 2**-7)
    for _ in range(30):
        mean.take([p])
    mean.give([p])
    assert float(p.weights[0]) == 1.0 + 2**-7


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Place:
    place = make_place(tmp_path_factory.mktemp("run"))
    finish(place, 1, "rule.lr=1e-2", "output.evaluate_every=4", "output.test=false")
    return place


def test_the_average_of_a_run_is_that_of_its_steps(trained, tmp_path):
    for step in range(21):
        replay(trained.run, tmp_path / str(step), steps=step)
    found = replay(trained.run, tmp_path / "mean", average=0.8)
    want = {name: tensor.double() for name, tensor in weights(tmp_path / "0").items()}
    for step in range(1, 21):
        after = weights(tmp_path / str(step))
        want = {name: 0.8 * held + 0.2 * after[name].double() for name, held in want.items()}
    got = weights(tmp_path / "mean")
    for name, tensor in got.items():
        np.testing.assert_allclose(tensor.numpy(), want[name].numpy(), rtol=0, atol=1e-6)
    assert found.steps == 20 and found.verified and found.digest != trained.digest()
    card = (tmp_path / "mean" / "README.md").read_text()
    assert "--out FOLDER --average 0.8\n" in card and f"digest `{found.digest}`" in card
    assert "after 20 steps" not in card, "no evaluation is of these weights"
    assert "--out FOLDER --steps 8\n" in (tmp_path / "8" / "README.md").read_text()
    assert replay(trained.run, average=0.0).digest == trained.digest(), (
        "no share of the past: the last weights"
    )


def test_the_best_step_is_replayed_and_evaluated(trained):
    scores = {e["step"]: e["loss"] for e in trained.lines("metrics.jsonl") if e.get("split") == "validation"}
    assert sorted(scores) == [0, 4, 8, 12, 16, 20]
    best = min(scores, key=lambda step: scores[step])
    assert best_step(trained.run) == best
    config = load(trained.run / "config.toml")
    score, what = assess(config, "validation", trained.run, steps=best)
    assert score.loss == scores[best] and f"after {best} steps" in what
    smooth, what = assess(config, "validation", trained.run, average=0.5)
    assert smooth.loss not in scores.values() and "averaged with decay 0.5" in what


def test_the_command_line_takes_the_best_step_and_the_average(trained):
    def printed(*arguments: str) -> dict:
        found = CliRunner().invoke(app, [*arguments, "--json"])
        assert found.exit_code == 0, found
        return json.loads(found.stdout)

    run, best = str(trained.run), best_step(trained.run)
    assert printed("replay", run, "--best")["steps"] == best
    smooth = printed("replay", run, "--average", "0.8")
    assert smooth["digest"] == replay(trained.run, average=0.8).digest and smooth["verified"]
    found = printed("evaluate", run, "--split", "validation", "--best")
    assert f"after {best} steps" in found["model"]
    refused = CliRunner().invoke(app, ["evaluate", str(trained.config), "--average", "0.9"])
    assert isinstance(refused.exception, ConfigError) and "name its folder" in str(refused.exception)


def test_an_adapter_is_evaluated_after_a_replay_too(tmp_path):
    pytest.importorskip("peft")
    place = make_place(tmp_path)
    finish(place, 1, "model.adapter=lora", "run.steps=4", "rule.lr=1e-2", "output.evaluate_every=2")
    scores = {e["step"]: e["loss"] for e in place.lines("metrics.jsonl") if e.get("split") == "validation"}
    assert len(set(scores.values())) == 3
    config = load(place.run / "config.toml")
    for step, loss in scores.items():
        assert assess(config, "validation", place.run, steps=step)[0].loss == loss


def test_patience_counts_evaluations_without_a_lower_loss():
    losses = {0: 3.0, 2: 2.0, 4: 2.5, 6: 2.0, 8: 1.0}
    assert [early.enough(losses, t, 2) for t in (0, 2, 4, 6, 8)] == [False, False, False, True, False]
    assert not early.enough(losses, 6, 3) and not early.enough(losses, 6, 0)
    assert early.enough({0: 1.0, 1: float("nan"), 2: float("nan")}, 2, 2)
    assert (
        early.best(losses) == 8
        and early.best({4: 2.0, 2: 2.0}) == 2
        and early.best({0: float("nan")}) is None
    )


@pytest.mark.parametrize("test", ["true", "false"])
def test_a_run_ends_when_its_loss_has_stopped_falling_and_stays_ended(test, tmp_path):
    """With a rate that leads nowhere the loss rises; two workers end after the same step."""
    place = make_place(tmp_path)
    settings = (
        "rule.lr=3.0",
        "run.steps=40",
        "output.evaluate_every=3",
        "output.patience=2",
        f"output.test={test}",
    )
    finish(place, 2, *settings)
    steps = [line["step"] for line in place.lines("metrics.jsonl") if "slope" in line]
    lines = [line for line in place.lines("metrics.jsonl") if "split" in line]
    losses = early.course(lines)
    last = steps[-1]
    assert last < 40 and last % 3 == 0 and early.enough(losses, last, 2)
    assert not any(early.enough(losses, t, 2) for t in range(last))
    assert (last, "test" if test == "true" else "validation") in {(e["step"], e["split"]) for e in lines}
    assert len(lines) == len({(e["step"], e["split"]) for e in lines})
    assert (place.run / f"snapshot-{last:08d}.safetensors").exists()
    journal, metrics = place.file("journal.jsonl"), place.file("metrics.jsonl")
    finish(place, 1, *settings)
    assert place.file("journal.jsonl") == journal and place.file("metrics.jsonl") == metrics
    for snapshot in place.run.glob("snapshot-*"):
        snapshot.unlink()
    finish(place, 1, *settings)
    assert place.file("journal.jsonl") == journal
    assert replay(place.run).digest == place.digest()


def test_what_early_stopping_and_averages_need_is_said(tmp_path):
    place = make_place(tmp_path)
    for settings, sentence in {
        (
            "output.patience=2",
            "output.evaluate_every=0",
        ): r"output\.patience counts evaluations; set output\.evaluate",
        (
            "output.patience=2",
            "exchange.kind=store",
            "exchange.address=h:1",
        ): r"output\.patience needs workers that end",
    }.items():
        with pytest.raises(ConfigError, match=sentence):
            load(place.config, settings)
    with pytest.raises(ConfigError, match=r"--average 1\.0 must be at least 0 and less than 1"):
        Average(1.0)
    (tmp_path / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 2.0, "slope": 0.1}) + "\n")
    with pytest.raises(
        JournalError, match=r"no evaluation on the validation split; set output\.evaluate_every"
    ):
        best_step(tmp_path)
