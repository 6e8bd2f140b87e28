"""TeZO, TeZO-m and TeZO-Adam, 2025, arXiv:2501.19057: all directions of a matrix share one CP factorisation.

Paper     U [m, r] and V [n, r] Gaussian, drawn once for the whole run; a step draws tau [r] and probes a matrix at
          +eps and -eps along Z = U diag(tau) V^T; W <- W - lr * slope * Z.  Vectors: not known to us; here as in
          MeZO.
          TeZO-m (memory = "momentum"): m <- beta1 m + (1 - beta1) slope * tau, r numbers; step U diag(m) V^T.
          TeZO-Adam (memory = "adam"): a separable second moment.
Derived   v <- beta2 v + (1 - beta2) (slope * tau)^2; the second moment of a weight is (U o U) diag(v) (V o V)^T, in
          which cross terms of mean zero are dropped; W <- W - lr * m / (sqrt(v) + epsilon).  Adam's corrections of
          both moments, epsilon outside of the root, ordinary Adam moments for vectors: our choice.  rule.lr is then
          in weights moved, and rules but "sgd" are refused.  E[<G, Z> Z] = r G over U, V and tau, so tau has variance
          1 / r here: eps and rates compare with MeZO's.  Whether the authors scale so is not known to us; if tau has
          variance 1, eps = ours / sqrt(r), rate = ours / r. With U and V fixed only r numbers of a matrix are
          trained, by far the strongest limit of the method.
Departure refresh > 0 draws U and V anew every so many steps; moments belong to one pair, so it goes with memory =
          "none".  The paper chooses the rank of each layer from its spectrum (mean 31.5); here one rank serves all.
          Several probes are averaged.  They are independent, for r numbers cost nothing; coupling = "walsh" is
          offered, but more codes than r would repeat each other.
Replay    plain: any order, and the history of a matrix is one r-vector.  With memory: in order.
State     none; with memory 4 bytes for each of the r numbers of a matrix and for each number of a vector, a moment.
Memory    4 bytes for each of the (m + n) r numbers of U and V.  Forwards a step: 2 per probe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field, model_validator

from zodist import noise
from zodist.directions import (
    Cache,
    Combination,
    Dense,
    Kept,
    Law,
    LowRank,
    Param,
    Product,
    Quotient,
    Scaled,
    Stored,
    factor,
)
from zodist.methods.claims import Gradients, Moments
from zodist.methods.method import Method, Outcome, Settings, Step, second_rule
from zodist.methods.steps import StepSeeds
from zodist.methods.thin import Bases, dense_numbers, fade_, is_matrix, thin_moments
from zodist.methods.two_sided import two_sided


class TeZOSettings(Settings):
    """Keys of [method] with name = "tezo"."""

    probes: int = Field(1, ge=1, le=1024, description="two-sided probes in a step, over all workers")
    eps: float = Field(1e-3, gt=0, description="perturbation size, in weight units")
    rank: int = Field(32, ge=1, le=1024, description="r, columns of U and V (published: 31.5 in the mean)")
    refresh: int = Field(0, ge=0, description="steps that U and V last; 0: all (published)")
    memory: Literal["none", "momentum", "adam"] = Field("none", description="TeZO, TeZO-m or TeZO-Adam")
    beta1: float = Field(0.9, ge=0, lt=1, description="decay of the first moment, per step")
    beta2: float = Field(0.999, ge=0, lt=1, description="decay of the second moment, per step")
    epsilon: float = Field(1e-8, gt=0, description="added to the root of adam's second moment")
    noise: Literal["gaussian", "rademacher"] = Field(
        "gaussian", description="law of tau and of vectors' numbers"
    )
    coupling: Literal["walsh", "independent"] = Field(
        "independent", description="how the probes of a step differ"
    )

    def refuses(self, rule: str) -> str:
        """Memory is a rule of its own."""
        return "" if self.memory == "none" else second_rule(rule, "memory", self.memory, "none")

    @model_validator(mode="after")
    def _settings_must_fit(self) -> TeZOSettings:
        if self.coupling == "walsh" and self.probes > self.rank:
            raise ValueError(
                f"method.probes = {self.probes} Walsh codes cannot differ on the {self.rank} numbers of tau; raise "
                "method.rank or set method.coupling = 'independent'"
            )
        if self.refresh and self.memory != "none":
            raise ValueError(
                f"method.refresh = {self.refresh} would drop the moments, which belong to U and V; set it to 0 or "
                "method.memory = 'none'"
            )
        return self


class TeZO(Method):
    """Two-sided probes along U diag(tau) V^T."""

    settings_type = TeZOSettings
    paper = "TeZO 2025, arXiv:2501.19057"
    replay = "any order (sgd, no decay, no memory)"
    forwards = "2 per probe"
    memory = "none; with memory 4 or 8 bytes for each of rank numbers a matrix"

    def __init__(self, settings: TeZOSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")
        self._bases = Bases(settings.rank, settings.refresh)
        self._first: dict[str, np.ndarray] = {}
        self._second: dict[str, np.ndarray] = {}
        self._steps = np.zeros(1, np.int64)

    def begin(self, params: Sequence[Param]) -> None:
        """Moments begin at zero."""
        super().begin(params)
        for moments, kinds in ((self._first, ("momentum", "adam")), (self._second, ("adam",))):
            if self.settings.memory in kinds:
                for p in params:
                    size = self._bases.rank(p) if is_matrix(p) else p.weights.numel()
                    moments[p.name] = np.zeros(size, np.float32)

    def direction(self, param: Param) -> Law:
        """U diag(tau) V^T, tau of variance 1 / r, for a matrix."""
        return LowRank(partial(self._factors, param)) if is_matrix(param) else self._dense

    def update(self, param: Param) -> Law | Kept:
        """With memory the moments."""
        if self.settings.memory == "none":
            return self.direction(param)
        above = self._moment(param, self._first, squared=False)
        if self.settings.memory == "momentum":
            return above
        below = self._moment(param, self._second, squared=True)
        return Quotient(above, below, self.settings.epsilon, self._corrections)

    def step(self, seeds: StepSeeds) -> Step:
        """One round of two-sided probes."""
        s = self.settings
        self._bases.enter(seeds)
        outcome = yield from two_sided(seeds, s.probes, s.eps, s.coupling)
        if s.memory == "none" or outcome.empty:
            return outcome
        cache: Cache = {}
        for p in self.params:
            new = self._slope_times_noise(p, outcome.gradient, cache)
            fade_(self._first[p.name], new, s.beta1)
            if s.memory == "adam":
                fade_(self._second[p.name], new * new, s.beta2)
        self._steps += 1
        return Outcome(Scaled(1.0), outcome.loss, outcome.slope, outcome.skipped)

    def state(self) -> dict[str, np.ndarray]:
        """The moments by parameter, and how many gradients are in them."""
        first = {f"first/{name}": held for name, held in self._first.items()}
        second = {f"second/{name}": held for name, held in self._second.items()}
        return {} if self.settings.memory == "none" else first | second | {"steps": self._steps}

    def expected(self, gradients: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Without memory a matrix's gradient G is seen as sum over k of (u_k^T G v_k) u_k v_k^T / r."""
        found = dict(gradients)
        for p in filter(is_matrix, self.params):
            u, v = self._bases.left(p).astype(np.float64), self._bases.right(p).astype(np.float64)
            along = ((u.T @ gradients[p.name].reshape(len(u), len(v))) * v.T).sum(axis=1)
            found[p.name] = ((u * along) @ v.T / u.shape[1]).reshape(p.shape)
        return found

    def linear_moments(self, gradients: Gradients) -> Moments | None:
        """Over U and V: with k = (m + 2) (n + 2), E[h^T M h] = r k + r (r - 1) for h_i = u_i^T G v_i, M = U^T U o V^T V.

        A probe has the mean of h^2 tr M + 2 h^T M h over r^2, two have h^T M h over r^2 in common.
        """
        s = self.settings
        if s.memory != "none" or not s.refresh or s.noise != "gaussian" or s.coupling == "walsh":
            return None

        def own(rows: int, columns: int, rank: int) -> tuple[float, float]:
            k = (rows + 2) * (columns + 2)
            return (3.0 * k + 2.0 * (rank - 1) - rows * columns) / rank, (k + rank - 1) / rank

        return thin_moments(self.params, self._bases, gradients, s.probes, own)

    def _factors(
        self, param: Param, combinations: Sequence[Combination], cache: Cache
    ) -> tuple[np.ndarray, np.ndarray]:
        tau = self._taus(param, combinations, cache)
        return self._bases.left(param) * tau[:, None, :], self._bases.right(param).T[None]

    def _taus(self, param: Param, combinations: Sequence[Combination], cache: Cache) -> np.ndarray:
        rank = self._bases.rank(param)
        dense = Dense(self._dense.law, self._dense.coded, 1.0 / np.sqrt(rank))
        return factor(dense, combinations, cache, param.id, noise.U, rank)

    def _slope_times_noise(self, param: Param, gradient: Combination, cache: Cache) -> np.ndarray:
        """What moments are taken of: slope * tau for a matrix, slope * z for a vector, summed over probes."""
        if is_matrix(param):
            return self._taus(param, [gradient], cache)[0]
        return dense_numbers(self._dense, param, gradient, cache)

    def _moment(self, param: Param, moments: Mapping[str, np.ndarray], *, squared: bool) -> Kept:
        if not is_matrix(param):
            return Stored(moments[param.name])

        def parts(cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            u, v = self._bases.left(param), self._bases.right(param).T
            left, right = (u * u, v * v) if squared else (u, v)
            return left, moments[param.name], right

        return Product(parts)

    def _corrections(self) -> tuple[float, float]:
        """Adam's, by repeated products: powers of numpy and of libraries differ in their last bit."""
        first = second = 1.0
        for _ in range(min(int(self._steps[0]), 100_000)):  # beta^100,000 is 0 for any beta of use
            first, second = first * self.settings.beta1, second * self.settings.beta2
        return 1.0 / (1.0 - first), 1.0 / (1.0 - second)
