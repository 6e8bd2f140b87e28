"""The estimate on losses whose gradient is known: its mean, its error, and what an update does to the loss."""

from __future__ import annotations

from typing import Any

import numpy as np

from zodist.config import settings as config
from zodist.step import Sgd
from zodist.testing.subject import Subject
from zodist.testing.toys import NUMBERS, SHAPES, Landscape, Stage, landscape, named, stage

PROBES = 64  # in a step, where a method has that setting
ENOUGH = 8 * NUMBERS  # directions at which the cosine of an average is first looked at: 0.94 for MeZO
LIMIT = 32 * ENOUGH
OVERALL, EACH = 0.9, 0.6  # cosines over all weights, and over each parameter (the vector has 8 numbers only)
CURVATURE = 5.0  # trace of the Hessian, where the gradient's length is 1
TOLERANCE = 0.05  # of what is declared
PATH = 8  # steps down a bowl, before they begin anew
DOWNHILL = 12  # steps
REACH, FEW = 60, 0.03  # steps, and the share of weights that they may leave out


def mean_points_along_the_gradient(chosen: Subject) -> None:
    """On a linear loss, under every coupling and noise law."""
    for variant in chosen.variants("coupling", "noise"):
        _check_mean(stage(chosen, probes=PROBES, **variant), landscape(), variant)


def mild_curvature_leaves_the_mean_alone(chosen: Subject) -> None:
    """On a loss with a little curvature, at the default size of a perturbation."""
    _check_mean(stage(chosen, probes=PROBES), landscape(CURVATURE), {})


def every_weight_is_reached(chosen: Subject) -> None:
    """No weight with a gradient is left out for good, as centred losses would leave out those with equal codes.

    Walsh codes are all alike at the first number of a parameter, whatever they are: a few such weights are let pass.
    """
    for variant in chosen.variants("coupling"):
        on, loss, squares = stage(chosen, **variant), landscape(), np.zeros(NUMBERS)
        wanted = np.zeros(NUMBERS, bool)
        for step in range(REACH):
            wanted |= _flat(on.method.expected(loss.by_name())) != 0.0
            taken = on.take(step, lambda round, probes, on=on: on.measure(loss, probes))  # noqa: B023
            squares += taken.estimate**2 / max(float(np.sum(taken.estimate**2)), 1e-300)
        typical = [np.full(part.size, part.mean()) for part in named(squares).values()]
        stuck = wanted & (squares <= 1e-12 * np.concatenate(typical))
        if stuck.sum() > FEW * wanted.sum():
            raise AssertionError(
                f"{stuck.sum()} of {wanted.sum()} weights were never moved by {REACH} steps ({variant or 'defaults'}), such "
                f"as numbers {', '.join(map(str, np.flatnonzero(stuck)[:4]))}; do the weights of the directions sum to zero?"
            )


def updates_lower_the_loss(chosen: Subject) -> None:
    """The sign is right: plain steps go down a linear slope, under every noise law."""
    for variant in chosen.variants("noise"):
        on, slope = stage(chosen, probes=16, **variant), landscape().gradient
        rule = Sgd(config.Rule(lr=1.0), on.params)
        start = _position(on)

        def height(x: np.ndarray, on: Stage = on, start: np.ndarray = start) -> np.ndarray:
            return 1.0 + (x + (_position(on) - start)) @ slope  # noqa: B023

        on.move = lambda gradient, on=on, rule=rule: rule.apply_(gradient, on.updates, 1e-3, 0)
        for step in range(DOWNHILL):
            on.take(step, lambda round, probes, on=on, height=height: on.measure(height, probes))
        if _position(on).tolist() == start.tolist():
            raise AssertionError(f"{DOWNHILL} steps ({variant or 'defaults'}) moved no weight")
        rise = float((_position(on) - start) @ slope)
        if not rise < 0.0:
            raise AssertionError(
                f"{DOWNHILL} steps ({variant or 'defaults'}) raised a linear loss by {rise:.3g}: its sign is wrong"
            )


def error_is_as_declared(chosen: Subject) -> None:
    """``linear_moments``, where a method declares them, are those of its steps on a linear loss."""
    for variant in chosen.variants("coupling"):
        _check_moments(stage(chosen, probes=2, refresh=1, **variant), variant, bowl=False)


def progress_in_a_bowl_is_as_declared(chosen: Subject) -> None:
    """On the loss |x|^2 / 2, down which the steps go, the best rate gains a^2 / b of it: from the same moments a and b."""
    for variant in chosen.variants("coupling"):
        _check_moments(stage(chosen, probes=2, refresh=1, **variant), variant, bowl=True)


def _check_moments(on: Stage, variant: dict[str, Any], *, bowl: bool) -> None:
    """Steps from the same place, or paths down the bowl, until a^2 / b is known to half the tolerance.

    The sums of gradient . estimate and of |estimate|^2 over all steps against those declared: one factor on all estimates
    cancels.  Paths of a few steps are short enough that the gradient keeps to the weights that a method moves.
    """
    slope, seen = landscape().gradient, np.zeros((0, 4))
    x, points, spread = slope, 0, np.inf
    while spread > TOLERANCE / 2.0 and points < LIMIT // 2:
        declared = on.method.linear_moments(named(x))
        if declared is None:
            return

        def loss(v: np.ndarray, x: np.ndarray = x) -> np.ndarray:
            return 1.0 + v @ x + (0.5 * np.square(v).sum(axis=1) if bowl else 0.0)

        taken = on.take(len(seen), lambda round, probes, loss=loss: on.measure(loss, probes))
        points += taken.points
        own = np.array([x @ taken.estimate, taken.estimate @ taken.estimate, *declared])
        seen = np.concatenate([seen, own[None]])
        if bowl:
            along, _, wanted, square = seen.sum(axis=0)
            x = x - taken.estimate * declared[0] / declared[1] * wanted / along if along > 0.0 else x
            x = x / np.linalg.norm(x) if len(seen) % PATH else slope
        if len(seen) % 100 == 0:
            spread, ratio = _ratio(seen)
    if abs(ratio - 1.0) > TOLERANCE + spread:
        _, _, wanted, square = seen.sum(axis=0) / len(seen)
        raise AssertionError(
            f"linear_moments() declares an error of {square / wanted**2 - 1.0:.4g} |gradient|^2, and |estimate|^2 measured "
            f"{'in a bowl' if bowl else 'on a linear loss'} is {ratio:.3f} +- {spread:.3f} times what follows from it "
            f"({len(seen)} steps, {variant or 'defaults'})"
        )


def _ratio(seen: np.ndarray) -> tuple[float, float]:
    """The standard error of b / a^2, over what is declared, and the ratio itself; seen: rows of a, b and both declared."""
    along, square, wanted, declared = seen.sum(axis=0)
    ratio = (square / declared) / (along / wanted) ** 2
    parts = seen[:, 1] / square - 2.0 * seen[:, 0] / along - seen[:, 3] / declared + 2.0 * seen[:, 2] / wanted
    return float(ratio * np.std(parts) * np.sqrt(len(seen))), float(ratio)


def _check_mean(on: Stage, loss: Landscape, variant: dict[str, Any]) -> None:
    """Average steps until the average points the right way, or would have if it ever did."""
    total, wanted = np.zeros(NUMBERS), np.zeros(NUMBERS)
    step, points, look, progress = 0, 0, ENOUGH, 0.0
    overall, each = 0.0, {}
    while points < LIMIT:
        expected = _flat(on.method.expected(loss.by_name()))
        taken = on.take(step, lambda round, probes: on.measure(loss, probes))
        step, points = step + 1, points + taken.points
        total += taken.estimate
        along = expected @ taken.estimate / (expected @ expected)
        progress += along
        wanted += along * expected  # at the length that the estimate has in this state
        if points >= look:
            look += look // 2
            overall, each = _cosine(total, wanted), _by_parameter(total, wanted)
            if progress > 0.0 and overall > OVERALL and min(each.values()) > EACH:
                return
    listed = ", ".join(f"{name} {cosine:.2f}" for name, cosine in each.items())
    raise AssertionError(
        f"after {points} forwards ({variant or 'defaults'}) the mean estimate has cosine {overall:.3f} with what the "
        f"method expects ({listed}), not above {OVERALL}; is its mean another than the gradient, define expected()"
    )


def _flat(expected: Any) -> np.ndarray:
    """What a method expects, as float64 [NUMBERS]."""
    if set(expected) != set(SHAPES):
        raise AssertionError(
            f"expected() gave {sorted(expected)}; give one array for each of {sorted(SHAPES)}"
        )
    for name, shape in SHAPES.items():
        if np.shape(expected[name]) != shape:
            raise AssertionError(
                f"expected()[{name!r}] has shape {np.shape(expected[name])}, the weights {shape}"
            )
    flat = np.concatenate([np.asarray(expected[name], np.float64).reshape(-1) for name in SHAPES])
    if not np.isfinite(flat).all() or not flat.any():
        raise AssertionError("expected() must be finite, and not zero everywhere")
    return flat


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    scale = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a.reshape(-1) @ b.reshape(-1)) / scale if scale else 0.0


def _by_parameter(total: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    """The cosine within each parameter that is expected to move."""
    found, want = named(total), named(wanted)
    return {name: _cosine(found[name], want[name]) for name in SHAPES if want[name].any()}


def _position(on: Stage) -> np.ndarray:
    """The weights, float64 [NUMBERS]."""
    return np.concatenate([p.weights.double().numpy() for p in on.params])
