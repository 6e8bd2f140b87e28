"""HiZOO: curvature tends to the Hessian's diagonal, its kernel gives the reference's bits, and alpha = 0 is MeZO."""

from __future__ import annotations

import numpy as np
import pytest
from driving import answer, begun, drive, moves, numbers, params
from exact import PARAM, ROLE, random
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from zodist import noise
from zodist.directions import Combination
from zodist.kernels import Noise, state
from zodist.methods.hizoo import HiZOO, HiZOOSettings
from zodist.methods.mezo import MeZO, MeZOSettings
from zodist.methods.steps import StepSeeds
from zodist.noise import GAUSSIAN, RADEMACHER

DIAGONAL = np.array([0.3, 0.6, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0])


def hizoo(shapes=None, **keys) -> HiZOO:
    method = HiZOO(HiZOOSettings.model_validate(keys))
    begun(method, params(shapes or {"w": (8,)}))
    return method


def quadratic(x: np.ndarray) -> np.ndarray:
    return 0.5 * x**2 @ DIAGONAL


def averaged(method: HiZOO, steps: int) -> np.ndarray:
    """The curvature of the second half of some steps."""
    seen = []
    for t in range(steps):
        drive(method, quadratic, t)
        seen.append(method.curvature["w"].astype(np.float64))
    return np.mean(seen[steps // 2 :], axis=0)


@pytest.mark.parametrize(("coupling", "probes"), [("walsh", 1), ("walsh", 4), ("independent", 3)])
def test_curvature_tends_to_the_diagonal_of_the_hessian(coupling, probes):
    """One draw is as noisy as the trace is large: alpha and the number of steps leave about 15 %."""
    method = hizoo(alpha=0.005, eps=1e-2, h_min=1e-2, h_max=100.0, coupling=coupling, probes=probes)
    found = averaged(method, 2000)
    assert np.corrcoef(np.log(found), np.log(DIAGONAL))[0, 1] > 0.95
    np.testing.assert_allclose(found, DIAGONAL, rtol=0.6)


def test_without_the_identity_all_curvatures_grow():
    """By half the trace of the scaled Hessian, until h = (1 + d / 2) * diagonal: five times it, for d = 8."""
    method = hizoo(alpha=0.005, eps=1e-2, h_min=1e-2, h_max=100.0, identity=False)
    assert np.mean(averaged(method, 2000) / DIAGONAL) == pytest.approx(5.0, rel=0.3)


@pytest.mark.parametrize("coupling", ["walsh", "independent"])
def test_alpha_0_is_mezo_to_the_bit(coupling):
    """Points, gradient and moved weights, in 16 bits with their rounding."""
    shapes = {"a": (40, 30), "b": (7,)}
    settled = []
    for method in (
        begun(
            HiZOO(HiZOOSettings.model_validate({"alpha": 0.0, "probes": 2, "coupling": coupling})),
            params(shapes),
        ),
        begun(MeZO(MeZOSettings.model_validate({"probes": 2, "coupling": coupling})), params(shapes)),
    ):
        asked = next(method.step(StepSeeds(7, 0)))
        both = moves(method, [point for probe in asked for point in probe.points[:2]])
        losses = np.array([[1.0, 1.5, 1.1], [1.4, 1.2, 1.0]])[:, : len(asked[0].points)]
        _, outcome = answer(method, losses)
        for p in method.params:
            laid = method.update(p).lay(p, [outcome.gradient * 1e-3], {})  # type: ignore[union-attr]
            laid.update_(p, np.float32(1.0), np.uint64(5))  # type: ignore[attr-defined]
        weights = np.concatenate([p.weights.numpy() for p in method.params])
        settled.append((both.tobytes(), outcome.gradient.weights.tobytes(), outcome.slope, weights.tobytes()))
    assert settled[0] == settled[1]


def test_the_update_sees_the_new_curvature_and_the_probes_saw_the_old():
    method = hizoo(alpha=1e-4, eps=1e-2)
    one = Combination(StepSeeds(7, 0).names(1, "walsh"), np.ones(1))
    p = method.params[0]
    before = numbers(method.direction(p), p, [one])[0]
    drive(method, quadratic)
    h = method.curvature["w"]
    assert (h != 1.0).all()
    assert (numbers(method.update(p), p, [one])[0] == before / np.sqrt(h)).all()


def test_codes_of_one_noise_move_the_curvature_in_one_pass():
    """The squares of a code are those of its base: eight probes bend as one does with their mean."""
    many, one = hizoo(alpha=1e-3, probes=8, eps=1.0), hizoo(alpha=1e-3, probes=1, eps=1.0)
    bends = np.arange(8.0)
    answer(many, np.stack([1.0 + bends, np.ones(8), np.ones(8)], axis=1))
    answer(one, [[1.0 + bends.mean(), 1.0, 1.0]])
    assert (many.curvature["w"] == one.curvature["w"]).all() and (one.curvature["w"] != 1.0).any()


def test_curvature_stays_within_its_bounds():
    method = hizoo(alpha=0.5, eps=1e-2, h_min=0.5, h_max=2.0)
    for t in range(50):
        drive(method, quadratic, t)
        assert ((method.curvature["w"] >= 0.5) & (method.curvature["w"] <= 2.0)).all()
    assert {0.5, 2.0} & set(method.curvature["w"].tolist())


def test_without_a_usable_probe_nothing_changes():
    method = hizoo(probes=2, alpha=0.1)
    _, outcome = answer(method, [[1.0, 2.0, np.nan], [np.inf, 1.0, 1.0]])
    assert len(outcome.gradient) == 0 and outcome.skipped == 2 and (method.curvature["w"] == 1.0).all()


@pytest.mark.parametrize("keys", [{"noise": "rademacher"}, {"h_min": 2.0}, {"h_max": 0.5}])
def test_settings_that_cannot_work_are_refused(keys):
    with pytest.raises(ValidationError):
        HiZOOSettings.model_validate(keys)


def bent(curvature, start, law, keys, gains, subtract, fade, low, high) -> np.ndarray:
    """The reference in numpy float32."""
    total = np.zeros(len(curvature), np.float32)
    for key, gain in zip(keys, gains, strict=True):
        z = noise.numbers(law, int(key), int(PARAM), noise.Z, start, start + len(curvature))
        total = total + gain * (z * z - subtract)
    return np.clip(curvature + curvature * (total - fade), low, high)


def drawn(law: int, keys: np.ndarray) -> Noise:
    return Noise(law, keys, np.ones((1, len(keys), 1024), np.float32), PARAM, ROLE)


def case(n: int, bases: int):
    g = random(n)
    keys = g.integers(0, 2**64, bases, dtype=np.uint64)
    gains = np.float32(0.2) * np.abs(g.standard_normal(bases, np.float32))
    return np.exp(g.standard_normal(n, np.float32)), keys, gains


BOUNDS = np.float32(1e-3), np.float32(0.2), np.float32(3.0)


@pytest.mark.parametrize("law", [GAUSSIAN, RADEMACHER])
@settings(deadline=None, max_examples=25)
@given(start=st.integers(0, 10**6), n=st.integers(1, 3000), bases=st.integers(1, 3), identity=st.booleans())
def test_the_kernel_gives_the_bits_of_the_reference_on_any_range(law, start, n, bases, identity):
    curvature, keys, gains = case(n, bases)
    want = bent(curvature, start, law, keys, gains, np.float32(identity), *BOUNDS)
    state.bend_serial(curvature, start, drawn(law, keys), gains, np.float32(identity), *BOUNDS)
    assert (curvature == want).all()


def test_the_parallel_kernel_gives_the_bits_of_the_serial_one():
    curvature, keys, gains = case(50_001, 2)
    twin = curvature.copy()
    for kernel, h in ((state.bend_serial, curvature), (state.bend_parallel, twin)):
        kernel(h, 77, drawn(GAUSSIAN, keys), gains, np.float32(1.0), *BOUNDS)
    assert (curvature == twin).all()
