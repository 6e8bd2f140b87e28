"""What papers share: seeds of a step's probes, and slopes from losses."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from zodist import noise


@dataclass(frozen=True, slots=True)
class StepSeeds:
    """The seeds of one step, a function of the run's seed and the step alone."""

    run: int
    step: int

    def coded(self, n: int) -> np.ndarray:
        """n Walsh-coded seeds of one base noise, uint64 [n].  n <= 65,536."""
        base, _ = noise.split_seed(noise.derive(self.run, self.step, 0))
        return np.uint64(base) + np.arange(n, dtype=np.uint64)

    def independent(self, n: int) -> np.ndarray:
        """n seeds of unrelated noises, uint64 [n]."""
        return np.array([noise.derive(self.run, self.step, 1 + k) for k in range(n)], np.uint64)

    def names(self, n: int, coupling: str) -> np.ndarray:
        """n seeds of the step under a coupling: "walsh" or "independent"."""
        return self.coded(n) if coupling == "walsh" else self.independent(n)

    def lasting(self, window: int, index: int = 0) -> int:
        """A seed for what outlives a step, such as the basis of a window of steps."""
        return noise.derive(self.run, window, 0x40000000 + index)


def slopes(losses: np.ndarray, eps: float) -> np.ndarray:
    """Central differences along each probe's direction.

    losses: float64 [probes, 2] at +eps and -eps, on the same batch.  eps: perturbation size, in weight units.
    Returns float64 [probes], loss per weight unit; not finite where a loss is not.
    Source: MeZO (arXiv:2305.17333), Algorithm 1, the projected gradient.
    """
    with np.errstate(invalid="ignore"):  # inf - inf is NaN, which is what the caller looks for
        return (losses[:, 0] - losses[:, 1]) / (2.0 * eps)
