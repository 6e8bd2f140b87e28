"""Methods on losses of a plain vector: parameters, directions as numbers, a step's generator driven to its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch

from zodist.directions import Gradient, Kept, Law, Param, address, lay_out
from zodist.methods import Method, Outcome, Probe, StepSeeds

Losses = Callable[[np.ndarray], np.ndarray]  # float64 [points, numbers], how far each is -> float64 [points]


def params(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype = torch.float32, seed: int = 1
) -> list[Param]:
    """Parameters with normal weights, in this order."""
    g = np.random.Generator(np.random.PCG64(seed))
    made = []
    for name, shape in shapes.items():
        flat = torch.from_numpy(g.standard_normal(math.prod(shape), np.float32)).to(dtype)
        made.append(Param(name, address(name), shape, flat, flat))
    return made


def begun(method: Method, of: Sequence[Param]) -> Method:
    """The method, set up for parameters."""
    method.begin(of)
    return method


def numbers(law: Law | Kept | None, param: Param, at: Sequence[Gradient]) -> np.ndarray:
    """The directions of some points or gradients, float32 [points, numbers]."""
    out = torch.zeros(len(at), param.weights.numel())
    if law is not None:
        lay_out(law, param, at, {}).write_(param, param.origin, param.origin + out.shape[1], out, add=False)
    return out.numpy()


def moves(method: Method, at: Sequence[Gradient], *, update: bool = False) -> np.ndarray:
    """Points or gradients over all parameters, as probes or as the update sees them: float64 [points, numbers]."""
    laws = [(method.update(p) if update else method.direction(p), p) for p in method.params]
    return np.concatenate([numbers(law, p, at) for law, p in laws], axis=1).astype(np.float64)


def measure(method: Method, probes: Sequence[Probe], losses: Losses) -> np.ndarray:
    """The losses of a round: float64 [probes, points]."""
    points = [point for probe in probes for point in probe.points]
    return losses(moves(method, points)).reshape(len(probes), -1)


def drive(method: Method, losses: Losses, step: int = 0, run: int = 7) -> Outcome:
    """One step to its end; the weights stay where they are, and ``then`` is left to the caller."""
    generator = method.step(StepSeeds(run, step, 1000))
    probes = next(generator)
    while True:
        try:
            probes = generator.send(measure(method, probes, losses))
        except StopIteration as stop:
            return stop.value


def answer(
    method: Method, *rounds: np.ndarray | list[list[float]], step: int = 0, run: int = 7
) -> tuple[list[tuple[Probe, ...]], Outcome]:
    """One step with given losses, round by round: what was asked, and the outcome."""
    generator = method.step(StepSeeds(run, step, 1000))
    asked = [next(generator)]
    for losses in rounds:
        try:
            asked.append(generator.send(np.asarray(losses, np.float64)))
        except StopIteration as stop:
            return asked, stop.value
    raise AssertionError("the method asks for another round")
