"""Losses that lie: what rule.clip makes of them, for every method, and in real runs with one liar among eight."""

from __future__ import annotations

import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from runs import CONTEXT, make_place

from zodist.config import settings as config
from zodist.errors import ConfigError
from zodist.journal import read
from zodist.methods import METHODS
from zodist.models import params
from zodist.run import replay
from zodist.step import records
from zodist.step.fold import Replayed, Replica
from zodist.step.records import Entry
from zodist.step.robust import combine
from zodist.step.rules import RULES
from zodist.testing import made_up, subject, weights

LIAR, OF = 3, 8  # items n with n % 8 == 3 are the liar's


def normal(items: int, k: int) -> np.ndarray:
    """Values of honest items: differences of about 1e-3, mean losses of about 2."""
    random = np.random.default_rng(items + k)
    return records.to_values(2.0 + 0.1 * random.random((items, 1)) + 1e-3 * random.normal(size=(items, k)))


@pytest.mark.parametrize("k", [1, 2, 9])
def test_losses_in_proportion_keep_their_bits(k):
    values = np.tile(normal(1, k), (8, 1)) * np.float32(1.25)
    found = combine(values, 2, "mad")
    assert found.values.tobytes() == values.tobytes() and (found.lanes, found.outliers) == (2, 0)
    assert combine(values, 2, "none").values is values


@pytest.mark.parametrize("k", [2, 9])
def test_a_scaled_lie_is_brought_down_to_four_times_the_median_size_with_its_signs(k):
    honest = normal(16, k)
    lied = honest.copy()
    lied[5] *= np.float32(-1000)
    found = combine(lied, 1, "mad")
    others = np.arange(16) != 5
    sizes = np.sqrt((lied[:, :-1].astype(np.float64) ** 2).mean(axis=1))
    assert found.values[others].tobytes() == lied[others].tobytes() and found.outliers == 1
    np.testing.assert_array_equal(np.sign(found.values[5, :-1]), np.sign(lied[5, :-1]))
    size = math.sqrt((found.values[5, :-1].astype(np.float64) ** 2).mean())
    assert size == pytest.approx(4 * np.median(sizes), rel=1e-6)  # rounded to float32
    assert 0.0 <= found.values[5, -1] <= 5.0  # the mean loss as well


def test_in_a_later_round_the_change_of_the_mean_loss_is_judged():
    """A method that compares rounds sees the difference of two means: 1e-3 here, between means that differ by 0.1."""
    first, second = normal(16, 4), normal(16, 1)
    second[:, 0] = first[:, -1] + np.float32(1e-3)
    second[5] += np.float32(0.05)  # no outlier among the means, fifty times the change of the others
    found = combine(second, 1, "mad", first)
    assert found.outliers == 1
    assert found.values[5, 0] - first[5, -1] == pytest.approx(4e-3, rel=1e-3)  # rounding of the mean
    assert found.values[:5].tobytes() == second[:5].tobytes()


@pytest.mark.parametrize("clip", ["trimmed", "median"])
@pytest.mark.parametrize("lie", [-1000.0, -1.0, np.nan, np.inf])
def test_the_lanes_of_a_probe_outvote_any_lie_of_one(clip, lie):
    """Whatever one of three lanes says, each measurement lies between those of the others."""
    values = normal(12, 3)
    lied = values.copy()
    lied[4] *= np.float32(lie)
    found = combine(lied, 3, clip)
    assert found.lanes == 1 and found.values.shape == (4, 3)
    honest = values[[3, 5]]
    assert np.all(honest.min(axis=0) <= found.values[1]) and np.all(found.values[1] <= honest.max(axis=0))
    assert found.outliers == 1  # by its mean loss, where not by its size
    others = combine(values, 3, clip).values
    assert found.values[[0, 2, 3]].tobytes() == others[[0, 2, 3]].tobytes()


@pytest.mark.parametrize("clip", ["trimmed", "median"])
def test_a_probe_without_a_majority_of_finite_lanes_is_left_to_the_method(clip):
    values = normal(12, 2)
    values[[3, 4], :] = np.nan
    found = records.from_values(combine(values, 3, clip).values)
    assert np.isnan(found[1]).all() and np.isfinite(found[[0, 2, 3]]).all()


def test_trimming_leaves_the_middle_half_of_eight_lanes():
    values = normal(8, 2)
    found = combine(values, 8, "trimmed").values[0]
    np.testing.assert_allclose(found, np.sort(values, axis=0)[2:6].mean(axis=0), rtol=1e-6)  # one rounding


def test_lanes_can_only_be_compared_where_there_are_three(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[run]\nsteps = 1\n[model]\nname = "m"\n[task]\nname = "t"\n[rule]\nlr = 1.0\n')
    with pytest.raises(ConfigError, match="set batch.data_lanes = 3 or more, not 2"):
        config.load(path, ["rule.clip=median", "batch.data_lanes=2"])
    plain, clipped = config.load(path), config.load(path, ["rule.clip=mad"])
    assert "clip" not in plain.identity()["rule"]  # so that older journals go on
    assert clipped.identity()["rule"]["clip"] == "mad"


class Answers:
    """Made-up losses, of which the liar's are a thousand times too far apart; what was said is kept."""

    def __init__(self, lies: bool, lanes: int) -> None:
        self.lies, self.lanes, self.entries = lies, lanes, list[Entry]()

    def __call__(self, step, round, lr, probes, lanes):
        losses = np.repeat(made_up(step, round, probes), self.lanes, axis=0)
        if self.lies:
            losses[LIAR::OF] = 2000.0 - 1000.0 * losses[LIAR::OF]
        values = records.to_values(losses)
        self.entries.append(Entry(step, round, lr, values))
        return values


@pytest.mark.parametrize("clip", ["mad", "median"])
@pytest.mark.parametrize("name", METHODS)
def test_no_method_is_ruined_by_one_liar_and_all_are_replayed_to_the_bit(name, clip):
    """Made-up losses have no gradient, so the weights move by noise: a bounded lie at most triples that."""
    lanes = 1 if clip == "mad" else 3

    def moved(answer, clip) -> tuple[float, int]:
        chosen, settings = weights(torch.float32), config.Rule(lr=1e-4)
        before = [p.weights.clone() for p in chosen]
        method = subject(name).build(probes=OF)
        machine = Replica(
            chosen, method, RULES["sgd"](settings, chosen), seed=7, steps=2, data_lanes=lanes, clip=clip
        )
        while machine.step < 2:
            machine.advance(answer)
        far = sum(float((p.weights - b).double().square().sum()) for p, b in zip(chosen, before, strict=True))
        return math.sqrt(far), params.digest(chosen)

    honest = moved(Answers(False, lanes), "none")[0]
    lied = Answers(True, lanes)
    robust = moved(lied, clip)
    assert robust[0] < 3 * honest
    assert moved(Replayed(lied.entries, lanes), clip) == robust


LIES = {
    "": lambda losses, random: losses,
    "scaled": lambda losses, random: 1000 * losses,
    "flipped": lambda losses, random: losses[::-1],
    "random": lambda losses, random: 10 * random.normal(size=losses.shape),
}


def _lying(path: Path, overrides: tuple[str, ...], lie: str, error: Path) -> None:
    """A run in which whoever has the items n with n % 8 == 3 lies."""
    from zodist.exchange import Rounds
    from zodist.run import train

    gather = Rounds.round

    def gathered(self, asked, measure):
        def told(group):
            losses = measure(group).copy()
            for row, item in enumerate(asked.groups.members(group)):
                if item % OF == LIAR:
                    random = np.random.default_rng([asked.step, asked.round, item])
                    losses[row] = LIES[lie](losses[row], random)
            return losses

        return gather(self, asked, told)

    Rounds.round = gathered  # type: ignore[method-assign]
    try:
        train(config.load(path, overrides), quiet=True)
    except Exception as found:
        error.write_text(repr(found))
        os._exit(2)


RUNS = {(lie, clip): ("method.probes=8", f"rule.clip={clip}") for lie in LIES for clip in ("none", "mad")} | {
    ("flipped", "median"): ("method.probes=4", "batch.data_lanes=3", "rule.clip=median")
}


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """Losses before and after each run, and the folders."""
    place, processes = make_place(tmp_path_factory.mktemp("liars")), {}
    plain = ("run.steps=50", "batch.size=6", "output.keep=1", "output.evaluate_every=0")
    for key, own in RUNS.items():
        folder = place.folder / "-".join(["run", *key])
        args = (
            place.config,
            (*plain, *own, f"run.folder={folder}"),
            key[0],
            place.folder / f"{folder}.error",
        )
        processes[key] = folder, CONTEXT.Process(target=_lying, args=args, daemon=True)
        processes[key][1].start()
    found = {}
    for key, (folder, process) in processes.items():
        process.join(300)
        error = Path(f"{folder}.error")
        assert process.exitcode == 0, error.read_text() if error.exists() else key
        scores = [line["loss"] for line in _lines(folder) if line.get("split") == "test"]
        found[key] = (*scores, folder)
    return found


def _lines(folder: Path) -> list[dict]:
    from zodist.journal import read_lines

    return list(read_lines(folder / "metrics.jsonl"))


@pytest.mark.slow
@pytest.mark.parametrize("lie", ["scaled", "random"])
def test_one_liar_among_eight_ruins_a_run_unless_it_is_clipped(told, lie):
    before, honest, _ = told["", "none"]
    assert honest < 0.6 * before
    assert told[lie, "none"][1] > before
    _, after, folder = told[lie, "mad"]
    assert after < 0.6 * before
    assert (
        sum(line.get("outliers", 0) for line in _lines(folder)) > 25
    )  # of 50 lies; a random one may be small


@pytest.mark.slow
@pytest.mark.parametrize("clip", ["none", "mad", "median"])
def test_a_wrong_sign_costs_but_does_not_ruin(told, clip):
    """It has the right size, so "mad" cannot know it; it takes back twice the liar's share of the signal."""
    before, honest, _ = told["", "none"]
    assert before - told["flipped", clip][1] > 0.5 * (before - honest)


@pytest.mark.slow
def test_the_journal_has_what_was_said_and_replay_makes_the_same_of_it(told):
    folder = told["scaled", "mad"][2]
    contents = read(folder / "journal.jsonl")
    assert contents.header["rule"]["clip"] == "mad"
    assert "clip" not in read(told["", "none"][2] / "journal.jsonl").header["rule"]
    assert abs(contents.entries[0].values[LIAR, -1]) > 100  # nats: the lie itself
    assert replay(folder).verified
