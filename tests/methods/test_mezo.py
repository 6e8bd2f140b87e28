"""MeZO: the generator's arithmetic, what it leaves out, and its estimate on a linear loss."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from zodist import noise
from zodist.directions import Combination, Param, address, coded_tables
from zodist.methods.method import Outcome
from zodist.methods.mezo import MeZO, MeZOSettings
from zodist.methods.registry import METHODS
from zodist.methods.steps import StepSeeds, slopes

COUPLINGS = ["walsh", "independent"]
D, PARAM = 4096, address("w")
LOSSES = hnp.arrays(np.float64, st.tuples(st.integers(1, 20), st.just(2)), elements=st.floats(0.0, 20.0))
HOLES = [np.nan, np.inf, -np.inf]


def ask(method: MeZO, step: int = 3, run: int = 7):
    """The generator of a step and its only round."""
    generator = method.step(StepSeeds(run, step))
    return generator, next(generator)


def answer(generator, losses: np.ndarray) -> Outcome:
    with pytest.raises(StopIteration) as stop:
        generator.send(losses)
    return stop.value.value


def param(name: str, shape: tuple[int, ...]) -> Param:
    flat = torch.zeros(math.prod(shape))
    return Param(name, address(name), shape, flat, flat)


def mezo(probes: int, **others) -> MeZO:
    return MeZO(MeZOSettings.model_validate({"probes": probes, **others}))


def bits(outcome: Outcome) -> tuple[bytes, ...]:
    numbers = np.array([outcome.loss, outcome.slope, outcome.skipped])
    return outcome.gradient.seeds.tobytes(), outcome.gradient.weights.tobytes(), numbers.tobytes()


def test_the_registry_builds_it():
    entry = METHODS["mezo"]
    assert entry.kind is MeZO and entry.settings is MeZOSettings
    assert isinstance(entry.build(MeZOSettings.model_validate({})), MeZO)


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_probe_is_a_pair_of_points_at_plus_and_minus_eps(coupling):
    _, probes = ask(mezo(5, eps=0.25, coupling=coupling))
    assert len({probe.seed for probe in probes}) == 5
    for probe in probes:
        assert [list(point) for point in probe.points] == [[(probe.seed, 0.25)], [(probe.seed, -0.25)]]


def test_coded_probes_share_a_base_and_independent_ones_do_not():
    seeds = {c: [p.seed for p in ask(mezo(300, coupling=c))[1]] for c in COUPLINGS}
    assert [noise.split_seed(s)[1] for s in seeds["walsh"]] == list(range(300))
    assert len({noise.split_seed(s)[0] for s in seeds["walsh"]}) == 1
    assert len({noise.split_seed(s)[0] for s in seeds["independent"]}) == 300


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_seeds_are_pinned_and_differ_between_steps_and_runs(coupling):
    """They are what journals and wire records name; a change breaks replays."""
    seeds = [p.seed for p in ask(mezo(2, coupling=coupling), step=2, run=1)[1]]
    want = {
        "walsh": [0xE65643F70BCC0000, 0xE65643F70BCC0001],
        "independent": [0xFC0FB865D1A18A79, 0x2648E90C3D3789D0],
    }
    assert seeds == want[coupling]
    every = {
        p.seed
        for step in range(50)
        for run in range(4)
        for p in ask(mezo(2, coupling=coupling), step, run)[1]
    }
    assert len(every) == 400


@given(LOSSES, st.floats(1e-6, 10.0), st.sampled_from(COUPLINGS))
def test_the_gradient_is_the_mean_of_slope_times_direction(losses, eps, coupling):
    generator, probes = ask(mezo(len(losses), eps=eps, coupling=coupling))
    outcome = answer(generator, losses)
    slope = [(plus - minus) / (2.0 * eps) for plus, minus in losses]
    assert list(outcome.gradient) == [(p.seed, s / len(losses)) for p, s in zip(probes, slope, strict=True)]
    assert outcome.loss == pytest.approx(losses.mean(), rel=1e-12)
    assert outcome.slope == pytest.approx(np.sqrt(np.mean(np.square(slope))), rel=1e-12)
    assert outcome.skipped == 0


@given(LOSSES, st.sampled_from(HOLES), st.integers(0, 2**20 - 1), st.integers(0, 1))
def test_probes_with_a_loss_that_is_not_finite_are_left_out_and_counted(losses, hole, mask, side):
    n = len(losses)
    bad = np.array([mask >> k & 1 for k in range(n)], bool)
    holed = losses.copy()
    holed[bad, side] = hole
    generator, probes = ask(mezo(n))
    outcome = answer(generator, holed)
    kept = np.flatnonzero(~bad)
    want = slopes(losses[kept], 1e-3) / max(1, len(kept))
    assert list(outcome.gradient) == [(probes[k].seed, w) for k, w in zip(kept, want, strict=True)]
    assert outcome.skipped == n - len(kept)
    assert np.isfinite(outcome.loss) == (len(kept) > 0)


def test_without_any_finite_loss_the_gradient_is_empty():
    generator, _ = ask(mezo(3))
    outcome = answer(generator, np.full((3, 2), np.nan))
    assert len(outcome.gradient) == 0 and outcome.skipped == 3
    assert np.isnan(outcome.loss) and np.isnan(outcome.slope)


@given(LOSSES, st.sampled_from(COUPLINGS))
def test_the_same_losses_give_the_same_outcome(losses, coupling):
    """Of a fresh method and of one that has already done other steps: there is no state."""
    used = mezo(len(losses), coupling=coupling)
    answer(ask(used, step=1)[0], losses * 2.0)
    outcomes = [answer(ask(m)[0], losses) for m in (used, used, mezo(len(losses), coupling=coupling))]
    assert len({bits(outcome) for outcome in outcomes}) == 1
    assert used.state() == {}


@pytest.mark.parametrize("law", noise.LAWS)
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_every_parameter_has_the_same_law(law, coupling):
    method = mezo(1, noise=law, coupling=coupling)
    dense = method.direction(param("a", (3, 4)))
    assert dense == method.direction(param("b", (7,)))
    assert (dense.law, dense.coded, dense.scale) == (noise.LAWS[law], coupling == "walsh", 1.0)


@settings(deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.integers(1, 9), st.just(2)), elements=st.floats(0, 9)))
def test_slopes_are_exact_on_a_linear_loss(losses):
    """With eps a power of two, a central difference rounds only once, in the subtraction."""
    assert (slopes(losses, 0.5) == losses[:, 0] - losses[:, 1]).all()


# The estimate on a linear loss g . w with a few large entries among many small ones


def gradient_of_a_loss() -> np.ndarray:
    g = np.random.Generator(np.random.PCG64(5)).standard_t(2.0, D)
    return g / np.linalg.norm(g)


def estimate(method: MeZO, step: int, g: np.ndarray) -> np.ndarray:
    """One step's estimate, through the method and its tables; losses are float64."""
    generator, probes = ask(method, step)
    dense = method.direction(param("w", (D,)))
    losses = np.array([[combined(dense, point) @ g for point in probe.points[:1]] for probe in probes])
    outcome = answer(generator, np.concatenate([losses, -losses], axis=1))
    return combined(dense, outcome.gradient)


def combined(dense, combination: Combination) -> np.ndarray:
    keys, tables = coded_tables(dense, [combination])
    base = [noise.numbers(dense.law, int(key), PARAM, noise.Z, 0, D) for key in keys]
    return sum(z * np.resize(t, D).astype(np.float64) for z, t in zip(base, tables[0], strict=True))  # type: ignore


@pytest.mark.parametrize("law", noise.LAWS)
def test_the_mean_of_many_estimates_points_along_the_gradient(law):
    """With N directions in all the cosine is about 1 / sqrt(1 + d / N): 0.94 for N = 8 d."""
    g, method, n = gradient_of_a_loss(), mezo(64, noise=law), 64
    dense = method.direction(param("w", (D,)))
    total = np.zeros(D)
    for step in range(8 * D // n):
        generator, probes = ask(method, step)
        # g . z_n for all codes n at once: the fast transform of base * g, folded to the length of a code.
        base = noise.numbers(dense.law, probes[0].seed, PARAM, noise.Z, 0, D).astype(np.float64)
        along = 1e-3 * noise.walsh((base * g).reshape(-1, n).sum(axis=0))
        total += combined(dense, answer(generator, np.stack([along, -along], axis=1)).gradient)
    cosine = total @ g / np.linalg.norm(total)
    assert cosine > 0.9
    assert cosine == pytest.approx(1.0 / np.sqrt(1.0 + 1.0 / 8.0), abs=0.02)


def test_a_full_set_of_rademacher_codes_gives_the_gradient_itself():
    """As many codes as weights are an orthogonal basis: what is left is float64 rounding."""
    g = gradient_of_a_loss()[:512]
    method = mezo(512, noise="rademacher")
    dense = method.direction(param("w", (512,)))
    generator, probes = ask(method)
    z = np.stack([dense.values(PARAM, probe.seed, 0, 512) for probe in probes]).astype(np.float64)
    along = 1e-3 * (z @ g)
    outcome = answer(generator, np.stack([along, -along], axis=1))
    got = sum(weight * z[k] for k, (_, weight) in enumerate(outcome.gradient))
    np.testing.assert_allclose(got, g, rtol=0, atol=1e-14)


@pytest.mark.parametrize("law", noise.LAWS)
def test_coded_probes_estimate_as_well_as_independent_ones(law):
    """Mean squared error times N / d, expected 1, from 150 steps of N = 8; within four standard errors."""
    g, n, steps = gradient_of_a_loss(), 8, 150
    errors = {}
    for coupling in COUPLINGS:
        method = mezo(n, noise=law, coupling=coupling)
        errors[coupling] = [np.sum((estimate(method, t, g) - g) ** 2) * n / D for t in range(steps)]
    mean = {c: np.mean(e) for c, e in errors.items()}
    error = {c: np.std(e) / np.sqrt(steps) for c, e in errors.items()}
    assert max(error.values()) < 0.1, "otherwise the comparison says nothing"
    assert abs(mean["walsh"] - mean["independent"]) < 4.0 * np.hypot(error["walsh"], error["independent"])
    for coupling in COUPLINGS:
        assert abs(mean[coupling] - 1.0) < 4.0 * error[coupling]
