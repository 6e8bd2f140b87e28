"""Sparse-MeZO: Liu, Zhu, Gong, Cheng, Hsieh, You 2024, "Less Parameters for Better Performance in ZO LLM Fine-Tuning".

arXiv:2402.15751.  MeZO on the small weights alone: the noise of an estimate hurts most where it is added to large ones.

Paper     a weight is perturbed and moved while |w| <= h, h a threshold of its matrix; the mask is not stored but formed
          in the forward; otherwise MeZO with Gaussian noise.  We read the abstract, reviews and a digest of the method:
          which sparsity the published runs had is not known to us.
Code      not available to us.
Derived   thresholds are quantiles of the base weights' magnitudes and stay; the mask follows the weights, and is that of
          the weights as a step finds them, for its probes and for its update.
Departure several probes a step, Walsh codes, Rademacher noise as in mezo.py.  sparsity = 0.75 and vectors = "dense"
          (norms and biases have no small weights to speak of) are our choice.
Replay    in order: masks depend on the weights.  State: 4 bytes a parameter.  Forwards a step: 2 per probe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
from pydantic import Field

from zodist import noise
from zodist.directions import Dense, Dressed, Law, Param
from zodist.errors import ModelError
from zodist.methods.claims import Gradients, Moments, dense
from zodist.methods.method import Method, Settings, Step
from zodist.methods.steps import StepSeeds
from zodist.methods.two_sided import two_sided


class SparseMeZOSettings(Settings):
    """Keys of [method] with name = "sparse_mezo"."""

    probes: int = Field(1, ge=1, le=noise.CODES, description="two-sided probes in a step, over all workers")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units")
    noise: Literal["gaussian", "rademacher"] = Field("gaussian", description="law of a direction's numbers")
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the probes of a step differ")
    sparsity: float = Field(
        0.75, ge=0, lt=1, description="share of a matrix, the largest weights, left alone"
    )
    vectors: Literal["dense", "none"] = Field(
        "dense", description="parameters with one axis: whole, or left alone"
    )


class SparseMeZO(Method):
    """MeZO on the weights below a threshold."""

    settings_type = SparseMeZOSettings
    paper = "Liu et al. 2024, arXiv:2402.15751"
    replay = "in order"
    forwards = "2 per probe"
    memory = "4 bytes a parameter"

    def __init__(self, settings: SparseMeZOSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")
        self.thresholds = np.empty(0, np.float32)

    def begin(self, params: Sequence[Param]) -> None:
        """Thresholds from the base weights, one parameter at a time; infinite for vectors."""
        super().begin(params)
        self.thresholds = np.full(len(params), np.inf, np.float32)
        for n, p in enumerate(params):
            if len(p.shape) > 1:
                self.thresholds[n] = self._threshold(p)

    def _threshold(self, param: Param) -> np.float32:
        magnitudes = np.abs(param.weights.float().cpu().numpy())
        if magnitudes.size != math.prod(param.shape):
            raise ModelError(
                f"parameter {param.name!r} is held in part, and method sparse_mezo needs the magnitudes of the whole; "
                "use another method for sharded weights"
            )
        moved = max(1, round((1.0 - self.settings.sparsity) * magnitudes.size))
        return np.partition(magnitudes, moved - 1)[moved - 1]

    def direction(self, param: Param) -> Law | None:
        """Noise on the weights of magnitude up to the threshold."""
        if len(param.shape) > 1:
            number = next(n for n, p in enumerate(self.params) if p.id == param.id)
            return Dressed(self._dense, below=self.thresholds[number])
        return self._dense if self.settings.vectors == "dense" else None

    def step(self, seeds: StepSeeds) -> Step:
        """MeZO's: only what a seed means differs."""
        s = self.settings
        return two_sided(seeds, s.probes, s.eps, s.coupling)

    def expected(self, gradients: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """The gradient of the small weights."""
        found = {}
        for p, threshold in zip(self.params, self.thresholds, strict=True):
            small = np.abs(p.weights.float().numpy()) <= (threshold if self.direction(p) else -1.0)
            found[p.name] = gradients[p.name] * small.reshape(p.shape)
        return found

    def linear_moments(self, gradients: Gradients) -> Moments:
        """MeZO's on the small weights, whose number takes the place of d."""
        small, s = {}, self.settings
        for name, seen in self.expected({name: np.ones_like(g) for name, g in gradients.items()}).items():
            small[name] = gradients[name][seen != 0.0]
        return dense(small, s.noise, s.coupling, s.probes)

    def state(self) -> dict[str, np.ndarray]:
        """The thresholds, in the order of the parameters."""
        return {"thresholds": self.thresholds}

    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Thresholds follow from the base weights, so a snapshot's can only be the same."""
        before = self.thresholds.copy()
        super().load(state)
        if not np.array_equal(before, self.thresholds):
            raise ModelError(
                "the snapshot's thresholds of method sparse_mezo are not those of this base model's weights; "
                "start from the model that the run started from"
            )
