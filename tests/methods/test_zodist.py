"""zodist's own method: its weights, its count of forwards, and the error it promises on examples that disagree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from zodist.directions import Combination, Param, address, code_bits
from zodist.methods.steps import StepSeeds
from zodist.methods.zodist import Zodist, ZodistSettings

SHAPES = {"w": (48, 64), "v": (32,)}


def params() -> list[Param]:
    made = []
    for name, shape in SHAPES.items():
        flat = torch.zeros(math.prod(shape))
        made.append(Param(name, address(name), shape, flat, flat))
    return made


def zodist(**settings) -> Zodist:
    return Zodist(ZodistSettings.model_validate(settings))


def directions(method: Zodist, at: list[Combination]) -> np.ndarray:
    """All weights' directions of combinations, float64 [combinations, weights]."""
    cache, parts = {}, []
    for p in method.params:
        out = torch.empty(len(at), p.weights.numel())
        method.direction(p).lay(p, at, cache).write_(p, 0, out.shape[1], out, add=False)
        parts.append(out.numpy().astype(np.float64))
    return np.concatenate(parts, axis=1)


def test_weights_are_one_sided_slopes_of_single_examples():
    method = zodist(passes=2, examples=2, eps=0.5, probes=1)
    method.begin([])
    generator = method.step(StepSeeds(1, 0))
    (probe,) = next(generator)
    assert (probe.losses, probe.forwards, len(probe.points)) == (5, 3, 4)
    with pytest.raises(StopIteration) as stop:
        generator.send(np.array([[1.5, 0.5, 1.0, 2.0, 1.0]]))
    np.testing.assert_allclose(stop.value.value.gradient.weights, np.array([1.0, -1.0, 0.0, 2.0]) / 4)
    assert method.count(np.zeros((3, 5), np.float32)) == 9


def test_a_common_factor_of_the_losses_cancels_with_normalise_spread():
    weights = []
    for factor in (1.0, 1000.0):
        method = zodist(passes=2, examples=2, normalise="spread")
        method.begin([])
        generator = method.step(StepSeeds(1, 0))
        next(generator)
        with pytest.raises(StopIteration) as stop:
            generator.send(1.0 + factor * np.array([[0.5, -0.5, 0.1, 1.0, 0.0]]))
        weights.append(stop.value.value.gradient.weights)
    np.testing.assert_allclose(weights[0], weights[1], rtol=1e-9)


def test_the_error_is_that_of_as_many_directions_as_examples_times_passes():
    """On a linear loss whose examples have gradients of their own: d (|g|^2 + s^2) / (P B)."""
    method = zodist(passes=3, examples=16, eps=1.0)
    method.begin(params())
    d, rng = sum(math.prod(shape) for shape in SHAPES.values()), np.random.default_rng(0)
    g, spread = rng.standard_normal(d) / math.sqrt(d), 2.0
    errors = []
    for t in range(60):
        own = g + spread * rng.standard_normal((16, d)) / math.sqrt(d)
        generator = method.step(StepSeeds(5, t))
        (probe,) = next(generator)
        z = directions(method, list(probe.points)).reshape(3, 16, d)
        delta = np.einsum("kid,id->ki", z, own).reshape(1, -1)
        with pytest.raises(StopIteration) as stop:
            generator.send(np.concatenate([delta, np.zeros((1, 1))], axis=1))
        estimate = directions(method, [stop.value.value.gradient])[0]
        errors.append(np.sum((estimate - own.mean(axis=0)) ** 2))
    size = float(g @ g)
    want = d * (size + spread**2) / 48
    assert np.mean(errors) == pytest.approx(want, rel=float(5 * np.std(errors) / math.sqrt(60) / want))
    mezo = d * (size + spread**2 / 16) / 2  # two probes: the same four forwards
    assert mezo / want == pytest.approx(2 * 3 / 4 * (16 + 4) / (1 + 4), rel=0.2)


@pytest.mark.parametrize(
    ("shape", "bits"), [((576, 576), (6, 9)), ((49152, 576), (6, 10)), ((1, 576), (6, 0)), ((5, 7), (2, 2))]
)
def test_columns_take_the_bits_of_a_code_that_their_number_allows(shape, bits):
    assert code_bits(*shape) == bits
