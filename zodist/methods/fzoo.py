"""FZOO, 2025, arXiv:2506.09034 (ICLR 2026): one-sided losses in units of their own standard deviation.

Paper     N one-sided losses l_i at +eps u_i, u_i Rademacher, and the clean loss l_0, all on one batch; sigma = standard
          deviation of the l_i (N - 1 in the divisor); theta <- theta - eta / sigma * (1 / (eps N)) sum_i (l_i - l_0) u_i.
Code      sigma has N in the divisor (spread = "population"), and there is no 1 / eps: lr of the code = eta / eps.  So
          here: rule.lr is the code's, in units of weights moved.  Published: N = 8; OPT-13B lr 5e-5, eps 1e-4; scripts
          lr 1e-5, eps 1e-3.
Derived   sigma is about eps |gradient|: a normalised step, in which a weight moves by about lr / sqrt(N), whatever the
          scale of the loss.
Departure Several probes have batches of their own, so sigma is taken from the losses' distances to the mean of their own
          probe, with (N - 1) degrees of freedom each: pooled over all probes of the step, which are those of all
          workers (pool = "all"), or of each probe alone (pool = "probe").  One probe is the paper's setting.
          baseline = "rloo" measures each loss from the mean of the probe's others, which saves the clean loss: N - 1
          directions' worth of signal for N forwards, where the clean loss buys N for N + 1.
          Points are Walsh codes of one base noise, with random signs: weights that sum to zero, those of "rloo", would
          else never move the weights whose index is a multiple of N, where all codes agree; coupling = "independent"
          is the paper's.
          sigma is at least sigma_min: equal losses would divide by zero.
Replay    any order while weight decay is 0 and the rule is sgd.  State: none.
Forwards  a step: N + 1 per probe, N with baseline = "rloo".
"""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.directions import Combination, Dense, Param
from zodist.methods.claims import Gradients, Moments, dense, root_chi
from zodist.methods.method import Method, Outcome, Settings, Step
from zodist.methods.one_sided import one_sided
from zodist.methods.steps import StepSeeds


class FZOOSettings(Settings):
    """Keys of [method] with name = "fzoo"."""

    codes: ClassVar[tuple[str, ...]] = ("probes", "points")
    probes: int = Field(
        1, ge=1, le=1024, description="groups of points, each on a batch of its own (paper: 1)"
    )
    points: int = Field(8, ge=2, le=64, description="perturbed points of a probe, N (published: 8)")
    eps: float = Field(
        1e-3, gt=0, description="perturbation size, in weight units (published: 1e-4 and 1e-3)"
    )
    noise: Literal["gaussian", "rademacher"] = Field("rademacher", description="law of a direction's numbers")
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the points of a step differ")
    baseline: Literal["clean", "rloo"] = Field(
        "clean",
        description="what a loss is measured from: the clean loss (paper), or the mean of the other points",
    )
    pool: Literal["all", "probe"] = Field("all", description="losses that sigma is taken from")
    spread: Literal["sample", "population"] = Field(
        "sample", description="divisor of sigma: points - 1 (paper) or points (code)"
    )
    sigma_min: float = Field(1e-8, gt=0, description="least sigma, in nats")


class FZOO(Method):
    """One-sided points, their losses in units of their own standard deviation."""

    settings_type = FZOOSettings
    paper = "FZOO 2025, arXiv:2506.09034"
    replay = "any order (sgd, no decay)"
    forwards = "points + 1 per probe; points with baseline = 'rloo'"

    def __init__(self, settings: FZOOSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")

    def direction(self, param: Param) -> Dense:
        """The same law for every parameter."""
        return self._dense

    def step(self, seeds: StepSeeds) -> Step:
        """One round: every point of every probe, and last the clean weights where they are the baseline."""
        s = self.settings
        names = seeds.names(s.probes * s.points, s.coupling).reshape(s.probes, s.points)
        signs = seeds.signs(names.size).reshape(names.shape)
        losses = yield one_sided(names, signs, s.eps, clean=s.baseline == "clean")
        kept = np.isfinite(losses).all(axis=1)
        if not kept.any():
            return Outcome(Combination.of(), math.nan, math.nan, s.probes)
        found = losses[kept]
        perturbed = found[:, : s.points]
        centred = perturbed - np.array([[math.fsum(row) / s.points] for row in perturbed])
        if s.baseline == "clean":
            differences = perturbed - found[:, s.points :]
        else:
            differences = centred * (s.points / (s.points - 1))
        weights = signs[kept] * differences / self.sigmas(centred)[:, None] / differences.size
        rms = float(np.sqrt(np.mean(differences**2))) / s.eps
        gradient = Combination(names[kept].reshape(-1), weights.reshape(-1))
        return Outcome(gradient, float(found.mean()), rms, s.probes - len(found))

    def sigmas(self, centred: np.ndarray) -> np.ndarray:
        """Standard deviation of each probe's losses, nats, float64 [probes].

        centred: float64 [probes, points], losses less the mean of their probe.  Sums are rounded once.
        """
        s = self.settings
        squares = np.array([math.fsum(row) for row in centred**2])
        if s.pool == "all":
            squares = np.full_like(squares, math.fsum(squares) / len(squares))
        divisor = s.points - 1 if s.spread == "sample" else s.points
        return np.maximum(np.sqrt(squares / divisor), s.sigma_min)

    def linear_moments(self, gradients: Gradients) -> Moments | None:
        """With x, y chi-squared of k = probes * (points - 1) and of ``probes`` degrees of freedom, about.

        The squares of the losses' distances to their mean sum to x, those to the clean loss to x + y, sigma is the root of
        x / k: along the gradient (x + y) / sqrt(x / k), and (x + y) / (x / k) times the square of plain slopes.
        """
        s = self.settings
        probes, k = s.probes, s.probes * (s.points - 1)
        if s.baseline != "clean" or s.pool != "all" or k < 5:
            return None
        along, square = dense(gradients, s.noise, s.coupling, probes * s.points)
        inverse = root_chi(k) / (k - 1)  # E[1 / sqrt(x)]
        ahead = math.sqrt(k) * (root_chi(k) + probes * inverse) / (probes * s.points)
        return math.sqrt(along) * ahead, square / along * k * (1.0 + probes / (k - 2)) / (probes * s.points)
