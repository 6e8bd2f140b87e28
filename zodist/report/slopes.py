"""What the values in a journal say about the slopes of a run, without its method.

A probe's values in the journal are the differences of its losses to its last one (zodist.step.records).  For two-sided probes
and for points measured against the clean loss they are the slopes but for one factor, 2 eps or eps; that factor is taken from
the run's own slopes in metrics.jsonl, a root mean square each step, so this holds for every method.  Where a method measures
its points against their mean, a difference is that of two points, and the scale is a typical one.  Of a step with several
rounds the last that compares losses counts.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zodist.report.recorded import Run

WINDOW = 25  # directions, at least, that a figure is made of


@dataclass(frozen=True, slots=True)
class Slopes:
    """Slopes of a run.

    steps: int64 [T], counted from 1.  values: float64 [T, probes, lanes, slopes of a probe], nats per weight unit, not
    finite where a loss was not; in nats where the run's own slopes are not known (scaled is False then).
    """

    steps: np.ndarray
    values: np.ndarray
    scaled: bool

    @property
    def finite(self) -> np.ndarray:
        """All that are finite, float64 [n]."""
        flat = self.values.reshape(-1)
        return flat[np.isfinite(flat)]


def slopes(run: Run) -> Slopes | None:
    """The slopes of a run; None if its journal compares no losses."""
    lanes = run.header["batch"]["data_lanes"]
    by_step = {entry.step + 1: entry.values for entry in run.entries if entry.values.shape[1] > 1}
    if not by_step:
        return None
    shape = next(iter(by_step.values())).shape  # a method that changes it in mid-run keeps the first
    kept = {step: values for step, values in by_step.items() if values.shape == shape}
    differences = np.stack([values[:, :-1].astype(np.float64) for values in kept.values()])
    shaped = differences.reshape(len(kept), -1, lanes, shape[1] - 1)
    square = np.sqrt(np.mean(shaped.mean(axis=2) ** 2, axis=(1, 2)))  # a method sees the mean over lanes
    known = {line["step"]: line["slope"] for line in run.steps if "slope" in line}
    measured = np.array([known.get(step, np.nan) for step in kept])
    usable = np.isfinite(measured) & np.isfinite(square) & (square > 0) & (measured > 0)
    factor = float(np.median(measured[usable] / square[usable])) if usable.any() else 1.0
    return Slopes(np.array([*kept], np.int64), shaped * factor, bool(usable.any()))


def signal_to_noise(found: Slopes) -> tuple[np.ndarray, np.ndarray, int] | None:
    """How far the slopes stand out of the noise of the batches; None with one data lane.

    Every direction n is measured on L batches, with mean m_n and variance v_n (L - 1) over them.  Signal: the mean of m_n^2
    less what noise adds to it, mean v_n / L; noise: mean v_n / L.  The figure is the root of their ratio, 0 where that is
    negative, of each window of steps that have 25 directions together.  1: a slope is as much gradient as it is noise.
    Returns the last step of each window int64 [W], the figure float64 [W], and the directions of a window.
    """
    lanes = found.values.shape[2]
    if lanes < 2:
        return None
    square, noise = found.values.mean(axis=2) ** 2, found.values.var(axis=2, ddof=1) / lanes
    steps, (signal, below) = _windows(found, square, noise)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = signal.mean(axis=1) / below.mean(axis=1) - 1.0
    return steps, np.sqrt(np.maximum(ratio, 0.0)), signal.shape[1]


def common_part(found: Slopes) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Mean over spread of the slopes, of each window of steps that have 25 slopes together.

    Returns the last step of each window int64 [W]; mean / s float64 [W], s the standard deviation (n - 1); the same in units
    of what chance gives, mean / (s / sqrt(n)) [W]; and n.  Directions are random, so the mean is 0 but for chance, within
    -2 and 2 standard errors 95 times in 100; one-sided points have a mean of eps / 2 times the loss's mean curvature.
    The slopes of a direction on several lanes count as one, their mean.
    """
    steps, (flat,) = _windows(found, found.values.mean(axis=2))
    n = flat.shape[1]
    if n < 2:
        return np.zeros(0, np.int64), np.zeros(0), np.zeros(0), n
    with np.errstate(divide="ignore", invalid="ignore"):
        over = flat.mean(axis=1) / flat.std(axis=1, ddof=1)
    return steps, over, over * np.sqrt(n), n


def _windows(found: Slopes, *figures: np.ndarray) -> tuple[np.ndarray, list[np.ndarray]]:
    """Figures of directions [T, ...] by window of whole steps, [W, n], and the last step of each window."""
    total, each = len(figures[0]), figures[0][0].size
    group = min(total, -(-WINDOW // each))
    windows = total // group
    return found.steps[group - 1 : windows * group : group], [
        part[: windows * group].reshape(windows, -1) for part in figures
    ]


def kurtosis(values: np.ndarray) -> float:
    """Excess kurtosis: 0 for a normal law, above for rare large slopes.  NaN if all are equal."""
    centred = values - values.mean()
    square = float(np.mean(centred**2))
    return float(np.mean(centred**4)) / square**2 - 3.0 if square > 0 else float("nan")
