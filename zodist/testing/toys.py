"""Toys: a hundred weights, losses whose gradient is known, and a stage on which a method takes steps.

Directions are laid out by the method's own laws; losses are computed from them in float64 and go through the records of
the wire, as those of a model do.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from zodist import noise
from zodist.directions import Cache, Gradient, Kept, Law, Param, Scaled, address, lay_out
from zodist.methods import Method, Outcome, Probe, StepSeeds, misfit
from zodist.step import records
from zodist.testing.subject import Subject

# A tall matrix, a wide one and a vector; sizes are multiples of 8, so that few Walsh codes divide them evenly.
SHAPES = {"tall.weight": (12, 4), "wide.weight": (4, 12), "layer.bias": (8,)}
NUMBERS = sum(math.prod(shape) for shape in SHAPES.values())
RUN = 5  # the run's seed
STEPS = 100  # its length, for what a method changes over a run

Losses = Callable[[int, tuple[Probe, ...]], np.ndarray]


def drawn(purpose: int, name: str, count: int) -> np.ndarray:
    """Addressed Gaussian numbers, float64: the same on every machine."""
    return noise.numbers(noise.GAUSSIAN, purpose, address(name), noise.U, 0, count).astype(np.float64)


def weights(dtype: torch.dtype = torch.float32) -> list[Param]:
    """The parameters, with weights of the size that models have."""
    made = []
    for name, shape in SHAPES.items():
        flat = torch.from_numpy(0.05 * drawn(1, name, math.prod(shape))).to(dtype)
        made.append(Param(name, address(name), shape, flat, flat))
    return made


def made_up(step: int, round: int, probes: Sequence[Probe]) -> np.ndarray:
    """Losses without a model: float64 [probes, k], near 1, a thousandth apart."""
    k = probes[0].losses
    z = noise.numbers(noise.GAUSSIAN, 11, step * 64 + round, noise.V, 0, len(probes) * k)
    return 1.0 + 1e-3 * z.astype(np.float64).reshape(len(probes), k)


def through_the_wire(losses: np.ndarray) -> np.ndarray:
    """What every worker makes of losses: float64 [probes, k]."""
    return records.from_values(records.to_values(losses))


def directions(
    held: Sequence[Param], laws: Mapping[int, Law | Kept | None], points: Sequence[Gradient]
) -> np.ndarray:
    """Where points lie, or gradients, seen from the weights: float64 [points, NUMBERS]."""
    out = np.zeros((len(points), sum(p.weights.numel() for p in held)))
    cache: Cache = {}
    at = 0
    for param in held:
        count, law = param.weights.numel(), laws[param.id]
        if law is not None:
            piece = torch.zeros(len(points), count)
            lay_out(law, param, points, cache).write_(param, 0, count, piece, add=False)
            out[:, at : at + count] = piece.double().numpy()
        at += count
    return out


@dataclass(frozen=True, eq=False, slots=True)
class Landscape:
    """The loss gradient . x + curvature . x^2 / 2 at x from the weights; float64 [NUMBERS] each, |gradient| = 1."""

    gradient: np.ndarray
    curvature: np.ndarray

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Losses at places [n, NUMBERS]: float64 [n]."""
        return 1.0 + x @ self.gradient + 0.5 * (x * x) @ self.curvature

    def by_name(self) -> dict[str, np.ndarray]:
        """The gradient of each parameter, in its shape."""
        return named(self.gradient)


def landscape(curvature: float = 0.0) -> Landscape:
    """A gradient of unit length, spread over all weights; curvature: the trace of the Hessian."""
    g = np.concatenate([drawn(2, name, math.prod(shape)) for name, shape in SHAPES.items()])
    h = np.abs(np.concatenate([drawn(3, name, math.prod(shape)) for name, shape in SHAPES.items()]))
    return Landscape(g / np.linalg.norm(g), curvature * h / h.sum())


def named(flat: np.ndarray) -> dict[str, np.ndarray]:
    """Numbers of all parameters, by name and in shape."""
    sizes = np.cumsum([math.prod(shape) for shape in SHAPES.values()])[:-1]
    parts = zip(SHAPES.items(), np.split(flat, sizes), strict=True)
    return {name: part.reshape(shape) for (name, shape), part in parts}


def told(gradient: Gradient) -> tuple[np.ndarray, ...]:
    """The numbers that a step decided on: uint64 seeds and float64 weights [n], or a float64 factor [1]."""
    if isinstance(gradient, Scaled):
        return (np.array([gradient.factor]),)
    return gradient.seeds, gradient.weights


@dataclass(frozen=True, slots=True)
class Taken:
    """A step that was taken.  estimate: the gradient as numbers, float64 [NUMBERS]; rounds: what was asked."""

    outcome: Outcome[Gradient]
    estimate: np.ndarray
    rounds: tuple[tuple[Probe, ...], ...]

    def bits(self) -> bytes:
        """Everything that the step decided."""
        o = self.outcome
        figures = np.array([o.loss, o.slope, o.skipped], np.float64)
        asked = [p.seed for probes in self.rounds for p in probes]
        arrays = (*told(o.gradient), figures, self.estimate, np.array(asked, np.uint64))
        return b"".join(array.tobytes() for array in arrays)

    @property
    def points(self) -> int:
        """Forward passes of a batch."""
        return sum(probe.forwards for probes in self.rounds for probe in probes)


class Stage:
    """A method on the toy parameters.  move: what a gradient does to the weights; by default they stay as they are."""

    def __init__(self, method: Method, dtype: torch.dtype = torch.float32) -> None:
        self.method, self.params = method, weights(dtype)
        method.begin(self.params)
        self.laws = {p.id: method.direction(p) for p in self.params}
        self.updates = {p.id: method.update(p) for p in self.params}
        self.move: Callable[[Gradient], None] = lambda gradient: None

    def take(self, step: int, losses: Losses) -> Taken:
        """One whole step, the state's change after it included."""
        generator = self.method.step(StepSeeds(RUN, step, STEPS))
        probes, rounds = next(generator), []
        while True:
            rounds.append(probes)
            if len({probe.losses for probe in probes}) != 1:
                raise AssertionError(
                    f"step {step} round {len(rounds) - 1}: the probes of a round must have equally many losses"
                )
            try:
                probes = generator.send(through_the_wire(losses(len(rounds) - 1, probes)))
            except StopIteration as stop:
                outcome: Outcome[Gradient] = stop.value
                break
        estimate = np.zeros(NUMBERS)
        if wrong := misfit(self.method, outcome, self.updates.values()):
            raise AssertionError(wrong)
        if not outcome.empty:
            estimate = directions(self.params, self.updates, [outcome.gradient])[0]
            self.move(outcome.gradient)
            if outcome.then is not None:
                outcome.then()
        return Taken(outcome, estimate, tuple(rounds))

    def take_made_up(self, step: int) -> Taken:
        """One whole step with losses that no model made."""
        return self.take(step, lambda round, probes: made_up(step, round, probes))

    def measure(self, loss: Callable[[np.ndarray], np.ndarray], probes: Sequence[Probe]) -> np.ndarray:
        """The losses of a round's probes on a landscape: float64 [probes, k]."""
        one = probes[0]
        sides = (1.0, -1.0) if one.paired else (1.0,)
        points = [point * side for p in probes for point in p.points for side in sides]
        bases = len({int(seed) >> 16 for point in points for seed in point.seeds})
        many = (
            len(points) if bases <= 2 else max(1, len(points) // bases)
        )  # a layout holds tables for every base
        groups = [points[at : at + many] for at in range(0, len(points), many)]
        found = np.concatenate([loss(directions(self.params, self.laws, group)) for group in groups])
        found = found.reshape(len(probes), -1)
        if not one.examples:
            return found
        clean = float(loss(np.zeros((1, NUMBERS)))[0])
        mean = found.mean(axis=1, keepdims=True) if one.paired else np.full((len(probes), 1), clean)
        other = found[:, 1::2] if one.paired else clean
        return np.concatenate([mean + found[:, :: len(sides)] - other, mean], axis=1)


def stage(chosen: Subject, dtype: torch.dtype = torch.float32, **wanted: object) -> Stage:
    """A new method of the subject on the toy parameters."""
    return Stage(chosen.build(**wanted), dtype)


def state_bits(method: Method) -> dict[str, bytes]:
    """A digest of every array of a method's state."""
    made = {}
    for name, array in method.state().items():
        made[name] = hashlib.blake2b(np.ascontiguousarray(array).tobytes(), digest_size=8).digest()
    return made
