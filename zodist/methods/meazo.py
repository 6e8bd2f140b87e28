"""MEAZO, 2026, arXiv:2605.03869: Adam's normalisation of a zeroth-order step with one number of state.

Paper     two-sided slopes c along z; gbar = mean of c; v <- beta v + (1 - beta) gbar^2;
          theta <- theta - eta / (sqrt(v) + zeta) * mean of c z.  Adam on c z has v_i close to the mean of c^2 for every
          weight i, so that it is this step with two numbers a weight of state.
Unknown   to us: the published beta and zeta, and whether v is corrected for its start at 0.  The defaults are our choice;
          bias_correction divides v by the weights that its average has given out so far, as Adam does.
Departure square_of = "each" averages c^2 instead of squaring the mean of c: with more probes the square of the mean
          shrinks like the noise of the mean, so that the step grows as the estimate gets better; the mean of squares
          stays at |gradient|^2.  With one probe they are the same.  Ours.
          Probes are Walsh codes of one base noise; coupling = "independent" is the paper's.
Units     rule.lr is in weights moved: with one probe each weight moves by about lr a step.
Replay    in order, from two numbers.  State: two float64.  Forwards a step: 2 per probe.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.directions import Dense, Param
from zodist.methods.claims import Gradients, Moments, dense
from zodist.methods.method import Method, Settings, Step
from zodist.methods.steps import StepSeeds
from zodist.methods.two_sided import two_sided


class MEAZOSettings(Settings):
    """Keys of [method] with name = "meazo"."""

    probes: int = Field(1, ge=1, le=noise.CODES, description="two-sided probes in a step, over all workers")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units")
    noise: Literal["gaussian", "rademacher"] = Field("gaussian", description="law of a direction's numbers")
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the probes of a step differ")
    beta: float = Field(0.99, ge=0, lt=1, description="memory of the squared slope, per step (our choice)")
    zeta: float = Field(
        1e-8,
        gt=0,
        description="added to the root, in nats per weight unit, against division by 0 (our choice)",
    )
    bias_correction: bool = Field(True, description="make up for the average's start at 0 (our choice)")
    square_of: Literal["mean", "each"] = Field(
        "mean", description="square the mean slope of a step (paper), or average the squared slopes"
    )


class MEAZO(Method):
    """Two-sided probes, averaged, over the root of their mean square."""

    settings_type = MEAZOSettings
    paper = "MEAZO 2026, arXiv:2605.03869"
    replay = "in order"
    forwards = "2 per probe"
    memory = "16 bytes (mean square of slopes)"

    def __init__(self, settings: MEAZOSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")
        self._square = np.zeros(1)  # the average of squared slopes
        self._share = np.zeros(
            1
        )  # the same average of ones: 1 - beta^steps, without a power of the C library

    def direction(self, param: Param) -> Dense:
        """The same law for every parameter."""
        return self._dense

    def state(self) -> dict[str, np.ndarray]:
        """The running average and the weights that it has given out."""
        return {"square": self._square, "share": self._share}

    def step(self, seeds: StepSeeds) -> Step:
        """One round: every probe at +eps and -eps."""
        s = self.settings
        outcome = yield from two_sided(seeds, s.probes, s.eps, s.coupling)
        if outcome.empty:
            return outcome
        mean = math.fsum(outcome.gradient.weights)  # each is a slope over the number of slopes
        measured = (outcome.slope if s.square_of == "each" else mean) ** 2
        self._square[0] = s.beta * self._square[0] + (1.0 - s.beta) * measured
        self._share[0] = s.beta * self._share[0] + (1.0 - s.beta)
        square = self._square[0] / self._share[0] if s.bias_correction else self._square[0]
        return replace(outcome, gradient=outcome.gradient * (1.0 / (math.sqrt(square) + s.zeta)))

    def linear_moments(self, gradients: Gradients) -> Moments:
        """MeZO's, up to the factor 1 / sqrt(v), once v remembers many steps."""
        return dense(gradients, self.settings.noise, self.settings.coupling, self.settings.probes)
