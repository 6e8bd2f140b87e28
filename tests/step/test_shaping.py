"""Group-relative and rank shaping: the formulas, what is left alone, and every method under them, live and replayed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from zodist.config import settings as config
from zodist.errors import ConfigError
from zodist.methods import METHODS
from zodist.models import params
from zodist.step import records
from zodist.step.fold import Replayed, Replica
from zodist.step.records import Entry
from zodist.step.rules import RULES
from zodist.step.shaping import Shape
from zodist.testing import made_up, subject, weights


def numbers(probes: int, lanes: int, points: int) -> np.ndarray:
    """Numbers with an offset of its own for every item, much larger than what its points differ by."""
    random = np.random.default_rng(probes + 10 * lanes + points)
    return random.normal(size=(probes, lanes, 1)) * 50 + random.normal(size=(probes, lanes, points))


def shaped(losses: np.ndarray, kind) -> np.ndarray:
    return Shape.of(losses, kind)(losses)


def test_one_probe_has_the_group_relative_advantage():
    found = numbers(1, 1, 8)
    want = (found - found.mean()) / found.std()
    np.testing.assert_allclose(shaped(found, "group"), want, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("probes, lanes, points", [(4, 1, 2), (3, 2, 5), (2, 3, 9)])
def test_a_group_is_one_lane_of_all_probes_and_each_item_has_its_own_baseline(probes, lanes, points):
    found = numbers(probes, lanes, points)
    advantages = found - found.mean(2, keepdims=True)
    want = advantages / np.sqrt((advantages**2).mean((0, 2), keepdims=True))
    np.testing.assert_allclose(shaped(found, "group"), want, rtol=1e-9)
    ranks = advantages.transpose(1, 0, 2).reshape(lanes, -1).argsort(1).argsort(1)
    want = (ranks / (probes * points - 1) - 0.5).reshape(lanes, probes, points).transpose(1, 0, 2)
    np.testing.assert_allclose(shaped(found, "rank"), want, rtol=0, atol=1e-15)


def test_single_numbers_are_compared_with_each_other():
    found = np.array([3.0, 1.0, 4.0, 1.5]).reshape(4, 1, 1)
    np.testing.assert_allclose(shaped(found, "rank").reshape(-1), np.array([2, 0, 3, 1]) / 3 - 0.5)
    np.testing.assert_allclose(
        shaped(found, "group").reshape(-1), (found - found.mean()).reshape(-1) / found.std()
    )


def test_equal_numbers_share_their_mean_rank():
    found = np.array([[[2.0, 1.0, 2.0, 2.0, 7.0]]])
    np.testing.assert_allclose(shaped(found, "rank")[0, 0], np.array([2, 0, 2, 2, 4]) / 4 - 0.5)
    assert (
        not shaped(np.full((2, 1, 3), 5.0), "group").any()
        and not shaped(np.full((2, 1, 3), 5.0), "rank").any()
    )


def test_two_sided_probes_keep_the_ratios_of_their_slopes_or_their_order():
    found = numbers(6, 1, 2)
    slopes = found[:, 0, 0] - found[:, 0, 1]
    group, rank = (np.diff(shaped(found, kind)[:, 0])[:, 0] * -1 for kind in ("group", "rank"))
    np.testing.assert_allclose(group, 2 * slopes / np.sqrt((slopes**2).mean()), rtol=1e-9)
    order = np.abs(slopes).argsort().argsort()  # the k-th smallest of N pairs: (2 k + 1) / (2 N - 1)
    np.testing.assert_allclose(rank, np.sign(slopes) * (2 * order + 1) / 11, rtol=1e-12)


@pytest.mark.parametrize("kind", ["group", "rank"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_stays_and_counts_nowhere(kind, bad):
    found = numbers(4, 1, 3)
    broken = found.copy()
    broken[2] = bad
    rest = [0, 1, 3]
    got = shaped(broken, kind)
    np.testing.assert_array_equal(got[2], broken[2])
    np.testing.assert_array_equal(got[rest], shaped(found[rest], kind))


def test_a_later_round_goes_through_the_map_of_the_first():
    first = numbers(4, 1, 3)
    later = first[..., :1] + 0.25
    scale = Shape.of(first, "group")
    np.testing.assert_allclose(scale(later) - scale(first)[..., :1], 0.25 / scale.groups[0].std(), rtol=1e-6)
    ranks = Shape.of(first, "rank")
    np.testing.assert_array_equal(ranks(first[..., :1]), ranks(first)[..., :1])
    assert ranks(first + 1e6).max() == 0.5 and ranks(first - 1e6).min() == -0.5


@pytest.mark.parametrize("kind", ["group", "rank"])
@pytest.mark.parametrize("probes, points", [(1, 2), (1, 1), (2, 1)])
def test_what_would_leave_a_sign_is_refused(kind, probes, points):
    with pytest.raises(ConfigError, match="only a sign would be left; set method.probes to 2 or more"):
        Shape.of(numbers(probes, 2, points), kind)


def test_a_run_without_it_has_the_journal_it_had(tmp_path):
    path = tmp_path / "run.toml"
    path.write_text('[run]\nsteps = 1\n[model]\nname = "m"\n[task]\nname = "t"\n[rule]\nlr = 1.0\n')
    assert "shaping" not in config.load(path).identity()["rule"]
    assert config.load(path, ["rule.shaping=rank"]).identity()["rule"]["shaping"] == "rank"
    with pytest.raises(ConfigError, match="gives every example points of its own; set rule.shaping = 'none'"):
        config.load(path, ["rule.shaping=rank", "method.name=grzo"])


class Answers:
    """Made-up losses, multiplied; what was said is kept."""

    def __init__(self, factor: float) -> None:
        self.factor, self.entries = factor, list[Entry]()

    def __call__(self, step, round, lr, probes, lanes):
        losses = np.repeat(made_up(step, round, probes), 2, axis=0)
        values = records.to_values(self.factor * losses)
        self.entries.append(Entry(step, round, lr, values))
        return values


def moved(name: str, kind, answer) -> tuple[int, float]:
    """The digest of the weights after three steps, and the last step's loss as the run reports it."""
    chosen, settings = weights(), config.Rule(lr=1e-4)
    rule = RULES["sgd"](settings, chosen)
    given: dict[str, Any] = {"seed": 7, "steps": 3, "data_lanes": 2}
    machine = Replica(chosen, subject(name).build(probes=4), rule, **given, shaping=kind)
    before, loss = params.digest(chosen), 0.0
    while machine.step < 3:
        loss = machine.advance(answer).loss
    assert all(bool(p.weights.isfinite().all()) for p in chosen) and params.digest(chosen) != before
    return params.digest(chosen), loss


@pytest.mark.parametrize("kind", ["group", "rank"])
@pytest.mark.parametrize(
    "name", [name for name in METHODS if "examples" not in METHODS[name].settings.model_fields]
)
def test_no_method_sees_the_scale_and_all_are_replayed_to_the_bit(name, kind):
    """Eight times the numbers are the same mantissas, so not a bit may differ; the figures are those reported."""
    plain, large = Answers(1.0), Answers(8.0)
    digest, loss = moved(name, kind, plain)
    assert moved(name, kind, large) == (digest, pytest.approx(8 * loss, rel=1e-12))
    assert loss == pytest.approx(1.0, abs=0.01)
    assert moved(name, kind, Replayed(plain.entries, 2)) == (digest, loss)
