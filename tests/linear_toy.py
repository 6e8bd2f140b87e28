"""What the tests of the low-rank methods share: made-up parameters, laid out directions, steps on a linear loss."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch

from zodist.directions import Gradient, Kept, LaidLowRank, Law, Param, address, lay_out
from zodist.methods import METHODS, Method, Outcome, Probe, StepSeeds

SHAPES = {"w": (24, 16), "b": (24,), "c": (6, 5, 2)}


def params(shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> list[Param]:
    made = []
    for name, shape in shapes.items():
        flat = torch.zeros(math.prod(shape))
        made.append(Param(name, address(name), shape, flat, flat))
    return made


def numbers(law: Law | Kept | None, param: Param, *gradients: Gradient) -> np.ndarray:
    """What a law makes of points or gradients, float32 [C, *shape]."""
    assert law is not None
    out = torch.empty(len(gradients), math.prod(param.shape))
    lay_out(law, param, gradients, {}).write_(param, 0, out.shape[1], out, add=False)
    return out.numpy().reshape(len(gradients), *param.shape)


def factors(law: Law | Kept | None, param: Param, *gradients: Gradient) -> LaidLowRank:
    """The thin factors of what a law makes of points or gradients."""
    assert law is not None
    laid = lay_out(law, param, gradients, {})
    assert isinstance(laid, LaidLowRank)
    return laid


def begun(method: Method, shapes: Mapping[str, tuple[int, ...]] = SHAPES) -> Method:
    method.begin(params(shapes))
    return method


def ask(method: Method, step: int, run: int = 7):
    generator = method.step(StepSeeds(run, step, 1000))
    return generator, next(generator)


def answer(generator, losses: np.ndarray) -> Outcome:
    with pytest.raises(StopIteration) as stop:
        generator.send(losses)
    return stop.value.value


def linear_losses(
    method: Method, probes: tuple[Probe, ...], gradients: Mapping[str, np.ndarray]
) -> np.ndarray:
    """float64 [probes, k]: 2 + sum of gradient * direction at every point."""
    points = [point for probe in probes for point in probe.points]
    losses = np.full(len(points), 2.0)
    for p in method.params:
        moved = numbers(method.direction(p), p, *points).astype(np.float64).reshape(len(points), -1)
        losses += moved @ gradients[p.name].reshape(-1)
    return losses.reshape(len(probes), -1)


def linear_step(
    method: Method, step: int, gradients: Mapping[str, np.ndarray], run: int = 7
) -> tuple[Outcome, dict[str, np.ndarray]]:
    """One step on a linear loss, and what the update's laws make of its gradient."""
    generator, probes = ask(method, step, run)
    outcome = answer(generator, linear_losses(method, probes, gradients))
    return outcome, {p.name: numbers(method.update(p), p, outcome.gradient)[0] for p in method.params}


def gradients_of(shapes: Mapping[str, tuple[int, ...]] = SHAPES, seed: int = 5) -> dict[str, np.ndarray]:
    g = np.random.Generator(np.random.PCG64(seed))
    return {name: g.standard_normal(shape) for name, shape in shapes.items()}


def cosine(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> float:
    x, y = (np.concatenate([d[name].reshape(-1).astype(np.float64) for name in a]) for d in (a, b))
    return float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))


def build(name: str, **settings) -> Any:
    """A method of the registry that has begun with the parameters of ``SHAPES``."""
    entry = METHODS[name]
    return begun(entry.build(entry.settings.model_validate(settings)))


def build_on(shapes: Mapping[str, tuple[int, ...]], name: str, **settings) -> Any:
    """The same with other parameters."""
    entry = METHODS[name]
    return begun(entry.build(entry.settings.model_validate(settings)), shapes)
