"""SubZero, 2024, arXiv:2410.08989 (ICCV 2025): directions U Z V^T inside random subspaces kept for a window of steps.

Paper     a matrix [m, n] is probed at +eps and -eps along U Z V^T: U [m, r] and V [n, r] orthonormal, drawn anew
          every ``refresh`` steps, Z [r, r] Gaussian in every step; gradient = slope * the direction.  Other
          parameters: Gaussian, as in MeZO.
Code      multiplies with sqrt(m n) / r, which the paper's formula does not have; with it numbers have variance 1 over
          the windows, and eps and rates are MeZO's.  So it is here: published eps and rates are ours.  It draws U and
          V from the global stream before the step's seed is set, so that a run cannot be replayed.
          Published: rank 8 and refresh 2000 (code), 24 and 1000 (README); other papers use rank 32 to 64, refresh 500
          to 2000 and lr 1e-7.  For LoRA and prompts the code reshapes tensors to near squares; here they keep their
          shape.
Departure U, V and Z have addresses of their own; U and V come from Gram-Schmidt in float64 with a fixed order of
          sums.  rank is at most min(m, n).  Probes of a step are Walsh codes of one Z (coupling = "walsh"), several
          are averaged, and noise = "rademacher" is offered for Z.  Z has only r^2 numbers, so that more codes than
          that would repeat each other.
Replay    any order while weight decay is 0 and the rule is sgd.  State: none.
Memory    4 bytes for each of the (m + n) r numbers of U and V.  Forwards a step: 2 per probe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from zodist import noise
from zodist.directions import Cache, Combination, Dense, Law, LowRank, Param, factor, matrix_shape
from zodist.methods.claims import Gradients, Moments
from zodist.methods.method import Method, Settings, Step
from zodist.methods.steps import StepSeeds
from zodist.methods.thin import Bases, is_matrix, thin_moments
from zodist.methods.two_sided import two_sided


class SubZeroSettings(Settings):
    """Keys of [method] with name = "subzero"."""

    probes: int = Field(1, ge=1, le=noise.CODES, description="two-sided probes in a step, over all workers")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units")
    rank: int = Field(
        24, ge=1, le=1024, description="r, columns of U and V (published: 8, 24; others 32 to 64)"
    )
    refresh: int = Field(1000, ge=0, description="steps that U and V last; 0: all (published: 500 to 2000)")
    noise: Literal["gaussian", "rademacher"] = Field(
        "gaussian", description="law of Z's numbers and of vectors'"
    )
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the probes of a step differ")

    @model_validator(mode="after")
    def _codes_must_differ(self) -> SubZeroSettings:
        if self.coupling == "walsh" and self.probes > self.rank**2:
            raise ValueError(
                f"method.probes = {self.probes} Walsh codes cannot differ on the {self.rank**2} numbers of Z; raise "
                "method.rank or set method.coupling = 'independent'"
            )
        return self


class SubZero(Method):
    """Two-sided probes along U Z V^T."""

    settings_type = SubZeroSettings
    paper = "SubZero 2024, arXiv:2410.08989"
    replay = "any order (sgd, no decay)"
    forwards = "2 per probe"

    def __init__(self, settings: SubZeroSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")
        self._bases = Bases(settings.rank, settings.refresh, orthonormal=True)

    def direction(self, param: Param) -> Law:
        """sqrt(m n) / r * U Z V^T for a matrix."""
        return LowRank(partial(self._factors, param)) if is_matrix(param) else self._dense

    def step(self, seeds: StepSeeds) -> Step:
        """One round; U and V are those of the step's window from the first probe to the update."""
        s = self.settings
        self._bases.enter(seeds)
        return (yield from two_sided(seeds, s.probes, s.eps, s.coupling))

    def expected(self, gradients: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """A matrix's gradient G is seen as m n / r^2 * U U^T G V V^T."""
        found = dict(gradients)
        for p in filter(is_matrix, self.params):
            u, v = self._bases.left(p).astype(np.float64), self._bases.right(p).astype(np.float64)
            g = gradients[p.name].reshape(len(u), len(v))
            scale = len(u) * len(v) / u.shape[1] ** 2
            found[p.name] = (scale * (u @ (u.T @ g @ v) @ v.T)).reshape(p.shape)
        return found

    def linear_moments(self, gradients: Gradients) -> Moments | None:
        """Over U and V, of which U^T G V has r^2 / (m n) of |G|^2: m n + 2 m n / r^2, and m n / r^2 is common to probes."""
        s = self.settings
        if not s.refresh or s.noise != "gaussian" or (s.coupling == "walsh" and s.probes > 1):
            return None

        def own(rows: int, columns: int, rank: int) -> tuple[float, float]:
            return 2.0 * rows * columns / rank**2, rows * columns / rank**2

        return thin_moments(self.params, self._bases, gradients, s.probes, own)

    def _factors(
        self, param: Param, combinations: Sequence[Combination], cache: Cache
    ) -> tuple[np.ndarray, np.ndarray]:
        """U Z, scaled, in float64 and rounded once, for every combination; V^T for all."""
        u, v = self._bases.left(param), self._bases.right(param)
        rank = u.shape[1]
        cores = factor(self._dense, combinations, cache, param.id, noise.U, rank, rank).astype(np.float64)
        scaled = u.astype(np.float64) * (math.sqrt(math.prod(matrix_shape(param.shape))) / rank)
        left = np.empty((len(cores), *u.shape), np.float32)
        for c, core in enumerate(cores):
            left[c] = param.kernels.linalg.matmul(scaled, core)
        return left, v.T[None]
