"""LOZO and LOZO-M, 2024, arXiv:2410.07698 (ICLR 2025): directions U V^T of low rank, V kept for a window of steps.

Paper     a matrix [m, n] is probed at +eps U V^T and -eps U V^T: U [m, r] Gaussian in every step, V [n, r] Gaussian,
          drawn anew every ``refresh`` steps; W <- W - lr * slope * U V^T / r.  Vectors: Gaussian, as in MeZO.
          LOZO-M: N <- beta N + (1 - beta) slope * U; W <- W - lr * N V^T / r; when V changes, first N <- N (V_old^T
          V_new) / n.  Vectors have an ordinary momentum.  It goes with rule.name = "sgd" alone.
          Published: OPT-13B r = 1 to 2, refresh 50 or 100, eps 1e-3, lr 1e-6 or 1e-7; RoBERTa-large r = 4; beta =
          0.9.
Code      leaves the 1 / r out.  It draws V before U from one stream when it probes and U alone when it updates, so
          that at every refresh the weights move along another U than was measured, which also enters the momentum.
Departure U and V have addresses of their own: probes and update cannot disagree.  The direction is U V^T / sqrt(r):
          unit variance, so that eps and rates compare with MeZO's.  A published eps is ours / sqrt(r); the paper's
          rate is ours, the code's rate is ours / r.  Probes of a step are Walsh codes of one U (coupling = "walsh"),
          several are averaged, and noise = "rademacher" is offered for U; V is always Gaussian.
Replay    plain: any order while weight decay is 0 and the rule is sgd.  With momentum: in order.
State     none; with momentum 4 bytes for each of the m r numbers of a matrix and for each number of a vector.
Memory    4 bytes for each number of V, m r for U while in use.  Forwards a step: 2 per probe.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Literal

import numpy as np
from pydantic import Field

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
    Scaled,
    Stored,
    factor,
    matrix_shape,
)
from zodist.methods.claims import Gradients, Moments
from zodist.methods.method import Method, Outcome, Settings, Step, second_rule
from zodist.methods.steps import StepSeeds
from zodist.methods.thin import ONES, Bases, dense_numbers, fade_, is_matrix, thin_moments
from zodist.methods.two_sided import two_sided


class LOZOSettings(Settings):
    """Keys of [method] with name = "lozo"."""

    probes: int = Field(1, ge=1, le=noise.CODES, description="two-sided probes in a step, over all workers")
    eps: float = Field(
        1e-3, gt=0, description="perturbation size, in weight units (published: 1e-3 * sqrt(rank))"
    )
    rank: int = Field(2, ge=1, le=1024, description="columns of U and V (published: 1, 2 and 4)")
    refresh: int = Field(50, ge=0, description="steps that V lasts; 0: all (published: 50 and 100)")
    momentum: float = Field(0.0, ge=0, lt=1, description="beta of LOZO-M; 0: plain LOZO (published: 0.9)")
    noise: Literal["gaussian", "rademacher"] = Field(
        "gaussian", description="law of U's numbers and of vectors'"
    )
    coupling: Literal["walsh", "independent"] = Field("walsh", description="how the probes of a step differ")

    def refuses(self, rule: str) -> str:
        """LOZO-M is a rule of its own."""
        return second_rule(rule, "momentum", self.momentum, 0) if self.momentum else ""


class LOZO(Method):
    """Two-sided probes along U V^T."""

    settings_type = LOZOSettings
    paper = "LOZO 2024, arXiv:2410.07698"
    replay = "any order (sgd, no decay, no momentum)"
    forwards = "2 per probe"
    memory = "none; with momentum 4 bytes for each of rows * rank numbers"

    def __init__(self, settings: LOZOSettings) -> None:
        self.settings = settings
        self._dense = Dense(noise.LAWS[settings.noise], settings.coupling == "walsh")
        self._bases = Bases(settings.rank, settings.refresh)
        self._momenta: dict[str, np.ndarray] = {}
        self._window = np.zeros(1, np.int64)  # whose V the momenta belong to

    def begin(self, params: Sequence[Param]) -> None:
        """Momenta begin at zero."""
        super().begin(params)
        if self.settings.momentum:
            for p in params:
                thin = (matrix_shape(p.shape)[0], self._bases.rank(p)) if is_matrix(p) else p.weights.numel()
                self._momenta[p.name] = np.zeros(thin, np.float32)

    def direction(self, param: Param) -> Law:
        """U V^T / sqrt(r) for a matrix."""
        return LowRank(partial(self._factors, param)) if is_matrix(param) else self._dense

    def update(self, param: Param) -> Law | Kept:
        """With momentum N V^T, where N is kept."""
        if not self.settings.momentum:
            return self.direction(param)
        if is_matrix(param):
            return Product(partial(self._moved, param))
        return Stored(self._momenta[param.name])

    def step(self, seeds: StepSeeds) -> Step:
        """One round; V is that of the step's window from the first probe to the update."""
        s = self.settings
        self._bases.enter(seeds)
        outcome = yield from two_sided(seeds, s.probes, s.eps, s.coupling)
        if not s.momentum or outcome.empty:
            return outcome
        self._remember(outcome.gradient)
        return Outcome(Scaled(1.0), outcome.loss, outcome.slope, outcome.skipped)

    def state(self) -> dict[str, np.ndarray]:
        """The momenta, by parameter, and the window whose V they belong to."""
        if not self.settings.momentum:
            return {}
        return {f"momentum/{name}": held for name, held in self._momenta.items()} | {"window": self._window}

    def expected(self, gradients: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Without momentum a matrix's gradient G is seen as G V V^T / r."""
        found = dict(gradients)
        for p in filter(is_matrix, self.params):
            v, g = self._bases.right(p).astype(np.float64), gradients[p.name].reshape(matrix_shape(p.shape))
            found[p.name] = (g @ v @ v.T / v.shape[1]).reshape(p.shape)
        return found

    def linear_moments(self, gradients: Gradients) -> Moments | None:
        """Over U and V: a matrix's own G has the error m n + 2 (m + n + r + 1) / r, and (r + n + 1) / r is common to probes.

        From E[V V^T V V^T] = r (r + n + 1) I of Wishart's law.  Walsh codes of the thin U have no such form.
        """
        s = self.settings
        if s.momentum or not s.refresh or s.noise != "gaussian" or (s.coupling == "walsh" and s.probes > 1):
            return None

        def own(rows: int, columns: int, rank: int) -> tuple[float, float]:
            return 2.0 * (rows + columns + rank + 1) / rank, (rank + columns + 1) / rank

        return thin_moments(self.params, self._bases, gradients, s.probes, own)

    def _scaled(self, param: Param) -> Dense:
        return Dense(self._dense.law, self._dense.coded, 1.0 / np.sqrt(self._bases.rank(param)))

    def _lefts(self, param: Param, combinations: Sequence[Combination], cache: Cache) -> np.ndarray:
        shape = matrix_shape(param.shape)[0], self._bases.rank(param)
        return factor(self._scaled(param), combinations, cache, param.id, noise.U, *shape)

    def _factors(
        self, param: Param, combinations: Sequence[Combination], cache: Cache
    ) -> tuple[np.ndarray, np.ndarray]:
        return self._lefts(param, combinations, cache), self._bases.right(param).T[None]

    def _moved(self, param: Param, cache: Cache) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return self._momenta[param.name], ONES, self._bases.right(param).T

    def _remember(self, gradient: Combination) -> None:
        """Take a gradient up into the momenta, once they belong to the present V."""
        beta, cache = self.settings.momentum, {}
        for p in self.params:
            held = self._momenta[p.name]
            if is_matrix(p):
                if self._window[0] != self._bases.window:
                    old, new = self._bases.right_of(int(self._window[0]), p), self._bases.right(p)
                    turn = p.kernels.linalg.matmul_tn(old.astype(np.float64), new.astype(np.float64)) / len(
                        new
                    )
                    held[...] = p.kernels.linalg.matmul(held.astype(np.float64), turn)
                fade_(held, self._lefts(p, [gradient], cache)[0], beta)
            else:
                fade_(held, dense_numbers(self._dense, p, gradient, cache), beta)
        self._window[0] = self._bases.window
