"""What papers share: seeds of a step's probes, and slopes from losses."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from zodist import noise
from zodist.errors import ConfigError


@dataclass(frozen=True, slots=True)
class StepSeeds:
    """The seeds of one step, a function of the run's seed and the step alone.

    steps: how many steps the run has, for what a method changes over its length, as a rule's schedule of rates does; 0
    where seeds are wanted and no run is meant.  No seed depends on it.
    """

    run: int
    step: int
    steps: int = 0

    def coded(self, n: int) -> np.ndarray:
        """n Walsh-coded seeds of one base noise, uint64 [n].

        Raises ConfigError where there are not as many: a further one would be a code of another noise.
        """
        if n > noise.CODES:
            raise ConfigError(
                f"a step would take {n} Walsh codes of one noise, which has {noise.CODES}; use fewer probes or points"
            )
        base, _ = noise.split_seed(noise.derive(self.run, self.step, 0))
        return np.uint64(base) + np.arange(n, dtype=np.uint64)

    def independent(self, n: int) -> np.ndarray:
        """n seeds of unrelated noises, uint64 [n]."""
        return np.array([noise.derive(self.run, self.step, 1 + k) for k in range(n)], np.uint64)

    def crossed(self, codes: int, noises: int) -> np.ndarray:
        """``codes`` Walsh-coded seeds of each of ``noises`` unrelated noises, uint64 [codes, noises].

        The seeds of a row are independent directions and a sum of them has their law.  A sum of codes of one noise does not:
        every weight gets its number times a sum of signs, which for two codes of equal weight is 0 on half of the weights.
        """
        bases = self.independent(noises) & ~np.uint64(noise.CODES - 1)
        return bases[None, :] + np.arange(codes, dtype=np.uint64)[:, None]

    def names(self, n: int, coupling: str) -> np.ndarray:
        """n seeds of the step under a coupling: "walsh" or "independent"."""
        return self.coded(n) if coupling == "walsh" else self.independent(n)

    def signs(self, n: int) -> np.ndarray:
        """n random signs, float64 +1 or -1, for points whose losses are compared with the mean over all of them.

        The sum of a full set of Walsh-coded directions is zero but for every n-th weight, which the mean's share of an
        estimate would cancel in every step alike.  Random signs spread that evenly, and leave a direction's law unchanged.
        """
        return noise.numbers(noise.RADEMACHER, self.lasting(self.step, 1), 0, noise.RADIUS, 0, n).astype(
            np.float64
        )

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


def leave_one_out(losses: np.ndarray, points: int, *, pool: str) -> tuple[np.ndarray, np.ndarray]:
    """Weights of one-sided points whose sum of weight * direction / eps estimates the gradient (RLOO).

    losses: float64 [probes, points] or, with pool = "all", [probes, points + 1], the clean loss last.
    pool: "probe": the baseline of a point is the mean of its probe's other points, and the probes are averaged; "all": it is
    the mean over all other points of the step, each as a difference to its probe's clean loss.
    Returns weights float64 [kept probes, points], and kept, bool [probes]: those with finite losses only.  For N points
    1 / N sum_k (f_k - mean of the others) v_k = 1 / (N - 1) sum_k (f_k - mean) v_k.
    """
    kept = np.asarray(np.isfinite(losses).all(axis=1))
    chosen = losses[kept]
    if pool == "all":
        chosen = chosen[:, :points] - chosen[:, points:]
        count = chosen.size
        mean = math.fsum(chosen.reshape(-1)) / max(count, 1)
        return (chosen - mean) / max(count - 1, 1), kept
    means = np.array([math.fsum(row) / points for row in chosen])
    return (chosen - means[:, None]) / ((points - 1) * max(len(chosen), 1)), kept
